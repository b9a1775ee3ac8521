"""An image classifier of transformers as a reward: the logit of one label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..reward import Reward
from .files import at_least_single, frozen, loaded_once, moved, pretrained, pretrained_model, transformers
from .preprocess import Preprocess, preprocess_of


class Logit:
    """One logit of a classifier; the prompt is ignored.

    Args:
        model: of transformers, for image classification.
        label: the logit's number.
        preprocess: images (batch, 3, H, W) in [0, 1] → pixels.
    """

    def __init__(self, model: nn.Module, label: int, preprocess: Preprocess) -> None:
        self.model, self.label, self.preprocess = model, label, preprocess

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1]; in the images' dtype."""
        dtype = moved(self.model, images)
        return self.model(pixel_values=self.preprocess(images).to(dtype)).logits[:, self.label].to(images.dtype)


def find_label(labels: dict[int, str], label: str) -> int:
    """The number of a label: its number, its name, or one of the names between commas; spaces may be underscores.

    Names of the same case come first.

    Raises:
        ValueError: if no label or more than one matches; the message has the numbers of these.
    """
    plain = lambda text: text.strip().replace("_", " ")  # noqa: E731
    if label.strip().isdecimal() and int(label) in labels:
        return int(label)
    wanted, found = plain(label), []
    for case in (str, str.lower):
        whole = [i for i, name in labels.items() if case(plain(name)) == case(wanted)]
        parts = [i for i, name in labels.items() if case(wanted) in [case(plain(part)) for part in name.split(",")]]
        found = whole or parts
        if found:
            break
    if len(found) != 1:
        some = ", ".join(f"{i}: {labels[i]}" for i in (found or list(labels))[:3])
        raise ValueError(
            f"the classifier has {len(found)} labels {label!r} among its {len(labels)} ({some}, ...); "
            "pass the name of one label, or its number"
        )
    return found[0]


@loaded_once
def load_classifier(model: str | Path, dtype: torch.dtype) -> tuple[Any, Preprocess]:
    """The network with its last layer at least in float32, and its preprocessing; arguments as of `classifier`."""
    library = transformers()
    network: Any = pretrained_model(library.AutoModelForImageClassification, model, "the classifier")
    processor = pretrained(library.AutoImageProcessor, model, "the classifier's image processor")
    frozen(network, at_least_single(dtype))
    heads = {head: head.state_dict() for head in last_layers(network)}
    frozen(network, dtype)
    for head, state in heads.items():
        head.to(at_least_single(dtype)).load_state_dict(state)
        head.register_forward_pre_hook(lambda layer, inputs: tuple(x.to(layer.weight.dtype) for x in inputs))
    return network, preprocess_of(processor, "the classifier")


def last_layers(network: Any) -> list[nn.Linear]:
    """The linear layers that make the logits of a classifier of transformers: those outside its base model, or the last
    one; none if there is no linear layer with one output per label."""
    linear = [one for one in network.modules() if isinstance(one, nn.Linear) and one.out_features == network.num_labels]
    inside = set() if network.base_model is network else set(network.base_model.modules())
    return [one for one in linear if inside and one not in inside] or linear[-1:]


def classifier(model: str | Path, label: str, dtype: torch.dtype = torch.float32) -> Reward:
    """The logit of a label by an image classifier of transformers.

    Args:
        model: hub id or folder, in transformers' layout.
        label: its name or number; see `find_label`.
        dtype: in which the classifier computes; its last layer, if it is linear, computes at least in float32, because
            half precision has too few values for a logit.
    """
    network, preprocess = load_classifier(model, dtype)
    number = find_label({int(i): name for i, name in network.config.id2label.items()}, label)
    return Reward(f"classifier:{model}:{label}", Logit(network, number, preprocess), uses_prompts=False)

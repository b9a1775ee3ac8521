"""The rewards of the package imscore (github.com/RE-N-Y/imscore), among them MPS and VQAScore."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..images import check_images
from ..reward import Reward
from .classifier import find_label
from .files import first_line, frozen, moved
from .prompts import warn_truncated

# name → module, class, published weights on the hub
IMSCORE = {
    "mps": ("mps", "MPS", "RE-N-Y/mpsv1"),
    "vqascore": ("vqascore", "VQAScore", "RE-N-Y/clip-t5-xxl"),
    "aesthetic-shadow": ("aesthetic", "ShadowAesthetic", "RE-N-Y/aesthetic-shadow-v2"),
    "pickscore-siglip": ("preference", "SiglipPreferenceScorer", "RE-N-Y/pickscore-siglip"),
    "cyclereward": ("cyclereward", "CycleReward", "NagaSaiAbhinay/CycleReward-Combo"),
    "evalmuse": ("evalmuse", "EvalMuse", "RE-N-Y/evalmuse"),
}

# class → where it has its tokenizer, and the tokens of a prompt that it reads; None: as many as the tokenizer's model
READ = {
    "MPS": ("tokenizer", None),
    "EvalMuse": ("tokenizer", 32),
    "CycleReward": ("blip.tokenizer", 128),
    "ImageReward": ("blip.tokenizer", 35),
    "PickScorer": ("processor.tokenizer", 77),
    **dict.fromkeys(("SiglipPreferenceScorer", "CLIPPreferenceScorer", "CLIPScore"), ("processor.tokenizer", None)),
}
# class → the label whose log odds are its reward, where `score` returns a logit for each label
LABELS = {"ShadowAesthetic": "hq"}


class ImscoreScorer:
    """The reward function of a model of imscore.

    Args:
        model: a module with `score(pixels (batch, 3, H, W) in [0, 1], prompts)` → (batch,) or (batch, 1), or (2,) for
            the logits of two labels.
        name: for messages.
        label: the number of the label whose log odds are the reward, for logits of two labels.
        tokenizer: that of `score`, for a warning about prompts that it cuts; None if that is not known.
        limit: the tokens of a prompt that `score` reads, special tokens included.
    """

    def __init__(self, model: Any, name: str, label: int | None = None, tokenizer: Any = None, limit: int = 0) -> None:
        self.model, self.name, self.label, self.tokenizer, self.limit = model, name, label, tokenizer, limit

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1] and a prompt for each; in the images' dtype."""
        check_images(images)
        dtype = moved(self.model, images) if next(self.model.parameters(), None) is not None else images.dtype
        if self.tokenizer is not None:
            warn_truncated(self.name, self.tokenizer, prompts, self.limit)
        # VQAScore gives one value for the whole batch, so every image is evaluated alone.
        scores = [
            self._value(self.model.score(image[None].to(dtype), [prompt]).flatten())
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return torch.stack(scores).to(images.dtype)

    def _value(self, scores: Tensor) -> Tensor:
        expected = 1 if self.label is None else 2
        if len(scores) != expected:
            raise ValueError(
                f"the score of {self.name!r} is {len(scores)} numbers for one image, expected {expected}; use another "
                "class of imscore"
            )
        return scores[0] if self.label is None else scores[self.label] - scores[1 - self.label]


def class_of(name: str, placed: bool) -> tuple[str, str, str]:
    """Module, class and published weights of a name of `imscore`; the weights are "" for module.Class.

    Args:
        name: see `imscore`.
        placed: whether the place of its weights is given.
    Raises:
        ValueError: if the name is unknown, or module.Class without such a place.
    """
    if name in IMSCORE:
        return IMSCORE[name]
    if name.count(".") != 1 or not placed:
        raise ValueError(
            f"imscore has no reward {name!r} here; use one of {', '.join(IMSCORE)}, or module.Class together with path="
        )
    module, class_name = name.split(".")
    return module, class_name, ""


def imscore_class(module: str, name: str) -> Any:
    """A class of imscore, which needs a transformers before version 5.

    Raises:
        ImportError: if imscore or a package that it needs is not installed.
    """
    try:
        return getattr(importlib.import_module(f"imscore.{module}.model"), name)
    except ImportError as error:
        raise ImportError(
            f"this reward needs the package imscore, and transformers before version 5 ({error}); pip install imscore "
            "'transformers<5'"
        ) from error
    except AttributeError as error:
        raise ImportError(f"the installed imscore has no {name}; pip install -U imscore") from error


def imscore(name: str, weights: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Reward:
    """A reward of imscore by a name of IMSCORE: "mps" (Zhang et al. 2024, arXiv 2405.14705), "vqascore" (Lin et al.
    2024, arXiv 2404.01291), ...; or by "module.Class", such as "aesthetic.LAIONAestheticScorer", with `weights`.

    The value is that of the model's `score`, images evaluated one at a time. Of "aesthetic-shadow", whose score is the
    logits of high and low quality, it is the log odds of high quality. The preprocessing is imscore's own. The package
    needs a transformers before version 5.

    Args:
        name: see above.
        weights: hub id or folder for the class's `from_pretrained`; the published one if None.
        dtype: in which the network computes.
    Raises:
        ImportError: if imscore is not installed.
        ValueError: if the name is unknown or the weights cannot be loaded.
    """
    module, class_name, published = class_of(name, weights is not None)
    kind = imscore_class(module, class_name)
    try:
        model: Any = kind.from_pretrained(str(weights or published)) if hasattr(kind, "from_pretrained") else kind()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"imscore's {class_name} cannot be loaded ({first_line(error)}); pass path=") from error
    score = getattr(model, "score", None)
    if score is None or "prompts" not in inspect.signature(score).parameters:
        raise ValueError(f"imscore's {class_name} has no score(pixels, prompts); use another class")
    label = None
    if class_name in LABELS:
        label = find_label({int(i): text for i, text in model.model.config.id2label.items()}, LABELS[class_name])
    scorer = ImscoreScorer(frozen(model, dtype), name, label, *_reading(model, class_name))
    return Reward(name, scorer, uses_prompts=module != "aesthetic")


def _reading(model: Any, class_name: str) -> tuple[Any, int]:
    """The tokenizer of a model of imscore and the number of tokens of a prompt that it reads; None and 0 if they are
    not known."""
    place, limit = READ.get(class_name, ("", 0))
    tokenizer = model
    for part in place.split("."):
        tokenizer = getattr(tokenizer, part, None)
    return (None, 0) if tokenizer is None else (tokenizer, limit or tokenizer.model_max_length)

"""The conversation with a reward model that is a Qwen2-VL with a head, and the hidden states that the head reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import fill, frozen, pretrained, pretrained_tokenizer, transformers

CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{places}<|vision_end|>{question}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def hidden_states(model: Any, grid: tuple[int, int, int], ids: Tensor, mask: Tensor, **pixels: Tensor) -> Tensor:
    """The hidden states (batch, length, width) of a Qwen2VLModel, with the positions of the published reward models.

    Args:
        model: a Qwen2VLModel.
        grid: (t, h, w) of the patches of each image or video.
        ids, mask: (batch, length), the text with the places of the patches, padded on the right.
        pixels: `image` or `video`, (batch, patches, values).
    """
    (kind, values), (batch, length) = next(iter(pixels.items())), ids.shape
    names = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
    # The published code passes no positions; transformers 4.45 then uses the token index for all three axes.
    positions = torch.arange(length, device=ids.device).expand(3, batch, length)
    inputs = dict(
        zip(names[kind], (values.flatten(0, 1), torch.tensor([grid] * batch, device=ids.device)), strict=True)
    )
    return model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **inputs
    ).last_hidden_state


def conversation(
    tokenizer: Any, question: str, prompts: Sequence[str], place: str, count: int, special: Sequence[str]
) -> Any:
    """The tokens of a question about each prompt's image or video.

    Args:
        tokenizer: of the network.
        question: with `{text_prompt}` in place of the prompt.
        prompts: one per image or video.
        place: the token of a patch, of which there are `count`.
        special: tokens that prompts may not contain.
    Raises:
        ValueError: if a prompt contains a special token.
    """
    check_special([place, *special])(prompts)
    questions = [question.replace("{text_prompt}", prompt) for prompt in prompts]
    texts = [CHAT.format(places=place * count, question=one) for one in questions]
    return tokenizer(texts, padding=True, return_tensors="pt")


def check_special(tokens: Sequence[str]) -> Callable[[Sequence[str]], None]:
    """A function of prompts that raises a ValueError if one of them contains one of these tokens."""

    def check(prompts: Sequence[str]) -> None:
        for prompt in prompts:
            if any(token in prompt for token in tokens):
                raise ValueError(f"the prompt {prompt!r} contains a special token of the reward model; leave it out")

    return check


def check_prompts(prompts: Sequence[str], count: int, what: str) -> None:
    """Checks that there is one prompt for each of `count` images or videos.

    Raises:
        ValueError: if there is not.
    """
    if isinstance(prompts, str) or len(prompts) != count:
        raise ValueError(f"{count} {what}s and the prompts {prompts!r}; pass a list with one prompt per {what}")


def filled_model(config: Any, state: dict[str, Tensor], file: Path, dtype: torch.dtype) -> nn.Module:
    """A Qwen2VLModel with these weights, frozen and in this dtype.

    It is built in it: the configuration's own dtype may lose digits, and a larger one takes more memory.
    """
    for part in (config, config.get_text_config(), config.vision_config):
        setattr(
            part, "dtype" if hasattr(part, "dtype") else "torch_dtype", dtype
        )  # torch_dtype until transformers 4.55
    return frozen(fill(transformers().Qwen2VLModel(config), state, file), dtype)


def configuration_and_tokenizer(base: str | Path, name: str, tokens: Sequence[str]) -> tuple[Any, Any]:
    """The configuration and the tokenizer of a Qwen2-VL, with additional special tokens, that pads on the right.

    Raises:
        ValueError: if one cannot be loaded.
        ImportError: if the installed transformers is too old: until 4.51 its Qwen2VLModel takes no images.
    """
    library = transformers()
    if "pixel_values" not in inspect.signature(library.Qwen2VLModel.forward).parameters:
        raise ImportError(f"{name} needs a newer transformers than {library.__version__}; pip install -U transformers")
    config = pretrained(transformers().AutoConfig, base, f"{name}'s configuration")
    words = pretrained_tokenizer(base, f"{name}'s tokenizer")
    words.padding_side = "right"
    words.add_tokens([token for token in tokens if token not in words.get_vocab()], special_tokens=True)
    return config, words

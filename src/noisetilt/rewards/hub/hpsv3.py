"""HPSv3: human preference for an image given its prompt, by Qwen2-VL with a reward head.

hpsv3_question.txt is the question of github.com/MizzenAI/HPSv3 (MIT licence, copyright 2024 HPSv3 Team).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..images import check_images
from ..reward import Reward
from .files import at_least_single, fill, frozen, locate, moved, read_state
from .preprocess import resize
from .qwen import MERGE, normalised, patches, resized_size
from .qwen_text import (
    check_prompts,
    check_special,
    configuration_and_tokenizer,
    conversation,
    filled_model,
    hidden_states,
)
from .videoreward_files import split_state

HPSV3, QWEN_7B = "MizzenAI/HPSv3", "Qwen/Qwen2-VL-7B-Instruct"
HPSV3_FILES = ("HPSv3.safetensors", "HPSv3.pth")
IMAGE, TOKEN = "<|image_pad|>", "<|Reward|>"
PIXELS = 256 * 28 * 28


class HPSv3Model(nn.Module):
    """Qwen2-VL and its reward head.

    Args:
        model: a Qwen2VLModel.
        head: hidden states (batch, width) → (batch, 2), mean and logarithm of the deviation; at least in float32.
        token: the id of the reward token.
    """

    def __init__(self, model: nn.Module, head: nn.Module, token: int) -> None:
        super().__init__()
        self.model, self.head, self.token = model, head, token

    def forward(self, pixels: Tensor, grid: tuple[int, int, int], ids: Tensor, mask: Tensor) -> Tensor:
        """The mean (batch,) of the head at the reward token; arguments as those of `VideoRewardModel`."""
        hidden = hidden_states(self.model, grid, ids, mask, image=pixels)
        return self.head(hidden[ids == self.token].to(next(self.head.parameters()).dtype))[:, 0]


class HPSv3Scorer:
    """The reward function of HPSv3: tokenizer, preprocessing and model."""

    def __init__(self, model: HPSv3Model, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.question = resources.files(__package__).joinpath("hpsv3_question.txt").read_text("utf-8")

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1] and a prompt for each; in the images' dtype."""
        check_images(images)
        check_prompts(prompts, len(images), "image")
        dtype, given = moved(self.model, images), images.dtype
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        images = resize(images, *resized_size(images.shape[2], images.shape[3], PIXELS, PIXELS))
        pixels, grid = patches(normalised(images[:, None]))
        count = math.prod(grid) // MERGE**2
        text = conversation(self.tokenizer, self.question, prompts, IMAGE, count, [TOKEN]).to(images.device)
        return self.model(pixels.to(dtype), grid, text.input_ids, text.attention_mask).to(given)


def hpsv3(weights: str | Path = HPSV3, base: str | Path | None = None, dtype: torch.dtype = torch.bfloat16) -> Reward:
    """HPSv3: the mean of the preference that Qwen2-VL-7B predicts (Ma et al. 2025, arXiv 2508.03789), about 0 to 15.

    The steps are those of the published inference code: images are resized to multiples of 28 and about 448 × 448
    pixels; the question, the reward token and the sequential positions are the same. It was tested on tiny random
    networks only: no published score was reproduced.

    Args:
        weights: hub id, folder or file of the published HPSv3.safetensors.
        base: hub id or folder of the Qwen2-VL with its configuration and tokenizer; if None, `weights` if that is a
            folder with a config.json, else the published one.
        dtype: in which the network computes; bfloat16 is the published one and takes 16 GB, while loading twice that,
            and float32 takes twice as much.
            The head computes at least in float32, as published.
    Raises:
        ValueError: if a file is missing or differs from the published one.
        ImportError: if the installed transformers is too old.
    """
    file = locate(weights, HPSV3_FILES, "hpsv3's weights")
    base = base or (file.parent if (file.parent / "config.json").is_file() else QWEN_7B)
    config, words = configuration_and_tokenizer(base, "hpsv3", [TOKEN])
    token = words.convert_tokens_to_ids(TOKEN)
    own, head = split_state(read_state(file))
    embedding = own.get("language_model.embed_tokens.weight")
    if embedding is None or "0.weight" not in head:
        raise ValueError(f"{file} is not HPSv3's full model: it has no embed_tokens or no rm_head")
    if token >= len(embedding) or words.convert_tokens_to_ids(IMAGE) != config.image_token_id:
        raise ValueError(f"the tokenizer in {base} does not fit {file}; use the tokenizer of Qwen2-VL-7B-Instruct")
    config.get_text_config().vocab_size = len(embedding)
    layers = frozen(fill(head_of(head, file), head, file), at_least_single(dtype))
    model = HPSv3Model(filled_model(config, own, file, dtype), layers, token)
    return Reward("hpsv3", HPSv3Scorer(model, words), check_prompts=check_special([IMAGE, TOKEN]))


def head_of(state: dict[str, Tensor], file: Path) -> nn.Sequential:
    """The published head with the widths of its tensors.

    Raises:
        ValueError: if a layer is missing.
    """
    if any(f"{layer}.weight" not in state for layer in (0, 3, 5)):
        raise ValueError(f"{file} has another head than HPSv3's; use the published weights")
    (first, width), second, outputs = state["0.weight"].shape, len(state["3.weight"]), len(state["5.weight"])
    return nn.Sequential(
        nn.Linear(width, first),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, outputs),
    )

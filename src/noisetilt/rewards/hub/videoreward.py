"""VideoReward: human preference for videos, by Qwen2-VL with a reward head (Liu et al. 2025, arXiv 2501.13918)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..images import check_images
from ..reward import Reward
from .files import at_least_single, fill, frozen, loaded_once, moved, read_state
from .qwen import MERGE, frame_numbers, normalised, patches, resized
from .qwen_text import (
    check_prompts,
    check_special,
    configuration_and_tokenizer,
    conversation,
    filled_model,
    hidden_states,
)
from .video import checked
from .videoreward_files import (
    TOKENS,
    Settings,
    find_checkpoint,
    find_file,
    find_template,
    merge_lora,
    read_settings,
    read_template,
    split_state,
)

QWEN = "Qwen/Qwen2-VL-2B-Instruct"
VIDEO = "<|video_pad|>"


class VideoRewardModel(nn.Module):
    """Qwen2-VL and its reward head.

    Args:
        model: a Qwen2VLModel.
        head: a linear layer on its hidden states, at least in float32: half precision has too few values for a score.
        tokens: the ids of the three reward tokens.
    """

    tokens: Tensor

    def __init__(self, model: nn.Module, head: nn.Linear, tokens: Sequence[int]) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)

    def forward(self, pixels: Tensor, grid: tuple[int, int, int], ids: Tensor, mask: Tensor) -> Tensor:
        """The scores (batch, 3): the head at the reward tokens, in the order of the text.

        Args:
            pixels: (batch, patches, values).
            grid: (t, h, w) of the patches of each video.
            ids, mask: (batch, length), the text with the places of the patches, padded on the right.
        """
        hidden = hidden_states(self.model, grid, ids, mask, video=pixels)
        read = hidden[torch.isin(ids, self.tokens)].to(self.head.weight.dtype)
        scores = self.head(read).unflatten(0, (len(ids), len(self.tokens)))
        return scores[..., 0] if scores.shape[-1] == 1 else scores.diagonal(dim1=1, dim2=2)


class VideoRewardScorer:
    """The reward function of VideoReward: the weighted sum of its standardised scores.

    Args:
        model: the network with its head.
        tokenizer: of the network, with the reward tokens.
        template: the question, see `read_template`.
        settings: the published settings.
        weights: of visual quality, motion quality and text alignment.
        video_fps: frames per second of the evaluated videos.
    """

    def __init__(
        self,
        model: VideoRewardModel,
        tokenizer: Any,
        template: str,
        settings: Settings,
        weights: Sequence[float],
        video_fps: float,
    ) -> None:
        self.model, self.tokenizer, self.template, self.settings = model, tokenizer, template, settings
        self.weights, self.video_fps = weights, video_fps

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from videos (batch, frames, 3, H, W) in [0, 1] and a prompt for each; in the videos' dtype."""
        return (self.scores(videos, prompts) * videos.new_tensor(self.weights)).sum(1)

    def scores(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Standardised visual quality, motion quality and text alignment, (batch, 3)."""
        check_prompts(prompts, len(videos), "video")
        settings, dtype = self.settings, moved(self.model, videos)
        numbers = frame_numbers(checked(videos).shape[1], self.video_fps, settings.fps, settings.count)
        check_images(videos[:, numbers].flatten(0, 1))
        frames = videos[:, numbers].to(torch.promote_types(videos.dtype, torch.float32))
        pixels, grid = patches(normalised(resized(frames, settings.pixels)))
        count = math.prod(grid) // MERGE**2
        text = conversation(self.tokenizer, self.template, prompts, VIDEO, count, list(TOKENS.values()))
        text = text.to(videos.device)
        raw = self.model(pixels.to(dtype), grid, text.input_ids, text.attention_mask).to(frames.dtype)
        means, stds = (raw.new_tensor(values) for values in (settings.means, settings.stds))
        return ((raw - means) / stds).to(videos.dtype)


def videoreward(
    folder: str | Path,
    base: str | Path | None = None,
    part: str = "overall",
    video_fps: float = 16.0,
    dtype: torch.dtype = torch.bfloat16,
) -> Reward:
    """VideoReward's standardised scores of a video: visual quality, motion quality, text alignment, or their sum.

    The steps are those of the published inference code: 2 frames per second, resized to multiples of 28 and at most
    `max_frame_pixels`; one question with three reward tokens and a linear head on their hidden states; sequential
    positions instead of Qwen2-VL's positions in time and space. It was tested on tiny random networks only: no
    published score was reproduced, and the checkpoint's tensor names are taken from the code that writes them.

    Args:
        folder: a local folder with model_config.json and checkpoint-*/model.pth (or model.safetensors) of
            KwaiVGI/VideoReward on the hub, and prompt_template.py of KwaiVGI/VideoAlign on GitHub, which may not be
            redistributed here. A .safetensors file with the same names is preferred.
        base: hub id or folder of the Qwen2-VL with its configuration and tokenizer; if None, `folder` if it has
            a config.json, else the published one.
        part: "overall" (the sum), "vq", "mq" or "ta".
        video_fps: frames per second of the evaluated videos; 16 for Wan.
        dtype: in which the network computes; bfloat16 is the published one. The head computes at least in float32.
    Raises:
        ValueError: if a file is missing or differs from the published one.
        ImportError: if transformers is not installed or too old.
    """
    if part != "overall" and part not in TOKENS:
        raise ValueError(f"videoreward has no part {part!r}; expected overall, {', '.join(TOKENS)}")
    model, words, template, settings = load_videoreward(folder, base, dtype)
    weights = [float(part in ("overall", name)) for name in TOKENS]
    scorer = VideoRewardScorer(model, words, template, settings, weights, video_fps)
    name = "videoreward" if part == "overall" else f"videoreward:{part}"
    return Reward(name, scorer, video=True, check_prompts=check_special([VIDEO, *TOKENS.values()]))


@loaded_once
def load_videoreward(
    folder: str | Path, base: str | Path | None, dtype: torch.dtype
) -> tuple[VideoRewardModel, Any, str, Settings]:
    """The network, its tokenizer, the question and the settings; arguments as of `videoreward`."""
    place = Path(folder).expanduser()
    settings, template = read_settings(find_file(place, "model_config.json")), read_template(find_template(place))
    base = base or (place if (place / "config.json").is_file() else QWEN)
    config, words = configuration_and_tokenizer(base, "videoreward", list(TOKENS.values()))
    ids = words.convert_tokens_to_ids(list(TOKENS.values()))
    model = load_model(config, find_checkpoint(place), settings, ids, dtype)
    if words.convert_tokens_to_ids(VIDEO) != config.video_token_id:
        raise ValueError(
            f"the tokenizer in {base} has another id for {VIDEO} than the model; use the tokenizer of Qwen2-VL"
        )
    return model, words, template, settings


def load_model(
    config: Any, file: Path, settings: Settings, tokens: Sequence[int], dtype: torch.dtype
) -> VideoRewardModel:
    """The network with the weights of a checkpoint. The number of tokens is that of the checkpoint's embedding."""
    own, head = split_state(merge_lora(read_state(file), settings.scale))
    embedding = own.get("language_model.embed_tokens.weight")
    if embedding is None or "weight" not in head:
        raise ValueError(f"{file} is not VideoReward's full model: it has no embed_tokens or no rm_head")
    if max(tokens) >= len(embedding):
        raise ValueError(f"{file} has {len(embedding)} tokens and a reward token has the id {max(tokens)}")
    config.get_text_config().vocab_size, width = embedding.shape
    linear = nn.Linear(width, settings.outputs, bias=False)
    linear = frozen(fill(linear, head, file), at_least_single(dtype))
    return VideoRewardModel(filled_model(config, own, file, dtype), linear, tokens).eval()

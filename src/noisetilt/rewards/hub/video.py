"""Rewards of videos (batch, frames, 3, H, W): the mean of an image reward, and the consistency of the frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..reward import Reward, RewardFunction, as_reward, may_use_prompts, mean_over_frames, require_normalised
from .clip import CLIP_B32, clipscore


def checked(videos: Tensor) -> Tensor:
    """The videos, if they are a batch (n, frames, 3, H, W).

    Raises:
        ValueError: if they are not.
    """
    if videos.ndim != 5 or videos.shape[2] != 3 or not videos.shape[1]:
        raise ValueError(
            f"a video reward was given shape {tuple(videos.shape)}; expected (n, frames, 3, H, W) in [0, 1]"
        )
    return videos


def spread_over(frames: int, count: int) -> list[int]:
    """`count` evenly spaced frame numbers from the first to the last, or all if there are fewer."""
    if count >= frames:
        return list(range(frames))
    return [round(i * (frames - 1) / max(1, count - 1)) for i in range(count)]


def over_frames(reward: RewardFunction, count: int = 8) -> Reward:
    """The mean of an image reward over evenly spaced frames of a video; `count` bounds the memory.

    Args:
        reward: of images.
        count: number of frames, at least 1.
    Raises:
        ValueError: if count < 1, the reward is one of videos, or it is a sum that is yet to be normalised.
    """
    if count < 1:
        raise ValueError(f"count = {count} frames must be 1 or more")
    image = as_reward(reward)
    require_normalised(image)
    if image.video:
        raise ValueError(
            f"the reward {image.name!r} takes videos already, expected a reward of images; use it as it is"
        )

    def mean_reward(videos: Tensor, prompts: Sequence[str]) -> Tensor:
        return mean_over_frames(image, checked(videos)[:, spread_over(videos.shape[1], count)], prompts)

    return Reward(
        f"video:{image.name}",
        mean_reward,
        image.differentiable,
        video=True,
        uses_prompts=may_use_prompts(image),
        check_prompts=image.check_prompts,
    )


def consistency_of(first: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """Mean over pairs of frames (t−1, t) of ½(⟨d_0, d_t⟩ + ⟨d_{t−1}, d_t⟩), (batch,).

    Args:
        first, before, now: unit vectors of frame 0 (batch, 1, features) and of the frames t−1 and t of each pair
            (batch, pairs, features).
    """
    return ((first + before) * now).sum(-1).mean(1) / 2


def frame_consistency(embed: Callable[[Tensor], Tensor], count: int = 8) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """`consistency_of` the embeddings of frames of a video; at most 1.

    All frames are compared if there are at most `count`; else `count` // 2 pairs of consecutive frames at evenly spaced
    places, from frames 0 and 1 to the last two. Frames that are further apart would not show flicker.

    Args:
        embed: images (batch, 3, H, W) → unit vectors (batch, features).
        count: number of frames, at least 2.
    """
    if count < 2:
        raise ValueError(f"count = {count} frames must be 2 or more")

    def consistency(videos: Tensor, prompts: Sequence[str]) -> Tensor:
        frames = checked(videos).shape[1]
        if frames < 2:
            raise ValueError("the consistency of a video of one frame is not defined; use 2 frames or more")
        now = [1 + place for place in spread_over(frames - 1, frames - 1 if frames <= count else count // 2)]
        before = [t - 1 for t in now]
        numbers = sorted({0, *before, *now})
        seen = videos[:, numbers]
        vectors = embed(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        places = [[numbers.index(t) for t in which] for which in ([0], before, now)]
        return consistency_of(*(vectors[:, which] for which in places)).to(videos.dtype)

    return consistency


def video_consistency(model: str | Path = CLIP_B32, count: int = 8, dtype: torch.dtype = torch.float32) -> Reward:
    """The similarity of the frames by CLIP: VBench's background consistency (Huang et al. 2024, arXiv 2311.17982), of
    all frames or, in longer videos, of pairs of consecutive ones; see `frame_consistency`.

    A still image has the maximal consistency, so use it only in a sum with a reward of the content.

    Args:
        model: hub id or folder of a CLIPModel in transformers' layout.
        count: largest number of frames that are evaluated, which bounds the memory; at least 2.
        dtype: in which the network computes.
    """
    cosine: Any = clipscore(model, dtype).function
    return Reward("video-consistency", frame_consistency(cosine.embed, count), video=True, uses_prompts=False)

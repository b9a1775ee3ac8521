"""Rewards of videos (batch, frames, 3, H, W): the mean of an image reward, and the consistency of the frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..reward import Reward, mean_over_frames
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


def over_frames(reward: Reward, count: int = 8) -> Reward:
    """The mean of an image reward over evenly spaced frames of a video; `count` bounds the memory.

    Args:
        reward: of images.
        count: number of frames, at least 1.
    """
    if count < 1:
        raise ValueError(f"count = {count} frames must be 1 or more")

    def mean_reward(videos: Tensor, prompts: Sequence[str]) -> Tensor:
        return mean_over_frames(reward, checked(videos)[:, spread_over(videos.shape[1], count)], prompts)

    return dataclasses.replace(reward, name=f"video:{reward.name}", function=mean_reward, video=True)


def consistency_of(vectors: Tensor) -> Tensor:
    """Mean over frames t > 1 of ½(⟨d_1, d_t⟩ + ⟨d_{t−1}, d_t⟩), from unit vectors (batch, frames, features)."""
    first, before, now = vectors[:, :1], vectors[:, :-1], vectors[:, 1:]
    return ((first + before) * now).sum(-1).mean(1) / 2


def frame_consistency(embed: Callable[[Tensor], Tensor], count: int = 8) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """`consistency_of` the embeddings of evenly spaced frames of a video; at most 1.

    Args:
        embed: images (batch, 3, H, W) → unit vectors (batch, features).
        count: number of frames, at least 2.
    """
    if count < 2:
        raise ValueError(f"count = {count} frames must be 2 or more")

    def consistency(videos: Tensor, prompts: Sequence[str]) -> Tensor:
        if checked(videos).shape[1] < 2:
            raise ValueError("the consistency of a video of one frame is not defined; use 2 frames or more")
        frames = videos[:, spread_over(videos.shape[1], count)]
        return consistency_of(embed(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])).to(videos.dtype)

    return consistency


def video_consistency(model: str | Path = CLIP_B32, count: int = 8, dtype: torch.dtype = torch.float32) -> Reward:
    """The similarity of the frames by CLIP: VBench's background consistency (Huang et al. 2024, arXiv 2311.17982).

    A still image has the maximal consistency, so use it only in a sum with a reward of the content.

    Args:
        model: hub id or folder of a CLIPModel in transformers' layout.
        count: number of frames.
        dtype: in which the network computes.
    """
    cosine: Any = clipscore(model, dtype).function
    return Reward("video-consistency", frame_consistency(cosine.embed, count), video=True)

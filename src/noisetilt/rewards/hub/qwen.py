"""Videos as Qwen2-VL takes them: patches of two frames, in differentiable tensor operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .preprocess import CLIP_MEAN, CLIP_STD

PATCH, MERGE, FRAMES = 14, 2, 2
FACTOR = PATCH * MERGE
LEAST_PIXELS = 128 * FACTOR**2


def fitting_size(height: int, width: int, most: int, least: int = LEAST_PIXELS) -> tuple[int, int]:
    """The size that a frame is resized to: multiples of 28, `least` to `most` pixels, of about its own shape."""
    fitted = [max(FACTOR, FACTOR * round(side / FACTOR)) for side in (height, width)]
    to: Callable[[float], int]
    scale, to = 1.0, round
    if math.prod(fitted) > most:
        scale, to = math.sqrt(most / (height * width)), math.floor
    elif math.prod(fitted) < least:
        scale, to = math.sqrt(least / (height * width)), math.ceil
    else:
        return fitted[0], fitted[1]
    high, wide = (max(FACTOR, FACTOR * to(side * scale / FACTOR)) for side in (height, width))
    return high, wide


def frame_numbers(frames: int, video_fps: float, fps: float, count: int | None = None) -> list[int]:
    """The frames that are looked at, spread evenly from the first to the last: `fps` a second, an even number, at least
    4 where there are so many; or `count`.

    Raises:
        ValueError: if there are fewer than two.
    """
    most = 2 * (min(768, frames) // 2)
    wanted = min(max(frames / video_fps * fps, 4), most) if count is None else count
    number = min(2 * round(wanted / 2), frames)
    if number < 2:
        raise ValueError(f"a video of {frames} frames is too short for this reward; give 2 frames or more")
    return torch.linspace(0, frames - 1, number).round().long().tolist()


def resized(videos: Tensor, most: int) -> Tensor:
    """Videos (batch, frames, 3, H, W) in [0, 1] at their fitting size, bicubic with antialias; what overshoots is
    clipped once at the end, as torchvision does, and not after each pass, as PIL does."""
    height, width = videos.shape[-2:]
    size = fitting_size(height, width, most)
    if size == tuple(videos.shape[-2:]):
        return videos
    flat = F.interpolate(videos.flatten(0, 1), size, mode="bicubic", antialias=True, align_corners=False)
    return flat.clamp(0, 1).unflatten(0, videos.shape[:2])


def normalised(videos: Tensor) -> Tensor:
    mean, std = (videos.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (videos - mean) / std


def patches(videos: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Rows of 2 × 14 × 14 pixels, (batch, t·h·w, 3·2·14·14), and (t, h, w), from (batch, frames, 3, H, W).

    The patches of a square of 2 × 2, which become one token, are next to each other. The last frame of an odd number is
    shown twice.
    """
    if videos.shape[1] % FRAMES:
        videos = torch.cat([videos, videos[:, -1:]], dim=1)
    grid = videos.shape[1] // FRAMES, videos.shape[3] // PATCH, videos.shape[4] // PATCH
    split = videos.unflatten(4, (-1, MERGE, PATCH)).unflatten(3, (-1, MERGE, PATCH)).unflatten(1, (-1, FRAMES))
    # (batch, t, frame, channel, h, mh, ph, w, mw, pw)
    ordered = split.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return ordered.flatten(6).flatten(1, 5), grid

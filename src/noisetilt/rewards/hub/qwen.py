"""The video preprocessing of Qwen2-VL, in differentiable tensor operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .preprocess import CLIP_MEAN, CLIP_STD

PATCH, MERGE, FRAMES = 14, 2, 2
FACTOR = PATCH * MERGE
MIN_PIXELS = 128 * FACTOR**2


def resized_size(height: int, width: int, max_pixels: int, min_pixels: int = MIN_PIXELS) -> tuple[int, int]:
    """The size after resizing: multiples of 28, `min_pixels` to `max_pixels` pixels, about the same aspect ratio."""
    fitted = [max(FACTOR, FACTOR * round(side / FACTOR)) for side in (height, width)]
    # The order of the operations is the published one: in another, squares of common sizes are rounded otherwise.
    if math.prod(fitted) > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        fitted = [max(FACTOR, FACTOR * math.floor(side / beta / FACTOR)) for side in (height, width)]
    elif math.prod(fitted) < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        fitted = [FACTOR * math.ceil(side * beta / FACTOR) for side in (height, width)]
    return fitted[0], fitted[1]


def frame_numbers(frames: int, video_fps: float, fps: float, count: int | None = None) -> list[int]:
    """The numbers of the evaluated frames, evenly spaced from the first to the last: `count` if given, else `fps` per
    second; an even number, and at least 4 if the video has as many.

    Raises:
        ValueError: if there are fewer than two.
    """
    most = 2 * (min(768, frames) // 2)
    wanted = min(max(frames / video_fps * fps, 4), most) if count is None else count
    number = min(2 * round(wanted / 2), frames)
    if number < 2:
        raise ValueError(f"a video of {frames} frames is too short for this reward; use 2 frames or more")
    return torch.linspace(0, frames - 1, number).round().long().tolist()


def resized(videos: Tensor, max_pixels: int) -> Tensor:
    """Videos (batch, frames, 3, H, W) in [0, 1] resized to `resized_size`, bicubic with antialiasing, clamped once at
    the end as in torchvision. Images are resized by PIL, which clamps after each pass: see `preprocess.resize`."""
    height, width = videos.shape[-2:]
    size = resized_size(height, width, max_pixels)
    if size == (height, width):
        return videos
    flat = F.interpolate(videos.flatten(0, 1), size, mode="bicubic", antialias=True, align_corners=False)
    return flat.clamp(0, 1).unflatten(0, videos.shape[:2])


def normalised(videos: Tensor) -> Tensor:
    """Videos with CLIP's mean and standard deviation per channel subtracted and divided."""
    mean, std = (videos.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (videos - mean) / std


def patches(videos: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Rows of 2 × 14 × 14 pixels, (batch, t·h·w, 3·2·14·14), and (t, h, w), from (batch, frames, 3, H, W).

    The 2 × 2 patches that become one token are adjacent. If the number of frames is odd, the last frame is repeated.
    """
    if videos.shape[1] % FRAMES:
        videos = torch.cat([videos, videos[:, -1:]], dim=1)
    grid = videos.shape[1] // FRAMES, videos.shape[3] // PATCH, videos.shape[4] // PATCH
    split = videos.unflatten(4, (-1, MERGE, PATCH)).unflatten(3, (-1, MERGE, PATCH)).unflatten(1, (-1, FRAMES))
    # (batch, t, frame, channel, h, mh, ph, w, mw, pw)
    ordered = split.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return ordered.flatten(6).flatten(1, 5), grid

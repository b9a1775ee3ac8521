"""Images as the networks of this package take them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images import check_images
from .network import SIDE

Score = TypeVar("Score", bound=Callable[..., Any])


def in_float32(score: Score) -> Score:
    """The function of images without torch.autocast, so that it computes in float32 in any context."""

    @functools.wraps(score)
    def computed(images: Tensor, *args: Any, **options: Any) -> Any:
        with torch.autocast(images.device.type, enabled=False):
            return score(images, *args, **options)

    return computed  # type: ignore[return-value]


def prepared(images: Tensor) -> Tensor:
    """Images (n, 3, height, width) in [0, 1] as (n, 3, 128, 128) in [-1, 1], float32, channels last.

    Raises:
        ValueError: if they are not a float batch of about [0, 1], see `rewards.images.check_images`.
    """
    check_images(images)
    x = images.float()
    if x.shape[2:] != (SIDE, SIDE):
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return (2 * x - 1).contiguous(memory_format=torch.channels_last)

"""The check of the images that a reward of the catalogue receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Values of models without a clamp exceed 1 a little; bytes as floats exceed it by far.
LARGEST = 16.0


def checked(function: Callable[[Tensor, Sequence[str]], Tensor]) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """The function with a check of its images.

    It raises a ValueError unless the images are a float tensor (batch, 3, H, W) of about [0, 1].
    """

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images)
        return function(images, prompts)

    return reward


def check_images(images: Tensor) -> None:
    """Raises a ValueError unless images are a float tensor (batch, 3, H, W) with values of about [0, 1]."""
    if not isinstance(images, Tensor):
        raise ValueError(f"the images are {type(images).__name__}, expected a tensor (batch, 3, H, W)")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        layout = "; permute (batch, H, W, 3) to it" if images.ndim == 4 and images.shape[-1] == 3 else ""
        raise ValueError(f"the images have the shape {tuple(images.shape)}, expected (batch, 3, H, W){layout}")
    if not images.is_floating_point():
        raise ValueError(f"the images are {images.dtype}, expected floats in [0, 1]; convert with images.float() / 255")
    largest = images.detach().abs().amax()
    if torch.isnan(largest):
        raise FloatingPointError("the images are not finite")
    if largest > LARGEST:
        raise ValueError(f"the images have values up to {float(largest):.4g}, expected [0, 1]; divide bytes by 255")

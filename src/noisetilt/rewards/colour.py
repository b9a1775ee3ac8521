"""Closed-form rewards of the colours of images (batch, 3, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHANNELS = {"redness": 0, "greenness": 1, "blueness": 2}


def channel_excess(channel: int) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """Mean of one channel minus the mean of the other two, in [-1, 1]; 0 on any grey."""

    def excess(images: Tensor, prompts: Sequence[str]) -> Tensor:
        means = images.mean(dim=(2, 3))
        return 1.5 * means[:, channel] - 0.5 * means.sum(dim=1)

    return excess


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Mean luma with the weights of ITU-R BT.601, in [0, 1]."""
    luma = images.new_tensor([0.299, 0.587, 0.114])
    return images.mean(dim=(2, 3)) @ luma


def darkness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """1 − brightness, in [0, 1]."""
    return 1 - brightness(images, prompts)


def saturation(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Mean chroma, max − min over the channels, in [0, 1]."""
    return (images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2))


def parse_colour(text: str) -> Tensor:
    """ "#rrggbb" as (3,) in [0, 1].

    Raises:
        ValueError: for anything else.
    """
    digits = text.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return torch.tensor([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    except ValueError:
        raise ValueError(f"{text!r} is not a colour; write it as #rrggbb, such as #ff8800") from None


def nearness_to(colour: Tensor) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """Minus the mean squared distance of the pixels to a colour (3,) in [0, 1]: at most 0, at least −3."""

    def nearness(images: Tensor, prompts: Sequence[str]) -> Tensor:
        offset = images - colour.to(images)[None, :, None, None]
        return -offset.square().sum(dim=1).mean(dim=(1, 2))

    return nearness


def colourfulness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """M̂⁽³⁾ of Hasler and Süsstrunk 2003, "Measuring colorfulness in natural images", for pixels in [0, 1].

    sqrt(σ_rg² + σ_yb²) + 0.3 · sqrt(μ_rg² + μ_yb²), the standard deviations and means of rg = R − G and
    yb = (R + G)/2 − B over the pixels: 0 on any grey. The paper's values, for pixels up to 255, are 255 times as large.
    """
    red, green, blue = images.flatten(2).unbind(1)
    opponent = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    mean = opponent.mean(2, keepdim=True)
    deviation = torch.linalg.vector_norm(opponent - mean, dim=(1, 2)) / opponent.shape[2] ** 0.5
    return deviation + 0.3 * torch.linalg.vector_norm(mean, dim=(1, 2))

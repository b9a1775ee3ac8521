"""A reward averaged over random views of the image, so that a value needs to hold for more than one view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .reward import Reward, evaluate_reward


def robust(
    reward: Reward,
    views: int = 4,
    noise: float = 0.05,
    crop: float = 0.1,
    shift: float = 0.06,
    colour: float = 0.1,
    seed: int = 0,
) -> Reward:
    """The mean of a reward over `views` views: cropped or extended, shifted, recoloured and noisy.

    The views are drawn once from `seed`, so the result is a function of the image alone, whatever the batch.

    Args:
        reward: of images; a video reward is refused.
        views: evaluations per image, 1 or more; time and memory grow with it.
        noise: standard deviation of Gaussian noise on pixels in [0, 1].
        crop: the scale of a view is between 1 − crop and 1 + crop.
        shift: largest shift, as a fraction of the side.
        colour: largest change of brightness, and of contrast and saturation as fractions.
        seed: of the views.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if reward.video:
        raise ValueError(f"the reward {reward.name!r} takes videos, expected a reward of images")
    if views < 1 or not all(0 <= value < 0.5 for value in (noise, crop, shift, colour)):
        raise ValueError(
            f"views = {views}, noise = {noise}, crop = {crop}, shift = {shift}, colour = {colour}: expected at least "
            "one view and values from 0 to below 0.5"
        )

    def mean_over_views(images: Tensor, prompts: Sequence[str]) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        for _ in range(views):
            view = _view(images, generator, noise, crop, shift, colour)
            total = total + evaluate_reward(reward, view, prompts)
        return total / views

    return replace(reward, name=f"robust({reward.name})", function=mean_over_views, terms=())


def _view(x: Tensor, generator: torch.Generator, noise: float, crop: float, shift: float, colour: float) -> Tensor:
    """One view of images (n, 3, h, w) in [0, 1], the same for all; what comes in from outside repeats the border."""

    def uniform(*size: int) -> Tensor:
        return 2 * torch.rand(*size, generator=generator, dtype=torch.float64) - 1

    scale = math.exp(float(uniform(1)) * math.log1p(crop))
    theta = torch.zeros(1, 2, 3, dtype=torch.float64)
    theta[0, 0, 0] = theta[0, 1, 1] = scale
    theta[0, :, 2] = 2 * shift * uniform(2)
    grid = F.affine_grid(theta.to(x), [1, *x.shape[1:]], align_corners=False).expand(len(x), -1, -1, -1)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    brightness, contrast, saturation = (colour * uniform(3)).tolist()
    grey = x.mean(1, keepdim=True)
    x = grey + (1 + saturation) * (x - grey)
    x = 0.5 + (1 + contrast) * (x - 0.5) + brightness / 2
    return (x + noise * torch.randn(x.shape[1:], generator=generator).to(x)).clamp(0, 1)

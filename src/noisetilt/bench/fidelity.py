"""Distances between a reconstruction and the true image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rewards.scorers.images import prepared
from .judge import load_judge


def _checked(name: str, images: Tensor, truth: Tensor) -> None:
    if images.ndim != 4 or images.shape != truth.shape:
        raise ValueError(
            f"{name} was given shapes {tuple(images.shape)} and {tuple(truth.shape)}; expected two equal batches of "
            "images, (n, 3, height, width)"
        )


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio −10 log₁₀ MSE in dB, (n,), of images (n, 3, H, W) in [0, 1]; inf if equal.

    Raises:
        ValueError: if the shapes differ.
    """
    _checked("psnr", images, truth)
    return -10 * (images - truth).square().mean((1, 2, 3)).log10()


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, IEEE Transactions on Image Processing 13), (n,), at most 1: a Gaussian
    window of 11 pixels and deviation 1.5, K = (0.01, 0.03), mean over positions and channels, no padding.

    Args:
        images, truth: (n, 3, H, W) in [0, 1], at least 11 × 11.
    Raises:
        ValueError: if the shapes differ or are too small.
    """
    _checked("ssim", images, truth)
    if min(images.shape[2:]) < 11:
        raise ValueError(f"ssim was given {tuple(images.shape[2:])} pixels; its window needs 11 × 11")
    window = torch.exp(-0.5 * ((torch.arange(11, device=images.device) - 5.0) / 1.5).square()).to(images)
    window = (window[:, None] * window / window.sum() ** 2).expand(images.shape[1], 1, 11, 11)

    def local(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=x.shape[1])

    mean_x, mean_y = local(images), local(truth)
    var_x, var_y = local(images**2) - mean_x**2, local(truth**2) - mean_y**2
    cov = local(images * truth) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    map_ = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return map_.mean((1, 2, 3))


@torch.no_grad()
def perceptual_distance(images: Tensor, truth: Tensor) -> Tensor:
    """Perceptual distance by the judge's early feature maps, (n,), ≥ 0, 0 if equal.

    After the blocks at strides 4, 8 and 16, channels are scaled to unit norm at every position, and squared differences
    are averaged over positions, then over layers. This is LPIPS (Zhang et al. 2018, arXiv 1801.03924) without learned
    weights and with another network, so the values cannot be compared with LPIPS.

    Args:
        images, truth: (n, 3, H, W) in [0, 1]; other sizes than 128×128 are resized.
    Raises:
        ValueError: if the shapes differ.
    """
    _checked("perceptual_distance", images, truth)
    network, distances = load_judge(images.device)[1], []
    x, y = (network.stem(prepared(z).clamp(-1, 1)) for z in (images, truth))
    for number, block in enumerate(network.blocks):
        x, y = block(x), block(y)
        if number in network.LAYERS:
            apart = F.normalize(x, dim=1) - F.normalize(y, dim=1)
            distances.append(apart.square().sum(1).mean((1, 2)))
    return torch.stack(distances).mean(0)

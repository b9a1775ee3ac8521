"""Inverse problems as rewards: the picture x behind a measurement y = A(x) + noise, for linear A.

    operator = inverse.gaussian_blur(2.0)
    y = inverse.measure(operator, photo, noise=0.02, seed=0)
    sample(model, [words] * 4, reward=inverse.matching(operator, y), method="dps")

The prior is the model's, the likelihood is the reward's; every picture of a call is a reconstruction of the same y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .reward import Reward

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Operator:
    """A linear map A of pictures.

    Args:
        name: for tables.
        function: pictures (batch, 3, H, W) → measurements (batch, *measured), differentiable.
    """

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)


def gaussian_blur(width: float) -> Operator:
    """Convolution with a Gaussian of standard deviation `width` > 0 pixels, edges mirrored; (batch, 3, H, W)."""
    if not 0 < width < math.inf:
        raise ValueError(f"width = {width} must be a positive number of pixels, such as 2.0")
    reach = max(1, math.ceil(3 * width))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width).square())
    kernel = kernel / kernel.sum()

    def blur(images: Tensor) -> Tensor:
        if min(images.shape[2:]) <= reach:
            raise ValueError(f"a blur of width {width} reaches over the edge of {tuple(images.shape[2:])}; blur less")
        channels = images.shape[1]
        row = kernel.to(images).view(1, 1, 1, -1).repeat(channels, 1, 1, 1)
        padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
        return F.conv2d(F.conv2d(padded, row, groups=channels), row.transpose(2, 3), groups=channels)

    return Operator(f"blur {width:g}", blur)


def downsample(factor: int = 4) -> Operator:
    """Means of boxes of factor × factor pixels, factor ≥ 2; (batch, 3, H/factor, W/factor)."""
    if factor != int(factor) or factor < 2:
        raise ValueError(f"factor = {factor} must be a whole number, 2 or more")

    def shrink(images: Tensor) -> Tensor:
        if images.shape[2] % factor or images.shape[3] % factor:
            raise ValueError(f"pictures of {tuple(images.shape[2:])} cannot be cut into {factor}×{factor} boxes")
        return F.avg_pool2d(images, factor)

    return Operator(f"downsample {factor}", shrink)


def keep(mask: Tensor) -> Operator:
    """Only the pixels where mask (H, W) bool is true are measured, for inpainting the rest; (batch, 3, H, W)."""
    if mask.dtype != torch.bool or mask.ndim != 2 or not mask.any():
        raise ValueError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}; expected bool (H, W) with a true pixel")
    return Operator("keep", lambda images: images * mask.to(images.device))


def grey() -> Operator:
    """The luma of ITU-R BT.601, for colourisation; (batch, 1, H, W)."""
    return Operator("grey", lambda images: torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))[:, None])


def measure(operator: Operator, image: Tensor, noise: float = 0.0, seed: int = 0) -> Tensor:
    """y = A(x) + noise · ε of one picture x (3, H, W) in [0, 1]; ε is drawn on the CPU, so a seed is the same anywhere.

    Raises:
        ValueError: if x is no single picture, or noise is negative.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"the picture has shape {tuple(image.shape)}; expected one (3, H, W)")
    if not noise >= 0:
        raise ValueError(f"noise = {noise} must be 0 or more, in units of the picture's range")
    clean = operator(image[None])[0]
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return clean + noise * drawn.to(clean)


def matching(operator: Operator, y: Tensor, power: int = 2) -> Reward:
    """The reward −‖A(x) − y‖^power of every picture x.

    Args:
        operator: A.
        y: one measurement, of the shape that A gives for one picture.
        power: 2 is the Gaussian log-likelihood for noise of variance 1/2. 1 has the gradient that DPS uses, which
            divides by the distance (Chung et al. 2023, arXiv 2209.14687, algorithm 1), so that its scale means the same
            for all operators. Noise tilting needs neither: it has no use for the gradient's length.
    Raises:
        ValueError: if power is another, y is not finite, or A gives another shape than y's.
    """
    if power not in (1, 2):
        raise ValueError(f"power = {power} must be 1 (distance) or 2 (squared distance)")
    if not y.isfinite().all():
        raise ValueError("the measurement y has values that are not finite; leave such pixels out by a mask")

    def match(images: Tensor, prompts: Sequence[str]) -> Tensor:
        made = operator(images)
        if made.shape[1:] != y.shape:
            raise ValueError(
                f"the operator {operator.name!r} gives {tuple(made.shape[1:])} and y has {tuple(y.shape)}; measure y "
                "with the same operator, on pictures of the same size"
            )
        squared = (made - y.to(made)).square().flatten(1).sum(1)
        # The root's slope at 0 is infinite: a match within rounding counts as one of 1e-6.
        return -squared if power == 2 else -(squared + 1e-12).sqrt()

    return Reward(f"match {operator.name}", match)

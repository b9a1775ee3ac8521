"""Inverse problems as rewards: reconstruct the image x of a measurement y = A(x) + noise.

    operator = inverse.gaussian_blur(2.0)
    y = inverse.measure(operator, photo, noise=0.02, seed=0)
    sample(model, [prompt] * 4, reward=inverse.matching(operator, y), method="dps")

The model is the prior and the reward is the log-likelihood. Every image of a call is a reconstruction of the same y.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .._messages import whole_number
from .reward import Reward

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Operator:
    """A map A of images, linear except for `jpeg`.

    Args:
        name: for tables.
        function: images (batch, 3, H, W) → measurements (batch, *measured), differentiable.
        back: measurements (batch, *measured) and images of the original's shape → images: the pseudo-inverse A⁺ or
            the transpose Aᵀ, which `psld` needs. None: the transpose.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)

    def to_images(self, measured: Tensor, images: Tensor) -> Tensor:
        """`back` of measurements, in the shape of images (batch, 3, H, W); differentiable in the measurements."""
        if self.back is not None:
            return self.back(measured, images)
        with torch.enable_grad():
            at = torch.zeros_like(images, requires_grad=True)
            return torch.autograd.grad(self.function(at), at, measured, create_graph=measured.requires_grad)[0]


def gaussian_blur(width: float) -> Operator:
    """Convolution with a Gaussian of standard deviation `width` > 0 pixels, reflected at edges; (batch, 3, H, W)."""
    if not 0 < width < math.inf:
        raise ValueError(f"width = {width} must be a positive number of pixels, such as 2.0")
    reach = max(1, math.ceil(3 * width))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width).square())
    kernel = kernel / kernel.sum()

    def blur(images: Tensor) -> Tensor:
        if min(images.shape[2:]) <= reach:
            raise ValueError(
                f"a blur of width {width} is too wide for {tuple(images.shape[2:])} pixels; use a smaller width"
            )
        channels = images.shape[1]
        row = kernel.to(images).view(1, 1, 1, -1).repeat(channels, 1, 1, 1)
        padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
        return F.conv2d(F.conv2d(padded, row, groups=channels), row.transpose(2, 3), groups=channels)

    return Operator(f"blur {width:g}", blur)


def downsample(factor: int = 4) -> Operator:
    """Means of boxes of factor × factor pixels, factor ≥ 2; (batch, 3, H/factor, W/factor)."""
    factor = whole_number("factor", factor, 2)

    def shrink(images: Tensor) -> Tensor:
        if images.shape[2] % factor or images.shape[3] % factor:
            raise ValueError(
                f"{tuple(images.shape[2:])} pixels cannot be divided into {factor}×{factor} boxes; use another factor"
            )
        return F.avg_pool2d(images, factor)

    def repeat(measured: Tensor, images: Tensor) -> Tensor:
        return measured.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    return Operator(f"downsample {factor}", shrink, repeat)


def keep(mask: Tensor) -> Operator:
    """Inpainting: only the pixels where mask (H, W) bool is true are measured; (batch, 3, H, W)."""
    if mask.dtype != torch.bool or mask.ndim != 2 or not mask.any():
        raise ValueError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}; expected bool (H, W) with a true pixel")
    return Operator("keep", lambda images: images * mask.to(images.device))


def grey() -> Operator:
    """The luma of ITU-R BT.601, for colourisation; (batch, 1, H, W)."""
    return Operator("grey", lambda images: torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))[:, None])


def jpeg(quality: int = 10) -> Operator:
    """The image after JPEG compression, in [0, 1]; (batch, 3, H, W).

    JPEG has no useful gradient: rounding is flat. The gradient is that of the identity (straight-through, Bengio 2013,
    arXiv 1308.3432).

    Args:
        quality: of Pillow's encoder, from 1 (worst) to 95.
    """
    quality = whole_number("quality", quality, 1, " and at most 95")
    if quality > 95:
        raise ValueError(f"quality = {quality} must be at most 95")

    def compress(images: Tensor) -> Tensor:
        with torch.no_grad():
            stored = torch.stack([_compressed(image, quality) for image in images]).to(images)
        return images + (stored - images).detach()

    return Operator(f"jpeg {quality}", compress, lambda measured, images: measured)


def _compressed(image: Tensor, quality: int) -> Tensor:
    """An image (3, H, W) in [0, 1] after compression, on the CPU."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def measure(operator: Operator, image: Tensor, noise: float = 0.0, seed: int = 0) -> Tensor:
    """y = A(x) + noise · ε of one image x (3, H, W) in [0, 1]. ε is drawn on the CPU and depends on the seed only.

    Raises:
        ValueError: if x is not a single image, or noise is negative.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"the image has shape {tuple(image.shape)}; expected one (3, H, W)")
    if not noise >= 0:
        raise ValueError(f"noise = {noise} must be 0 or more, in units of the image's range")
    clean = operator(image[None])[0]
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return clean + noise * drawn.to(clean)


def matching(operator: Operator, y: Tensor, power: int = 2) -> Reward:
    """The reward −‖A(x) − y‖^power of every image x.

    Args:
        operator: A.
        y: one measurement, of the shape of A(x) for one image.
        power: 2 is the Gaussian log-likelihood for noise of variance 1/2. 1 has the gradient that the code of DPS uses,
            so that one scale suits all operators; that of its paper, the gradient of the square divided by the distance
            (Chung et al. 2023, arXiv 2209.14687, algorithm 1), is twice as large. Noise tilting does not depend on the
            gradient's norm, so both powers are equivalent for it.
    Raises:
        ValueError: if power is neither 1 nor 2, y is not finite, or A(x) has another shape than y.
    """
    if power not in (1, 2):
        raise ValueError(f"power = {power} must be 1 (distance) or 2 (squared distance)")
    if not y.isfinite().all():
        raise ValueError("the measurement y has values that are not finite; mask such pixels with `keep`")

    def match(images: Tensor, prompts: Sequence[str]) -> Tensor:
        measured = operator(images)
        if measured.shape[1:] != y.shape:
            raise ValueError(
                f"the operator {operator.name!r} returns shape {tuple(measured.shape[1:])} and y has {tuple(y.shape)}; "
                "measure y with the same operator, on an image of the same size"
            )
        squared = (measured - y.to(measured)).square().flatten(1).sum(1)
        # The derivative of the root is infinite at 0, hence the offset.
        return -squared if power == 2 else -(squared + 1e-12).sqrt()

    return Reward(f"match {operator.name}", match, uses_prompts=False)


def psld(operator: Operator, y: Tensor, model: Any, gluing: float = 0.1) -> Reward:
    """The objective of PSLD for latent models, for the method "dps" (Rout et al. 2023, arXiv 2307.00619, algorithm 2).

    −‖y − A(D(ẑ_0))‖ − gluing · ‖ẑ_0 − E(Aᵀy + D(ẑ_0) − AᵀA(D(ẑ_0)))‖, with the encoder E and decoder D of the model.
    The second term wants ẑ_0 to be a fixed point of the autoencoder that agrees with y. Where A has a known
    pseudo-inverse it takes the place of Aᵀ.

    Args:
        operator: A.
        y: one measurement, of the shape of A(x) for one image.
        model: with `encode`, such as `load("emoji128")`.
        gluing: weight ≥ 0 of the second term, γ/η in the paper; its code has 0.1.
    Raises:
        ValueError: if the model has no `encode`, or gluing is negative, or as `matching`.
    """
    if not hasattr(model, "encode"):
        raise ValueError(f"{type(model).__name__} has no `encode`, which PSLD needs; use `matching`")
    if not gluing >= 0:
        raise ValueError(f"gluing = {gluing} must be 0 or more")

    def apart(x_0: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
        corrected = images + operator.to_images(y.to(images).expand(len(images), *y.shape) - operator(images), images)
        difference = x_0 - model.encode(corrected)
        return -gluing * (difference.square().flatten(1).sum(1) + 1e-12).sqrt()

    return replace(matching(operator, y, power=1), name=f"psld {operator.name}", of_states=apart)

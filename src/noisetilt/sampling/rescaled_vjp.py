"""Vector-Jacobian products in half precision, whose range is too small for the gradients of many rewards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..noise.float64 import with_all_operations


def rescaled_vjp(vjp: Callable[[Tensor], Tensor], gradient: Tensor) -> Tensor:
    """vjp(gradient) for a gradient (batch, *event), computed on rows scaled to a maximum of ½ to 1 and scaled back.

    The product is linear, so the result is the same; without the scaling, float16 rounds small gradients to 0. The
    factors are powers of 2, so that float32 gives the same bits. They are at least in float32: float16 has none above
    2¹⁵.
    """
    factor = next_power_of_two(gradient.abs().flatten(1).amax(1))
    found = vjp((gradient / factor.view(-1, *[1] * (gradient.ndim - 1))).to(gradient))
    return (found * factor.view(-1, *[1] * (found.ndim - 1))).to(found)


def next_power_of_two(peak: Tensor) -> Tensor:
    """The smallest power of 2 above each peak ≥ 0 (batch,), at most 2¹²⁷, in float32 or more; 1 for a peak of 0."""
    peak = peak.to(torch.promote_types(peak.dtype, torch.float32))
    here = with_all_operations(peak)
    power = torch.ldexp(torch.ones_like(here), torch.frexp(here).exponent.clamp(max=127)).to(here)
    return torch.where(here > 0, power, 1).to(peak.device)

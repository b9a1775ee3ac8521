"""Vector-Jacobian products in half precision, whose range is too small for the gradients of many rewards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def rescaled_vjp(vjp: Callable[[Tensor], Tensor], gradient: Tensor) -> Tensor:
    """vjp(gradient) for a gradient (batch, *event), computed on rows scaled to a maximum of ½ to 1 and scaled back.

    The product is linear, so the result is the same; without the scaling, float16 rounds small gradients to 0. The
    factors are powers of 2, so that float32 gives the same bits.
    """
    peak = gradient.abs().flatten(1).amax(1)
    factor = torch.where(peak > 0, torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent.clamp(max=127)), 1)
    found = vjp(gradient / factor.view(-1, *[1] * (gradient.ndim - 1)))
    return found * factor.view(-1, *[1] * (found.ndim - 1)).to(found)

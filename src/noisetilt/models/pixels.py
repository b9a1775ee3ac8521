"""Clamping of images to [0, 1] with a useful gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ClampInward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad.masked_fill(((x > 1) & (grad > 0)) | ((x < 0) & (grad < 0)), 0)


def clamp_unit(x: Tensor) -> Tensor:
    """x clamped to [0, 1], with a gradient for maximisation: values outside [0, 1] can move inwards, but not outwards.

    The gradient of `torch.clamp` is zero outside, so that such a pixel would never change again.
    """
    return _ClampInward.apply(x)

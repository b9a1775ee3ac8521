"""Vector-Jacobian products of a network's prediction by its input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VJP = Callable[[Tensor], Tensor]


def make_vjp(x0_hat: Tensor, x_t: Tensor) -> VJP:
    """The function g ↦ Jᵀ · g, where J is the Jacobian of x̂_0 by x_t.

    It takes g (batch, *event), returns a tensor of x_t's shape in g's dtype, and can be called once.

    Raises:
        ValueError: when called, if x̂_0 does not depend on x_t.
    """

    def vjp(gradient: Tensor) -> Tensor:
        if not x0_hat.requires_grad or not x_t.requires_grad:
            raise ValueError(
                "the network's output has no gradient; run the network with gradients enabled, or pass gradient_at='x0'"
            )
        return torch.autograd.grad(x0_hat, x_t, gradient)[0].to(gradient)

    return vjp

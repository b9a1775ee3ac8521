"""An optimiser that rotates noise towards a direction and keeps its norm."""

from __future__ import annotations

import torch
from torch import Tensor


class Rotation:
    """x ← cos θ · x + sin θ · ‖x‖ u, with u the unit direction of m orthogonal to x, and m ← μ m + g'.

    The norm of x is constant. If g' is typical noise independent of x, the result is typical too: it is the noise tilt
    of NTRK (arXiv 2606.18066) with ρ = sin²θ. θ decreases linearly to 0 over the steps, because a constant θ ends in
    oscillation, and is at most the angle between x and m.

    Args:
        x: (row, *event), updated in place by `step` along x.grad.
        rate: θ of the first step, in radians, > 0.
        momentum: μ in [0, 1).
        steps: number of steps, which determines the schedule of θ.
    """

    def __init__(self, x: Tensor, rate: float, momentum: float, steps: int) -> None:
        self.x, self.rate, self.momentum, self.mean = x, rate, momentum, torch.zeros_like(x)
        self.remaining = self.steps = max(steps, 1)

    def step(self) -> None:
        """Rotate each row of x towards the running mean of x.grad."""
        self.mean = self.momentum * self.mean + self.x.grad
        x, m = self.x.flatten(1), self.mean.flatten(1)
        norm = x.norm(dim=1, keepdim=True)
        parallel = (x * m).sum(1, keepdim=True) / norm
        orthogonal = m - parallel * x / norm
        length = orthogonal.norm(dim=1, keepdim=True)
        theta = torch.atan2(length, parallel).clamp(max=self.rate * self.remaining / self.steps)
        self.remaining -= 1
        unit = orthogonal / torch.where(length > 0, length, 1)
        self.x.copy_((theta.cos() * x + theta.sin() * norm * unit).view_as(self.x))

"""What happened on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trace:
    """What happened on the way of a sampler.

    Attributes:
        nfe: denoiser evaluations per image.
        times: t of each step.
        rewards: (step, image), r(x̂_0) of each image's best particle; empty without a reward.
        heldout: (step, image), a held-out reward of the same x̂_0; empty without one.
        gradient_norm: (step, image), ‖∇_{x_t} r(x̂_0)‖, mean over particles; empty if no gradient was asked for.
        seconds: wall-clock time of the whole call.
    """

    nfe: float = 0.0
    times: list[float] = field(default_factory=list)
    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    heldout: Tensor = field(default_factory=lambda: torch.empty(0))
    gradient_norm: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: float = 0.0

    def record(
        self, t: float, rewards: Tensor | None, gradient: Tensor | None = None, heldout: Tensor | None = None
    ) -> None:
        """Adds a step: r(x̂_0) (image, particle), its gradient (image, particle, *event), and the held-out reward
        (image,), where there are any."""
        self.times.append(t)
        if rewards is not None:
            self.rewards = with_row(self.rewards, rewards.amax(1))
        if heldout is not None:
            self.heldout = with_row(self.heldout, heldout)
        if gradient is not None:
            self.gradient_norm = with_row(self.gradient_norm, gradient.flatten(2).norm(dim=2).mean(1))


def with_row(rows: Tensor, row: Tensor) -> Tensor:
    """Rows (step, image) and one more."""
    row = row.detach().cpu()[None]
    return torch.cat([rows, row]) if rows.numel() else row

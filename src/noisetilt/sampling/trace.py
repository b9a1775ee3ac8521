"""The history of a sampling run."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .short_repr import ShortRepr


@dataclass(repr=False)
class Trace(ShortRepr):
    """The history of a call of `sample`.

    Attributes:
        nfe: denoiser evaluations per image; in pipelines, whose network takes the whole batch, also those that an image
            no longer needs while others draw candidates.
        times: t of each step.
        rewards: (step, image), r(x̂_0) of each image's best particle, with the reward's term `of_states` if it has one;
            empty without a reward.
        heldout: (step, image), a held-out reward of the same x̂_0; empty without a held-out reward.
        gradient_norm: (step, image), ‖∇_{x_t} r(x̂_0)‖, mean over the particles for which it was computed; empty if the
            method uses none. It is 0 in steps that do not use it: at α_t = 0, and in steps of a noise tilt without
            noise, such as the last.
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
        """Add a step: r(x̂_0) (image, particle), its gradient (image, particle, *event) and held-out rewards (image,);
        None for those that were not computed."""
        self.times.append(t)
        if rewards is not None:
            self.rewards = append_row(self.rewards, rewards.amax(1))
        if heldout is not None:
            self.heldout = append_row(self.heldout, heldout)
        if gradient is not None:
            self.gradient_norm = append_row(self.gradient_norm, gradient.flatten(2).norm(dim=2).mean(1))


def append_row(rows: Tensor, row: Tensor) -> Tensor:
    """Rows (step, image) with one row appended."""
    row = row.detach().cpu()[None]
    return torch.cat([rows, row]) if rows.numel() else row

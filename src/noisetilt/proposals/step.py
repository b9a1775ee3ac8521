"""What a proposal is told, and what it must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from torch import Tensor

from ..path import Path
from ..path.accumulated_noise import AccumulatedNoise
from ..path.strength import ReverseProcess


@dataclass(frozen=True)
class Step:
    """One reverse step of a batch of particles, from t to s.

    x_t, x0_hat and mean are (batch, *event); rewards is (batch,) = r(x̂_0); gradient is ∇_{x_t} r(x̂_0), (batch,
    *event). Rewards and gradient are None unless the method asks for them. std is that of the reverse kernel.
    reward_gradient gives ∇r at any x̂_0 (batch, *event), without the denoiser. number counts from 1 to steps.
    process is all times ahead and behind, None where the driver does not know them. injected is the noise of all steps
    before as it stands in the mean, for proposals with `needs_accumulated_noise`.
    """

    path: Path
    t: float
    s: float
    x_t: Tensor
    x0_hat: Tensor
    mean: Tensor
    std: float
    rewards: Tensor | None = None
    gradient: Tensor | None = None
    reward_gradient: Callable[[Tensor], Tensor] | None = None
    number: int = 1
    steps: int = 1
    process: ReverseProcess | None = None
    accumulated: AccumulatedNoise | None = None

    def rows(self, index: Tensor) -> Step:
        """The same step for some of the particles; reward_gradient, which belongs to the whole batch, is left out."""

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        return replace(
            self,
            x_t=self.x_t[index],
            x0_hat=self.x0_hat[index],
            mean=self.mean[index],
            rewards=some(self.rewards),
            gradient=some(self.gradient),
            reward_gradient=None,
            accumulated=None if self.accumulated is None else self.accumulated.rows(index),
        )


class Proposal(Protocol):
    """How one particle moves from x_t to x_s: a pure function of the step and the noise, which draws nothing itself.

    `needs_gradient` says whether the step must bring the reward's gradient. A proposal may further say, by attributes:
    `gradient_at` = "x0", that its gradient is ∇r at x̂_0 by definition; `draws` and `spread(path, t)`, that rewards are
    to be smoothed over that many pictures around x̂_0; `zeroth_order`, that those pictures' rewards stand in for
    the gradient of a reward that has none; `needs_accumulated_noise`, that the step must bring the noise of those
    before.
    """

    needs_gradient: ClassVar[bool]

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        """x_s (batch, *event) from the step and standard Gaussian noise (batch, *event)."""

"""The interface of proposals, and the step that they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from ..path import Path, state_scale
from ..path.accumulated_noise import AccumulatedNoise
from ..path.strength import ReverseProcess


@dataclass(frozen=True)
class Step:
    """One reverse step of a batch of particles, from t to s.

    x_t, x0_hat and mean are (batch, *event); rewards is (batch,) = r(x̂_0); gradient is ∇_{x_t} r(x̂_0), (batch,
    *event), or ∇_{x̂_0} r(x̂_0) if gradient_at is "x0". Rewards and gradient are None unless the method needs them. std
    is that of the reverse kernel.
    reward_gradient computes ∇r at any x̂_0 (batch, *event), without a network call; with a second argument, the indices
    (row,) of particles, at an x̂_0 of these alone. number is 1 to steps. process holds the whole time grid, None if the
    driver does not know it. accumulated is the noise of all previous steps at its scale in the mean, for proposals with
    `needs_accumulated_noise`.
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
    reward_gradient: Callable[..., Tensor] | None = None
    number: int = 1
    steps: int = 1
    process: ReverseProcess | None = None
    accumulated: AccumulatedNoise | None = None
    gradient_at: Literal["x_t", "x0"] = "x_t"

    @property
    def preserving_gradient(self) -> Tensor:
        """The gradient with respect to x_t / n_t (`path.state_scale`), the state of the variance-preserving path, for
        methods that were published for such paths; ∇_{x̂_0} r, which is the same on all paths, if it is that."""
        assert self.gradient is not None
        return self.gradient if self.gradient_at == "x0" else state_scale(self.path, self.t) * self.gradient

    def rows(self, index: Tensor) -> Step:
        """The same step for the particles with these indices."""

        def select(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        def gradient_of_rows(x_0: Tensor, rows: Tensor | None = None) -> Tensor:
            # Each row has its own prompt.
            assert self.reward_gradient is not None
            return self.reward_gradient(x_0, index if rows is None else index[rows])

        return replace(
            self,
            x_t=self.x_t[index],
            x0_hat=self.x0_hat[index],
            mean=self.mean[index],
            rewards=select(self.rewards),
            gradient=select(self.gradient),
            reward_gradient=None if self.reward_gradient is None else gradient_of_rows,
            accumulated=None if self.accumulated is None else self.accumulated.rows(index),
        )


class Proposal(Protocol):
    """How one particle moves from x_t to x_s: a pure function of the step and the noise, without random numbers of
    its own.

    `needs_gradient` is whether it needs the reward's gradient. Optional attributes:

    - `gradient_at` = "x0": the gradient is ∇r at x̂_0.
    - `draws` and `perturbation_std(path, t)`: the reward is smoothed over that many perturbations of x̂_0.
    - `zeroth_order` = True: the gradient is estimated from the rewards at these perturbations.
    - `needs_noise` = True: it moves the mean by multiples of std alone. It needs η > 0, and steps with std = 0 compute
      no gradient.
    - `needs_accumulated_noise` = True: it needs the noise of all previous steps.
    - `known_density` = False: it does more with the noise than to add std · noise to a mean, or a linear map of it that
      is the same for all particles, so that the engine does not know its density ratio to the base kernel.
    """

    needs_gradient: ClassVar[bool]

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        """x_s (batch, *event) from the step and standard Gaussian noise (batch, *event)."""


class SmoothingProposal(Proposal, Protocol):
    """A proposal with `draws`."""

    @property
    def draws(self) -> int: ...

    def perturbation_std(self, path: Path, t: float) -> float:
        """The standard deviation of the perturbations of x̂_0 at time t."""


class PathStrengthProposal(Proposal, Protocol):
    """A proposal with `best_of`, a strength over the whole path."""

    @property
    def best_of(self) -> float | None: ...

    def rho_for(self, process: ReverseProcess | None, size: int) -> float:
        """ρ for a process and events of `size` numbers."""

"""The interface of strategies for the initial noise, and the objective that they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor


@dataclass(frozen=True)
class NoiseObjective:
    """Rewards of initial noise, and fresh random numbers; tensors are (image, particle, …).

    evaluate(noise, with_gradient=True) returns r(x̂_0(noise)) (image, particle) and its gradient with respect to the
    noise, None without `with_gradient`, for one network call per particle. evaluate(noise, with_gradient, rows) does so
    for some particles: rows (row,) int64 are their indices among all (image · particle), and the noise and the results
    are (row, …). normal returns standard Gaussian noise of
    the event's shape; uniform returns numbers in [0, 1).
    """

    evaluate: Callable[..., tuple[Tensor, Any]]
    normal: Callable[[], Tensor]
    uniform: Callable[[], Tensor]


class InitialNoise(Protocol):
    """Chooses the initial noise.

    `needs_reward` is whether it evaluates the reward; sampling then keeps the noise in the first step, which has η = 0
    (`path.step_eta`). The optional attribute `selects_images` = True: of a reward with a term of states it is given the
    rewards of images, by which it selects; otherwise the sum, whose gradient it has.
    """

    needs_reward: ClassVar[bool]

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        """The initial noise (image, particle, *event), from standard Gaussian noise of that shape."""


class ZerothOrderInitialNoise(InitialNoise, Protocol):
    """Initial noise that estimates the gradient from rewards at `draws` perturbations; see `Ascent`."""

    @property
    def draws(self) -> int: ...

    @property
    def width(self) -> float: ...

    @property
    def perturb(self) -> str: ...

"""The engine: from x_t and x̂_0 of a batch of particles to x_s. Whoever holds the network drives it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..initial_noise import NoiseObjective
from ..methods import Method
from ..path import Path, noisier, renoise, reverse_kernel
from ..path.accumulated_noise import AccumulatedNoise
from ..path.strength import ReverseProcess
from ..proposals import Step
from ..selection import Candidates
from .rng import PerImageRNG

# x_t, x̂_0, r(x̂_0) and its gradient, of some particles.
State = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
EvaluateRows = Callable[[Tensor, Tensor, float, "Tensor | None"], State]


def reverse_steps(path: Path, grid: Sequence[float]) -> int:
    """How many steps of a grid go towards the data; the others re-noise and call no network."""
    return sum(not noisier(path, s, t) for t, s in itertools.pairwise(grid))


class Engine:
    """From x_t and x̂_0 of all particles to x_s, by a method's proposal and selection.

    States are flat batches (image · particle, *event): the particles of one image lie next to each other.

    Args:
        method: the method.
        path: the Gaussian path.
        shape: of one event.
        seeds: one per image.
        eta: stochasticity of the reverse kernel.
        device, dtype: of the states.
        steps: how many steps there will be, for methods that temper the reward.
        rng: a source of noise with the methods of `PerImageRNG`, instead of the seeds'.
    Raises:
        ValueError: if the method tilts the noise and eta leaves none.
    """

    def __init__(
        self,
        method: Method,
        path: Path,
        shape: Sequence[int],
        seeds: Sequence[int],
        eta: float = 1.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        steps: int = 1,
        rng: Any = None,
    ) -> None:
        if eta == 0 and getattr(method.proposal, "needs_noise", False):
            raise ValueError("eta = 0 leaves no noise to tilt; give eta = 1 (DDPM), or another method")
        self.method, self.path, self.shape, self.eta = method, path, tuple(shape), eta
        self.number, self.steps = 0, steps
        self.images, self.particles = len(seeds), method.selection.particles
        self.device, self.dtype = device, dtype
        self._rng = PerImageRNG(seeds, self.particles, shape) if rng is None else rng
        self._selection_state = None
        self._step: Step | None = None
        self.process: ReverseProcess | None = None
        self.budget: Any = None
        self.start_time = math.nan
        self._log_ratio = torch.zeros(self.images, self.particles, device=device, dtype=dtype)

    def _noise(self, images: Sequence[int] | None = None) -> Tensor:
        return self._rng.normal(images).flatten(0, 1).to(self.device, self.dtype)

    def set_grid(self, grid: Sequence[float]) -> None:
        """Tells of all times ahead, which a strength over the whole path needs.

        Raises:
            ValueError: if the method cannot be as strong as it was asked on this grid.
        """
        self.process, self.steps = ReverseProcess(self.path, tuple(grid), self.eta), reverse_steps(self.path, grid)
        if getattr(self.method.proposal, "best_of", None) is not None:
            proposal: Any = self.method.proposal
            proposal.rho_on(self.process, math.prod(self.shape))

    def start(self, t: float, evaluate: Callable[..., tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """x_T of all particles at time t, (image · particle, *event).

        Args:
            t: where sampling starts.
            evaluate: x_T (image · particle, *event) → rewards of x̂_0 and their gradients with respect to x_T; needed by
                initial noise that follows the reward. Initial noise with `draws` hands it directions (image · particle,
                draws, *event) too, along which rewards are to be compared.
        Raises:
            ValueError: if the method's initial noise needs it and it is not there.
        """
        if evaluate is None and self.method.initial.needs_reward:
            raise ValueError("this method's initial noise follows the reward, which cannot be asked here; use `sample`")
        self.start_time, scale = t, self.path.prior_std(t)
        draws = getattr(self.method.initial, "draws", 0)

        def rewards_of(noise: Tensor) -> tuple[Tensor, Tensor]:
            offsets = [torch.stack([self._noise() for _ in range(draws)], dim=1)] if draws else []
            rewards, gradient = evaluate(scale * noise.flatten(0, 1), *offsets)
            return self.by_image(rewards), scale * self.by_image(gradient)

        chain = NoiseObjective(
            rewards_of, lambda: self.by_image(self._noise()), lambda: self._rng.uniform().to(self.device)
        )
        return scale * self.method.initial(self.by_image(self._noise()), chain).flatten(0, 1)

    def by_image(self, values: Tensor) -> Tensor:
        """(image · particle, …) as (image, particle, …)."""
        return values.unflatten(0, (self.images, self.particles))

    def rows_of(self, particles: Tensor) -> Tensor:
        """The row of one particle (image,) of each image."""
        return torch.arange(self.images, device=particles.device) * self.particles + particles

    def best(self, rewards: Tensor | None) -> Tensor:
        """The row of each image's best particle by rewards (image, particle); of its first without them."""
        first = torch.zeros(self.images, dtype=torch.long, device=self.device)
        return self.rows_of(first if rewards is None else rewards.argmax(1))

    def _chosen(self, rewards: Tensor | None) -> Tensor | None:
        """Flat indices of the particles that all go on from, or None if each goes on by itself."""
        candidates = Candidates(
            None if rewards is None else self.by_image(rewards),
            self._log_ratio,
            self._rng.uniform().to(self.device),
            self.number,
            self.steps,
        )
        ancestors, self._selection_state = self.method.selection.choose(candidates, self._selection_state)
        if ancestors is None:
            return None
        offset = torch.arange(self.images, device=ancestors.device)[:, None] * self.particles
        return (ancestors + offset).flatten()

    def perturbations(self, t: float) -> Tensor | None:
        """Offsets from x̂_0 for proposals that evaluate the reward near it, (image · particle, draws, *event), or
        None."""
        proposal: Any = self.method.proposal
        draws = getattr(proposal, "draws", 0)
        if not draws:
            return None
        return proposal.spread(self.path, t) * torch.stack([self._noise() for _ in range(draws)], dim=1)

    def advance(
        self,
        x_t: Tensor,
        x0_hat: Tensor,
        t: float,
        s: float,
        rewards: Tensor | None,
        gradient: Tensor | None,
        reward_gradient: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """x_s of all particles, (image · particle, *event).

        Raises:
            FloatingPointError: if it is not finite.
        """
        self.number += 1
        accumulated = self._accumulated_noise(x_t)
        chosen = self._chosen(rewards) if self.particles > 1 else None
        if chosen is not None:
            x_t, x0_hat = x_t[chosen], x0_hat[chosen]
            accumulated = None if accumulated is None else accumulated.rows(chosen)
            rewards = None if rewards is None else rewards[chosen]
            gradient = None if gradient is None else gradient[chosen]
        mean, std = reverse_kernel(self.path, x_t, x0_hat, t, s, self.eta)
        accumulated = None if accumulated is None else accumulated.propagated(self.path, t, s, self.eta)
        step = Step(
            self.path,
            t,
            s,
            x_t,
            x0_hat,
            mean,
            std,
            rewards,
            gradient,
            reward_gradient,
            self.number,
            self.steps,
            self.process,
            accumulated,
        )
        noise = self._noise()
        x_s, self._step = self.method.proposal(step, noise), step
        self._log_ratio = self._density_ratio(x_s, mean, std, noise)
        if not x_s.isfinite().all():
            raise FloatingPointError(
                f"the state is not finite after step {self.number} (t = {t:.4g}); lower the strength"
            )
        return x_s

    def _accumulated_noise(self, x_t: Tensor) -> AccumulatedNoise | None:
        """The noise accumulated on the way to x_t, for proposals that ask for it.

        It is read off the states, which selections may have replaced since the last step.
        """
        if not getattr(self.method.proposal, "needs_accumulated_noise", False):
            return None
        last = self._step
        return (
            AccumulatedNoise(torch.zeros_like(x_t)) if last is None else last.accumulated.add(x_t - last.mean, last.std)
        )

    def resample(self, images: Tensor) -> Tensor:
        """The last step taken again with fresh noise, for some images (indices) of one particle each."""
        noise = self._noise(images.tolist())
        if self._step is None:
            return self.path.prior_std(self.start_time) * noise
        return self.method.proposal(self._step.rows(images), noise)

    def _density_ratio(self, x_s: Tensor, mean: Tensor, std: float, noise: Tensor) -> Tensor:
        """log N(x_s; mean, std²) − log N(ε; 0, I), (image, particle): the base kernel's density over that of a proposal
        which shifts the mean. Zero where the kernel has no noise."""
        if std == 0 or self.particles == 1:
            return torch.zeros_like(self._log_ratio)
        perturbation = ((x_s - mean) / std).flatten(1)
        difference = noise.flatten(1).square() - perturbation.square()
        return self.by_image(0.5 * difference.sum(1))

    def renoise(self, x_t: Tensor, t: float, s: float) -> Tensor:
        """The forward kernel from t up to a noisier s with fresh noise.

        Raises:
            ValueError: if the method keeps an account of accumulated noise, which time travel breaks off.
        """
        if getattr(self.method.proposal, "needs_accumulated_noise", False):
            raise ValueError("whitened = 'path' keeps an account that time travel breaks; whiten the 'mixture' instead")
        return renoise(self.path, x_t, self._noise(), t, s)


def draw_more_candidates(engine: Engine, state: Any, evaluate_rows: Callable[[Tensor, Tensor], State]) -> State:
    """Further candidates for the images whose selection wants them; each image keeps its best.

    state is (x_t, x̂_0, rewards, gradient) of one particle an image; evaluate_rows evaluates new states of some images.
    """
    selection: Any = engine.method.selection
    engine.budget = selection.open_step(state[2], engine.budget)
    while (wanted := selection.wants_more(engine.budget)).any():
        images = wanted.nonzero().flatten()
        found = evaluate_rows(engine.resample(images), images)
        engine.budget = selection.update(engine.budget, images, found[2])
        better = found[2] > state[2][images]
        rows = images[better]
        state = tuple(
            None if old is None else old.index_copy(0, rows, new[better]) for old, new in zip(state, found, strict=True)
        )
    return state


class StepResult(NamedTuple):
    """A step from t, after it: x_s (image · particle, *event), and of what it left x̂_0 (image · particle, *event),
    r(x̂_0) (image, particle) and its gradient (image, particle, *event), None where nobody asked."""

    t: float
    x: Tensor
    x0_hat: Tensor
    rewards: Tensor | None
    gradient: Tensor | None


def run_steps(
    engine: Engine,
    x: Tensor,
    grid: Sequence[float],
    evaluate_rows: EvaluateRows,
    gradient_at_x0: Callable[[Tensor, float], Tensor],
    given: bool = False,
) -> Iterator[StepResult]:
    """The method's steps along a grid, one after the other.

    Args:
        engine: at the start of the grid.
        x: x_T of all particles, (image · particle, *event).
        grid: times from noise to data; where it steps back up, the state is re-noised.
        evaluate_rows: (x_t, rows, t, offsets) → State of these rows.
        gradient_at_x0: (x_0, t) → ∇r at x_0 of all particles, without the network.
        given: whether x is a state that was given, for which there is no other candidate.
    """
    everyone = torch.arange(len(x), device=x.device)
    for t, s in itertools.pairwise(grid):
        if noisier(engine.path, s, t):
            x = engine.renoise(x, t, s)
            continue
        offsets = engine.perturbations(t)

        def evaluate(x_t: Tensor, rows: Tensor, t: float = t, offsets: Tensor | None = offsets) -> State:
            return evaluate_rows(x_t, rows, t, None if offsets is None else offsets[rows])

        state = evaluate(x, everyone)
        if hasattr(engine.method.selection, "wants_more") and not (given and engine.number == 0):
            state = draw_more_candidates(engine, state, evaluate)
        x, x0_hat, rewards, gradient = state
        x = engine.advance(x, x0_hat, t, s, rewards, gradient, lambda x_0, t=t: gradient_at_x0(x_0, t))  # type: ignore[misc]
        by_image = (None if values is None else engine.by_image(values) for values in (rewards, gradient))
        yield StepResult(t, x, x0_hat, *by_image)

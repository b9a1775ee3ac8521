"""The sampling engine: computes x_s from x_t and x̂_0 for a batch of particles.

It does not call the network. The drivers (the native loop, diffusers, k-diffusion) call the network and pass x̂_0 in.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .._messages import UnguidedWarning
from ..initial_noise import NoiseObjective
from ..methods import Method
from ..path import Path, is_noisier, renoise, reverse_kernel, step_eta
from ..path.accumulated_noise import AccumulatedNoise
from ..path.strength import ReverseProcess
from ..proposals import PathStrengthProposal, SmoothingProposal, Step
from ..selection import Candidates, RedrawingSelection
from .check_inputs import GradientAt
from .rng import PerImageRNG


class State(NamedTuple):
    """x_t, x̂_0, r(x̂_0), its gradient and the decoded x̂_0, for some particles. The last three are None if not computed
    or not kept."""

    x_t: Tensor
    x0_hat: Tensor
    rewards: Tensor | None
    gradient: Tensor | None
    images: Tensor | None = None


EvaluateRows = Callable[[Tensor, Tensor, float, "Tensor | None", bool], State]


def reverse_steps(path: Path, grid: Sequence[float]) -> int:
    """The number of reverse steps of a grid; the other steps re-noise and do not call the network."""
    return sum(not is_noisier(path, s, t) for t, s in itertools.pairwise(grid))


def check_eta(method: Method, eta: float) -> None:
    """Raises a ValueError if eta is no number ≥ 0, or if a method needs noise in the steps and eta = 0."""
    if isinstance(eta, bool) or not isinstance(eta, Real) or not eta >= 0:
        raise ValueError(f"eta = {eta!r} must be a number, 0 (deterministic) or more; 1 is the DDPM posterior")
    if eta == 0 and any(getattr(part, "needs_noise", False) for part in (method.proposal, method.selection)):
        raise ValueError("eta = 0 injects no noise, which this method needs; give eta = 1 or another method")


def check_density(method: Method) -> None:
    """Raises a ValueError if the selection weights particles by a density ratio that is not known of the proposal."""
    if getattr(method.selection, "correct", False) and not getattr(method.proposal, "known_density", True):
        raise ValueError(
            f"correct = True weights particles by the density of the proposal, which is not known of "
            f"{type(method.proposal).__name__}; give correct = False"
        )


def warn_of_zero_gradient() -> None:
    """Warns of a gradient that was zero wherever it was used."""
    warnings.warn(
        "the gradient of the reward was 0 for all images wherever it was used, so that nothing was guided; give a "
        "reward that changes with the pixels and does not round or compare them, or a model that changes with its "
        "noise",
        UnguidedWarning,
        stacklevel=3,
    )


class Engine:
    """Computes x_s from x_t and x̂_0 of all particles, with a method's proposal and selection.

    States are flat batches (image · particle, *event); the particles of one image are adjacent rows.

    Args:
        method: the method.
        path: the Gaussian path.
        shape: of one event.
        seeds: one per image.
        eta: stochasticity of the reverse kernel. The first step keeps initial noise that the reward chose: it has η = 0
            (`step_eta`), and no noise to tilt.
        device, dtype: of the states.
        steps: number of reverse steps, for methods that temper the reward.
        step_noise: (t, s) → standard normal noise (image · particle, *event) of the step from t to s, or None for that
            of the seeds; called only where the step injects noise. All other noise is that of the seeds.
        gradient_at: whether the driver's gradients are with respect to x_t or x̂_0, unless the proposal decides.
    Raises:
        ValueError: if eta is no number ≥ 0, or 0 although the method needs noise, or it weights by an unknown density.
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
        step_noise: Callable[[float, float], Tensor | None] | None = None,
        gradient_at: GradientAt = "x_t",
    ) -> None:
        check_eta(method, eta)
        check_density(method)
        self.method, self.path, self.shape, self.eta = method, path, tuple(shape), eta
        self.number, self.steps = 0, steps
        self.images, self.particles = len(seeds), method.selection.particles
        self.device, self.dtype = device, dtype
        estimated = getattr(method.proposal, "zeroth_order", False)
        self.gradient_at: GradientAt = "x0" if estimated else getattr(method.proposal, "gradient_at", gradient_at)
        self._rng = PerImageRNG(seeds, self.particles, shape)
        self._given_noise = step_noise
        self._selection_state = None
        self._step: Step | None = None
        self._renoised: tuple[Tensor, float, float] | None = None
        self.process: ReverseProcess | None = None
        self.budget: Any = None
        self.start_time = math.nan
        # On the device, so that no step waits for it.
        self._has_gradient: Tensor | None = None
        self._has_choice: Tensor | None = None
        self._log_ratio = torch.zeros(self.images, self.particles, device=device, dtype=dtype)

    def _noise(self, images: Sequence[int] | None = None) -> Tensor:
        return self._rng.normal(images).flatten(0, 1).to(self.device, self.dtype)

    def _noise_of(self, rows: Tensor | None) -> Tensor:
        """Noise (row, *event) of some particles, by their indices (row,) among all; of all if None."""
        noise = self._rng.normal().flatten(0, 1) if rows is None else self._rng.normal_of(rows.tolist())
        return noise.to(self.device, self.dtype)

    def _step_noise(self, t: float, s: float, std: float) -> Tensor:
        given = None if self._given_noise is None or std == 0 else self._given_noise(t, s)
        if given is None:
            return self._noise()
        expected = (self.images * self.particles, *self.shape)
        if tuple(given.shape) != expected:
            raise ValueError(
                f"the given noise of the step from t = {t:g} to {s:g} has shape {tuple(given.shape)}, expected "
                f"{expected}; draw it for every image and particle"
            )
        return given.to(self.device, self.dtype)

    def set_grid(self, grid: Sequence[float]) -> None:
        """Set the time grid, which methods with a strength over the whole path (`best_of`) need. A warning says so if
        the method has a gradient and none of its steps can use it, or resamples no particles before the last step.

        Raises:
            ValueError: if the method cannot reach the requested strength on this grid, or tracks the accumulated noise
                and a step of the grid is to a noisier time.
        """
        noisier = any(is_noisier(self.path, s, t) for t, s in itertools.pairwise(grid))
        if noisier and getattr(self.method.proposal, "needs_accumulated_noise", False):
            raise ValueError("whitened = 'path' does not support time travel; use whitened = 'mixture'")
        self.process = ReverseProcess(self.path, tuple(grid), self.eta, self.method.initial.needs_reward)
        self.steps = reverse_steps(self.path, grid)
        if getattr(self.method.proposal, "best_of", None) is not None:
            cast(PathStrengthProposal, self.method.proposal).rho_for(self.process, math.prod(self.shape))
        self._warn_if_unguided(grid)
        self._warn_if_not_resampled()

    def _warn_if_unguided(self, grid: Sequence[float]) -> None:
        if not self.method.proposal.needs_gradient:
            return
        reverse = [(t, s) for t, s in itertools.pairwise(grid) if not is_noisier(self.path, s, t)]
        if any(self._uses_gradient(number, t, s) for number, (t, s) in enumerate(reverse, 1)):
            return
        count = f"{len(reverse)} step" if len(reverse) == 1 else f"{len(reverse)} steps"
        warnings.warn(
            f"0 of {count} can be guided: pure noise has no gradient, and a step without noise has none to tilt; give "
            f"{'3 steps or more' if len(reverse) < 3 else 'more steps'}, or use a noise ascent, such as gper",
            UnguidedWarning,
            stacklevel=2,
        )

    def _warn_if_not_resampled(self) -> None:
        interval = getattr(self.method.selection, "interval", 1)
        if self.particles == 1 or interval == 1 or interval < self.steps:
            return
        warnings.warn(
            f"interval = {interval} resamples no particle before the last step, number {self.steps}, so that only the "
            f"best of {self.particles} is selected; give a smaller interval, such as --set interval=1, or more steps",
            UnguidedWarning,
            stacklevel=2,
        )

    def start(
        self,
        t: float,
        evaluate: Callable[[Tensor, Tensor | None, bool, Tensor | None], tuple[Tensor, Tensor | None]] | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """x_T of all particles at time t, (image · particle, *event).

        Args:
            t: the time at which sampling starts.
            evaluate: (x_T (image · particle, *event), directions, with_gradient, rows) → rewards of x̂_0 and their
                gradients with respect to x_T, None without `with_gradient`; needed by initial noise that uses the
                reward. `directions` (image · particle, draws, *event), of initial noise with `draws` > 0, are random
                ones for a zeroth-order estimate; otherwise None. With `rows` (row,) all tensors are of these rows only.
            noise: standard Gaussian noise (image · particle, *event) that the initial noise starts from; drawn if None.
        Raises:
            ValueError: if the method's initial noise needs `evaluate` and it is None.
        """
        if evaluate is None and self.method.initial.needs_reward:
            raise ValueError("this method's initial noise needs the reward, which is not available here; use `sample`")
        self.start_time, scale = t, self.path.prior_std(t)
        draws = getattr(self.method.initial, "draws", 0)

        def evaluate_rows(x: Tensor, with_gradient: bool, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
            directions = None
            if draws and with_gradient:
                directions = torch.stack([self._noise_of(rows) for _ in range(draws)], dim=1)
            rewards, gradient = evaluate(scale * x, directions, with_gradient, rows)
            self._note_gradient(gradient)
            return rewards, None if gradient is None else scale * gradient

        def evaluate_noise(
            noise: Tensor, with_gradient: bool = True, rows: Tensor | None = None
        ) -> tuple[Tensor, Tensor | None]:
            if rows is not None:
                return evaluate_rows(noise, with_gradient, rows)
            rewards, gradient = evaluate_rows(noise.flatten(0, 1), with_gradient, None)
            return self.by_image(rewards), None if gradient is None else self.by_image(gradient)

        objective = NoiseObjective(
            evaluate_noise, lambda: self.by_image(self._noise()), lambda: self._rng.uniform().to(self.device)
        )
        noise = self._noise() if noise is None else noise
        return scale * self.method.initial(self.by_image(noise), objective).flatten(0, 1)

    def by_image(self, values: Tensor) -> Tensor:
        """(image · particle, …) as (image, particle, …)."""
        return values.unflatten(0, (self.images, self.particles))

    def rows_of(self, particles: Tensor) -> Tensor:
        """Row indices (image,) of one particle (image,) per image."""
        return torch.arange(self.images, device=particles.device) * self.particles + particles

    @property
    def continues_from_best(self) -> bool:
        """Whether all particles of an image continue from its best one in every step."""
        return self.particles > 1 and getattr(self.method.selection, "continues_from_best", False)

    def predicted_rewards(self, x: Tensor) -> Tensor | None:
        """The rewards r(x̂_0) (image, particle) of the last step if it ended at x̂_0, as that of most methods does; None
        if it did not, or without rewards. x is the state after it, (image · particle, *event)."""
        last = self._step
        if last is None or last.rewards is None or not torch.equal(x, last.x0_hat):
            return None
        return self.by_image(last.rewards)

    def different_rows(self, x: Tensor) -> Tensor:
        """The rows of one particle per image if all have the same state, as after a search that continues from one
        candidate and a step without noise; otherwise all rows."""
        rows = torch.arange(len(x), device=x.device)
        by_image = self.by_image(x)
        return rows[:: self.particles] if torch.equal(by_image, by_image[:, :1].expand_as(by_image)) else rows

    def best(self, rewards: Tensor | None) -> Tensor:
        """Row index of each image's best particle by rewards (image, particle); of the first particle if None."""
        first = torch.zeros(self.images, dtype=torch.long, device=self.device)
        return self.rows_of(first if rewards is None else rewards.argmax(1))

    @property
    def predicted(self) -> Tensor | None:
        """x̂_0 of the last step, (image · particle, *event), in the rows of the state after it; None before a step."""
        return None if self._step is None else self._step.x0_hat

    def _resample_particles(self, rewards: Tensor | None) -> Tensor | None:
        """Row indices of each particle's ancestor, or None if each particle continues from its own state."""
        if rewards is not None:
            self.note_candidates(self.by_image(rewards) != self.by_image(rewards)[:, :1])
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
        """Random offsets from x̂_0 (image · particle, draws, *event) for proposals that evaluate the reward at
        perturbed x̂_0; None for the others."""
        proposal = cast(SmoothingProposal, self.method.proposal)
        draws = getattr(proposal, "draws", 0)
        std = proposal.perturbation_std(self.path, t) if draws else 0.0
        if std == 0:
            return None
        return torch.stack([self._noise() for _ in range(draws)], dim=1).mul_(std)

    def gradient_factor(self, t: float) -> float:
        """What the gradient at perturbations is multiplied by: an estimate from the differences of rewards is that of
        2h² ∇r, with h the standard deviation of the perturbations."""
        proposal = cast(SmoothingProposal, self.method.proposal)
        estimated = getattr(proposal, "zeroth_order", False)
        return 1 / (2 * proposal.perturbation_std(self.path, t) ** 2) if estimated else 1.0

    def advance(
        self,
        x_t: Tensor,
        x0_hat: Tensor,
        t: float,
        s: float,
        rewards: Tensor | None,
        gradient: Tensor | None,
        reward_gradient: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """x_s of all particles, (image · particle, *event).

        Raises:
            FloatingPointError: if x_s is not finite.
        """
        self.number += 1
        self._renoised = None
        if self._uses_gradient(self.number, t, s):
            self._note_gradient(gradient)
        accumulated = self._accumulated_noise(x_t)
        ancestors = self._resample_particles(rewards) if self.particles > 1 else None
        if ancestors is not None:
            x_t, x0_hat = x_t[ancestors], x0_hat[ancestors]
            accumulated = None if accumulated is None else accumulated.rows(ancestors)
            rewards = None if rewards is None else rewards[ancestors]
            gradient = None if gradient is None else gradient[ancestors]
        eta = self._eta(self.number)
        mean, std = reverse_kernel(self.path, x_t, x0_hat, t, s, eta)
        accumulated = None if accumulated is None else accumulated.propagate(self.path, t, s, eta)
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
            self.gradient_at,
        )
        noise = self._step_noise(t, s, std)
        x_s, self._step = self.method.proposal(step, noise), step
        if not isinstance(x_s, Tensor) or x_s.shape != x_t.shape:
            got = tuple(x_s.shape) if isinstance(x_s, Tensor) else type(x_s).__name__
            name = type(self.method.proposal).__name__
            raise ValueError(f"the proposal {name} returned {got}, expected a tensor of shape {tuple(x_t.shape)}")
        self._log_ratio = self._density_ratio(x_s, mean, std, noise)
        if not x_s.isfinite().all():
            raise FloatingPointError(
                f"the state is not finite after step {self.number} (t = {t:.4g}); lower the strength of the method"
            )
        return x_s

    def _note_gradient(self, gradient: Tensor | None) -> None:
        """Notes whether any gradient that guides was not zero."""
        if gradient is not None:
            present = (gradient != 0).any()
            self._has_gradient = present if self._has_gradient is None else self._has_gradient | present

    def note_candidates(self, different: Tensor) -> None:
        """Notes whether any candidates among which the selection chose had different rewards, (…) bool."""
        self._has_choice = different.any() if self._has_choice is None else self._has_choice | different.any()

    def choose_winner(self, rewards: Tensor) -> Tensor:
        """Row index (image,) of the particle of each image that the selection returns, by rewards (image, particle)."""
        if self.particles > 1:
            self.note_candidates(rewards != rewards[:, :1])
        return self.rows_of(self.method.selection.winner(rewards))

    def warn_if_not_guided(self) -> None:
        """A warning says so if all gradients that the run used were zero, or it used none and all candidates of each
        image had the same reward; for which it waits for the device."""
        if self._has_gradient is not None:
            if not self._has_gradient:
                warn_of_zero_gradient()
        elif self._has_choice is not None and not self._has_choice:
            warnings.warn(
                "the reward gave all candidates of each image the same value in every step, so that nothing was "
                "selected; give a reward that differs between images, or more candidates",
                UnguidedWarning,
                stacklevel=2,
            )

    def _eta(self, number: int) -> float:
        """η of the reverse step with this number."""
        return step_eta(self.eta, keep_noise=self.method.initial.needs_reward and number == 1)

    def needs_gradient(self, t: float, s: float) -> bool:
        """Whether the next step, from t to s, uses the gradient: not at α_t = 0, where x_t does not depend on x_0 and
        the gradient is zero, whatever the network returns; and not in a step without noise if it tilts the noise."""
        return self._uses_gradient(self.number + 1, t, s)

    def _uses_gradient(self, number: int, t: float, s: float) -> bool:
        """`needs_gradient` of the step with this number."""
        proposal = self.method.proposal
        if not proposal.needs_gradient or self.path.alpha(t) == 0:
            return False
        std = reverse_kernel(self.path, 0.0, 0.0, t, s, self._eta(number))[1]
        return std > 0 or not getattr(proposal, "needs_noise", False)

    def _accumulated_noise(self, x_t: Tensor) -> AccumulatedNoise | None:
        """The noise accumulated up to x_t, for proposals with `needs_accumulated_noise`.

        It is computed from the states, because a selection may have replaced them since the last step.
        """
        if not getattr(self.method.proposal, "needs_accumulated_noise", False):
            return None
        last = self._step
        return (
            AccumulatedNoise(torch.zeros_like(x_t)) if last is None else last.accumulated.add(x_t - last.mean, last.std)
        )

    @property
    def can_resample(self) -> bool:
        """Whether `resample` would give new states of the same kind: not after a step without noise, and not of initial
        noise that the reward chose."""
        if self._renoised is not None:
            return True
        return not self.method.initial.needs_reward if self._step is None else self._step.std > 0

    def resample(self, images: Tensor) -> Tensor:
        """Repeat the last step, or the last re-noising, with fresh noise for some images (indices), with one particle
        per image."""
        noise = self._noise(images.tolist())
        if self._renoised is not None:
            x_t, t, s = self._renoised
            return renoise(self.path, x_t[images], noise, t, s)
        if self._step is None:
            return self.path.prior_std(self.start_time) * noise
        return self.method.proposal(self._step.rows(images), noise)

    def _density_ratio(self, x_s: Tensor, mean: Tensor, std: float, noise: Tensor) -> Tensor:
        """log N(x_s; mean, std²) − log N(ε; 0, I), (image, particle): the log density ratio of the base kernel to a
        proposal with a known density, up to a constant. Zero if std = 0, or if the selection does not read it."""
        read = self.particles > 1 and getattr(self.method.selection, "correct", True)
        if std == 0 or not read:
            return torch.zeros_like(self._log_ratio)
        perturbation = ((x_s - mean) / std).flatten(1)
        difference = noise.flatten(1).square() - perturbation.square()
        return self.by_image(0.5 * difference.sum(1))

    def renoise(self, x_t: Tensor, t: float, s: float) -> Tensor:
        """Re-noise from t to a noisier s with fresh noise."""
        self._renoised = x_t, t, s
        return renoise(self.path, x_t, self._noise(), t, s)


def draw_more_candidates(
    engine: Engine, state: State, evaluate_rows: Callable[[Tensor, Tensor], State], fixed: bool = False
) -> State:
    """Draw and evaluate candidates until the selection needs no more; returns the best state of each image.

    state has one particle per image; evaluate_rows evaluates new x_t of some images. A `fixed` state is the only
    candidate.
    """
    selection = cast(RedrawingSelection, engine.method.selection)
    fixed = fixed or not engine.can_resample
    engine.budget = selection.open_step(state.rewards, engine.budget, engine.number + 1, engine.steps, fixed)
    while not fixed and (unfinished := selection.wants_more(engine.budget)).any():
        images = unfinished.nonzero().flatten()
        new = evaluate_rows(engine.resample(images), images)
        engine.budget = selection.update(engine.budget, images, new.rewards)
        engine.note_candidates(new.rewards != state.rewards[images])
        better = new.rewards > state.rewards[images]
        rows = images[better]
        state = State(
            *(
                None if old is None else old.index_copy(0, rows, value[better])
                for old, value in zip(state, new, strict=True)
            )
        )
    return state


class StepResult(NamedTuple):
    """The result of a step from t: x = x_s (image · particle, *event); x̂_0 at t (image · particle, *event), r(x̂_0)
    (image, particle), its gradient (image, particle, *event) and the decoded x̂_0 (image · particle, 3, H, W). The last
    three are None if not computed or not kept."""

    t: float
    x: Tensor
    x0_hat: Tensor
    rewards: Tensor | None
    gradient: Tensor | None
    images: Tensor | None


def _evaluate(
    engine: Engine,
    evaluate_rows: EvaluateRows,
    t: float,
    offsets: Tensor | None,
    with_gradient: bool,
    x_t: Tensor,
    rows: Tensor,
) -> State:
    """The State of some rows; its gradient is zero in steps that do not use it."""
    given = offsets if with_gradient else None
    if given is not None and len(rows) < len(given):
        given = given[rows]
    state = evaluate_rows(x_t, rows, t, given, with_gradient)
    if state.gradient is None:
        return state._replace(gradient=torch.zeros_like(state.x_t)) if engine.method.proposal.needs_gradient else state
    return state if offsets is None else state._replace(gradient=engine.gradient_factor(t) * state.gradient)


def run_steps(
    engine: Engine,
    x: Tensor,
    grid: Sequence[float],
    evaluate_rows: EvaluateRows,
    gradient_at_x0: Callable[[Tensor, float, Tensor | None], Tensor],
    fixed_start: bool = False,
) -> Iterator[StepResult]:
    """Run the method's steps along a grid; yields a StepResult after each reverse step.

    Args:
        engine: an engine at the start of the grid.
        x: x_T of all particles, (image · particle, *event).
        grid: times from noise to data; a step to a noisier time re-noises the state.
        evaluate_rows: (x_t, rows, t, offsets, with_gradient) → State of these rows.
        gradient_at_x0: (x_0, t, rows) → ∇r at x_0 of these rows, of all particles if None, without the network.
        fixed_start: whether x is a user-supplied state, for which no further candidates are drawn.
    """
    all_rows = torch.arange(len(x), device=x.device)
    for t, s in itertools.pairwise(grid):
        if is_noisier(engine.path, s, t):
            x = engine.renoise(x, t, s)
            continue
        offsets, with_gradient = engine.perturbations(t), engine.needs_gradient(t, s)
        evaluate = functools.partial(_evaluate, engine, evaluate_rows, t, offsets, with_gradient)

        def reward_gradient(x_0: Tensor, rows: Tensor | None = None, t: float = t) -> Tensor:
            return gradient_at_x0(x_0, t, rows)

        state = evaluate(x, all_rows)
        if hasattr(engine.method.selection, "wants_more"):
            state = draw_more_candidates(engine, state, evaluate, fixed_start and engine.number == 0)
        x, x0_hat, rewards, gradient, images = state
        x = engine.advance(x, x0_hat, t, s, rewards, gradient, reward_gradient)
        rewards, gradient = (None if values is None else engine.by_image(values) for values in (rewards, gradient))
        yield StepResult(t, x, x0_hat, rewards, gradient, images)

"""The sampling loop, its result and its trace.

Any network can drive the same engine: `Engine.advance` takes x_t, x̂_0 and, where the method asks, rewards and
gradients of a batch of particles, and gives x_s. `sample` is the native driver.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .denoiser import Denoiser
from .deterministic import deterministic_chain, look_ahead_grid
from .initial_noise import Chain
from .methods import Method, find_method
from .path import Path, renoise, reverse_kernel
from .path import noisier as _noisier
from .proposals import Step
from .selection import Candidates
from .streams import Streams
from .strength import Walk

Reward = Callable[[Tensor, Sequence[str]], Tensor]


class Model(Protocol):
    """What `sample` asks of a model."""

    path: Path
    shape: tuple[int, ...]

    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0(x_t, t, index) for these prompts."""

    def decode(self, x_0: Tensor) -> Tensor:
        """Pictures in [0, 1], (batch, 3, H, W), from states (batch, *event); differentiable."""


@dataclass(frozen=True)
class StepReport:
    """What a callback is told after each step: its number from 1, how many there are, t, and r(x̂_0) (image,)."""

    number: int
    steps: int
    t: float
    rewards: Tensor | None


@dataclass
class Trace:
    """What happened on the way.

    Attributes:
        nfe: denoiser evaluations per image.
        times: t of each step.
        rewards: (step, image), r(x̂_0) of each image's best particle; empty without a reward.
        gradient_norm: (step, image), ‖∇_{x_t} r(x̂_0)‖, mean over particles; empty if no gradient was asked for.
        seconds: wall-clock time of the whole call.
    """

    nfe: float = 0.0
    times: list[float] = field(default_factory=list)
    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    gradient_norm: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: float = 0.0


@dataclass
class Result:
    """Pictures (image, 3, H, W) in [0, 1], their final rewards (image,) or None without a reward, and the trace."""

    images: Tensor
    rewards: Tensor | None
    trace: Trace


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
    ) -> None:
        if eta == 0 and getattr(method.proposal, "needs_noise", False):
            raise ValueError("eta = 0 leaves no noise to tilt; give eta = 1 (DDPM), or another method")
        self.method, self.path, self.shape, self.eta = method, path, tuple(shape), eta
        self.number, self.steps = 0, steps
        self.images, self.particles = len(seeds), method.selection.particles
        self.device, self.dtype = device, dtype
        self._streams = Streams(seeds, self.particles, shape)
        self._selection_state = None
        self._step: Step | None = None
        self.walk: Walk | None = None
        self.budget: Any = None
        self.start_time = math.nan
        self._log_ratio = torch.zeros(self.images, self.particles, device=device, dtype=dtype)

    def _noise(self, images: Sequence[int] | None = None) -> Tensor:
        return self._streams.normal(images).flatten(0, 1).to(self.device, self.dtype)

    def follow(self, grid: Sequence[float]) -> None:
        """Tells of all times ahead, which a strength over the whole path needs.

        Raises:
            ValueError: if the method cannot be as strong as it was asked on this grid.
        """
        self.walk, self.steps = Walk(self.path, tuple(grid), self.eta), reverse_steps(self.path, grid)
        if getattr(self.method.proposal, "best_of", None) is not None:
            self.method.proposal.rho_on(self.walk, math.prod(self.shape))

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
            around = [torch.stack([self._noise() for _ in range(draws)], dim=1)] if draws else []
            rewards, gradient = evaluate(scale * noise.flatten(0, 1), *around)
            return self.by_image(rewards), scale * self.by_image(gradient)

        chain = Chain(rewards_of, lambda: self.by_image(self._noise()), lambda: self._streams.uniform().to(self.device))
        return scale * self.method.initial(self.by_image(self._noise()), chain).flatten(0, 1)

    def by_image(self, values: Tensor) -> Tensor:
        """(image · particle, …) as (image, particle, …)."""
        return values.unflatten(0, (self.images, self.particles))

    def _chosen(self, rewards: Tensor | None) -> Tensor | None:
        """Flat indices of the particles that all go on from, or None if each goes on by itself."""
        candidates = Candidates(
            None if rewards is None else self.by_image(rewards),
            self._log_ratio,
            self._streams.uniform().to(self.device),
            self.number,
            self.steps,
        )
        ancestors, self._selection_state = self.method.selection.choose(candidates, self._selection_state)
        if ancestors is None:
            return None
        offset = torch.arange(self.images, device=ancestors.device)[:, None] * self.particles
        return (ancestors + offset).flatten()

    def perturbations(self) -> Tensor | None:
        """Fresh noise for proposals that smooth the reward, (image · particle, draws, *event), or None."""
        draws = getattr(self.method.proposal, "draws", 0)
        return torch.stack([self._noise() for _ in range(draws)], dim=1) if draws else None

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
        """x_s of all particles, (image · particle, *event)."""
        self.number += 1
        chosen = self._chosen(rewards) if self.particles > 1 else None
        if chosen is not None:
            x_t, x0_hat = x_t[chosen], x0_hat[chosen]
            rewards = None if rewards is None else rewards[chosen]
            gradient = None if gradient is None else gradient[chosen]
        mean, std = reverse_kernel(self.path, x_t, x0_hat, t, s, self.eta)
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
            self.walk,
        )
        noise = self._noise()
        x_s, self._step = self.method.proposal(step, noise), step
        self._log_ratio = self._density_ratio(x_s, mean, std, noise)
        return x_s

    def again(self, images: Tensor) -> Tensor:
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
        """The forward kernel from t up to a noisier s with fresh noise."""
        return renoise(self.path, x_t, self._noise(), t, s)


def name_of(reward: Reward) -> str:
    """A reward's name for messages and tables."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def _require_finite(values: Tensor, what: str, reward: Reward, number: int, t: float, unit: str = "step") -> None:
    finite = values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise FloatingPointError(
            f"the {what} of the reward {name_of(reward)!r} is not finite at {unit} {number} (t = {t:.4g}, row {row}); "
            "bound the reward, or lower the strength of the method"
        )


def reward_of(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """r(images, prompts), checked to be one float per image.

    Raises:
        ValueError: if the reward gives anything but a (batch,) tensor.
    """
    values = reward(images, prompts)
    if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"the reward {name_of(reward)!r} gave {got}; expected a tensor of shape ({len(images)},)")
    return values


@dataclass
class _Evaluator:
    """x̂_0, r(x̂_0) and ∇_{x_t} r(x̂_0), a chunk of rows at a time so that memory is bounded."""

    model: Model
    denoiser: Denoiser
    reward: Reward | None
    prompts: Sequence[str]
    gradient_at: Literal["x_t", "x0"]
    chunk: int
    estimated: bool = False
    number: int = 0

    def __call__(
        self,
        x_t: Tensor,
        t: float,
        index: Tensor,
        with_reward: bool,
        with_gradient: bool,
        perturbations: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x̂_0, rewards and gradient of all rows; perturbations (batch, draws, *event) around x̂_0 smooth the reward.

        Where α_t = 0 nothing of x_0 is in x_t and the gradient is zero, whatever a network says.
        """
        blind = self.model.path.alpha(t) == 0
        spread = [None] * len(x_t) if perturbations is None else perturbations
        parts = [
            self._one(x_t[rows], t, index[rows], spread[rows], with_reward, with_gradient, blind)
            for rows in self._chunks(x_t)
        ]
        x0_hat, rewards, gradient = zip(*parts, strict=True)
        return (
            torch.cat(x0_hat),
            torch.cat(rewards) if with_reward else None,
            torch.cat(gradient) if with_gradient else None,
        )

    def _chunks(self, x: Tensor) -> list[slice]:
        return [slice(first, first + self.chunk) for first in range(0, len(x), self.chunk)]

    def _rewards(self, x_0: Tensor, index: Tensor) -> Tensor:
        return reward_of(self.reward, self.model.decode(x_0), [self.prompts[i] for i in index.tolist()])

    def _smoothed(self, x0_hat: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        """log of the mean of exp r over pictures around x̂_0."""
        draws = offsets.shape[1]
        around = (x0_hat[:, None] + offsets).flatten(0, 1)
        values = self._rewards(around, index.repeat_interleave(draws)).unflatten(0, (-1, draws))
        return values.logsumexp(1) - math.log(draws)

    def _estimate(self, x0_hat: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        """∇r at x̂_0 from the rewards of pairs of pictures on either side, up to a factor."""
        draws = offsets.shape[1]
        rows = index.repeat_interleave(draws)
        ahead, behind = (self._rewards((x0_hat[:, None] + sign * offsets).flatten(0, 1), rows) for sign in (1, -1))
        slopes = (ahead - behind).unflatten(0, (-1, draws))
        return torch.einsum("bd,bd...->b...", slopes.to(offsets), offsets) / draws

    def at_x0(self, x_0: Tensor, index: Tensor, t: float) -> Tensor:
        """∇r at x_0 (batch, *event), without the denoiser."""
        parts = []
        for rows in self._chunks(x_0):
            with torch.enable_grad():
                x = x_0[rows].detach().requires_grad_()
                rewards = self._rewards(x, index[rows])
            parts.append(self._gradient(rewards, x))
        gradient = torch.cat(parts)
        _require_finite(gradient, "gradient", self.reward, self.number, t)
        return gradient

    def of_noise(
        self, x_T: Tensor, grid: Sequence[float], index: Tensor, directions: Tensor | None = None, **knobs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Rewards of the pictures that the steps of a grid with η = 0 make of noise, their gradients by x_T (None
        unless wanted) and the pictures, of all rows; knobs are those of `_of_noise`."""
        spread = [None] * len(x_T) if directions is None else directions
        parts = [self._of_noise(x_T[rows], grid, index[rows], spread[rows], **knobs) for rows in self._chunks(x_T)]
        self.number += 1
        rewards, gradient, images = zip(*parts, strict=True)
        return torch.cat(rewards), None if gradient[0] is None else torch.cat(gradient), torch.cat(images)

    def _of_noise(
        self,
        x_T: Tensor,
        grid: Sequence[float],
        index: Tensor,
        directions: Tensor | None,
        with_gradient: bool = True,
        width: float = 1.0,
        around: str = "picture",
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        estimated = torch.is_tensor(directions)
        through = with_gradient and self.gradient_at == "x_t"
        with torch.set_grad_enabled(through):
            x_T = x_T.detach().requires_grad_(through)
            made = deterministic_chain(self.denoiser, x_T, grid, index)
        x_0 = made.detach().requires_grad_(with_gradient and not estimated)
        with torch.set_grad_enabled(x_0.requires_grad):
            images = self.model.decode(x_0)
            rewards = reward_of(self.reward, images, [self.prompts[i] for i in index.tolist()])
        _require_finite(rewards.detach(), "value", self.reward, self.number, grid[0], "iteration")
        gradient = None
        if with_gradient:
            if estimated and around == "noise":
                gradient = self._estimate_along(x_T.detach(), grid, index, width * directions) / (4 * width**2)
            elif estimated:
                gradient = self._estimate(x_0, index, width * directions) / (2 * width**2)
            else:
                gradient = self._gradient(rewards, x_0)
            nfe = self.denoiser.nfe
            gradient = torch.autograd.grad(made, x_T, gradient)[0] if through else gradient
            # What checkpoints compute again is the price of memory, not another evaluation.
            self.denoiser.nfe = nfe
            _require_finite(gradient, "gradient", self.reward, self.number, grid[0], "iteration")
        return rewards.detach(), gradient, images.detach()

    def _estimate_along(self, x_T: Tensor, grid: Sequence[float], index: Tensor, offsets: Tensor) -> Tensor:
        """J Jᵀ∇r at x_0, up to a factor, from the rewards of the pictures that noises on either side make: Hybrid-2 of
        DNO (Tang et al. 2024, arXiv 2405.18881), in antithetic pairs."""
        draws = offsets.shape[1]
        rows = index.repeat_interleave(draws)
        with torch.no_grad():
            ahead, behind = (
                deterministic_chain(self.denoiser, (x_T[:, None] + sign * offsets).flatten(0, 1), grid, rows)
                for sign in (1, -1)
            )
            slopes = (self._rewards(ahead, rows) - self._rewards(behind, rows)).unflatten(0, (-1, draws))
        apart = (ahead - behind).unflatten(0, (-1, draws))
        return torch.einsum("bd,bd...->b...", slopes.to(apart), apart) / draws

    def _one(
        self,
        x_t: Tensor,
        t: float,
        index: Tensor,
        perturbations: Tensor | None,
        with_reward: bool,
        with_gradient: bool,
        blind: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        through = with_gradient and self.gradient_at == "x_t" and not (blind or self.estimated)
        with torch.set_grad_enabled(through):
            x_t = x_t.detach().requires_grad_(through)
            x0_hat = self.denoiser(x_t, t, index)
        if not with_reward:
            return x0_hat, None, None
        wanted = with_gradient and not (blind or self.estimated)
        if wanted and not through:
            x0_hat = x0_hat.detach().requires_grad_()
        with torch.set_grad_enabled(wanted):
            rewards = self._rewards(x0_hat, index)
            smooth = wanted and torch.is_tensor(perturbations)
            followed = self._smoothed(x0_hat, index, perturbations) if smooth else rewards
        _require_finite(rewards.detach(), "value", self.reward, self.number, t)
        gradient = None
        if with_gradient:
            gradient = torch.zeros_like(x_t)
            if wanted:
                gradient = self._gradient(followed, x_t if through else x0_hat)
            elif self.estimated and not blind:
                gradient = self._estimate(x0_hat, index, perturbations)
            _require_finite(gradient, "gradient", self.reward, self.number, t)
        return x0_hat.detach(), rewards.detach(), gradient

    def _gradient(self, rewards: Tensor, at: Tensor) -> Tensor:
        if not rewards.requires_grad:
            raise ValueError(
                f"the reward {name_of(self.reward)!r} has no gradient and the method needs one; "
                "choose best-of-n, svdd or ntrk-black-box, or a differentiable reward"
            )
        return torch.autograd.grad(rewards, at, torch.ones_like(rewards))[0]


def rewards_of_noise(
    evaluate: _Evaluator, method: Method, start: float, index: Tensor
) -> Callable[..., tuple[Tensor, Tensor]]:
    """What the method's initial noise asks of x_T: rewards and gradients of the pictures that its steps with η = 0
    make."""
    initial = method.initial
    ahead = look_ahead_grid(evaluate.model.path, start, getattr(initial, "chain_steps", 1))
    knobs = {"width": initial.width, "around": initial.around} if getattr(initial, "draws", 0) else {}
    return lambda x_T, *directions: evaluate.of_noise(x_T, ahead, index, *directions, **knobs)[:2]


def check_reward(method: Method, reward: Reward | None) -> None:
    """Refuses a method that needs a reward or its gradient and has none.

    Raises:
        ValueError: with the reward's name.
    """
    estimated = getattr(method.proposal, "estimates_gradient", False)
    blind_start = getattr(method.initial, "estimates_gradient", False)
    differentiates = (method.proposal.needs_gradient and not estimated) or (
        method.initial.needs_reward and not blind_start
    )
    needy = (
        differentiates or estimated or blind_start or method.selection.needs_rewards or method.selection.particles > 1
    )
    if reward is None and needy:
        raise ValueError("this method follows a reward and none was given; pass reward=..., or method='base'")
    if differentiates and getattr(reward, "differentiable", True) is False:
        raise ValueError(
            f"the reward {name_of(reward)!r} has no gradient and the method needs one; "
            "choose best-of-n, svdd or ntrk-black-box, or a differentiable reward"
        )


def _check_call(prompts: list[str], seeds: list[int], grid: list[float], gradient_at: str, chunk: int) -> None:
    if not prompts:
        raise ValueError("prompts is empty; give at least one prompt")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one seed per prompt")
    if len(grid) < 2:
        raise ValueError(f"the time grid {grid} has no step; give at least two times, from noise to data")
    if gradient_at not in ("x_t", "x0"):
        raise ValueError(f"gradient_at = {gradient_at!r} must be 'x_t' (through the denoiser) or 'x0'")
    if chunk < 1:
        raise ValueError(f"chunk = {chunk} must be 1 row or more")


def reverse_steps(path: Path, grid: Sequence[float]) -> int:
    """How many steps of a grid go towards the data; the others re-noise and call no network."""
    return sum(not _noisier(path, s, t) for t, s in itertools.pairwise(grid))


State = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def _more_rounds(engine: Engine, state: State, look: Callable[[Tensor, Tensor], State]) -> State:
    """Further candidates for the images whose selection wants them; each image keeps its best.

    state is (x_t, x̂_0, rewards, gradient) of one particle an image; look evaluates new states of some images.
    """
    selection = engine.method.selection
    engine.budget = selection.open_step(state[2], engine.budget)
    while (wanted := selection.again(engine.budget)).any():
        images = wanted.nonzero().flatten()
        found = look(engine.again(images), images)
        engine.budget = selection.another(engine.budget, images, found[2])
        better = found[2] > state[2][images]
        rows = images[better]
        state = tuple(
            None if old is None else old.index_copy(0, rows, new[better]) for old, new in zip(state, found, strict=True)
        )
    return state


@torch.no_grad()
def sample(
    model: Model,
    prompts: Sequence[str] | str,
    reward: Reward | None = None,
    method: str | Method = "ntrk",
    steps: int = 25,
    seeds: Sequence[int] | None = None,
    *,
    eta: float = 1.0,
    grid: Sequence[float] | None = None,
    gradient_at: Literal["x_t", "x0"] = "x_t",
    chunk: int = 16,
    track: bool = True,
    callback: Callable[[StepReport], Any] | None = None,
) -> Result:
    """Pictures that the reward asks for, from a pretrained model, at inference time.

    Args:
        model: an object with `denoiser(prompts)`, `path`, `shape` and `decode`.
        prompts: one per picture.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised. None only with
            methods that follow no reward.
        method: a name of METHODS or a Method.
        steps: steps of the path's own time grid, 1 or more; ignored if `grid` is given.
        seeds: one whole number ≥ 0 per picture, 0, 1, 2, … if left out. Seed k gives the same noise in any batch and
            with any number of particles.
        eta: stochasticity of the reverse kernel: 0 is the ODE (no noise to tilt), 1 DDPM, inf full re-noising.
        grid: times from noise to data, at least two; it may step back up, where the state is re-noised.
        gradient_at: "x_t" takes the gradient through the denoiser (the papers), "x0" stops at x̂_0: half the cost.
        chunk: rows per network call, which bounds the memory.
        track: whether r(x̂_0) is recorded at every step even where the method does not need it.
        callback: called with a StepReport after each step.
    Returns:
        Result with images, final rewards and trace.
    Raises:
        ValueError: for bad input, in one sentence.
        FloatingPointError: if a reward, gradient or state is not finite; names the reward and the step.
    """
    started = time.perf_counter()
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    method = find_method(method)
    grid = list(model.path.grid(steps)) if grid is None else [float(t) for t in grid]
    grid = method.times.walk(model.path, grid)
    check_reward(method, reward)
    _check_call(prompts, seeds, grid, gradient_at, chunk)

    device = getattr(model, "device", "cpu")
    denoiser = model.denoiser(prompts)
    engine = Engine(method, model.path, model.shape, seeds, eta, device)
    engine.follow(grid)
    gradient_at = getattr(method.proposal, "gradient_at", gradient_at)
    estimated = getattr(method.proposal, "estimates_gradient", False)
    evaluate = _Evaluator(model, denoiser, reward, prompts, gradient_at, chunk, estimated)
    index = torch.arange(len(prompts), device=device).repeat_interleave(engine.particles)
    with_reward = reward is not None and (track or method.selection.needs_rewards or method.proposal.needs_gradient)
    trace, rewards_log, norms_log = Trace(), [], []

    before = denoiser.nfe
    x = engine.start(grid[0], rewards_of_noise(evaluate, method, grid[0], index))
    for number, (t, s) in enumerate(itertools.pairwise(grid), start=1):
        if _noisier(model.path, s, t):
            x = engine.renoise(x, t, s)
            continue
        evaluate.number = number
        around = engine.perturbations()
        if around is not None:
            around = method.proposal.spread(model.path, t) * around

        def look(x_t: Tensor, rows: Tensor, t: float = t, around: Tensor | None = around) -> State:
            near = None if around is None else around[rows]
            return x_t, *evaluate(x_t, t, index[rows], with_reward, method.proposal.needs_gradient, near)

        state = look(x, torch.arange(len(x), device=x.device))
        if hasattr(method.selection, "again"):
            state = _more_rounds(engine, state, look)
        x, x0_hat, rewards, gradient = state
        x = engine.advance(x, x0_hat, t, s, rewards, gradient, lambda x_0, t=t: evaluate.at_x0(x_0, index, t))
        trace.times.append(t)
        best = engine.by_image(rewards).amax(1).cpu() if with_reward else None
        if best is not None:
            rewards_log.append(best)
        if gradient is not None:
            norms_log.append(engine.by_image(gradient.flatten(1).norm(dim=1)).mean(1).cpu())
        if not x.isfinite().all():
            raise FloatingPointError(f"the state is not finite after step {number} (t = {t:.4g}); lower the strength")
        if callback is not None:
            callback(StepReport(number, len(grid) - 1, t, best))

    images, final = _finish(model, engine, reward, x, prompts, index, chunk)
    trace.nfe = (denoiser.nfe - before) / len(prompts)
    trace.rewards = torch.stack(rewards_log) if rewards_log else trace.rewards
    trace.gradient_norm = torch.stack(norms_log) if norms_log else trace.gradient_norm
    trace.seconds = time.perf_counter() - started
    return Result(images, final, trace)


def _finish(
    model: Model, engine: Engine, reward: Reward | None, x: Tensor, prompts: list[str], index: Tensor, chunk: int
) -> tuple[Tensor, Tensor | None]:
    """Final pictures and rewards; with several particles the winner's of each image."""
    images = torch.cat([model.decode(part) for part in x.split(chunk)])
    if reward is None:
        return images, None
    rewards = torch.cat(
        [
            reward_of(reward, part, [prompts[i] for i in rows.tolist()])
            for part, rows in zip(images.split(chunk), index.split(chunk), strict=True)
        ]
    )
    _require_finite(rewards, "value", reward, engine.number, 0.0)
    winner = engine.method.selection.winner(engine.by_image(rewards))
    rows = torch.arange(engine.images, device=winner.device) * engine.particles + winner
    return images[rows], rewards[rows]

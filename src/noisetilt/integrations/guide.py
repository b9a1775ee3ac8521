"""The engine, driven by whoever holds the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..methods import Method
from ..path import Path
from ..rewards.reward import RewardFunction
from ..sampling.engine import Engine, State, run_steps
from ..sampling.reward_evaluation import RewardEvaluator, check_reward, chunks
from ..sampling.trace import Trace
from .chain import ChainResult, ChainStep, chain_times, coefficients, rescaled_vjp
from .coroutine import Coroutine

GradientAt = Literal["x_t", "x0"]


@dataclass(frozen=True)
class Request:
    """What is x̂_0 at x (rows, *event), time t (None: the first of the grid)? `through`: the gradient by x is wanted."""

    x: Tensor
    t: float | None
    through: bool


@dataclass(frozen=True)
class Response:
    """x̂_0 (rows, *event) at the state x_t that the network saw, and g ↦ Jᵀ · g, J the Jacobian of x̂_0 by x_t."""

    x_t: Tensor
    x0_hat: Tensor
    vjp: Callable[[Tensor], Tensor] | None = None


class Guide:
    """Asks for x̂_0 at states `x` and times `t`; `answer` gives it and leads to the next request, until `done`.

    States are flat batches (image · particle, *event), the particles of one image next to each other. A request is
    always for all of them. Use it as a context manager.

    Args:
        method: the method.
        path: the Gaussian path.
        shape: of one event.
        seeds, prompts: one per image.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised, or None. Videos (batch, frames, 3,
            H, W) are judged frame by frame and averaged, unless the reward has `video = True` and takes them whole.
        decode: pictures in [0, 1] from states (batch, *event), differentiable.
        grid: times from noise to data; may be set before the first answer instead.
        start: the state to start from, (image · particle, *event); the method's initial noise if left out.
        eta: stochasticity of the reverse kernel.
        gradient_at: "x_t" through the network, or "x0".
        chunk: rows decoded and judged at a time, which bounds the memory.
        device, dtype: of the states.
        rng: a source of noise with the methods of `PerImageRNG`, instead of the seeds'.
        heldout: a reward that looks on, asked about each image's best particle after every step.
        trace: to be filled; a new one if left out.
    Attributes:
        grid: as above.
        trace: what happened; complete once done. Its nfe counts the evaluations that the method asked for.
        rows, rewards, heldout_rewards: once done, the row of each image's winner (image,) int64, its final reward
            (image,) and its held-out reward (image,), None where there is no such reward.
    Raises:
        ValueError: if the method needs what is not given.
    """

    def __init__(
        self,
        method: Method,
        path: Path,
        shape: Sequence[int],
        seeds: Sequence[int],
        prompts: Sequence[str],
        reward: RewardFunction | None,
        decode: Callable[[Tensor], Tensor],
        *,
        grid: Sequence[float] | None = None,
        start: Tensor | None = None,
        eta: float = 1.0,
        gradient_at: GradientAt = "x_t",
        chunk: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rng: Any = None,
        heldout: RewardFunction | None = None,
        trace: Trace | None = None,
    ) -> None:
        check_guidance(method, reward, gradient_at, chunk)
        if start is not None and method.initial.needs_reward:
            raise ValueError("this method chooses its own initial noise; start from noise, without latents or an image")
        self.engine = Engine(method, path, shape, seeds, eta, device, dtype, rng=rng)
        self.method, self.path, self.chunk = method, path, chunk
        self.heldout_evaluator = None if heldout is None else RewardEvaluator(heldout, decode, prompts)
        self.evaluator = RewardEvaluator(reward, decode, prompts, getattr(method.proposal, "zeroth_order", False))
        self.gradient_at = getattr(method.proposal, "gradient_at", gradient_at)
        # Which prompt each row has.
        self.index = torch.arange(len(prompts), device=device).repeat_interleave(self.engine.particles)
        self.grid = grid
        self.trace = Trace() if trace is None else trace
        self.start: Tensor | None = start
        self.x: Any = start
        self.rows: Any = None
        self.rewards: Tensor | None = None
        self.heldout_rewards: Tensor | None = None
        self._nfe = 0
        self._early: Response | None = None
        self._started = time.perf_counter()
        autocast = torch.is_autocast_enabled(torch.device(device).type)
        self._autocast = torch.autocast(torch.device(device).type, enabled=autocast)
        self._coroutine: Coroutine[Request, Response] = Coroutine(self._body)

    def __enter__(self) -> Guide:
        self._coroutine.open()
        self.x = self._coroutine.request.x
        return self

    def __exit__(self, *_: Any) -> None:
        self._coroutine.close()

    @property
    def done(self) -> bool:
        return self._coroutine.request is None

    @property
    def t(self) -> float:
        """The time of the next request."""
        t = self._coroutine.request.t
        return self.grid[0] if t is None else t

    @property
    def through(self) -> bool:
        """Whether the next answer needs `vjp`."""
        return not self.done and self._coroutine.request.through

    def answer(self, x_t: Tensor, x0_hat: Tensor, vjp: Callable[[Tensor], Tensor] | None = None) -> None:
        """Leads on to the next request.

        Args:
            x_t: the state that the network saw, (image · particle, *event): `x` itself, unless something changed it.
            x0_hat: x̂_0 of the same shape and dtype.
            vjp: Jᵀ · g from g, both (image · particle, *event), where J is the Jacobian of x̂_0 by x_t; needed
                where `through`.
        """
        self._coroutine.answer(Response(x_t, x0_hat, vjp))
        if not self.done:
            self.x = self._coroutine.request.x

    def _denoise(self, x: Tensor, t: float | None, through: bool) -> Response:
        return self._request(Request(x, t, through))

    def _body(self, ask: Callable[[Request], Response]) -> None:
        self._request = ask
        if torch.device(self.engine.device).type == "cuda":
            torch.cuda.set_device(self.engine.device)
        with torch.no_grad(), self._autocast:
            self._run()

    def _run(self) -> None:
        method, engine = self.method, self.engine
        x = engine.start(1.0, self._evaluate_initial_noise) if self.start is None else self.start
        if self.grid is None:
            self._early = self._denoise(x, None, self._through)
        grid = method.times.expand(self.path, list(self.grid))
        engine.set_grid(grid)
        for step in run_steps(engine, x, grid, self._evaluate, self._gradient_at_x0, self.start is not None):
            heldout = self._heldout_rewards(step.x0_hat, engine.best(step.rewards), step.t)
            self.trace.record(step.t, step.rewards, step.gradient, heldout)
        self._finish(step.x)

    @property
    def _through(self) -> bool:
        """Whether steps take the gradient through the network, where it says anything."""
        return self.method.proposal.needs_gradient and self.gradient_at == "x_t" and not self.evaluator.estimated

    def _evaluate_initial_noise(self, x_T: Tensor, directions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rewards and gradients of initial noise, by the pictures that steps with η = 0 make of it; even where α_t = 0
        the network answers with one. Along directions (image · particle, draws, *event) rewards are compared."""
        through = self.gradient_at == "x_t"
        chain = self._chain(x_T, through)
        t = self.grid[0]
        if directions is None:
            rewards, gradient = self._values_and_gradients(chain.x_0, self.index, None, t)
        else:
            rewards, gradient = self._values(chain.x_0, self.index, t), self._estimate(x_T, chain.x_0, directions, t)
        if through:
            gradient = chain.vjp(gradient)
            self._require_finite(gradient, "gradient", t)
        return rewards, gradient

    def _chain(self, x: Tensor, through: bool) -> ChainResult:
        """The pictures that the initial noise's `chain_steps` make of x_T."""
        steps, steps_taken = getattr(self.method.initial, "chain_steps", 1), []
        for number in range(steps):
            times = None if self.grid is None else chain_times(self.grid, steps)
            answer = self._denoise(x, None if times is None else times[number], through)
            self._nfe += len(x)
            times = chain_times(self.grid, steps)
            last = number == steps - 1
            keep, lead = (0.0, 1.0) if last else coefficients(self.path, times[number], times[number + 1])
            x = answer.x0_hat.detach() if last else keep * answer.x_t.detach() + lead * answer.x0_hat.detach()
            steps_taken.append(ChainStep(keep, lead, answer.vjp))
        return ChainResult(x, steps_taken)

    def _estimate(self, x_T: Tensor, x_0: Tensor, directions: Tensor, t: float) -> Tensor:
        """∇r at x_0 from rewards alone, up to a factor: of pictures offsets, or of those that noises offsets make (see
        `Ascent`), whose network calls are one batch a direction and sign."""
        initial: Any = self.method.initial
        width = initial.width
        offsets = width * directions
        if initial.perturb == "image":
            parts = chunks(len(x_0), self.chunk)
            found = torch.cat([self.evaluator.estimate(x_0[rows], self.index[rows], offsets[rows]) for rows in parts])
            return found / (2 * width**2)
        total = torch.zeros_like(x_0)
        for offset in offsets.unbind(1):
            ahead, behind = (self._chain(x_T + sign * offset, False).x_0 for sign in (1, -1))
            slope = self._values(ahead, self.index, t) - self._values(behind, self.index, t)
            total += slope.to(x_0).view(-1, *[1] * (x_0.ndim - 1)) * (ahead - behind)
        return total / (offsets.shape[1] * 4 * width**2)

    def _evaluate(self, x: Tensor, rows: Tensor, t: float, offsets: Tensor | None) -> State:
        """x_t, x̂_0, r(x̂_0) and its gradient, of some rows."""
        follow, no_signal = self.method.proposal.needs_gradient, self.path.alpha(t) == 0
        through = self._through and not no_signal
        answer, self._early = self._early, None
        if answer is None:
            answer = self._denoise(self._full_batch(x, rows), t, through)
        self._nfe += len(rows)
        x_t, x0_hat, index = answer.x_t.detach()[rows], answer.x0_hat.detach()[rows], self.index[rows]
        if self.evaluator.reward is None:
            return x_t, x0_hat, None, None
        if not follow or no_signal:
            return x_t, x0_hat, self._values(x0_hat, index, t), torch.zeros_like(x_t) if follow else None
        rewards, gradient = self._values_and_gradients(x0_hat, index, offsets, t)
        if through:
            everywhere = torch.zeros_like(answer.x0_hat).index_copy(0, rows, gradient)
            gradient = self._apply_vjp(answer.vjp, everywhere, t)[rows]
        return x_t, x0_hat, rewards, gradient

    def _full_batch(self, x: Tensor, rows: Tensor) -> Tensor:
        """A full batch with these states in these rows; the network's batch has one size."""
        return x if len(x) == len(self.index) else self.x.detach().index_copy(0, rows, x)

    def _apply_vjp(self, vjp: Callable[[Tensor], Tensor], gradient: Tensor, t: float) -> Tensor:
        gradient = rescaled_vjp(vjp, gradient)
        self._require_finite(gradient, "gradient", t)
        return gradient

    def _require_finite(self, values: Tensor, what: str, t: float) -> None:
        self.evaluator.require_finite(values, what, self.engine.number + 1, t)

    def _values(self, x_0: Tensor, index: Tensor, t: float) -> Tensor:
        rewards = self.evaluator.values(x_0, index, self.chunk)
        self._require_finite(rewards, "value", t)
        return rewards

    def _heldout_rewards(self, x_0: Tensor, rows: Tensor, t: float) -> Tensor | None:
        """The held-out reward of some rows."""
        if self.heldout_evaluator is None:
            return None
        rows = rows.to(x_0.device)
        heldout = self.heldout_evaluator.values(x_0[rows], self.index[rows], self.chunk)
        self.heldout_evaluator.require_finite(heldout, "value", self.engine.number, t)
        return heldout

    def _values_and_gradients(
        self, x_0: Tensor, index: Tensor, offsets: Tensor | None, t: float
    ) -> tuple[Tensor, Tensor]:
        parts = [
            self.evaluator.value_and_gradient(x_0[part], index[part], None if offsets is None else offsets[part])
            for part in chunks(len(x_0), self.chunk)
        ]
        rewards, gradient = (torch.cat(part) for part in zip(*parts, strict=True))
        self._require_finite(rewards, "value", t)
        self._require_finite(gradient, "gradient", t)
        return rewards, gradient

    def _gradient_at_x0(self, x_0: Tensor, t: float) -> Tensor:
        return self._values_and_gradients(x_0, self.index, None, t)[1]

    def _finish(self, x: Tensor) -> None:
        self.x, trace, engine = x, self.trace, self.engine
        self.rows = engine.best(None)
        if self.evaluator.reward is not None:
            rewards = self._values(x, self.index, 0.0)
            rows = engine.rows_of(self.method.selection.winner(engine.by_image(rewards)))
            self.rows, self.rewards = rows.to(x.device), rewards[rows]
        self.heldout_rewards = self._heldout_rewards(x, self.rows, 0.0)
        trace.nfe = self._nfe / self.engine.images
        trace.seconds = time.perf_counter() - self._started


def check_guidance(method: Method, reward: RewardFunction | None, gradient_at: str, chunk: int) -> None:
    """Refuses what cannot be guided, before any network runs.

    Raises:
        ValueError: in one sentence.
    """
    check_reward(method, reward)
    if gradient_at not in ("x_t", "x0"):
        raise ValueError(f"gradient_at = {gradient_at!r} must be 'x_t' (through the network) or 'x0'")
    if chunk != int(chunk) or chunk < 1:
        raise ValueError(f"chunk = {chunk} must be 1 row or more")


def make_vjp(x0_hat: Tensor, by: Tensor) -> Callable[[Tensor], Tensor]:
    """g ↦ Jᵀ · g in `by`'s shape and g's dtype, J the Jacobian of x̂_0 by `by`; to be called once.

    Raises:
        ValueError: when called, if x̂_0 does not depend on `by`.
    """

    def vjp(gradient: Tensor) -> Tensor:
        if not x0_hat.requires_grad or not by.requires_grad:
            raise ValueError(
                "the network gave no gradient; let it run with gradients enabled, or pass gradient_at='x0'"
            )
        return torch.autograd.grad(x0_hat, by, gradient)[0].to(gradient)

    return vjp

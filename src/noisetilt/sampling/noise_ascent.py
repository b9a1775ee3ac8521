"""The loop of noise ascent for one-step and few-step generators: iterates, held-out reward, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..initial_noise import Ascent
from ..initial_noise.ascent import wide
from ..methods import Method, find_method
from ..proposals import Base
from ..rewards.reward import RewardFunction, evaluate_reward
from .check_inputs import check_call
from .deterministic import deterministic_grid
from .evaluation import Evaluator, Model
from .reward_evaluation import RewardEvaluator, check_reward
from .rng import PerImageRNG


@dataclass(frozen=True)
class AscentReport:
    """What a callback is told at each iterate: its number from 0, the last one's, and of all images the pictures
    (image, 3, H, W), noise (image, *event), rewards, held-out rewards (or None) and who still climbs (image,)."""

    number: int
    iterations: int
    images: Tensor
    noise: Tensor
    rewards: Tensor
    heldout: Tensor | None
    active: Tensor


@dataclass
class AscentTrace:
    """What happened on the way; images that stopped early repeat their last values.

    Attributes:
        rewards, heldout: (iterations + 1, image), of each iterate; heldout is empty without one.
        gradient_norm: (iterations, image), ‖∇r‖ before anything is done to it.
        nfe: (image,), network calls.
        seconds: wall-clock time at each iterate since the call, without the held-out reward's, (iterations + 1,).
    """

    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    heldout: Tensor = field(default_factory=lambda: torch.empty(0))
    gradient_norm: Tensor = field(default_factory=lambda: torch.empty(0))
    nfe: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: list[float] = field(default_factory=list)


@dataclass
class OptimizeResult:
    """The chosen iterate of each image: pictures (image, 3, H, W) in [0, 1], noise (image, *event) of unit variance,
    rewards, held-out rewards (None without one) and numbers (image,); and the trace."""

    images: Tensor
    noise: Tensor
    rewards: Tensor
    heldout: Tensor | None
    iterations: Tensor
    trace: AscentTrace


def find_ascent(method: str | Method) -> Ascent:
    """The noise ascent of a method that is nothing else.

    Raises:
        ValueError: if it is something else, too, or has no ascent.
    """
    method = find_method(method)
    if not isinstance(method.initial, Ascent):
        raise ValueError("this method is no noise ascent; give none, reno, prno, mpgr, gper or one of gper's relatives")
    if not isinstance(method.proposal, Base) or method.selection.particles > 1:
        raise ValueError("this method goes on after the noise ascent; use `sample`, or `noisetilt generate`")
    return method.initial


@torch.no_grad()
def optimize(
    model: Model,
    prompts: Sequence[str] | str,
    reward: RewardFunction,
    method: str | Method = "gper",
    iterations: int | None = None,
    seeds: Sequence[int] | None = None,
    *,
    heldout: RewardFunction | None = None,
    patience: int = 0,
    gradient_at: Literal["x_t", "x0"] = "x_t",
    chunk: int = 16,
    callback: Callable[[AscentReport], Any] | None = None,
) -> OptimizeResult:
    """The noise from which a one-step generator makes what the reward asks for.

    The picture of a noise is x̂_0 at the start of the path, or what `chain_steps` deterministic steps make of it.

    Args:
        model: an object with `denoiser(prompts)`, `path`, `shape` and `decode`.
        prompts: one per picture.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised.
        method: a name of METHODS or a Method whose initial noise is an Ascent, and nothing else.
        iterations: steps of the ascent, 0 or more; the method's own number if left out.
        seeds: one whole number ≥ 0 per picture; the noise is that of `sample` with the same seed.
        heldout: a reward that looks on.
        patience: an image stops when the held-out reward has not reached a new best for so many iterations, and the
            iterate with the best held-out reward is returned; 0 never stops and returns the best reward.
        gradient_at: "x_t" takes the gradient through the network, "x0" stops at the picture: half the cost.
        chunk: rows per network call, which bounds the memory.
        callback: called with an AscentReport at each iterate.
    Returns:
        OptimizeResult.
    Raises:
        ValueError: for bad input, in one sentence.
        FloatingPointError: if a reward or gradient is not finite; names the reward and the iteration.
    """
    method = find_method(method)
    method = method if iterations is None else method.replace(iterations=iterations)
    ascent = find_ascent(method)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    check_reward(method, reward)
    if patience < 0 or (patience and heldout is None):
        raise ValueError(f"patience = {patience} must be 0, or 1 or more with a held-out reward to look at")
    start = model.path.grid(1)[0]
    grid = deterministic_grid(model.path, start, ascent.chain_steps)
    check_call(prompts, seeds, grid, gradient_at, chunk)
    return _Run(model, prompts, reward, heldout, ascent, patience, gradient_at, chunk, callback, grid)(seeds)


@dataclass
class _Run:
    """One call of `optimize`."""

    model: Model
    prompts: list[str]
    reward: RewardFunction
    heldout: RewardFunction | None
    ascent: Ascent
    patience: int
    gradient_at: Literal["x_t", "x0"]
    chunk: int
    callback: Callable[[AscentReport], Any] | None
    grid: list[float]
    images: Any = field(default=None, init=False)
    heldout_rewards: Any = field(default=None, init=False)

    def __call__(self, seeds: Sequence[int]) -> OptimizeResult:
        self.started, self.trace = time.perf_counter(), AscentTrace(nfe=torch.zeros(len(seeds)))
        self.device = getattr(self.model, "device", "cpu")
        self.scale = self.model.path.prior_std(self.grid[0])
        self.rng = PerImageRNG(seeds, 1, self.model.shape)
        self.denoiser = self.model.denoiser(self.prompts)
        reward_evaluator = RewardEvaluator(self.reward, self.model.decode, self.prompts)
        self.evaluator = Evaluator(self.model.path, self.denoiser, reward_evaluator, self.gradient_at, self.chunk)
        noise = self.rng.normal()[:, 0].to(self.device)
        iterates = self.ascent.iterate(noise, self._evaluate)
        iterate = next(iterates)
        best: OptimizeResult | None = None
        while True:
            best, keep = self._update_best(iterate, best)
            try:
                iterate = iterates.send(keep)
            except StopIteration:
                break
        return self._finish(best)

    def _evaluate(self, x: Tensor, rows: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        directions: list[Tensor] = []
        options: dict[str, Any] = {}
        if self.ascent.draws and with_gradient:
            some = rows.tolist()
            drawn = [self.rng.normal(some)[:, 0] for _ in range(self.ascent.draws)]
            directions = [torch.stack(drawn, dim=1).to(x)]
            options = {"width": self.ascent.width, "perturb": self.ascent.perturb}
        before = self.denoiser.nfe
        rewards, gradient, images = self.evaluator.of_noise(
            self.scale * x, self.grid, rows, *directions, with_gradient=with_gradient, **options
        )
        self.trace.nfe[rows.cpu()] += (self.denoiser.nfe - before) / len(rows)
        self.images = images if self.images is None else self.images.index_copy(0, rows, images)
        self._evaluate_heldout(images, rows)
        return rewards, None if gradient is None else self.scale * gradient

    def _evaluate_heldout(self, images: Tensor, rows: Tensor) -> None:
        if self.heldout is None:
            return
        start = time.perf_counter()
        some = [self.prompts[i] for i in rows.tolist()]
        parts = range(0, len(rows), self.chunk)
        values = [evaluate_reward(self.heldout, images[i : i + self.chunk], some[i : i + self.chunk]) for i in parts]
        held = torch.cat(values)
        self.heldout_rewards = held if self.heldout_rewards is None else self.heldout_rewards.index_copy(0, rows, held)
        self.started += time.perf_counter() - start

    def _update_best(self, iterate: Any, best: OptimizeResult | None) -> tuple[OptimizeResult, Tensor]:
        """The best iterate of each image so far, and which images go on."""
        number, rewards, held = iterate.number, iterate.rewards, self.heldout_rewards
        self._record(iterate)
        if best is None:
            numbers = torch.zeros(len(rewards), dtype=torch.long)
            best = OptimizeResult(self.images, iterate.noise, rewards, held, numbers, self.trace)
        else:
            better = (held > best.heldout) if self.patience else (rewards > best.rewards)
            better = better & iterate.active
            best = OptimizeResult(
                torch.where(wide(better, self.images), self.images, best.images),
                torch.where(wide(better, iterate.noise), iterate.noise, best.noise),
                rewards.where(better, best.rewards),
                None if held is None else held.where(better, best.heldout),
                torch.where(better.cpu(), number, best.iterations),
                self.trace,
            )
        keep = number - best.iterations < self.patience if self.patience else torch.ones(len(rewards), dtype=torch.bool)
        return best, keep

    def _record(self, iterate: Any) -> None:
        trace, held = self.trace, self.heldout_rewards
        trace.seconds.append(time.perf_counter() - self.started)
        trace.rewards = _append(trace.rewards, iterate.rewards)
        trace.heldout = trace.heldout if held is None else _append(trace.heldout, held)
        if iterate.gradient is not None:
            trace.gradient_norm = _append(trace.gradient_norm, iterate.gradient.flatten(1).norm(dim=1))
        if self.callback is not None:
            self.callback(
                AscentReport(
                    iterate.number,
                    self.ascent.iterations,
                    self.images,
                    iterate.noise,
                    iterate.rewards.cpu(),
                    None if held is None else held.cpu(),
                    iterate.active.cpu(),
                )
            )

    def _finish(self, best: OptimizeResult) -> OptimizeResult:
        trace, whole = self.trace, self.ascent.iterations + 1
        trace.rewards, trace.heldout = _lengthened(trace.rewards, whole), _lengthened(trace.heldout, whole)
        trace.gradient_norm = _lengthened(trace.gradient_norm, whole - 1)
        trace.seconds += trace.seconds[-1:] * (whole - len(trace.seconds))
        return best


def _append(rows: Tensor, row: Tensor) -> Tensor:
    row = row.detach().float().cpu()[None]
    return torch.cat([rows, row]) if rows.numel() else row


def _lengthened(rows: Tensor, count: int) -> Tensor:
    """Its last row repeated until there are `count`."""
    return torch.cat([rows, *[rows[-1:]] * (count - len(rows))]) if rows.numel() else rows

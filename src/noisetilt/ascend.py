"""The loop of noise ascent for one-step and few-step generators: iterates, held-out reward, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .deterministic import look_ahead_grid
from .evaluation import Evaluator, Model
from .initial_noise import Ascent
from .initial_noise.ascent import wide
from .judging import Judge, Reward, check_reward, reward_of
from .methods import Method, find_method
from .proposals import Base
from .sampling import check_call
from .streams import Streams


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
class Ascended:
    """The chosen iterate of each image: pictures (image, 3, H, W) in [0, 1], noise (image, *event) of unit variance,
    rewards, held-out rewards (None without one) and numbers (image,); and the trace."""

    images: Tensor
    noise: Tensor
    rewards: Tensor
    heldout: Tensor | None
    iterations: Tensor
    trace: AscentTrace


def ascent_of(method: str | Method) -> Ascent:
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
def ascend(
    model: Model,
    prompts: Sequence[str] | str,
    reward: Reward,
    method: str | Method = "gper",
    seeds: Sequence[int] | None = None,
    *,
    heldout: Reward | None = None,
    patience: int = 0,
    gradient_at: Literal["x_t", "x0"] = "x_t",
    chunk: int = 16,
    callback: Callable[[AscentReport], Any] | None = None,
) -> Ascended:
    """The noise from which a one-step generator makes what the reward asks for.

    The picture of a noise is x̂_0 at the start of the path, or what `chain_steps` deterministic steps make of it.

    Args:
        model: an object with `denoiser(prompts)`, `path`, `shape` and `decode`.
        prompts: one per picture.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised.
        method: a name of METHODS or a Method whose initial noise is an Ascent, and nothing else.
        seeds: one whole number ≥ 0 per picture; the noise is that of `sample` with the same seed.
        heldout: a reward that looks on.
        patience: an image stops when the held-out reward has not reached a new best for so many iterations, and the
            iterate with the best held-out reward is returned; 0 never stops and returns the best reward.
        gradient_at: "x_t" takes the gradient through the network, "x0" stops at the picture: half the cost.
        chunk: rows per network call, which bounds the memory.
        callback: called with an AscentReport at each iterate.
    Returns:
        Ascended.
    Raises:
        ValueError: for bad input, in one sentence.
        FloatingPointError: if a reward or gradient is not finite; names the reward and the iteration.
    """
    climb = ascent_of(method)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    check_reward(find_method(method), reward)
    if patience < 0 or (patience and heldout is None):
        raise ValueError(f"patience = {patience} must be 0, or 1 or more with a held-out reward to look at")
    start = model.path.grid(1)[0]
    grid = look_ahead_grid(model.path, start, climb.chain_steps)
    check_call(prompts, seeds, grid, gradient_at, chunk)
    return _Run(model, prompts, reward, heldout, climb, patience, gradient_at, chunk, callback, grid)(seeds)


@dataclass
class _Run:
    """One call of `ascend`."""

    model: Model
    prompts: list[str]
    reward: Reward
    heldout: Reward | None
    climb: Ascent
    patience: int
    gradient_at: Literal["x_t", "x0"]
    chunk: int
    callback: Callable[[AscentReport], Any] | None
    grid: list[float]

    def __call__(self, seeds: Sequence[int]) -> Ascended:
        self.started, self.trace = time.perf_counter(), AscentTrace(nfe=torch.zeros(len(seeds)))
        self.device = getattr(self.model, "device", "cpu")
        self.scale = self.model.path.prior_std(self.grid[0])
        self.streams = Streams(seeds, 1, self.model.shape)
        self.denoiser = self.model.denoiser(self.prompts)
        judge = Judge(self.reward, self.model.decode, self.prompts)
        self.evaluator = Evaluator(self.model.path, self.denoiser, judge, self.gradient_at, self.chunk)
        self.images = self.judged = None
        noise = self.streams.normal()[:, 0].to(self.device)
        walk = self.climb.walk(noise, self._evaluate)
        iterate, best = next(walk), None
        while True:
            best, keep = self._look(iterate, best)
            try:
                iterate = walk.send(keep)
            except StopIteration:
                break
        return self._finish(best)

    def _evaluate(self, x: Tensor, rows: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        directions, knobs = [], {}
        if self.climb.draws and with_gradient:
            some = rows.tolist()
            drawn = [self.streams.normal(some)[:, 0] for _ in range(self.climb.draws)]
            directions = [torch.stack(drawn, dim=1).to(x)]
            knobs = {"width": self.climb.width, "around": self.climb.around}
        before = self.denoiser.nfe
        rewards, gradient, images = self.evaluator.of_noise(
            self.scale * x, self.grid, rows, *directions, with_gradient=with_gradient, **knobs
        )
        self.trace.nfe[rows.cpu()] += (self.denoiser.nfe - before) / len(rows)
        self.images = images if self.images is None else self.images.index_copy(0, rows, images)
        self._judge(images, rows)
        return rewards, None if gradient is None else self.scale * gradient

    def _judge(self, images: Tensor, rows: Tensor) -> None:
        if self.heldout is None:
            return
        looked = time.perf_counter()
        some = [self.prompts[i] for i in rows.tolist()]
        parts = range(0, len(rows), self.chunk)
        values = [reward_of(self.heldout, images[i : i + self.chunk], some[i : i + self.chunk]) for i in parts]
        judged = torch.cat(values)
        self.judged = judged if self.judged is None else self.judged.index_copy(0, rows, judged)
        self.started += time.perf_counter() - looked

    def _look(self, iterate: Any, best: Ascended | None) -> tuple[Ascended, Tensor]:
        """The best iterate of each image so far, and which images go on."""
        number, rewards, judged = iterate.number, iterate.rewards, self.judged
        self._record(iterate)
        if best is None:
            numbers = torch.zeros(len(rewards), dtype=torch.long)
            best = Ascended(self.images, iterate.noise, rewards, judged, numbers, self.trace)
        else:
            better = (judged > best.heldout) if self.patience else (rewards > best.rewards)
            better = better & iterate.active
            best = Ascended(
                torch.where(wide(better, self.images), self.images, best.images),
                torch.where(wide(better, iterate.noise), iterate.noise, best.noise),
                rewards.where(better, best.rewards),
                None if judged is None else judged.where(better, best.heldout),
                torch.where(better.cpu(), number, best.iterations),
                self.trace,
            )
        keep = number - best.iterations < self.patience if self.patience else torch.ones(len(rewards), dtype=torch.bool)
        return best, keep

    def _record(self, iterate: Any) -> None:
        trace, judged = self.trace, self.judged
        trace.seconds.append(time.perf_counter() - self.started)
        trace.rewards = _append(trace.rewards, iterate.rewards)
        trace.heldout = trace.heldout if judged is None else _append(trace.heldout, judged)
        if iterate.gradient is not None:
            trace.gradient_norm = _append(trace.gradient_norm, iterate.gradient.flatten(1).norm(dim=1))
        if self.callback is not None:
            self.callback(
                AscentReport(
                    iterate.number,
                    self.climb.iterations,
                    self.images,
                    iterate.noise,
                    iterate.rewards.cpu(),
                    None if judged is None else judged.cpu(),
                    iterate.active.cpu(),
                )
            )

    def _finish(self, best: Ascended) -> Ascended:
        trace, whole = self.trace, self.climb.iterations + 1
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

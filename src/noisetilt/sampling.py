"""The sampling loop and its result: the native driver of the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .engine import Engine, State, reverse_steps, walk
from .evaluation import Evaluator, Model, rewards_of_noise
from .judging import Judge, Reward, check_reward, reward_of
from .methods import Method, find_method
from .trace import Trace

__all__ = [
    "Engine",
    "Model",
    "Result",
    "Reward",
    "StepReport",
    "Trace",
    "check_call",
    "check_reward",
    "reverse_steps",
    "reward_of",
    "sample",
]


@dataclass(frozen=True)
class StepReport:
    """What a callback is told after each step: its number from 1, how many there are, t, and r(x̂_0) (image,)."""

    number: int
    steps: int
    t: float
    rewards: Tensor | None


@dataclass
class Result:
    """Pictures (image, 3, H, W) in [0, 1], their final rewards (image,) or None without a reward, the trace, and their
    held-out rewards (image,) or None without one."""

    images: Tensor
    rewards: Tensor | None
    trace: Trace
    heldout: Tensor | None = None


def check_call(prompts: list[str], seeds: list[int], grid: list[float], gradient_at: str, chunk: int) -> None:
    """Refuses what no loop can start with.

    Raises:
        ValueError: in one sentence.
    """
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
    heldout: Reward | None = None,
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
        heldout: a reward that looks on, asked about each image's best particle after every step; it costs a decoding.
    Returns:
        Result with images, final rewards, trace and held-out rewards.
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
    check_call(prompts, seeds, grid, gradient_at, chunk)

    device = getattr(model, "device", "cpu")
    denoiser = model.denoiser(prompts)
    engine = Engine(method, model.path, model.shape, seeds, eta, device)
    engine.follow(grid)
    onlooker = None if heldout is None else Judge(heldout, model.decode, prompts)
    judge = Judge(reward, model.decode, prompts, getattr(method.proposal, "estimates_gradient", False))
    gradient_at = getattr(method.proposal, "gradient_at", gradient_at)
    evaluate = Evaluator(model.path, denoiser, judge, gradient_at, chunk)
    index = torch.arange(len(prompts), device=device).repeat_interleave(engine.particles)
    follow = method.proposal.needs_gradient
    with_reward = reward is not None and (track or heldout is not None or method.selection.needs_rewards or follow)

    def look(x_t: Tensor, rows: Tensor, t: float, around: Tensor | None) -> State:
        evaluate.number = engine.number + 1
        return x_t, *evaluate(x_t, t, index[rows], with_reward, follow, around)

    before, trace = denoiser.nfe, Trace()
    x = engine.start(grid[0], rewards_of_noise(evaluate, method, grid[0], index))
    for step in walk(engine, x, grid, look, lambda x_0, t: evaluate.at_x0(x_0, index, t)):
        rows = engine.best(step.rewards)
        judged = None if onlooker is None else onlooker.values(step.x0_hat[rows], index[rows], chunk)
        trace.record(step.t, step.rewards, step.gradient, judged)
        if callback is not None:
            callback(StepReport(engine.number, engine.steps, step.t, trace.rewards[-1] if with_reward else None))

    images, final = _finish(engine, judge, step.x, index, chunk)
    judged = None if onlooker is None else onlooker.values_of_images(images, index[:: engine.particles], chunk)
    trace.nfe = (denoiser.nfe - before) / len(prompts)
    trace.seconds = time.perf_counter() - started
    return Result(images, final, trace, judged)


def _finish(engine: Engine, judge: Judge, x: Tensor, index: Tensor, chunk: int) -> tuple[Tensor, Tensor | None]:
    """Final pictures and rewards; with several particles the winner's of each image."""
    images = torch.cat([judge.decode(part) for part in x.split(chunk)])
    if judge.reward is None:
        return images, None
    rewards = judge.values_of_images(images, index, chunk)
    judge.require_finite(rewards, "value", engine.number, 0.0)
    rows = engine.rows_of(engine.method.selection.winner(engine.by_image(rewards)))
    return images[rows], rewards[rows]

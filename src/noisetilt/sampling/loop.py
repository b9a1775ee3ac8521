"""The native sampling loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..methods import Method, find_method
from ..rewards.reward import RewardFunction
from .check_inputs import check_call
from .engine import Engine, State, run_steps
from .evaluation import Evaluator, Model, rewards_of_noise
from .result import Result, StepReport
from .reward_evaluation import RewardEvaluator, check_reward
from .trace import Trace


@torch.no_grad()
def sample(
    model: Model,
    prompts: Sequence[str] | str,
    reward: RewardFunction | None = None,
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
    heldout: RewardFunction | None = None,
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
    grid = method.times.expand(model.path, grid)
    check_reward(method, reward)
    check_call(prompts, seeds, grid, gradient_at, chunk)

    device = getattr(model, "device", "cpu")
    denoiser = model.denoiser(prompts)
    engine = Engine(method, model.path, model.shape, seeds, eta, device)
    engine.set_grid(grid)
    heldout_evaluator = None if heldout is None else RewardEvaluator(heldout, model.decode, prompts)
    evaluator = RewardEvaluator(reward, model.decode, prompts, getattr(method.proposal, "zeroth_order", False))
    gradient_at = getattr(method.proposal, "gradient_at", gradient_at)
    evaluate = Evaluator(model.path, denoiser, evaluator, gradient_at, chunk)
    index = torch.arange(len(prompts), device=device).repeat_interleave(engine.particles)
    follow = method.proposal.needs_gradient
    with_reward = reward is not None and (track or heldout is not None or method.selection.needs_rewards or follow)

    def evaluate_rows(x_t: Tensor, rows: Tensor, t: float, offsets: Tensor | None) -> State:
        evaluate.number = engine.number + 1
        return x_t, *evaluate(x_t, t, index[rows], with_reward, follow, offsets)

    before, trace = denoiser.nfe, Trace()
    x = engine.start(grid[0], rewards_of_noise(evaluate, method, grid[0], index))
    for step in run_steps(engine, x, grid, evaluate_rows, lambda x_0, t: evaluate.at_x0(x_0, index, t)):
        rows = engine.best(step.rewards)
        held = None if heldout_evaluator is None else heldout_evaluator.values(step.x0_hat[rows], index[rows], chunk)
        trace.record(step.t, step.rewards, step.gradient, held)
        if callback is not None:
            callback(StepReport(engine.number, engine.steps, step.t, trace.rewards[-1] if with_reward else None))

    images, final = _finish(engine, evaluator, step.x, index, chunk)
    held = (
        None
        if heldout_evaluator is None
        else heldout_evaluator.values_of_images(images, index[:: engine.particles], chunk)
    )
    trace.nfe = (denoiser.nfe - before) / len(prompts)
    trace.seconds = time.perf_counter() - started
    return Result(images, final, trace, held)


def _finish(
    engine: Engine, evaluator: RewardEvaluator, x: Tensor, index: Tensor, chunk: int
) -> tuple[Tensor, Tensor | None]:
    """Final pictures and rewards; with several particles the winner's of each image."""
    images = torch.cat([evaluator.decode(part) for part in x.split(chunk)])
    if evaluator.reward is None:
        return images, None
    rewards = evaluator.values_of_images(images, index, chunk)
    evaluator.require_finite(rewards, "value", engine.number, 0.0)
    rows = engine.rows_of(engine.method.selection.winner(engine.by_image(rewards)))
    return images[rows], rewards[rows]

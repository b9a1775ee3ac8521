"""The native sampling loop."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..methods import Method, find_method
from ..rewards.reward import Reward, RewardFunction, check_prompts_of
from .check_inputs import (
    GradientAt,
    as_prompts,
    as_seeds,
    as_times,
    check_call,
    check_callback,
    check_chunk,
    check_denoiser,
    check_model,
)
from .engine import Engine, State, StepResult, run_steps
from .evaluation import Evaluator, Model, noise_objective
from .progress import shown_progress
from .result import Result, StepReport
from .reward_evaluation import RewardEvaluator, check_reward
from .trace import Trace

BASE_IMAGES = 16


@torch.inference_mode(False)
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
    gradient_at: GradientAt = "x_t",
    chunk: int = 16,
    track: bool = True,
    callback: Callable[[StepReport], Any] | None = None,
    heldout: RewardFunction | None = None,
    progress: bool = False,
) -> Result:
    """Sample from a pretrained model, aligned with a reward at inference time.

        from noisetilt import load, rewards, sample

        result = sample(load("emoji128"), ["cat face"] * 4, rewards.load("style:3d"), "ntrk", steps=25)
        result.images     # (4, 3, 128, 128) in [0, 1]
        result.rewards    # (4,)
        result.save("runs/cats")

    Args:
        model: an object with `denoiser(prompts)`, `path`, `shape` and `decode`; or one that has its own loop as a
            method `sample` with these arguments, such as a diffusers pipeline from `load`.
        prompts: one per image.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), or (images) → (batch,), maximised. None is
            allowed for methods without a reward, such as "base". A sum with normalise="base" costs 16 images
            of the base model, or one per different prompt, which are counted in `trace.nfe`. Its divisors, and with
            them each image, depend on all prompts of the call; call `reward.normalised` once for comparable calls.
        method: a name in METHODS, or a Method.
        steps: steps of the path's default time grid, 1 or more; ignored if `grid` is given.
        seeds: one whole number ≥ 0 per image; 0, 1, 2, … by default. A seed gives the same noise in any batch and with
            any number of particles.
        eta: stochasticity of the reverse kernel: 0 is the ODE (no noise to tilt), 1 DDPM, inf full re-noising. The
            first step has η = 0 if the reward chose the initial noise, except for inf.
        grid: times from noise to data, at least two. A step to a noisier time re-noises the state.
        gradient_at: "x_t" differentiates through the network, as the papers do; "x0" does not, which saves the
            network's backward pass.
        chunk: rows per network call and per reward evaluation, draws included, which bounds the memory of these; the
            random numbers of all draws of a step exist at once.
        track: whether to record r(x̂_0) at every step even if the method does not need it. Without, methods with `draws`
            evaluate the reward near x̂_0 only.
        callback: called with a StepReport after each step.
        heldout: a reward that is evaluated for each image's best particle after every step and not optimised.
        progress: whether to show a progress bar of the steps, or lines where the standard error is no terminal.
    Returns:
        Result with images, final rewards, trace and held-out rewards.
    Raises:
        ValueError: if an argument is invalid, or a reward cannot score a prompt.
        FloatingPointError: if a reward, held-out reward, gradient or state is not finite; names the reward and step.
    """
    options: dict[str, Any] = dict(eta=eta, grid=grid, gradient_at=gradient_at, chunk=chunk, track=track)
    if progress:
        with shown_progress(callback, "step") as show:
            return sample(model, prompts, reward, method, steps, seeds, **options, callback=show, heldout=heldout)
    if hasattr(model, "sample"):
        return model.sample(prompts, reward, method, steps, seeds, **options, callback=callback, heldout=heldout)
    started = time.perf_counter()
    check_model(model)
    prompts = as_prompts(prompts)
    seeds = as_seeds(seeds, prompts)
    method = find_method(method)
    grid = list(model.path.grid(steps)) if grid is None else as_times(grid)
    check_callback(callback)
    check_call(prompts, seeds, model.path, grid, gradient_at)
    check_prompts_of(reward, prompts)
    check_prompts_of(heldout, prompts)
    chunk = check_chunk(chunk)
    (reward, heldout), extra_nfe = normalised_on_base((reward, heldout), model, prompts, grid, eta, chunk)
    check_reward(method, reward)
    grid = method.times.expand(model.path, grid)

    device = getattr(model, "device", "cpu")
    denoiser = model.denoiser(prompts)
    check_denoiser(denoiser)
    engine = Engine(method, model.path, model.shape, seeds, eta, device, gradient_at=gradient_at)
    engine.set_grid(grid)
    heldout_evaluator = (
        None if heldout is None else RewardEvaluator(heldout, model.decode, prompts, role="held-out reward")
    )
    evaluator = RewardEvaluator(reward, model.decode, prompts, getattr(method.proposal, "zeroth_order", False))
    evaluate_start = Evaluator(model.path, denoiser, evaluator, gradient_at, chunk)
    evaluate = replace(evaluate_start, gradient_at=getattr(method.proposal, "gradient_at", gradient_at))
    index = torch.arange(len(prompts), device=device).repeat_interleave(engine.particles)
    # The gradient of a smoothed reward does not need the reward of x̂_0 itself.
    comes_with_gradient = method.proposal.needs_gradient and not getattr(method.proposal, "draws", 0)
    with_reward = reward is not None and (
        track or heldout is not None or method.selection.needs_rewards or comes_with_gradient
    )
    # One particle's images take as much memory as the result; those of several are decoded again where needed.
    keep_images = heldout is not None or callback is not None

    def evaluate_rows(x_t: Tensor, rows: Tensor, t: float, offsets: Tensor | None, with_gradient: bool) -> State:
        evaluate.number, evaluate.rows = engine.number + 1, rows
        keep = engine.particles == 1 and (keep_images or evaluate.number == engine.steps)
        if not with_gradient or evaluate.differentiates_network or not engine.continues_from_best:
            return State(x_t, *evaluate(x_t, t, index[rows], with_reward, with_gradient, offsets, keep))
        state = State(x_t, *evaluate(x_t, t, index[rows], with_reward, False))
        assert state.rewards is not None
        best = engine.best(engine.by_image(state.rewards))
        offsets = None if offsets is None else offsets[best]
        gradient = evaluate.gradient_at_x0(state.x0_hat[best], index[best], t, offsets, best)
        return state._replace(gradient=gradient.repeat_interleave(engine.particles, 0))

    before, trace = denoiser.nfe, Trace()
    x = engine.start(grid[0], noise_objective(evaluate_start, method, grid, index))

    def gradient_at_x0(x_0: Tensor, t: float, rows: Tensor | None) -> Tensor:
        return evaluate.gradient_at_x0(x_0, index if rows is None else index[rows], t, rows=rows)

    for step in run_steps(engine, x, grid, evaluate_rows, gradient_at_x0):
        rows = engine.best(step.rewards)
        predicted = functools.partial(_images, evaluator, step.x0_hat[rows], index[rows], chunk, step.images)
        heldout_values = None
        if heldout_evaluator is not None:
            heldout_values = heldout_evaluator.values_of_images(predicted(), index[rows], chunk)
            heldout_evaluator.require_finite(heldout_values, "value", engine.number, step.t, rows=rows)
        trace.record(step.t, step.rewards, step.gradient, heldout_values)
        if callback is not None:
            rewards = trace.rewards[-1] if with_reward else None
            callback(StepReport(engine.number, engine.steps, step.t, rewards, predicted))

    images, final, rows = _finish(engine, evaluator, step, index, chunk)
    engine.warn_if_not_guided()
    if heldout_evaluator is not None and not torch.equal(step.x[rows], step.x0_hat[engine.best(step.rewards)]):
        heldout_values = heldout_evaluator.values_of_images(images, index[rows], chunk)
        heldout_evaluator.require_finite(heldout_values, "value", engine.number, 0.0, rows=rows)
    trace.nfe = extra_nfe + (denoiser.nfe - before) / len(prompts)
    trace.seconds = time.perf_counter() - started
    return Result(images, final, trace, heldout_values, prompts, seeds)


def _images(evaluator: RewardEvaluator, x_0: Tensor, index: Tensor, chunk: int, decoded: Tensor | None) -> Tensor:
    """The images of states, decoded unless they are already."""
    return evaluator.images(x_0, index, chunk) if decoded is None else decoded


def _finish(
    engine: Engine, evaluator: RewardEvaluator, step: StepResult, index: Tensor, chunk: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Final images and rewards of the selected particle of each image, and its row; evaluates only what the last step
    has not."""

    def images(rows: Tensor) -> Tensor:
        # The last step keeps the images of one particle per image.
        if step.images is not None and torch.equal(step.x, step.x0_hat):
            return step.images
        return evaluator.images(step.x[rows], index[rows], chunk)

    if evaluator.reward is None:
        rows = engine.best(None)
        return images(rows), None, rows
    rewards = engine.predicted_rewards(step.x) if evaluator.depends_on_images_only else None
    if rewards is None:
        rows = engine.different_rows(step.x)
        one_each = images(rows) if len(rows) == engine.images else None
        if one_each is None:
            values = evaluator.image_values(step.x, index, chunk)
        else:
            values = evaluator.values_of_images(one_each, index[rows], chunk)
        evaluator.require_finite(values, "value", engine.number, 0.0, rows=rows)
        if one_each is not None:
            return one_each, values, rows
        rewards = engine.by_image(values)
    rows = engine.choose_winner(rewards)
    return images(rows), rewards.flatten()[rows], rows


def normalised_on_base(
    rewards: Sequence[RewardFunction | None],
    model: Model,
    prompts: Sequence[str],
    grid: Sequence[float],
    eta: float,
    chunk: int,
) -> tuple[list[RewardFunction | None], float]:
    """The rewards, with sums that have normalise="base" normalised on images of the base model, and the network calls
    per image of `prompts` that these images took.

    The images are of the different prompts in turn, at the seeds 0, 1, 2, …, so that an image does not depend on the
    seeds and the order of its batch. It depends on its prompts.
    """
    if all(getattr(reward, "normalise", None) is None for reward in rewards):
        return list(rewards), 0.0
    different = sorted(set(prompts))
    count = max(BASE_IMAGES, len(different))
    texts = [different[i % len(different)] for i in range(count)]
    base = sample(model, texts, None, "base", grid=grid, eta=eta, chunk=chunk)
    normalised = [
        reward.normalised(base.images, texts) if isinstance(reward, Reward) and reward.normalise else reward
        for reward in rewards
    ]
    return normalised, base.trace.nfe * count / len(prompts)

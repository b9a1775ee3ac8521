"""`optimize`: noise ascent for one-step and few-step generators, with early stopping by a held-out reward."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from .._messages import whole_number
from ..initial_noise import Ascent
from ..initial_noise.ascent import expand_like
from ..methods import Method, find_method
from ..proposals import Base
from ..rewards.reward import RewardFunction, check_prompts_of
from .check_inputs import (
    GradientAt,
    as_prompts,
    as_seeds,
    check_call,
    check_callback,
    check_chunk,
    check_denoiser,
    check_model,
)
from .deterministic import deterministic_grid
from .engine import warn_of_zero_gradient
from .evaluation import Evaluator, Model
from .loop import normalised_on_base
from .optimize_result import AscentReport, AscentTrace, OptimizeResult
from .progress import shown_progress
from .reward_evaluation import RewardEvaluator, check_reward
from .rng import PerImageRNG


def find_ascent(method: str | Method) -> Ascent:
    """The noise ascent of a method that has no other part.

    Raises:
        ValueError: if the method is not a noise ascent, or also guides the sampling steps.
    """
    method = find_method(method)
    if not isinstance(method.initial, Ascent):
        raise ValueError("this method is not a noise ascent; use none, reno, prno, mpgr, gper or a gper-* method")
    if not isinstance(method.proposal, Base) or method.selection.particles > 1:
        raise ValueError("this method also guides the steps after the ascent; use `sample`, or `noisetilt generate`")
    return method.initial


def check_optimizable(model: Any) -> None:
    """Raises a ValueError for a model that runs its own loop only, such as most pipelines."""
    if not hasattr(model, "sample"):
        check_model(model)
    if not hasattr(model, "denoiser"):
        name = type(getattr(model, "pipe", model)).__name__
        raise ValueError(
            f"{name} runs its own sampling loop, which `optimize` cannot iterate; use `sample` or `noisetilt generate` "
            "with the method gper, which optimises the initial noise before the loop"
        )


def warn_of_one_step(model: Any, steps: int) -> None:
    """Warns of a noise ascent through one step of a model that is known to need more."""
    needed = getattr(model, "needs_steps", 1)
    if steps == 1 < needed:
        warnings.warn(
            f"the model needs about {needed} steps, and its images of 1 step are blurred; use emoji128-turbo, or "
            "sample (noisetilt generate) with the method gper",
            stacklevel=5,  # beyond torch's two decorators
        )


def check_iterations(iterations: int) -> int:
    """The number of iterations, also of 60.0, as an int.

    Raises:
        ValueError: if it is no whole number ≥ 0.
    """
    return whole_number("iterations", iterations, 0, ", such as 60")


@torch.inference_mode(False)
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
    gradient_at: GradientAt = "x_t",
    chunk: int = 16,
    callback: Callable[[AscentReport], Any] | None = None,
    progress: bool = False,
) -> OptimizeResult:
    """Optimise the initial noise of a one-step or few-step generator for a reward (noise ascent).

    The image of a noise is x̂_0 at the start of the path, or the result of the method's `chain_steps` deterministic
    steps (η = 0). The best iterate of each image is returned. An iteration costs `chain_steps` network calls per image
    and one gradient; methods with `draws` > 0 estimate the gradient from rewards alone.

        from noisetilt import load, optimize, rewards

        model = load("emoji128-turbo")
        result = optimize(model, ["cat face", "house"], rewards.load("style:3d"), "gper", iterations=10, seeds=[0, 1])
        result.images           # (2, 3, 128, 128) in [0, 1]
        result.rewards          # (2,)
        result.trace.rewards    # (11, 2), of each iterate

    Args:
        model: an object with `denoiser(prompts)`, `path`, `shape` and `decode`, such as `load("emoji128-turbo")`.
        prompts: one per image.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), or (images) → (batch,), maximised. With
            normalise="base", each image depends on all prompts of the call; call `reward.normalised` once for
            comparable calls.
        method: a name in METHODS ("none", "reno", "prno", "mpgr", "gper", …) or a Method that consists of an Ascent
            alone.
        iterations: ascent steps, a whole number ≥ 0; the method's own number by default.
        seeds: one whole number ≥ 0 per image; 0, 1, 2, … by default. A seed gives the same noise as in `sample`.
        heldout: a reward that is evaluated at each iterate and not optimised.
        patience: an image stops when its held-out reward has not improved for this many iterations, and its iterate
            with the best held-out reward is returned. 0 never stops and returns the iterate with the best reward.
        gradient_at: "x_t" differentiates through the network; "x0" does not, which saves the network's backward pass.
        chunk: rows per network call and per reward evaluation ≥ 1, draws included, which bounds the memory of these;
            the random numbers of all draws of an iteration exist at once.
        callback: called with an AscentReport at each iterate.
        progress: whether to show a progress bar of the iterations, or lines where the standard error is no terminal.

    Returns:
        OptimizeResult with images, noise, rewards, held-out rewards and trace.

    Raises:
        ValueError: if an argument is invalid, a reward cannot score a prompt, or the method is not a pure noise ascent.
        FloatingPointError: if a reward, held-out reward or gradient is not finite; names the reward and the iteration.
    """
    if progress:
        options: dict[str, Any] = dict(heldout=heldout, patience=patience, gradient_at=gradient_at, chunk=chunk)
        with shown_progress(callback, "iteration") as show:
            return optimize(model, prompts, reward, method, iterations, seeds, **options, callback=show)
    method = find_method(method)
    ascent = find_ascent(method)
    check_optimizable(model)
    warn_of_one_step(model, ascent.chain_steps)
    if iterations is not None:
        ascent = replace(ascent, iterations=check_iterations(iterations))
    prompts = as_prompts(prompts)
    seeds = as_seeds(seeds, prompts)
    start = model.path.grid(1)[0]
    grid = deterministic_grid(model.path, start, ascent.chain_steps)
    check_callback(callback)
    check_call(prompts, seeds, model.path, grid, gradient_at)
    check_prompts_of(reward, prompts)
    check_prompts_of(heldout, prompts)
    chunk = check_chunk(chunk)
    patience = whole_number("patience", patience, 0)
    if patience and heldout is None:
        raise ValueError(f"patience = {patience} needs a held-out reward; give heldout=..., or patience=0")
    rewards, extra_nfe = normalised_on_base((reward, heldout), model, prompts, grid, 0.0, chunk)
    reward, heldout = cast(RewardFunction, rewards[0]), rewards[1]
    check_reward(method, reward)
    evaluator = RewardEvaluator(reward, model.decode, prompts)
    run = NoiseAscent(model, prompts, evaluator, heldout, ascent, patience, gradient_at, chunk, callback, grid)
    result = run(seeds)
    run.warn_if_not_guided()
    result.trace.nfe += extra_nfe
    result.prompts, result.seeds = prompts, seeds
    return result


@dataclass
class NoiseAscent:
    """The state of one noise ascent, such as a call of `optimize`.

    Called with one seed per image, and the noise (image, *event) to start from; None: the noise of the seeds.
    """

    model: Model
    prompts: list[str]
    reward_evaluator: RewardEvaluator
    heldout: RewardFunction | None
    ascent: Ascent
    patience: int
    gradient_at: GradientAt
    chunk: int
    callback: Callable[[AscentReport], Any] | None
    grid: list[float]
    images: Any = field(default=None, init=False)
    heldout_rewards: Any = field(default=None, init=False)

    def __call__(self, seeds: Sequence[int], noise: Tensor | None = None) -> OptimizeResult:
        self.started = time.perf_counter()
        self.trace = AscentTrace(nfe=torch.zeros(len(seeds), dtype=torch.float32, device="cpu"))
        self.device = getattr(self.model, "device", "cpu")
        self.scale = self.model.path.prior_std(self.grid[0])
        self.rng = PerImageRNG(seeds, 1, self.model.shape)
        self.denoiser = self.model.denoiser(self.prompts)
        check_denoiser(self.denoiser)
        self.heldout_evaluator = RewardEvaluator(self.heldout, self.model.decode, self.prompts, role="held-out reward")
        self.evaluator = Evaluator(self.model.path, self.denoiser, self.reward_evaluator, self.gradient_at, self.chunk)
        # The seeds' noise is drawn in any case, so that random directions are independent of it.
        drawn = self.rng.normal()[:, 0]
        drawn = drawn if noise is None else noise
        iterates = self.ascent.iterate(drawn.to(self.device), self._evaluate)
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
            numbers = rows.tolist()
            drawn = [self.rng.normal(numbers)[:, 0] for _ in range(self.ascent.draws)]
            directions = [torch.stack(drawn, dim=1).to(x)]
            options = {"width": self.ascent.width, "perturb": self.ascent.perturb}
        before, self.evaluator.rows = self.denoiser.nfe, rows
        rewards, gradient, images, _ = self.evaluator.evaluate_noise(
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
        values = self.heldout_evaluator.values_of_images(images, rows, self.chunk)
        iterate = self.evaluator.number - 1
        self.heldout_evaluator.require_finite(values, "value", iterate, self.grid[0], "iteration", rows)
        previous = self.heldout_rewards
        self.heldout_rewards = values if previous is None else previous.index_copy(0, rows, values)
        self.started += time.perf_counter() - start

    def _update_best(self, iterate: Any, best: OptimizeResult | None) -> tuple[OptimizeResult, Tensor]:
        """The best iterate of each image so far, and which images continue (image,)."""
        number, rewards, heldout = iterate.number, iterate.rewards, self.heldout_rewards
        self._record(iterate)
        if best is None:
            numbers = torch.zeros(len(rewards), dtype=torch.long, device="cpu")
            best = OptimizeResult(self.images, iterate.noise, rewards, heldout, numbers, self.trace)
        else:
            better = (heldout > best.heldout) if self.patience else (rewards > best.rewards)
            better = better & iterate.active
            best = OptimizeResult(
                torch.where(expand_like(better, self.images), self.images, best.images),
                torch.where(expand_like(better, iterate.noise), iterate.noise, best.noise),
                rewards.where(better, best.rewards),
                None if heldout is None else heldout.where(better, best.heldout),
                torch.where(better.cpu(), number, best.iterations),
                self.trace,
            )
        improves = number - best.iterations < self.patience
        return best, improves if self.patience else torch.ones_like(improves)

    def _record(self, iterate: Any) -> None:
        trace, heldout = self.trace, self.heldout_rewards
        trace.seconds.append(time.perf_counter() - self.started)
        trace.rewards = _append(trace.rewards, iterate.rewards)
        trace.heldout = trace.heldout if heldout is None else _append(trace.heldout, heldout)
        if iterate.gradient is not None:
            norm = iterate.gradient.flatten(1).norm(dim=1).cpu()
            if len(trace.gradient_norm):  # the gradient of an image that stopped is zero
                norm = norm.where(iterate.active.cpu(), trace.gradient_norm[-1].to(norm))
            trace.gradient_norm = _append(trace.gradient_norm, norm)
        if self.callback is not None:
            self.callback(
                AscentReport(
                    iterate.number,
                    self.ascent.iterations,
                    self.images,
                    iterate.noise,
                    iterate.rewards.cpu(),
                    None if heldout is None else heldout.cpu(),
                    iterate.active.cpu(),
                )
            )

    def warn_if_not_guided(self) -> None:
        """A warning says so if all gradients of the run were zero."""
        norms = self.trace.gradient_norm
        if norms.numel() and not norms.any():
            warn_of_zero_gradient()

    def _finish(self, best: OptimizeResult) -> OptimizeResult:
        trace, count = self.trace, self.ascent.iterations + 1
        trace.rewards, trace.heldout = _repeat_last(trace.rewards, count), _repeat_last(trace.heldout, count)
        trace.gradient_norm = _repeat_last(trace.gradient_norm, count - 1)
        trace.seconds += trace.seconds[-1:] * (count - len(trace.seconds))
        return best


def _append(rows: Tensor, row: Tensor) -> Tensor:
    row = row.detach().float().cpu()[None]
    return torch.cat([rows, row]) if rows.numel() else row


def _repeat_last(rows: Tensor, count: int) -> Tensor:
    """`rows` with its last row repeated, up to `count` rows."""
    return torch.cat([rows, *[rows[-1:]] * (count - len(rows))]) if rows.numel() else rows

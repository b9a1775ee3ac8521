"""Guided sampling one network call at a time: the caller runs the network, the sampler does everything else."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..methods import Method
from ..path import Path, noise_fraction
from ..rewards.reward import RewardFunction, check_prompts_of
from ..sampling.check_inputs import GradientAt, check_chunk, check_descending, check_grid
from ..sampling.engine import Engine, StepResult, run_steps
from ..sampling.result import StepReport
from ..sampling.reward_evaluation import RewardEvaluator, check_reward
from ..sampling.trace import Trace
from .coroutine import Coroutine
from .step_evaluation import Request, Response, StepEvaluation
from .vjp import VJP

# Above this noise fraction at the end, as with `denoising_end`, the final rewards are those of x̂_0. Stable Diffusion's
# grids end at 0.03.
NOISY = 0.1


class SteppedSampler:
    """A sampler that requests x̂_0 at the states `x` and the time `t`. The caller passes x̂_0 to `advance`, until `done`.

        with SteppedSampler(...) as sampler:
            while not sampler.done:
                x_t = sampler.x.detach().requires_grad_(sampler.needs_vjp)
                x0_hat = ...  # the network at x_t and sampler.t
                sampler.advance(x_t, x0_hat, make_vjp(x0_hat, x_t))

    States are batches (image · particle, *event), in which the particles of an image are adjacent. Every request is
    for the full batch.

    Args:
        method: the method.
        path: the Gaussian path of the network.
        shape: of one event.
        seeds, prompts: one per image.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised, or None. The reward of a video
            (batch, frames, 3, H, W) is the mean over its frames, unless the reward has `video = True`.
        decode: images in [0, 1] from states (batch, *event), differentiable.
        indexed: whether `decode` also takes the row (batch,) int64 of each state in the full batch.
        grid: times from noise to data. It may be set as an attribute before the first call of `advance` instead.
        start: the initial state (image · particle, *event); the method's initial noise if None.
        noise: standard Gaussian noise (image · particle, *event) that the method's initial noise starts from; that of
            the seeds if None.
        eta: stochasticity of the reverse kernel.
        gradient_at: "x_t": the gradient is taken through the network; "x0": only through reward and decoder.
        chunk: rows that are decoded and evaluated at a time, which bounds the memory.
        track: whether to record r(x̂_0) at every step even if the method does not need it.
        device, dtype: of the states.
        step_noise: (t, s) → standard normal noise (image · particle, *event) of the step from t to s, or None for that
            of the seeds.
        heldout: held-out reward, evaluated on each image's best particle after every step.
        trace: the trace to fill; a new one if None.
        callback: called with a StepReport after each step.
        context: makes the context in which images are decoded, evaluated and differentiated, in a thread of their own.
    Attributes:
        x: the states of the current request, (image · particle, *event); the final states once done.
        trace: complete once done. Its nfe counts the evaluations that the method requested.
        rows, rewards, heldout_rewards: once done, the row of each image's best particle (image,) int64, its final
            reward (image,) and its held-out reward (image,); None where there is no such reward. They are those of the
            last step's x̂_0 if the grid ends with more than a trace of noise.
    Raises:
        ValueError: if an argument is invalid, or the method needs an argument that is missing.
    """

    def __init__(
        self,
        method: Method,
        path: Path,
        shape: Sequence[int],
        seeds: Sequence[int],
        prompts: Sequence[str],
        reward: RewardFunction | None,
        decode: Callable[..., Tensor],
        *,
        indexed: bool = False,
        grid: Sequence[float] | None = None,
        start: Tensor | None = None,
        noise: Tensor | None = None,
        eta: float = 1.0,
        gradient_at: GradientAt = "x_t",
        chunk: int = 1,
        track: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        step_noise: Callable[[float, float], Tensor | None] | None = None,
        heldout: RewardFunction | None = None,
        trace: Trace | None = None,
        callback: Callable[[StepReport], Any] | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        check_guidance(method, reward, gradient_at)
        if start is not None and method.initial.needs_reward:
            raise ValueError("this method chooses its own initial noise; start from noise, without latents or an image")
        check_prompts_of(reward, prompts)
        check_prompts_of(heldout, prompts)
        self.method, self.path = method, path
        self.engine = Engine(
            method, path, shape, seeds, eta, device, dtype, step_noise=step_noise, gradient_at=gradient_at
        )
        of_rows = [prompt for prompt in prompts for _ in range(self.engine.particles)]
        self._evaluation = StepEvaluation(
            self.engine,
            method,
            path,
            RewardEvaluator(reward, decode, of_rows, getattr(method.proposal, "zeroth_order", False), indexed),
            None
            if heldout is None
            else RewardEvaluator(heldout, decode, of_rows, indexed=indexed, role="held-out reward"),
            torch.arange(len(of_rows), device=device),
            gradient_at,
            check_chunk(chunk),
            # One particle's images take as much memory as the result; those of several are decoded again where needed.
            keep_images=self.engine.particles == 1 and (heldout is not None or callback is not None),
            track=track,
        )
        self.grid = grid
        self.trace = Trace() if trace is None else trace
        self.start, self.noise, self.callback = start, noise, callback
        self.x: Tensor = start
        self.rows: Tensor | None = None
        self.rewards: Tensor | None = None
        self.heldout_rewards: Tensor | None = None
        # Of each image's best prediction in the last step.
        self._best_rows: Tensor | None = None
        self._started = time.perf_counter()
        autocast = torch.is_autocast_enabled(torch.device(device).type)
        self._autocast = torch.autocast(torch.device(device).type, enabled=autocast)
        self._context = context
        self._stream: torch.cuda.Stream | None = None
        self._coroutine: Coroutine[Request, Response] = Coroutine(self._body)

    def __enter__(self) -> SteppedSampler:
        self._stream = stream_of_caller(self.engine.device)
        self._coroutine.start()
        self.x = self._coroutine.request.x
        return self

    def __exit__(self, *_: Any) -> None:
        self._coroutine.close()

    @property
    def grid(self) -> Sequence[float] | None:
        """The times from noise to data; none is noisier than the one before."""
        return self._evaluation.grid

    @grid.setter
    def grid(self, grid: Sequence[float] | None) -> None:
        if grid is not None:
            check_descending(self.path, grid)
            check_grid(self.path, grid)
        self._evaluation.grid = grid

    @property
    def done(self) -> bool:
        """Whether sampling has ended."""
        return self._coroutine.request is None

    @property
    def t(self) -> float:
        """The time of the current request."""
        t = self._coroutine.request.t
        return self.grid[0] if t is None else t

    @property
    def needs_vjp(self) -> bool:
        """Whether the next call of `advance` needs `vjp`."""
        return not self.done and self._coroutine.request.needs_vjp

    def advance(self, x_t: Tensor, x0_hat: Tensor, vjp: VJP | None = None) -> None:
        """Answers the current request, and samples up to the next one.

        Args:
            x_t: the states that the network was given, (image · particle, *event): `x`, unless the caller changed it.
            x0_hat: x̂_0, of the same shape and dtype.
            vjp: the VJP of x̂_0 by x_t, on (image · particle, *event); needed if `needs_vjp`.
        """
        self._stream = stream_of_caller(self.engine.device)
        self._coroutine.send(Response(x_t, x0_hat, vjp))
        if not self.done:
            self.x = self._coroutine.request.x

    def stop(self) -> None:
        """Ends sampling before the last step: rows and rewards are those of the last predictions, if there are any."""
        trace, engine = self.trace, self.engine
        self.rows = self._best_rows
        self.rewards, self.heldout_rewards = (
            values[-1].to(engine.device) if values is not None and values.numel() else None
            for values in (trace.rewards, trace.heldout)
        )
        trace.nfe = self._evaluation.nfe / engine.images
        trace.seconds = time.perf_counter() - self._started

    def _body(self, request: Callable[[Request], Response]) -> None:
        def request_and_resume(of: Request) -> Response:
            response = request(of)
            self._use_stream()
            return response

        self._evaluation.request = request_and_resume
        self._use_stream()
        with torch.no_grad(), self._autocast, self._context():
            self._run()

    def _use_stream(self) -> None:
        """Sets the caller's CUDA stream, and its device, in the thread of the body; each thread has its own."""
        if self._stream is not None:
            torch.cuda.set_stream(self._stream)

    def _run(self) -> None:
        engine, evaluation = self.engine, self._evaluation
        x = self.start
        if x is None:
            x = engine.start(1.0, evaluation.evaluate_initial_noise, self.noise)
        if self.grid is None:
            evaluation.denoise_first(x)
        grid = self.method.times.expand(self.path, list(self.grid))
        engine.set_grid(grid)
        given = self.start is not None
        for step in run_steps(engine, x, grid, evaluation.evaluate, evaluation.gradient_at_x0, given):
            rows = self._best_rows = engine.best(step.rewards)
            heldout = evaluation.heldout_values(step.x0_hat, rows, step.t, step.images)
            self.trace.record(step.t, step.rewards, step.gradient, heldout)
            if self.callback is not None:
                rewards = None if step.rewards is None else self.trace.rewards[-1]
                images = functools.partial(evaluation.images, step.x0_hat, rows, step.images)
                self.callback(StepReport(engine.number, engine.steps, step.t, rewards, images))
        self._finish(step, heldout)
        engine.warn_if_not_guided()

    def _finish(self, step: StepResult, heldout: Tensor | None) -> None:
        """Final states, rewards and held-out rewards; evaluates only what the last step has not."""
        self.x, engine, evaluation = step.x, self.engine, self._evaluation
        self.rows = engine.best(None)
        noisy = noise_fraction(self.path, self.grid[-1]) > NOISY and engine.predicted is not None
        x_0 = engine.predicted if noisy else self.x
        if evaluation.evaluator.reward is not None:
            known = evaluation.evaluator.depends_on_images_only and not noisy
            rewards = engine.predicted_rewards(self.x) if known else None
            if rewards is None:
                rows = engine.different_rows(x_0)
                values = evaluation.image_values(x_0[rows], evaluation.index[rows], 0.0)
                rewards = values.view(engine.images, -1).expand(-1, engine.particles)
            rows = engine.choose_winner(rewards)
            self.rows, self.rewards = rows.to(self.x.device), rewards.flatten()[rows]
        predicted = step.x0_hat[engine.best(step.rewards).to(self.x.device)]
        ends_there = torch.equal(x_0[self.rows], predicted)
        self.heldout_rewards = heldout if ends_there else evaluation.heldout_values(x_0, self.rows, 0.0)
        self.trace.nfe = evaluation.nfe / engine.images
        self.trace.seconds = time.perf_counter() - self._started


def stream_of_caller(device: torch.device | str) -> torch.cuda.Stream | None:
    """The CUDA stream that this thread uses on a device; None for other devices."""
    return torch.cuda.current_stream(device) if torch.device(device).type == "cuda" else None


def gradient_of_call(method: Method, gradient_at: GradientAt) -> GradientAt | None:
    """Where the initial noise and the steps of a call take gradients: "x_t" if any of them does so through the network,
    "x0" if none does, None if there are no gradients."""
    proposal = method.proposal
    modes: list[GradientAt] = [gradient_at] if method.initial.needs_reward else []
    if proposal.needs_gradient and not getattr(proposal, "zeroth_order", False):
        modes.append(getattr(proposal, "gradient_at", gradient_at))
    return max(modes, key=lambda mode: mode == "x_t", default=None)


def check_guidance(method: Method, reward: RewardFunction | None, gradient_at: str) -> None:
    """Checks the arguments of guidance before a network runs.

    Raises:
        ValueError: if the method cannot follow the reward, or gradient_at is invalid.
    """
    check_reward(method, reward)
    if gradient_at not in ("x_t", "x0"):
        raise ValueError(f"gradient_at = {gradient_at!r} must be 'x_t' (through the network) or 'x0'")

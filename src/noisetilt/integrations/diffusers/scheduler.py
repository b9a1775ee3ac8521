"""A diffusers scheduler whose step is that of a guided sampler."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ...methods import Method
from ..stepped_sampler import SteppedSampler
from .schedules import (
    RatioPath,
    clip_of,
    first_order,
    has_unit_variance,
    is_cosine,
    keeps_epsilon,
    leaves_timesteps,
    own_scheduler,
    path_of,
    prediction_of,
    sign_of,
    times_of,
    unit_of,
)


class Call(Protocol):
    """What the scheduler uses of a `PipelineCall`."""

    pipe: Any
    method: Method
    eta: float
    sampler: SteppedSampler | None

    def start_unprepared(self) -> None:
        """Starts from latents that the pipeline does not prepare."""

    def loop_from(self, t: float) -> None:
        """Prepares for the first step of the pipeline's loop, at time t."""

    def interrupted(self) -> None:
        """Ends the steps before the last one."""

    def step(self, output: Tensor, latents: Tensor, t: float) -> Tensor:
        """The next latents, from the network's output at the current latents."""


class GuidedScheduler:
    """A diffusers scheduler whose `step` advances the sampler. Everything else is a copy of the original scheduler.

    Iterating over its timesteps follows the sampler: a method with time travel visits more timesteps than the pipeline
    requested.

    Args:
        original: the pipeline's scheduler; it is copied, not changed.
        call: the pipeline call that makes the steps.
    """

    order = 1

    def __init__(self, original: Any, call: Call) -> None:
        self.original = original = own_scheduler(original)
        self.inner = first_order(original)
        self.path, self.prediction = path_of(self.inner), prediction_of(self.inner)
        self.unit, self.sign = unit_of(self.inner), sign_of(self.inner)
        self.set_timesteps = self.inner.set_timesteps
        self._clip, self._keeps_epsilon = clip_of(original), keeps_epsilon(original)
        if self._clip is not None and self._keeps_epsilon:
            check_clipping(type(original).__name__, call.method)
        self._call = call
        self._visited: Tensor | None = None
        self._timestep: dict[float, Tensor] = {}
        self._index: dict[float, int] = {}
        self._current: Tensor | None = None
        self._current_index = 0
        self._first = 0
        self._steps_taken = 0

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The inner scheduler's class for Stable Cascade, whose pipelines pass other times to schedulers of others."""
        return type(self.inner) if is_cosine(self.inner) else GuidedScheduler

    @property
    def init_noise_sigma(self) -> float:
        """The factor by which the pipeline scales its noise, for states of unit variance."""
        return float(self.inner.init_noise_sigma) * self.scale_at(self._first_time)

    @property
    def _first_time(self) -> float:
        """The time at which the pipeline starts."""
        return times_of(self.inner)[self._start]

    def scale_at(self, t: float) -> float:
        """The factor from states in the scale of the inner scheduler to those of the path."""
        if not isinstance(self.path, RatioPath) or has_unit_variance(self.inner):
            return 1.0
        return self.path.alpha(t) / self.unit

    def from_inner_scale(self, x: Tensor) -> Tensor:
        """First states, given in the scale of the inner scheduler, in that of the path."""
        return self.scale_at(self._first_time) * x

    def to_inner_scale(self, x: Tensor) -> Tensor:
        """Final states in the scale of the inner scheduler."""
        return x / self.scale_at(self._call.sampler.grid[-1])

    def clip(self, x_t: Tensor, x0_hat: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """x_t and x̂_0 (batch, channel, *space) of a step, where the scheduler clips x̂_0."""
        if self._clip is None:
            return x_t, x0_hat
        clipped = self._clip(x0_hat)
        if self._keeps_epsilon:
            # x_t that consists of the clipped x̂_0 and the ε̂ before clipping.
            x_t = x_t + self.path.alpha(t) * (clipped - x0_hat).detach()
        return x_t, clipped

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The unchanged sample: states are kept in the scale of the network's input."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """α_t x_0 + σ_t ε at the timesteps (batch,)."""
        timesteps = self._of_state(timesteps.as_subclass(Tensor))  # results would have the class of `timesteps`
        if not isinstance(self.path, RatioPath):
            return self.inner.add_noise(original_samples, noise, timesteps)
        return self._noised(original_samples, noise, timesteps)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """α_t x_0 + σ_t ε at the timesteps (batch,), under the name of flow schedulers, whose own depends on their
        step index.
        """
        return self._noised(sample, noise, self._of_state(timestep))

    def _of_state(self, timesteps: Tensor) -> Tensor:
        """The timesteps (batch,) at which a pipeline noises an image in its loop, as those of the state.

        Inpainting pipelines noise the image to the timestep after that of the step, but time travel has renoised the
        state that they combine it with.
        """
        if not self._steps_taken or self._call.sampler.done:
            return timesteps
        following, visited = self._current_index + 1, self._visited
        due = self._timestep[self._call.sampler.t]
        after_step = following < len(visited) and bool((timesteps == visited[following].to(timesteps.device)).all())
        return torch.full_like(timesteps, float(due)) if after_step else timesteps

    def _noised(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        times = times_of(self.inner)
        at = [times[self._place_of(t)] for t in timesteps.flatten().tolist()]
        shape = (-1, *[1] * (noise.ndim - 1))
        alpha = noise.new_tensor([self.path.alpha(t) for t in at]).view(shape)
        sigma = noise.new_tensor([self.path.sigma(t) for t in at]).view(shape)
        return alpha * original_samples / self.unit + sigma * noise

    @property
    def timesteps(self) -> Tensor:
        """The inner scheduler's timesteps (step,); iterating over them follows the sampler."""
        kind = type("Timesteps", (Tensor,), {"__iter__": lambda own: self._visit(own.as_subclass(Tensor))})
        return self.inner.timesteps.as_subclass(kind)

    @property
    def sigmas(self) -> Tensor:
        """The inner scheduler's σ; after the first step, those of the timesteps that the pipeline iterates over."""
        sigmas = self.inner.sigmas
        return sigmas.new_tensor(self._call.sampler.grid) if self._steps_taken else sigmas

    @property
    def has_stepped(self) -> bool:
        """Whether a step has been made in this call."""
        return self._steps_taken > 0

    def _visit(self, timesteps: Tensor) -> Iterator[Tensor]:
        before = self._steps_taken
        if not before:
            self._visited = timesteps
        if self._call.sampler is None:
            self._call.start_unprepared()
        if not before and timesteps.numel() and float(timesteps.flatten()[0]) in self.inner.timesteps.tolist():
            self._call.loop_from(times_of(self.inner)[self._first_place(timesteps)])
        for number in range(len(timesteps)):
            self._current, self._current_index = timesteps[number], number
            yield self._current
            if self._steps_taken > before:
                break
        while self._steps_taken > before and not self._call.sampler.done:
            before, t = self._steps_taken, self._call.sampler.t
            self._current, self._current_index = self._timestep[t], self._index[t]
            yield self._current
        # Some pipelines look through the timesteps before their loop.
        looped = self._steps_taken > 0 or getattr(self._call.pipe, "interrupt", False)
        if looped and self._call.sampler is not None and not self._call.sampler.done:
            self._call.interrupted()

    def enumerate(self, items: Iterable[Any], start: int = 0) -> Iterator[tuple[int, Any]]:
        """`enumerate` for the pipeline's loop, in which the index of a timestep is the same at each of its visits.

        Pipelines find the entries for a step, such as the scale of a ControlNet, by this index.
        """
        for number, item in enumerate(items, start):
            yield (start + self._current_index if item is self._current else number), item

    def _first_place(self, visited: Tensor) -> int:
        """The place of the first timestep that the pipeline iterates over. Timesteps may be rounded, so that two steps
        have the same one."""
        every, wanted = self.inner.timesteps.tolist(), visited.flatten().tolist()
        places = (self._start, len(every) - len(wanted))
        exact = (place for place in places if place >= 0 and every[place : place + len(wanted)] == wanted)
        return next(exact, None) or every.index(wanted[0])

    def _place_of(self, timestep: float) -> int:
        """The place of a timestep at which the pipeline noises an image: before its loop the first one that it will
        iterate over, in the loop that of the state or of the step after it."""
        every = self.inner.timesteps.tolist()
        places = [self._start]
        if self._steps_taken:
            following = self._first + self._current_index + 1
            state = [] if self._call.sampler.done else [self._first + self._index[self._call.sampler.t]]
            places = [*state, following, following - 1]
        return next((p for p in places if p < len(every) and every[p] == timestep), None) or every.index(timestep)

    @property
    def _start(self) -> int:
        """The place at which the pipeline starts, which is later than the first one if it starts from an image."""
        return getattr(self.inner, "begin_index", None) or 0

    def _begin(self) -> None:
        """Sets the sampler's grid: the times of the timesteps that the pipeline iterates over, and the one after."""
        everything = self.inner.timesteps
        visited = everything if self._visited is None else self._visited
        self._first, times = self._first_place(visited), times_of(self.inner)
        self._timestep = dict(zip(times, everything, strict=False))
        self._index = {t: number for number, t in enumerate(times[self._first :])}
        grid = times[self._first : self._first + len(visited) + 1]
        kept = type(self.inner) is type(self.original)
        if self._call.eta == 0 and kept and leaves_timesteps(self.inner, grid):
            warnings.warn(
                f"{type(self.inner).__name__} with timestep_spacing={self.inner.config.timestep_spacing!r} steps to "
                f"times between its {self.inner.num_inference_steps} timesteps, so that eta = 0 differs from the plain "
                "pipeline; use timestep_spacing='leading' or EulerDiscreteScheduler",
                stacklevel=2,
            )
        self._call.sampler.grid = grid

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **more: Any) -> Any:
        """x_s from the network's output at x_t, with the signature of diffusers' schedulers."""
        if more.get("per_token_timesteps") is not None:
            model_output = -model_output  # FlowMatchEuler's convention for timesteps of each token
        if self._call.sampler is None:
            name = type(self._call.pipe).__name__
            raise RuntimeError(f"{name} does not make its latents by prepare_latents, so that it cannot be guided")
        if not self._steps_taken:
            self._begin()
        t = self._call.sampler.t
        at, due = (float(torch.as_tensor(time).flatten()[0]) for time in (timestep, self._timestep[t]))
        if at != due:
            raise RuntimeError(
                f"{type(self._call.pipe).__name__} is at timestep {at:g}, expected {due:g}; its loop does not iterate "
                "over the scheduler's timesteps, so use a method without time travel"
            )
        self._steps_taken += 1
        return step_output(self._call.step(model_output, sample, t), return_dict)

    def __deepcopy__(self, memo: dict) -> Any:
        """A copy of the inner scheduler: pipelines with sound copy their scheduler for it."""
        return copy.deepcopy(self.inner, memo)


def step_output(previous: Tensor, return_dict: bool) -> Any:
    """The result of a scheduler's step."""
    if not return_dict:
        # Consistency pipelines expect two values and decode the second one of the last step.
        return previous, previous
    from diffusers.schedulers.scheduling_utils import SchedulerOutput

    return SchedulerOutput(prev_sample=previous)


def check_clipping(name: str, method: Method) -> None:
    """Checks that a method can follow a scheduler that clips x̂_0 and keeps ε̂, so that x_t is not α_t x̂_0 + σ_t ε̂.

    Raises:
        ValueError: if the method tracks the accumulated noise, or differentiates through a chain of steps.
    """
    option = None
    if getattr(method.proposal, "needs_accumulated_noise", False):
        option = "whitened='path'"
    chain_steps = getattr(method.initial, "chain_steps", 1)
    if chain_steps > 1:
        option = f"chain_steps = {chain_steps}"
    if option is not None:
        raise ValueError(
            f"{name} clips x̂_0 at every step, which {option} does not support; set pipe.scheduler = "
            f"{name}.from_config(pipe.scheduler.config, clip_sample=False, thresholding=False)"
        )

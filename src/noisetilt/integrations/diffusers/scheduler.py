"""The engine in the place of a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ..guide import Guide
from .schedules import RatioPath, first_order, path_of, prediction_of, sign_of, times_of, unit_of


class Run(Protocol):
    """One call of a pipeline, as its scheduler sees it."""

    pipe: Any
    guide: Guide | None

    def step(self, output: Tensor, latents: Tensor, t: float) -> Tensor:
        """The next latents from the network's output at these."""


class GuidedScheduler:
    """A diffusers scheduler whose `step` is the engine; all else is a copy of the original.

    Its timesteps are iterated as the guide asks: a method that goes back up in time has more of them than the pipeline
    asked for.

    Args:
        original: the pipeline's scheduler; it is copied, not changed.
        run: what answers the steps.
    """

    order = 1

    def __init__(self, original: Any, run: Run) -> None:
        self.inner = first_order(original)
        self.path, self.prediction = path_of(self.inner), prediction_of(self.inner)
        self.unit, self.sign = unit_of(self.inner), sign_of(self.inner)
        self.set_timesteps = self.inner.set_timesteps
        self._run = run
        self._visited: Tensor | None = None
        self._timestep: dict[float, Tensor] = {}
        self._taken = 0
        self._times: list[float] = []

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def init_noise_sigma(self) -> float:
        """What the pipeline scales its noise by: the inner scheduler's, in units of unit-variance states."""
        scale = float(self.inner.init_noise_sigma)
        of_ratio = isinstance(self.path, RatioPath) and scale != 1
        return scale * self.path.alpha(times_of(self.inner)[0]) / self.unit if of_ratio else scale

    def rescaled(self, x: Tensor) -> Tensor:
        """Final states as the inner scheduler scales them."""
        return self.unit / self.path.alpha(times_of(self.inner)[-1]) * x if isinstance(self.path, RatioPath) else x

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample: states are kept in the scale that the network sees."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """α_t x_0 + σ_t ε at the timesteps (batch,)."""
        timesteps = timesteps.as_subclass(Tensor)  # what is computed with ours would be of its class
        if not isinstance(self.path, RatioPath):
            return self.inner.add_noise(original_samples, noise, timesteps)
        return self._noised(original_samples, noise, timesteps)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """α_t x_0 + σ_t ε at the timesteps (batch,), as flow schedulers call it; theirs counts its own steps."""
        return self._noised(sample, noise, timestep)

    def _noised(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        times, known = times_of(self.inner), self.inner.timesteps.tolist()
        at = [times[known.index(t)] for t in timesteps.flatten().tolist()]
        shape = (-1, *[1] * (noise.ndim - 1))
        alpha = noise.new_tensor([self.path.alpha(t) for t in at]).view(shape)
        sigma = noise.new_tensor([self.path.sigma(t) for t in at]).view(shape)
        return alpha * original_samples / self.unit + sigma * noise

    @property
    def timesteps(self) -> Tensor:
        """The inner scheduler's, (step,), which iterate as the guide asks."""
        kind = type("Timesteps", (Tensor,), {"__iter__": lambda own: self._visit(own.as_subclass(Tensor))})
        return self.inner.timesteps.as_subclass(kind)

    @property
    def sigmas(self) -> Tensor:
        """The inner scheduler's, or, once under way, those of the questions so far and of the next."""
        sigmas = self.inner.sigmas
        return sigmas.new_tensor(self._times) if self._taken else sigmas

    def _visit(self, timesteps: Tensor) -> Iterator[Tensor]:
        before = self._taken
        if not before:
            self._visited = timesteps
        for number in range(len(timesteps)):
            yield timesteps[number]
            if self._taken > before:
                break
        while self._taken > before and not self._run.guide.done:
            before = self._taken
            yield self._timestep[self._run.guide.t]

    def _begin(self) -> None:
        """The times of the timesteps that the pipeline set out to visit, and the one after them."""
        everything = self.inner.timesteps
        visited = everything if self._visited is None else self._visited
        first, times = everything.tolist().index(float(visited[0])), times_of(self.inner)
        self._timestep = dict(zip(times, everything, strict=False))
        self._run.guide.grid = times[first : first + len(visited) + 1]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **_: Any) -> Any:
        """The pipeline's x_s from the network's output at x_t, as any diffusers scheduler."""
        if not self._taken:
            self._begin()
            self._times = [self._run.guide.t]
        t = self._run.guide.t
        at, due = (float(torch.as_tensor(time).flatten()[0]) for time in (timestep, self._timestep[t]))
        if at != due:
            raise RuntimeError(
                f"{type(self._run.pipe).__name__} is at timestep {at:g} where {due:g} was due; "
                "its loop does not iterate the scheduler's timesteps, and cannot go back in time"
            )
        self._taken += 1
        previous = self._run.step(model_output, sample, t)
        if not self._run.guide.done:
            self._times.append(self._run.guide.t)
        if not return_dict:
            # Consistency pipelines take a pair, and decode the second of the last one.
            return previous, previous
        from diffusers.schedulers.scheduling_utils import SchedulerOutput

        return SchedulerOutput(prev_sample=previous)

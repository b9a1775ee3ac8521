"""One call of an aligned pipeline, whose scheduler and initial latents are replaced during the call."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ...methods import Method
from ...models.pixels import clamp_unit
from ...path import to_x0
from ...rewards.reward import RewardFunction
from ...sampling.check_inputs import GradientAt
from ..stepped_sampler import SteppedSampler
from ..vjp import make_vjp
from .families import Family
from .offload import check_offload, load_offloaded_networks
from .rows import (
    advancing,
    count_images,
    device_of,
    first_particles,
    per_row,
    pick_rows,
    row_generator,
    seeds_of,
    with_first_particles,
)
from .scheduler import GuidedScheduler
from .temporary import checkpointed, frozen, normal_weights, temporarily_set, without_inference_mode


class Settings(Protocol):
    """What a call needs of an aligned pipeline; see `align`."""

    pipe: Any
    reward: RewardFunction | None
    method: Method
    eta: float
    decode: Callable[[Tensor], Tensor] | None
    gradient_at: GradientAt
    chunk: int
    checkpointing: bool
    heldout_reward: RewardFunction | None
    family: Family


class PipelineCall:
    """One call of an aligned pipeline.

    Args:
        aligned: the aligned pipeline.
        args, kwargs, seeds: of the call.
    Attributes:
        sampler: the sampler, once the pipeline has prepared its latents.
    """

    def __init__(self, aligned: Settings, args: tuple, kwargs: dict, seeds: Sequence[int] | None) -> None:
        self.aligned, self.pipe, self.method, self.family = aligned, aligned.pipe, aligned.method, aligned.family
        eta = kwargs.pop("eta", None)
        self.eta = aligned.eta if eta is None else eta
        self.call = self._bind(args, kwargs)
        self.prompts = self._prompts()
        self.generator = self.call.get("generator")
        self.generators = self._generators()
        # The pipeline draws its own noise, unless only seeds are given.
        self.draws_noise = seeds is None or self.generator is not None
        self.seeds = self._seeds(seeds)
        self._expand_particles()
        self.scheduler = GuidedScheduler(self.pipe.scheduler, self)
        # Inpainting pipelines combine all rows with the original image after the last step.
        self.keeps_rows = self.call.get("mask_image") is not None
        self.sampler: SteppedSampler | None = None
        self.size = (0, 0)
        self.leaf: Tensor | None = None
        self.latents_out: Tensor | None = None

    def _bind(self, args: tuple, kwargs: dict) -> dict[str, Any]:
        call = inspect.signature(type(self.pipe).__call__).bind(self.pipe, *args, **kwargs).arguments
        further = call.pop("kwargs", {})
        given = {name: value for name, value in {**call, **further}.items() if name != "self"}
        return {name: without_inference_mode(value) for name, value in given.items()}

    @property
    def _per_prompt(self) -> str:
        names = inspect.signature(type(self.pipe).__call__).parameters
        return "num_videos_per_prompt" if "num_videos_per_prompt" in names else "num_images_per_prompt"

    def _prompts(self) -> list[str]:
        prompt, embeds = self.call.get("prompt"), self.call.get("prompt_embeds")
        if prompt is None:
            prompt = [""] * (1 if embeds is None else len(embeds))
        prompt = [prompt] if isinstance(prompt, str) else list(prompt)
        return [p for p in prompt for _ in range(self.call.get(self._per_prompt) or 1)]

    def _generators(self) -> list[torch.Generator | None]:
        """The generator of each image; None is torch's global generator."""
        if not isinstance(self.generator, (list, tuple)):
            return [self.generator] * len(self.prompts)
        self._check_count(len(self.generator), "generators")
        return list(self.generator)

    def _seeds(self, seeds: Sequence[int] | None) -> list[int]:
        if seeds is None:
            return seeds_of(self.generators)
        self._check_count(len(seeds), "seeds")
        return list(seeds)

    def _check_count(self, count: int, what: str) -> None:
        if count != len(self.prompts):
            raise ValueError(f"{count} {what} for {len(self.prompts)} images; pass one per image")

    def _expand_particles(self) -> None:
        """Makes particles rows of the batch, each with its own generator for what the pipeline itself draws."""
        particles = self.method.selection.particles
        if particles > 1:
            self.call[self._per_prompt] = (self.call.get(self._per_prompt) or 1) * particles
        if self.call.get("latents") is not None:
            self.call["latents"] = self.call["latents"].repeat_interleave(particles, 0)
        self.input_images = count_images(self.call.get("image"))
        own_rows = particles > 1 or not self.draws_noise
        if own_rows and "strength" in inspect.signature(type(self.pipe).__call__).parameters:
            for name in ("image", "mask_image"):
                if self.call.get(name) is not None:
                    self.call[name] = per_row(self.call[name], len(self.prompts) * particles)
        if own_rows:
            self.call["generator"] = [
                row_generator(seed, p, device_of(generator))
                for seed, generator in zip(self.seeds, self.generators, strict=True)
                for p in range(particles)
            ]

    def __call__(self) -> Any:
        proposal = self.method.proposal
        estimated = getattr(proposal, "zeroth_order", False)
        differentiates = (proposal.needs_gradient and not estimated) or self.method.initial.needs_reward
        through_network = differentiates and getattr(proposal, "gradient_at", self.aligned.gradient_at) == "x_t"
        if differentiates:
            check_offload(self.pipe, through_network)
        # diffusers decorates the call with no_grad; the function inside runs with gradients.
        call = inspect.unwrap(type(self.pipe).__call__) if through_network else type(self.pipe).__call__
        with contextlib.ExitStack() as self._stack:
            stack = self._stack
            if self.draws_noise:
                stack.enter_context(advancing(self.generators))
            if differentiates:
                stack.enter_context(normal_weights(self.pipe))
            stack.enter_context(frozen(self.pipe))
            stack.enter_context(
                temporarily_set(self.pipe, scheduler=self.scheduler, prepare_latents=self._prepare_latents())
            )
            if self.aligned.checkpointing:
                stack.enter_context(checkpointed(self.pipe))
            stack.enter_context(torch.set_grad_enabled(through_network))
            output = call(self.pipe, **self.call)
        return pick_rows(output, self.sampler.rows, len(self.sampler.x)) if self.keeps_rows else output

    def _prepare_latents(self) -> Callable[..., Any]:
        """The pipeline's own prepare_latents, with its noise replaced by the sampler's."""
        original = self.pipe.prepare_latents
        signature = inspect.signature(original)

        @functools.wraps(original)
        def prepare(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            with torch.no_grad():
                prepared = self._with_first_particles(original, given, original(*args, **kwargs))
            latents = prepared[0] if isinstance(prepared, tuple) else prepared
            if given.get("add_noise") is False:
                latents = self.scheduler.from_inner_scale(latents)
            self.size = (int(given.get("height") or 0), int(given.get("width") or 0))
            self.sampler = self._stack.enter_context(self._sampler_for(latents))
            latents = self.next_latents(latents.dtype)
            return (latents, *prepared[1:]) if isinstance(prepared, tuple) else latents

        return prepare

    def start_unprepared(self) -> None:
        """Starts from the caller's latents, which some pipelines take as they are, without `prepare_latents`."""
        latents = self.call.get("latents")
        if latents is None:
            return
        # In place, because the pipeline has this tensor already.
        latents.copy_(self.scheduler.from_inner_scale(latents))
        self.sampler = self._stack.enter_context(self._sampler_for(latents))
        self.leaf = self.sampler.x
        latents.requires_grad_(self.sampler.needs_vjp)

    def _with_first_particles(self, original: Callable[..., Any], given: dict[str, Any], prepared: Any) -> Any:
        """What the pipeline prepared, with the first particles' rows as they are without particles."""
        particles = self.method.selection.particles
        rows = len(self.prompts) * particles
        if particles == 1 or not self.draws_noise:
            return prepared
        first = first_particles(given, rows, particles, self.input_images)
        if first is None:
            return prepared
        return with_first_particles(prepared, original(**{**first, "generator": self.generator}), rows, particles)

    def _sampler_for(self, latents: Tensor) -> SteppedSampler:
        """A sampler for latents of this shape. It starts from them if the caller gave latents or an image."""
        state = self.unpack(latents)
        state = state.to(torch.promote_types(state.dtype, torch.float32))
        rows = len(self.prompts) * self.method.selection.particles
        if len(state) != rows:
            raise ValueError(f"the pipeline prepared {len(state)} latents, expected {rows}; pass one per image")
        from_noise = self.call.get("latents") is None and self.call.get("image") is None
        return SteppedSampler(
            self.method,
            self.scheduler.path,
            state.shape[1:],
            self.seeds,
            self.prompts,
            self.aligned.reward,
            self.decode,
            start=None if from_noise else state,
            noise=state if self.draws_noise else None,
            eta=self.eta,
            gradient_at=self.aligned.gradient_at,
            chunk=self.aligned.chunk,
            device=state.device,
            dtype=state.dtype,
            heldout=self.aligned.heldout_reward,
        )

    def unpack(self, latents: Tensor) -> Tensor:
        """The pipeline's latents as (batch, channel, *space)."""
        return latents if self.family.unpack is None else self.family.unpack(self.pipe, latents, self.size)

    def pack(self, x: Tensor) -> Tensor:
        """States in the pipeline's layout of latents."""
        return x if self.family.pack is None else self.family.pack(x)

    def decode(self, x_0: Tensor) -> Tensor:
        """Images in [0, 1] from states."""
        x_0 = self.scheduler.unit * x_0
        if self.aligned.decode is not None:
            return self.aligned.decode(x_0)
        vae = self.pipe.vae
        if vae.dtype == torch.float16 and vae.config.get("force_upcast"):
            vae.to(torch.float32)
        return clamp_unit(self.family.decode(self.pipe, x_0.to(vae.dtype)).to(x_0.dtype) / 2 + 0.5)

    def next_latents(self, dtype: torch.dtype) -> Tensor:
        """The states of the sampler's request as the pipeline's latents; the states themselves keep their precision."""
        self.leaf = self.sampler.x.detach().requires_grad_(self.sampler.needs_vjp)
        self.latents_out = self.pack(self.leaf).to(dtype)
        return self.latents_out

    def step(self, output: Tensor, latents: Tensor, t: float) -> Tensor:
        """The next latents, from the network's output at the current ones; after the last step, the final ones."""
        sampler, scheduler = self.sampler, self.scheduler
        # Latents that the pipeline changed (a mask, a callback) are used; otherwise the more precise state is.
        unchanged = latents is self.latents_out
        x_t = self.leaf if unchanged else self.unpack(latents).to(self.leaf.dtype)
        x0_hat = to_x0(scheduler.path, scheduler.prediction, scheduler.sign * self.unpack(output).to(x_t.dtype), x_t, t)
        x_step, x0_hat = scheduler.clip(x_t, x0_hat, t)
        latent_vjp = make_vjp(x0_hat, self.leaf if unchanged else latents)

        def vjp(gradient: Tensor) -> Tensor:
            load_offloaded_networks(self.pipe)
            return latent_vjp(gradient) if unchanged else self.unpack(latent_vjp(gradient)).to(gradient)

        sampler.advance(x_step, x0_hat, vjp)
        if not sampler.done:
            return self.next_latents(latents.dtype)
        x = scheduler.to_inner_scale(self.pack(sampler.x if self.keeps_rows else sampler.x[sampler.rows]))
        vae = getattr(self.pipe, "vae", None)
        upcast = latents.dtype == torch.float16 and vae is not None and vae.dtype == torch.float32
        return x.to(torch.float32 if upcast else latents.dtype)

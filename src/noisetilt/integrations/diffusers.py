"""Guided diffusers pipelines: the pipeline's own loop, with the engine as its scheduler."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoiser import to_x0
from ..judging import Reward
from ..methods import Method, find_method
from ..pixels import clamp_unit
from .families import Family, find_family
from .guide import GradientAt, Guide, check_guidance, pull_back_of
from .lending import borrowed, checkpointed, frozen
from .offload import check_offload, fetch_back
from .scheduler import GuidedScheduler
from .schedules import first_order


def align(
    pipe: Any,
    reward: Reward | None = None,
    method: str | Method = "ntrk",
    eta: float = 1.0,
    decode: Callable[[Tensor], Tensor] | None = None,
    *,
    gradient_at: GradientAt = "x_t",
    chunk: int = 1,
    checkpointing: bool = False,
    heldout: Reward | None = None,
) -> AlignedPipeline:
    """A diffusers pipeline that is guided by a reward, with the same call and the same output class.

    The pipeline's own loop runs, with its prompt encoding, classifier-free guidance, adapters, callbacks and timesteps;
    only its scheduler is replaced, for the duration of a call. The pipeline itself is left as it was found.

    Args:
        pipe: a pipeline of a family in `families.FAMILIES`, or any with a `scheduler` and `prepare_latents` if `decode`
            is given.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised. Videos are judged frame by frame
            unless the reward has `video = True` and takes (batch, frames, 3, H, W). None only with "base".
        method: a name of METHODS or a Method. Its particles are rows of the pipeline's batch.
        eta: stochasticity of the reverse kernel: 0 is DDIM or the flow's ODE (no noise to tilt), 1 DDPM, inf full
            re-noising.
        decode: pictures in [0, 1] from the pipeline's latents (batch, …), differentiable; for families not known here.
        gradient_at: "x_t" takes the gradient through the network (one call a step still), "x0" stops at x̂_0: half the
            cost, a fraction of the memory, and the network's weights can be offloaded while the decoder works.
        chunk: rows decoded and judged at a time, which bounds the decoder's memory.
        checkpointing: whether network and decoder, where they can, recompute their activations on the way back, for
            memory.
        heldout: a reward that looks on, of the same kind: it is asked about each picture's x̂_0 after every step and
            about the final picture, and never followed. If the reward rises and it falls, the reward is being hacked.
            It costs one decoding a picture and step, without gradient.
    Returns:
        An AlignedPipeline.
    Raises:
        ImportError: if diffusers is not installed.
        ValueError: in one sentence, for a family that is not known or a method that lacks what it needs.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise ImportError('align needs diffusers; pip install "noisetilt[diffusers]"') from error
    return AlignedPipeline(pipe, reward, find_method(method), eta, decode, gradient_at, chunk, checkpointing, heldout)


class AlignedPipeline:
    """A guided pipeline; made by `align`. Attributes it does not have are those of `pipe`.

    Attributes:
        pipe: the pipeline.
        rewards, heldout, trace: of the last call, as on its output.
    """

    def __init__(
        self,
        pipe: Any,
        reward: Reward | None,
        method: Method,
        eta: float,
        decode: Callable[[Tensor], Tensor] | None,
        gradient_at: GradientAt,
        chunk: int,
        checkpointing: bool,
        onlooker: Reward | None = None,
    ) -> None:
        self.pipe, self.reward, self.method, self.eta, self.decode = pipe, reward, method, eta, decode
        self.gradient_at, self.chunk, self.checkpointing, self.onlooker = gradient_at, chunk, checkpointing, onlooker
        self.rewards: Tensor | None = None
        self.heldout: Tensor | None = None
        self.trace = None
        name = type(pipe).__name__
        if not hasattr(pipe, "scheduler") or not hasattr(pipe, "prepare_latents"):
            raise ValueError(f"{name} has no scheduler or no prepare_latents; give a diffusers pipeline that has both")
        self.family = find_family(pipe) if decode is None else Family(decode)
        if self.family is None:
            raise ValueError(
                f"how {name} decodes its latents is not known; pass decode=, a function from its latents (batch, ...) "
                "to pictures (batch, 3, H, W) in [0, 1]"
            )
        if "Inpaint" in name and getattr(method.proposal, "needs_injected", False):
            raise ValueError(
                f"{name} overwrites what is kept of the picture at every step, and whitened='path' would lose count "
                "of the noise there; use whitened='mixture'"
            )
        check_guidance(method, reward, gradient_at, chunk)
        first_order(pipe.scheduler)

    def __getattr__(self, name: str) -> Any:
        if name == "pipe":
            raise AttributeError(name)
        return getattr(self.pipe, name)

    def __call__(self, *args: Any, seeds: Sequence[int] | None = None, **kwargs: Any) -> Any:
        """The pipeline's own call, with its own arguments.

        Args:
            seeds: one whole number ≥ 0 per picture; the same seed gives the same picture in any batch and with any
                number of particles. Left out, they are drawn from `generator` (from each, if it is a list), or from
                torch's global random numbers.
            eta: replaces `align`'s for this call.
            generator, latents and all else: as the pipeline documents; latents are one per picture, of unit variance.
        Returns:
            The pipeline's output with `rewards` (picture,), the final ones, `heldout` (picture,) likewise, None where
            there is no such reward, and `trace` (see `Trace`) beside. With return_dict=False its tuple; the others are
            then on the aligned pipeline only.
        Raises:
            ValueError: for bad input, in one sentence.
            FloatingPointError: if a reward, gradient or state is not finite; names the reward and the step.
        """
        run = _Run(self, args, kwargs, seeds)
        output = run()
        self.rewards, self.heldout, self.trace = run.guide.rewards, run.guide.judged, run.guide.trace
        if not isinstance(output, tuple):
            output.rewards, output.heldout, output.trace = self.rewards, self.heldout, self.trace
        return output


class _Run:
    """One call of an aligned pipeline."""

    def __init__(self, aligned: AlignedPipeline, args: tuple, kwargs: dict, seeds: Sequence[int] | None) -> None:
        self.aligned, self.pipe, self.method, self.family = aligned, aligned.pipe, aligned.method, aligned.family
        eta = kwargs.pop("eta", None)
        self.eta = aligned.eta if eta is None else eta
        self.call = self._bind(args, kwargs)
        self.prompts = self._prompts()
        self.seeds = self._seeds(seeds)
        self._ask_for_particles()
        self.scheduler = GuidedScheduler(self.pipe.scheduler, self)
        # Pipelines that mix the latents with a masked original need all rows to the end.
        self.keeps_rows = self.call.get("mask_image") is not None
        self.guide: Guide | None = None
        self.size = (0, 0)
        self.leaf: Tensor | None = None
        self.handed: Tensor | None = None

    def _bind(self, args: tuple, kwargs: dict) -> dict[str, Any]:
        call = inspect.signature(type(self.pipe).__call__).bind(self.pipe, *args, **kwargs).arguments
        further = call.pop("kwargs", {})
        return {name: value for name, value in {**call, **further}.items() if name != "self"}

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

    def _seeds(self, seeds: Sequence[int] | None) -> list[int]:
        count, generator = len(self.prompts), self.call.get("generator")
        several = isinstance(generator, (list, tuple))
        for what, given in (("seeds", seeds), ("generators", generator if several else None)):
            if given is not None and len(given) != count:
                raise ValueError(f"{len(given)} {what} for {count} pictures; give one per picture")
        if seeds is not None:
            return list(seeds)
        return [draw_seeds(g, 1)[0] for g in generator] if several else draw_seeds(generator, count)

    def _ask_for_particles(self) -> None:
        """Particles become rows of the batch, each with a generator of its own for what the pipeline draws itself."""
        particles = self.method.selection.particles
        if particles > 1:
            self.call[self._per_prompt] = (self.call.get(self._per_prompt) or 1) * particles
        if self.call.get("latents") is not None:
            self.call["latents"] = self.call["latents"].repeat_interleave(particles, 0)
        if "strength" in inspect.signature(type(self.pipe).__call__).parameters:
            for name in ("image", "mask_image"):
                if self.call.get(name) is not None:
                    self.call[name] = per_row(self.call[name], len(self.prompts) * particles)
        self.call["generator"] = [row_generator(seed, p) for seed in self.seeds for p in range(particles)]

    def __call__(self) -> Any:
        proposal = self.method.proposal
        estimated = getattr(proposal, "estimates_gradient", False)
        differentiates = (proposal.needs_gradient and not estimated) or self.method.initial.needs_reward
        through = differentiates and getattr(proposal, "gradient_at", self.aligned.gradient_at) == "x_t"
        if differentiates:
            check_offload(self.pipe, through)
        # diffusers' no_grad is a decorator around the call; what it wraps runs with gradients.
        call = inspect.unwrap(type(self.pipe).__call__) if through else type(self.pipe).__call__
        with contextlib.ExitStack() as self._stack:
            stack = self._stack
            stack.enter_context(frozen(self.pipe))
            stack.enter_context(borrowed(self.pipe, scheduler=self.scheduler, prepare_latents=self._prepare_latents()))
            if self.aligned.checkpointing:
                stack.enter_context(checkpointed(self.pipe))
            stack.enter_context(torch.set_grad_enabled(through))
            output = call(self.pipe, **self.call)
        return pick_rows(output, self.guide.rows, len(self.guide.x)) if self.keeps_rows else output

    def _prepare_latents(self) -> Callable[..., Any]:
        """The pipeline's own, with its noise replaced by the engine's."""
        original = self.pipe.prepare_latents
        signature = inspect.signature(original)

        @functools.wraps(original)
        def prepare(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            with torch.no_grad():
                prepared = original(*args, **kwargs)
            latents = prepared[0] if isinstance(prepared, tuple) else prepared
            self.size = (int(given.get("height") or 0), int(given.get("width") or 0))
            self.guide = self._stack.enter_context(self._guide_for(latents))
            latents = self.hand_out(latents.dtype)
            return (latents, *prepared[1:]) if isinstance(prepared, tuple) else latents

        return prepare

    def _guide_for(self, latents: Tensor) -> Guide:
        """A guide for latents of this shape, which starts from them unless they are noise that it may draw itself."""
        state = self.unpack(latents)
        state = state.to(torch.promote_types(state.dtype, torch.float32))
        rows = len(self.prompts) * self.method.selection.particles
        if len(state) != rows:
            raise ValueError(
                f"the pipeline made {len(state)} latents where {rows} were asked for; give one per picture"
            )
        noise = self.call.get("latents") is None and self.call.get("image") is None
        return Guide(
            self.method,
            self.scheduler.path,
            state.shape[1:],
            self.seeds,
            self.prompts,
            self.aligned.reward,
            self.decode,
            start=None if noise else state,
            eta=self.eta,
            gradient_at=self.aligned.gradient_at,
            chunk=self.aligned.chunk,
            device=state.device,
            dtype=state.dtype,
            heldout=self.aligned.onlooker,
        )

    def unpack(self, latents: Tensor) -> Tensor:
        return latents if self.family.unpack is None else self.family.unpack(self.pipe, latents, self.size)

    def pack(self, x: Tensor) -> Tensor:
        return x if self.family.pack is None else self.family.pack(x)

    def decode(self, x_0: Tensor) -> Tensor:
        """Pictures in [0, 1] from states."""
        x_0 = self.scheduler.unit * x_0
        if self.aligned.decode is not None:
            return self.aligned.decode(x_0)
        vae = self.pipe.vae
        if vae.dtype == torch.float16 and vae.config.get("force_upcast"):
            vae.to(torch.float32)
        return clamp_unit(self.family.decode(self.pipe, x_0.to(vae.dtype)).to(x_0.dtype) / 2 + 0.5)

    def hand_out(self, dtype: torch.dtype) -> Tensor:
        """The state that the guide asks about, as the pipeline's latents; the state itself keeps its precision."""
        self.leaf = self.guide.x.detach().requires_grad_(self.guide.through)
        self.handed = self.pack(self.leaf).to(dtype)
        return self.handed

    def step(self, output: Tensor, latents: Tensor, t: float) -> Tensor:
        """The next latents for the network, or the winners', from its output at these."""
        guide, scheduler = self.guide, self.scheduler
        # Latents that the pipeline changed since (a mask, a callback) count as they are; else the precise state does.
        ours = latents is self.handed
        x_t = self.leaf if ours else self.unpack(latents).to(self.leaf.dtype)
        x0_hat = to_x0(scheduler.path, scheduler.prediction, scheduler.sign * self.unpack(output).to(x_t.dtype), x_t, t)
        pulled = pull_back_of(x0_hat, self.leaf if ours else latents)

        def pull_back(gradient: Tensor) -> Tensor:
            fetch_back(self.pipe)
            return pulled(gradient) if ours else self.unpack(pulled(gradient)).to(gradient)

        guide.answer(x_t, x0_hat, pull_back)
        if not guide.done:
            return self.hand_out(latents.dtype)
        x = scheduler.rescaled(self.pack(guide.x if self.keeps_rows else guide.x[guide.rows]))
        vae = getattr(self.pipe, "vae", None)
        upcast = latents.dtype == torch.float16 and vae is not None and vae.dtype == torch.float32
        return x.to(torch.float32 if upcast else latents.dtype)


def per_row(given: Any, rows: int) -> Any:
    """A picture, or some, as one for each row of a batch, in whose order they then are; pipelines differ in theirs."""
    if isinstance(given, list):
        return [one for one in given for _ in range(max(1, rows // len(given)))]
    if rows == 1 or getattr(given, "ndim", 4) < 4:
        return given
    if not hasattr(given, "ndim"):
        return [given] * rows
    times = max(1, rows // len(given))
    return given.repeat_interleave(times, 0) if torch.is_tensor(given) else given.repeat(times, 0)


def draw_seeds(generator: torch.Generator | None, count: int) -> list[int]:
    """Seeds from a generator, or from torch's global random numbers."""
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**62, (count,), generator=generator, device=device).tolist()


def row_generator(seed: int, particle: int) -> torch.Generator:
    """Random numbers of one row of the batch, apart from the engine's own."""
    mixed = np.random.SeedSequence([seed, particle, 0]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


def pick_rows(output: Any, rows: Tensor, total: int) -> Any:
    """A pipeline's output with only these rows of each field that has `total` of them."""

    def pick(field: Any) -> Any:
        if isinstance(field, list) and len(field) == total:
            return [field[row] for row in rows.tolist()]
        if hasattr(field, "shape") and len(field) == total:
            return field[rows.to(field.device) if torch.is_tensor(field) else rows.cpu().numpy()]
        return field

    if isinstance(output, tuple):
        return tuple(pick(field) for field in output)
    for name in list(output):
        output[name] = pick(output[name])
    return output

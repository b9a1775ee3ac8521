"""One call of an aligned pipeline, whose scheduler and initial latents are replaced during the call."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..._messages import one_line, whole_number
from ...methods import Method
from ...models.prompts import unread_part
from ...path import Path, to_x0
from ...path.time_travel import TimeTravel
from ...rewards.reward import RewardFunction, check_prompts_of, may_use_prompts, reward_name
from ...sampling.check_inputs import GradientAt, as_prompts, as_seeds
from ...sampling.engine import check_density, check_eta
from ...sampling.result import StepReport
from ...sampling.rng import check_seeds
from ..stepped_sampler import SteppedSampler, gradient_of_call
from ..vjp import make_vjp
from .arguments import bound_arguments
from .callbacks import as_pipelines_own
from .continuation import DRAW, IMAGE_COUNTS, Continuation
from .draws import TorchOfLists, is_multiple, with_globals, with_recorded_draws
from .layout import Layout, SampleView, layout_of, recorded_packings, sample_view, without_latents
from .offload import check_offload, decoder_of, load_again, recorded_runs
from .row_inputs import expand_inputs, misplaces_repeated, repeat_entries
from .rows import (
    advancing,
    count_embeddings,
    count_images,
    device_of,
    first_particles,
    pick_rows,
    row_generator,
    seeds_of,
    set_state,
    state_of,
    with_first_particles,
)
from .scheduler import GuidedScheduler
from .support import check_method, is_overwritten, prepare_name, reads_next_step, revisits, takes_prompts
from .temporary import (
    checkpointed,
    complete,
    frozen,
    normal_weights,
    overlapping,
    temporarily_set,
    without_inference_mode,
)

# Arguments that pipelines start from, or that are a condition of their network only.
CONDITIONS = ("image", "images", "video", "conditions")
# What LTX's decoder is given for each video, which the pipeline itself repeats by the number of prompts.
OF_DECODER = ("decode_timestep", "decode_noise_scale")


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
    track: bool
    callback: Callable[[StepReport], Any] | None


@dataclass(frozen=True)
class ExceptLast:
    """Time travel in all steps but the last, after which inpainting pipelines combine the latents with an image without
    noise, and which may end before the data without noise.
    """

    times: TimeTravel

    def expand(self, path: Path, grid: Sequence[float]) -> list[float]:
        """The grid with repeated steps."""
        return [*self.times.expand(path, grid[:-1]), grid[-1]]


class RefusedRows(ValueError):
    """An error before the first step of a call whose particles are rows of the batch."""


class PipelineCall:
    """One call of an aligned pipeline.

    Args:
        aligned: the aligned pipeline.
        args, kwargs, seeds, reward_prompts: of the call.
        repeats_prompts: whether the prompts are repeated for several particles also in a pipeline that has an argument
            for the number of images per prompt.
    Attributes:
        sampler: the sampler, once the pipeline has prepared its latents.
    """

    def __init__(
        self,
        aligned: Settings,
        args: tuple,
        kwargs: dict,
        seeds: Sequence[int] | None,
        reward_prompts: Sequence[str] | str | None = None,
        repeats_prompts: bool = False,
    ) -> None:
        self.repeats_prompts = repeats_prompts
        self.aligned, self.pipe, self.method = aligned, aligned.pipe, aligned.method
        self.call, eta = self._bind(args, kwargs)
        self.eta = aligned.eta if eta is None else eta
        check_method(self.pipe, self.method)
        check_eta(self.method, self.eta)
        check_density(self.method)
        kind: Any = type(self.pipe)
        if revisits(self.method) and reads_next_step(kind):
            times: Any = ExceptLast(self.method.times)
            self.method = replace(self.method, times=times)
        if self.call.get("num_inference_steps") is not None:
            self.call["num_inference_steps"] = whole_number("num_inference_steps", self.call["num_inference_steps"], 1)
        self.prompts = self._prompts(reward_prompts)
        self._warn_of_unread_prompts()
        self._warn_of_step_caches()
        check_prompts_of(aligned.reward, self.prompts)
        check_prompts_of(aligned.heldout_reward, self.prompts)
        self.generator = self.call.get("generator")
        if seeds is not None and self.generator is not None:
            raise ValueError("seeds and generator both set the noise; give one of them")
        self.generators = self._generators()
        self._states = [state_of(generator) for generator in self.generators]
        self.draws_noise = seeds is None
        self.seeds = self._seeds(seeds)
        self._expand_particles()
        self.scheduler = GuidedScheduler(self.pipe.scheduler, self)
        # Inpainting pipelines combine all rows with the original image after the last step.
        self.keeps_rows = self.call.get("mask_image") is not None
        self.sampler: SteppedSampler | None = None
        self.layout: Layout
        self.view: SampleView | None = None
        self.continuation: Continuation | None = None
        self.evaluates_images = aligned.reward is not None or aligned.heldout_reward is not None
        self.leaf: Tensor | None = None
        self.latents_out: Tensor | None = None
        # What the last callback returned as latents.
        self._present: Tensor | None = None
        self._version = 0

    def _bind(self, args: tuple, kwargs: dict) -> tuple[dict[str, Any], float | None]:
        """The arguments of the call by name, and its eta, which only some pipelines have as an argument."""
        given = bound_arguments(type(self.pipe), args, kwargs)
        eta = given.pop("eta", None)
        return as_pipelines_own({name: without_inference_mode(value) for name, value in given.items()}, self), eta

    @property
    def _per_prompt(self) -> str | None:
        """The argument for the number of images per prompt; None if the pipeline has none or makes one in any case."""
        kind: Any = type(self.pipe)
        names = inspect.signature(kind.__call__).parameters
        own = (name for name in IMAGE_COUNTS if name in names and not is_overwritten(kind, name))
        return next(own, None)

    def _prompts(self, reward_prompts: Sequence[str] | str | None) -> list[str]:
        """The prompts of the rewards, one per image."""
        prompt = self.call.get("prompt", self.call.get("content_prompt"))
        if prompt is None:
            prompt = [""] * self._images_without_prompts()
            if reward_prompts is None and self._texts:
                self._warn_of_empty_prompts(self._texts[0])
        elif not isinstance(prompt, str | list | tuple):
            raise ValueError(f"prompt = {prompt!r} must be a text or a list of texts")
        prompt = as_prompts(prompt if isinstance(prompt, str) else [entry or "" for entry in prompt])
        if not prompt:
            raise ValueError("prompts is empty; give at least one prompt")
        if reward_prompts is not None:
            given = as_prompts(reward_prompts)
            if len(given) != len(prompt):
                raise ValueError(f"{len(given)} reward_prompts for {len(prompt)} prompts; pass one per prompt")
            prompt = given
        per_prompt = self._per_prompt
        count = (self.call.get(per_prompt) if per_prompt else None) or 1
        # A prior makes several embeddings per prompt, of which Stable Cascade's decoder makes one image each.
        count *= max(1, count_embeddings(self.call.get("image_embeddings")) // len(prompt))
        return [p for p in prompt for _ in range(count)]

    @property
    def _texts(self) -> list[str]:
        """The names of the call's embeddings of prompts and of its prompts of other names, such as a task; first those
        that surely have one entry per prompt: others may have the layers of the text encoder first.
        """
        pooled = [n for n in self.call if n in ("pooled_prompt_embeds", "prompt_embeds_pooled")]
        embeddings = sorted((n for n in self.call if n.startswith("prompt_embeds")), key=lambda n: n.endswith("llama3"))
        further = [name for name in ("task_prompt",) if name in self.call]
        return [name for name in (*pooled, *embeddings, *further) if self.call[name] is not None]

    def _warn_of_empty_prompts(self, given: str) -> None:
        of = (self.aligned.reward, self.aligned.heldout_reward)
        names = [reward_name(reward) for reward in of if reward is not None and may_use_prompts(reward)]
        if names:
            warnings.warn(
                f"{given} has no text for rewards, so that the reward {names[0]!r} gets empty prompts; pass "
                "reward_prompts=[...] too, one per prompt",
                stacklevel=6,
            )

    def _warn_of_unread_prompts(self) -> None:
        """Warns of words that a tokenizer of the pipeline does not know, which its text encoder then does not get."""
        given = [value for name, value in self.call.items() if "prompt" in name]
        entries = [entry for value in given for entry in (value if isinstance(value, list) else [value])]
        texts = [entry for entry in dict.fromkeys(entry for entry in entries if isinstance(entry, str)) if entry]
        tokenizers = (
            [part for name, part in self.pipe.components.items() if name.startswith("tokenizer")] if texts else []
        )
        problem = next(filter(None, (unread_part(tokenizer, texts) for tokenizer in tokenizers)), None)
        if problem is not None:
            warnings.warn(problem, stacklevel=5)

    def _warn_of_step_caches(self) -> None:
        """Warns of a network with a cache of diffusers, such as FirstBlockCache, whose blocks return what they computed
        at an earlier state: the gradient does not see them, and a second call at the same time may repeat the first."""
        if not (revisits(self.method) or self.method.proposal.needs_gradient):
            return
        for name, part in self.pipe.components.items():
            if getattr(part, "is_cache_enabled", False) is True:
                warnings.warn(
                    f"the {name} of the pipeline has a step cache, which returns results of earlier states, so that "
                    f"gradients and repeated steps are not exact; call pipe.{name}.disable_cache() before guided calls",
                    stacklevel=5,
                )

    def _images_without_prompts(self) -> int:
        """The number of images of a call without prompts: from embeddings, class labels, images or a batch size."""
        names = (*self._texts, "class_labels")
        given = next((self.call[name] for name in names if self.call.get(name) is not None), None)
        if given is not None:
            return 1 if isinstance(given, str) else len(given)
        if self.call.get("image_embeds") is not None:
            return count_embeddings(self.call["image_embeds"])
        image = self.call.get("image")
        if image is not None and not takes_prompts(type(self.pipe)):
            return count_images(image)
        return self.call.get("batch_size") or 1

    def _generators(self) -> list[torch.Generator | None]:
        """The generator of each image; None is torch's global generator."""
        given = self.generator
        for generator in given if isinstance(given, (list, tuple)) else [given]:
            if generator is not None and not isinstance(generator, torch.Generator):
                raise ValueError(
                    f"generator = {generator!r} must be a torch.Generator, such as torch.Generator().manual_seed(0); "
                    "or give seeds=[...], one number per image"
                )
        if not isinstance(given, (list, tuple)):
            return [given] * len(self.prompts)
        self._check_count(len(given), "generators")
        return list(given)

    def _seeds(self, seeds: Sequence[int] | None) -> list[int]:
        if seeds is None:
            return seeds_of(self.generators)
        seeds = as_seeds(seeds, self.prompts)
        self._check_count(len(seeds), "seeds")
        check_seeds(seeds)
        return [int(seed) for seed in seeds]

    def _check_count(self, count: int, what: str) -> None:
        if count != len(self.prompts):
            raise ValueError(f"{count} {what} for {len(self.prompts)} images; pass one per image")

    def _expand_particles(self) -> None:
        """Makes particles rows of the batch, each with its own generator for what the pipeline itself draws."""
        particles = self.method.selection.particles
        self._expand_decoding(particles)
        self.input_images = count_images(self.call.get("image"))
        if particles > 1:
            self._multiply_rows(particles)
        if self.call.get("latents") is not None:
            self.call["latents"] = self.call["latents"].repeat_interleave(particles, 0)
        if particles > 1 or not self.draws_noise:
            rows = len(self.prompts) * particles
            expand_inputs(self.call, type(self.pipe), rows, self.repeats_prompts)
            self.call["generator"] = [
                row_generator(seed, p, device_of(generator))
                for seed, generator in zip(self.seeds, self.generators, strict=True)
                for p in range(particles)
            ]

    def _expand_decoding(self, particles: int) -> None:
        """Passes what the decoder is given for each video as lists, with one entry per row of the batch."""
        names = inspect.signature(type(self.pipe).__call__).parameters
        prompts = len(self.prompts) // (self.call.get(self._per_prompt or "") or 1)
        for name in (own for own in OF_DECODER if own in names):
            given = self.call.get(name, names[name].default)
            entries = given if isinstance(given, list) else [given]
            if len(entries) not in (1, prompts, len(self.prompts)):
                raise ValueError(
                    f"{name} has {len(entries)} entries for {prompts} prompts; pass a number, or a list with one entry "
                    "per prompt"
                )
            rows = len(self.prompts) * particles
            if given is not None and rows > 1:
                self.call[name] = [entry for entry in entries for _ in range(rows // len(entries))]

    def _multiply_rows(self, particles: int) -> None:
        """Passes the number of rows to the pipeline in the argument that it has for it, or repeats its prompts."""
        kind: Any = type(self.pipe)
        names = inspect.signature(kind.__call__).parameters
        per_prompt = self._per_prompt
        count = (self.call.get(per_prompt) if per_prompt else None) or 1
        entries = len(self.prompts) // count
        self.repeats_prompts |= per_prompt is None or (entries > 1 and misplaces_repeated(kind, self.input_images > 1))
        if self.repeats_prompts:
            repeat_entries(self.call, self.pipe, entries, count * particles)
            count = 1
        else:
            count *= particles
        if per_prompt is not None:
            self.call[per_prompt] = count
        elif "batch_size" in names:
            self.call["batch_size"] = len(self.prompts) * particles

    def __call__(self) -> Any:
        gradient_at = gradient_of_call(self.method, self.aligned.gradient_at)
        differentiates, self._through_network = gradient_at is not None, gradient_at == "x_t"
        if differentiates:
            check_offload(self.pipe, self._through_network)
        # diffusers decorates the call with no_grad; the function inside runs in the mode set here.
        call = inspect.unwrap(type(self.pipe).__call__)
        prepare = prepare_name(self.pipe)
        replaced: dict[str, Any] = {"scheduler": self.scheduler}
        functions: dict[str, Any] = {"enumerate": self.scheduler.enumerate} if revisits(self.method) else {}
        if prepare is None:
            functions[DRAW] = self._draw_noise(call.__globals__[DRAW])
        else:
            replaced[prepare] = self._prepare_latents()
        if isinstance(self.call.get("generator"), list) and "randn" in call.__code__.co_names:
            functions["torch"] = TorchOfLists()
        call = with_globals(call, **functions) if functions else call
        with contextlib.ExitStack() as self._stack:
            stack = self._stack
            if self.draws_noise:
                stack.enter_context(advancing(self.generators))
            if differentiates:
                stack.enter_context(normal_weights(self.pipe))
            self._ran = stack.enter_context(recorded_runs(self.pipe))
            stack.enter_context(frozen(self.pipe))
            stack.enter_context(complete(self.pipe))
            stack.enter_context(temporarily_set(self.pipe, **replaced))
            if self.aligned.checkpointing:
                stack.enter_context(checkpointed(self.pipe))
            stack.enter_context(torch.set_grad_enabled(self._through_network))
            with self._explained_start():
                output = call(self.pipe, **self.call)
        return pick_rows(output, self._rows(), len(self.sampler.x)) if self.keeps_rows else output

    @contextlib.contextmanager
    def _explained_start(self) -> Iterator[None]:
        """Explains an error before the first step, of a scheduler that the pipeline does not support, or with
        particles, which not every pipeline can have as rows."""
        particles = self.method.selection.particles
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError, AttributeError) as error:
            own, inner = type(self.scheduler.original).__name__, type(self.scheduler.inner).__name__
            text = " ".join(str(error).replace(str(GuidedScheduler), own).split())
            of_scheduler = str(GuidedScheduler) in str(error) or text.startswith((f"{inner}.", f"'{inner}' object"))
            if not self.scheduler.has_stepped and of_scheduler:
                name = type(self.pipe).__name__
                raise ValueError(
                    f"{name} does not run with the scheduler {own}: {text.partition('. ')[0]}; set pipe.scheduler to "
                    f"one that {name} supports, such as that of its repository"
                ) from error
            if isinstance(error, (TypeError, AttributeError)):
                raise
            if particles == 1 or self.scheduler.has_stepped or is_of_arguments(error):
                raise
            raise RefusedRows(
                f"{type(self.pipe).__name__} failed before its first step ({one_line(error)}); if this is because of "
                f"the {particles} rows per image that particles = {particles} needs, use a method with particles = 1"
            ) from error

    def rewind(self) -> None:
        """Sets the generators back to what they were before the call."""
        for generator, state in zip(self.generators, self._states, strict=True):
            set_state(generator, state)

    def _rows(self) -> Tensor:
        """The row of each image's best particle; of its first one before the first step."""
        first = torch.arange(0, len(self.sampler.x), self.method.selection.particles)
        return first if self.sampler.rows is None else self.sampler.rows

    @property
    def to_pipeline(self) -> float:
        """The factor from the present states to the latents of the pipeline's own scheduler."""
        # The last step has returned the pipeline's own latents.
        return 1.0 if self.sampler is None or self.sampler.done else 1.0 / self.scheduler.scale_at(self.sampler.t)

    def note_replaced(self, latents: Tensor) -> None:
        """Notes the latents that the pipeline goes on with after a callback."""
        self._present = latents

    def interrupted(self) -> None:
        """Ends the steps before the last one: the pipeline makes images of its present latents, without gradient."""
        torch.set_grad_enabled(False)
        self.keeps_rows = True
        assert self.sampler is not None
        present = self.latents_out if self._present is None else self._present
        if self.to_pipeline != 1 and present is not None:
            # In place, because the pipeline has this tensor already.
            present.detach().mul_(self.to_pipeline)
        self.sampler.stop()

    def _prepare_latents(self) -> Callable[..., Any]:
        """The pipeline's own prepare_latents, with its noise replaced by the sampler's."""
        original, draws = with_recorded_draws(getattr(self.pipe, prepare_name(self.pipe)))
        signature = inspect.signature(original)

        @functools.wraps(original)
        def prepare(*args: Any, **kwargs: Any) -> Any:
            if self.scheduler.has_stepped:
                raise RuntimeError(overlapping(self.pipe))
            given = signature.bind(*args, **kwargs).arguments
            with torch.no_grad(), recorded_packings(self.pipe) as packings:
                draws.clear()
                prepared = original(*args, **kwargs)
                from_noise = self._starts_from_noise(prepared, draws)
                if given.get("latents") is not None and not packings:
                    original(**without_latents(given))  # to see how it packs them
                prepared = self._with_first_particles(original, given, prepared)
            latents = prepared[0] if isinstance(prepared, tuple) else prepared
            if given.get("add_noise") is False:
                latents = self.scheduler.from_inner_scale(latents)
            self.layout = layout_of(latents, packings, given)
            self.sampler = self._stack.enter_context(self._sampler_for(latents, from_noise))
            latents = self.next_latents(latents.dtype, self.layout.pack)
            return (latents, *prepared[1:]) if isinstance(prepared, tuple) else latents

        return prepare

    def _draw_noise(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """diffusers' function that draws noise, whose first result in a call is replaced by the sampler's noise."""
        signature = inspect.signature(original)
        particles = self.method.selection.particles

        @functools.wraps(original)
        def draw(*args: Any, **kwargs: Any) -> Tensor:
            noise = original(*args, **kwargs)
            if self.sampler is not None:
                return noise
            if particles > 1 and self.draws_noise:
                given = signature.bind(*args, **kwargs).arguments
                shape = (len(noise) // particles, *noise.shape[1:])
                first = original(**{**given, "shape": shape, "generator": self.generator})
                noise = with_first_particles(noise, first, len(noise), particles)
            self.layout = layout_of(noise, [], {})
            from_noise = self.call.get("latents") is None and not self._starts_from_image
            self.sampler = self._stack.enter_context(self._sampler_for(noise, from_noise))
            return self.next_latents(noise.dtype, self.layout.pack)

        return draw

    def start_unprepared(self) -> None:
        """Starts from the caller's latents, which some pipelines take as they are, without `prepare_latents`."""
        latents = self.call.get("latents")
        if latents is None:
            return
        # In place, because the pipeline has this tensor already.
        latents.copy_(self.scheduler.from_inner_scale(latents))
        self.layout = layout_of(latents, [], {})
        self.sampler = self._stack.enter_context(self._sampler_for(latents, False))
        self.leaf = self.latents_out = latents.requires_grad_(self.sampler.needs_vjp)
        self._version = latents._version

    def loop_from(self, t: float) -> None:
        """Turns gradients off for a first step from pure noise, whose gradient is zero.

        The pipeline keeps the network's output, and with it a graph, until the next one has replaced it.
        """
        if not self.method.initial.needs_reward and self.scheduler.path.alpha(t) == 0:
            torch.set_grad_enabled(False)

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

    def _starts_from_noise(self, prepared: Any, draws: Sequence[Tensor]) -> bool:
        """Whether prepared latents are noise alone. Otherwise they are a start that the caller gave: latents, a noised
        image, or noise beside the latents of an image.
        """
        if self.call.get("latents") is not None or self._starts_from_image:
            return False
        latents = prepared[0] if isinstance(prepared, tuple) else prepared
        return not self._conditions or any(is_multiple(latents, noise) for noise in draws)

    @property
    def _conditions(self) -> list[str]:
        """The names of the images and videos of the call."""
        return [name for name in CONDITIONS if self.call.get(name) is not None]

    @property
    def _starts_from_image(self) -> bool:
        """Whether the pipeline noises an image or a video of the call by its `strength`."""
        return bool(self._conditions) and "strength" in inspect.signature(type(self.pipe).__call__).parameters

    def _sampler_for(self, latents: Tensor, from_noise: bool) -> SteppedSampler:
        """A sampler for latents of this shape, which starts from them unless they are noise."""
        self._ran.clear()  # text encoders, through which no gradient passes
        state = self.layout.unpack(latents)
        state = state.to(torch.promote_types(state.dtype, torch.float32))
        rows = len(self.prompts) * self.method.selection.particles
        if len(state) != rows:
            raise ValueError(f"the pipeline prepared {len(state)} latents, expected {rows}; pass one per image")
        return SteppedSampler(
            self.method,
            self.scheduler.path,
            state.shape[1:],
            self.seeds,
            self.prompts,
            self.aligned.reward,
            self.decode,
            indexed=True,
            start=None if from_noise else state,
            noise=state if self.draws_noise else None,
            eta=self.eta,
            gradient_at=self.aligned.gradient_at,
            chunk=self.aligned.chunk,
            track=self.aligned.track,
            device=state.device,
            dtype=state.dtype,
            heldout=self.aligned.heldout_reward,
            callback=self.aligned.callback,
        )

    def decode(self, x_0: Tensor, index: Tensor) -> Tensor:
        """Images in [0, 1] from states; `index` (batch,) is the row of each in the full batch."""
        x_0 = self.scheduler.unit * x_0
        if self.aligned.decode is not None:
            return _in_unit_range(self.aligned.decode(self.layout.pack(x_0)))
        decoder = decoder_of(self.pipe)
        if decoder is not None and decoder.dtype == torch.float16 and decoder.config.get("force_upcast"):
            decoder.to(torch.float32)
        sample = self.view.to_sample(x_0).to(self.latents_out.dtype if decoder is None else decoder.dtype)
        return self.continuation(sample, index).to(x_0.dtype)

    def next_latents(self, dtype: torch.dtype, form: Callable[[Tensor], Tensor]) -> Tensor:
        """The states of the sampler's request in the pipeline's form; the states themselves keep their precision."""
        self.leaf = self.sampler.x.detach().requires_grad_(self.sampler.needs_vjp)
        self.latents_out = form(self.leaf).to(dtype)
        if self.latents_out.untyped_storage().data_ptr() == self.leaf.untyped_storage().data_ptr():
            self.latents_out = self.latents_out.clone()  # some pipelines change parts of their latents in place
        self._version = self.latents_out._version
        return self.latents_out

    def _unchanged(self, sample: Tensor) -> bool:
        """Whether the pipeline gives its scheduler what it was given."""
        if sample is self.latents_out and sample._version == self._version:
            return True  # without waiting for a GPU
        return same_values(sample, self.view.to_sample(self.leaf.detach()))

    def step(self, output: Tensor, sample: Tensor, t: float) -> Tensor:
        """The next sample, from the network's output at the current one; after the last step, the final one."""
        sampler, scheduler = self.sampler, self.scheduler
        self._present = None
        if self.view is None:
            self.view = self._view_of(sample)
        # Latents that the pipeline changed (a mask, a callback) are used; otherwise the more precise state is.
        unchanged = self._unchanged(sample)
        x_t = self.leaf if unchanged else self.view.to_state(sample).to(self.leaf.dtype)
        output = self.view.to_state(without_variance(output, sample)).to(x_t.dtype)
        x0_hat = to_x0(scheduler.path, scheduler.prediction, scheduler.sign * output, x_t, t)
        x_step, x0_hat = scheduler.clip(x_t, x0_hat, t)
        latent_vjp = make_vjp(x0_hat, self.leaf if unchanged else sample)

        ran = dict(self._ran)

        def vjp(gradient: Tensor) -> Tensor:
            load_again(ran)
            return latent_vjp(gradient) if unchanged else self.view.to_state(latent_vjp(gradient)).to(gradient)

        if self.evaluates_images:
            # The pipeline itself decodes the final images also where the caller's `decode` does in the steps.
            with contextlib.nullcontext() if self.aligned.decode is None else contextlib.suppress(ValueError):
                self.continuation = Continuation(self.pipe, len(self.leaf))
                self.keeps_rows = self.keeps_rows or self.continuation.per_row
        try:
            sampler.advance(x_step, x0_hat, vjp)
        finally:
            self.continuation = None
            self._ran.clear()
        if not sampler.done:
            torch.set_grad_enabled(self._through_network)
            return self.next_latents(sample.dtype, self.view.to_sample)
        # The rest of the call needs no gradient; the call restores the mode.
        torch.set_grad_enabled(False)
        x = sampler.x if self.keeps_rows else sampler.x[sampler.rows]
        decoder = decoder_of(self.pipe)
        upcast = sample.dtype == torch.float16 and decoder is not None and decoder.dtype == torch.float32
        return self.view.to_sample(scheduler.to_inner_scale(x)).to(torch.float32 if upcast else sample.dtype)

    def _view_of(self, sample: Tensor) -> SampleView:
        """How the pipeline made this sample from its latents; from now on `latents_out` is the sample."""
        view = sample_view(self.layout, self.leaf.detach(), self.latents_out.detach(), sample.detach())
        if view is None:
            raise ValueError(
                f"{type(self.pipe).__name__} gives its scheduler a tensor of shape {tuple(sample.shape)} that is no "
                f"part of its latents of shape {tuple(self.latents_out.shape)}, so that it cannot be guided"
            )
        if sample.shape != self.latents_out.shape:
            self.latents_out = view.to_sample(self.leaf.detach()).to(self.latents_out.dtype)
        return view


def is_of_arguments(error: BaseException) -> bool:
    """Whether an error is about arguments that have nothing to do with the number of rows: the pipeline's own check of
    its arguments has raised it, and it mentions no batch."""
    frames = traceback.extract_tb(error.__traceback__)
    about_rows = re.search(r"batch|supported|multiple|same (type|shape)|_per_prompt", str(error))
    return any(frame.name == "check_inputs" for frame in frames) and about_rows is None


def _in_unit_range(images: Tensor) -> Tensor:
    """The images of the caller's `decode`. Those of an unclamped decoder may leave [0, 1] a little.

    Raises:
        ValueError: if their values are those of images in [-1, 1] or [0, 255].
    """
    low, high = images.detach().aminmax()
    if low < -0.5 or high > 2:
        raise ValueError(
            f"decode returned values from {low:.3g} to {high:.3g}, expected images in [0, 1]; map images in [-1, 1] by "
            "x / 2 + 0.5 and those in [0, 255] by x / 255"
        )
    return images


def same_values(sample: Tensor, latents: Tensor) -> bool:
    """Whether the sample is a copy of the latents."""
    return sample.shape == latents.shape and torch.equal(sample.detach(), latents.detach().to(sample.dtype))


def without_variance(output: Tensor, sample: Tensor) -> Tensor:
    """The network's output without a learned variance, which some networks append to the channels."""
    learned = output.ndim > 1 and output.shape[1] == 2 * sample.shape[1] and output.shape[2:] == sample.shape[2:]
    return output[:, : sample.shape[1]] if learned else output

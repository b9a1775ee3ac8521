"""Any supported diffusers pipeline as a model for `sample`."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...methods import Method, find_method
from ...models.flux import warn_of_size
from ...models.guidance import TrainedGuidance, check_guidance_scale
from ...models.prompts import PromptReader, is_word_level
from ...path import Path
from ...path.grids import check_steps
from ...rewards.reward import RewardFunction
from ...sampling.check_inputs import GradientAt, as_prompts, as_seeds, check_callback
from ...sampling.engine import Engine
from ...sampling.result import Result, StepReport
from ..stepped_sampler import gradient_of_call
from .aligned_pipeline import AlignedPipeline, align
from .out_of_memory import Setting, explained_memory_errors
from .schedules import first_order, path_of

# Pipelines of these classes start from an image or a video, which `sample` and the command line do not pass.
NEEDS_INPUT = re.compile(
    "Img2Img|Inpaint|ControlNet|Edit|InstructPix2Pix|Upscale|Fill|Control|ImageToVideo|VideoToVideo|VideoToWorld|Redux"
)


class PipelineModel:
    """A diffusers pipeline for `sample`, which runs the pipeline's own loop through `align`.

    Args:
        pipe: a pipeline that makes images or videos from prompts, of a class that `align` supports.
        guidance: the guidance scale, a finite number; the default of `trained`, or else of the pipeline, if None.
        device: where it computes.
        height, width: of the images, in pixels; the pipeline's own defaults if None.
        checkpointing: whether gradients use gradient checkpointing.
        offload: how the pipeline was placed, for the advice when memory runs out.
        frames: number of frames of a video; the pipeline's own default if None.
        trained: the guidance scales that the network was trained for, if they are known.
    Attributes:
        steps: the pipeline's own default number of steps.
        path: of the pipeline's scheduler.
    Raises:
        ValueError: if `align` does not support the class, it needs an input image, or the guidance is not a finite
            number.
    """

    def __init__(
        self,
        pipe: Any,
        guidance: float | None = None,
        device: torch.device | str = "cpu",
        height: int | None = None,
        width: int | None = None,
        checkpointing: bool = False,
        offload: str = "none",
        frames: int | None = None,
        trained: TrainedGuidance | None = None,
    ) -> None:
        name, self._parameters = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
        _check_parameters(name, self._parameters)
        align(pipe, None, "base")  # raises for classes that it does not support
        if trained is not None:
            warn_of_size(pipe, height, width)
        self.pipe, self.device, self.height, self.width = pipe, device, height, width
        tokenizer = getattr(pipe, "tokenizer", None)
        self._reader = PromptReader(tokenizer) if is_word_level(tokenizer) else None
        self.checkpointing, self.offload, self.frames = checkpointing, offload, frames
        if frames is not None and "num_frames" not in self._parameters:
            raise ValueError(f"frames = {frames} is for video pipelines and {name} makes images; leave it out")
        self._guidance_name, self._trained = self._find_guidance_name(), trained
        self.set_guidance(guidance)
        self.steps: int = self._default("num_inference_steps") or 25

    def set_guidance(self, guidance: float | None) -> None:
        """Replaces the guidance scale; None is the default.

        Raises:
            ValueError: if the pipeline has no guidance scale, or it is not a finite number.
        """
        if guidance is not None:
            if self._guidance_name is None:
                raise ValueError(f"{type(self.pipe).__name__} has no guidance scale; leave guidance out")
            self.guidance = check_guidance_scale(guidance, self._trained)
        else:
            self.guidance = self._default(self._guidance_name) if self._trained is None else self._trained.default

    @property
    def words(self) -> list[str]:
        """All words that prompts may have, if the tokenizer knows whole words only; otherwise empty."""
        return [] if self._reader is None else list(self._reader.words)

    @property
    def path(self) -> Path:
        """The Gaussian path of the scheduler."""
        return path_of(first_order(self.pipe.scheduler))

    def _default(self, name: str | None) -> Any:
        parameter = self._parameters.get(name or "")
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    def _find_guidance_name(self) -> str | None:
        """The argument of classifier-free guidance; `guidance_scale` may be an input of a distilled network only."""
        config = getattr(getattr(self.pipe, "transformer", None), "config", {})
        if "true_cfg_scale" in self._parameters and not config.get("guidance_embeds"):
            return "true_cfg_scale"
        return "guidance_scale" if "guidance_scale" in self._parameters else None

    def check(self, prompts: Sequence[str], method: str | Method, reward: RewardFunction | None, eta: float) -> None:
        """Checks what `sample` would refuse later.

        Raises:
            ValueError: if the method cannot follow the reward or needs noise that eta = 0 does not inject, or if a
                word-level tokenizer does not represent a prompt completely.
        """
        method = find_method(method)
        align(self.pipe, reward, method, eta)
        Engine(method, self.path, (2,), [0], eta)
        if self._reader is not None:
            self._reader.read(prompts)

    def arguments(self, steps: int) -> dict[str, Any]:
        """The arguments of the pipeline's call, without prompts."""
        given: dict[str, Any] = {"num_inference_steps": steps, "output_type": "pt"}
        if self._guidance_name is not None:
            given[self._guidance_name] = self.guidance
        if self._guidance_name == "true_cfg_scale" and self.guidance is not None and self.guidance > 1:
            given["negative_prompt"] = ""
        sizes = {"height": self.height, "width": self.width, "num_frames": self.frames}
        given |= {name: size for name, size in sizes.items() if size is not None}
        if self.height is not None and self.width is not None and "use_resolution_binning" in self._parameters:
            given["use_resolution_binning"] = False  # otherwise the size is replaced by the nearest known one
        length = self._text_length()
        if length is not None:
            given["max_sequence_length"] = length
        return given

    def _text_length(self) -> int | None:
        """How many tokens the tokenizer that max_sequence_length is for reads, if fewer than the pipeline's default;
        None for the default."""
        default = self._default("max_sequence_length")
        found = [getattr(self.pipe, name, None) for name in ("tokenizer_3", "tokenizer_2", "tokenizer")]
        # CLIP's always reads 77 tokens, whatever the argument is.
        tokenizer = next((t for t in found if t is not None and "CLIP" not in type(t).__name__), None)
        limit = getattr(tokenizer, "model_max_length", None)
        return None if default is None or limit is None or limit >= default else limit

    def sample(
        self,
        prompts: Sequence[str] | str,
        reward: RewardFunction | None = None,
        method: str | Method = "ntrk",
        steps: int | None = None,
        seeds: Sequence[int] | None = None,
        *,
        eta: float = 1.0,
        grid: Sequence[float] | None = None,
        gradient_at: GradientAt = "x_t",
        chunk: int = 1,
        track: bool = True,
        callback: Callable[[StepReport], Any] | None = None,
        heldout: RewardFunction | None = None,
    ) -> Result:
        """As `noisetilt.sample`, which calls this. All images are one batch of the pipeline, and `chunk` is the number
        of rows that are decoded at a time.

        Raises:
            ValueError: if an argument is invalid; `grid` is not supported.
            MemoryError: if the GPU has too little memory; the message has the options that would help.
        """
        if grid is not None:
            raise ValueError("grid is not supported for a diffusers pipeline; pass steps=, or use `align`")
        prompts = as_prompts(prompts)
        check_callback(callback)
        seeds = as_seeds(seeds, prompts)
        steps = check_steps(self.steps if steps is None else steps)
        self.check(prompts, method, reward, eta)
        if self._reader is not None:
            prompts = self._reader.read(prompts)
        aligned = align(
            self.pipe,
            reward,
            method,
            eta,
            gradient_at=gradient_at,
            chunk=chunk,
            checkpointing=self.checkpointing,
            heldout=heldout,
            track=track,
        )
        aligned.callback = callback
        with self._explained(aligned, len(prompts), gradient_at, aligned.chunk):
            output = aligned(prompt=prompts, seeds=seeds, **self.arguments(steps))
        trace = aligned.trace
        assert trace is not None
        return Result(_images_of(output), aligned.rewards, trace, aligned.heldout, prompts, seeds)

    def _explained(
        self, aligned: AlignedPipeline, images: int, gradient_at: GradientAt, chunk: int
    ) -> contextlib.AbstractContextManager[None]:
        """Explains a GPU's lack of memory in a call of an aligned pipeline."""
        method = aligned.method
        setting = Setting(gradient_of_call(method, gradient_at), self.checkpointing, self.offload)

        def latent_shape() -> Sequence[int] | None:
            sampler = None if aligned.current_call is None else aligned.current_call.sampler
            return None if sampler is None else sampler.engine.shape

        rows = images * method.selection.particles

        def decoded() -> int:
            call = aligned.current_call
            return rows if call is None or call.keeps_rows else images

        passes = 2 if "negative_prompt" in self.arguments(1) else None
        return explained_memory_errors(
            self.pipe, self.device, setting, rows, chunk, latent_shape, passes, decoded, method.selection.particles
        )


def _check_parameters(name: str, parameters: Any) -> None:
    """Raises a ValueError unless a pipeline makes images from prompts alone."""
    missing = [n for n in ("prompt", "num_inference_steps", "output_type") if n not in parameters]
    if missing:
        raise ValueError(f"{name} has no argument {missing[0]!r}; use `align`, with the pipeline's own arguments")
    needed = [n for n in parameters if _is_required(parameters[n]) and n not in ("self", "prompt")]
    needed += [n for n in ("image", "video") if n in parameters and NEEDS_INPUT.search(name)]
    if needed:
        raise ValueError(f"{name} needs the input {needed[0]!r}, which is not passed here; use `align` in Python")


def _is_required(parameter: inspect.Parameter) -> bool:
    ordinary = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return ordinary and parameter.default is parameter.empty


def _images_of(output: Any) -> Tensor:
    """The images (image, 3, H, W) or videos (image, frame, 3, H, W) of a pipeline's output, as float32."""
    images = next(iter(output.values()))
    if not torch.is_tensor(images):
        images = torch.as_tensor(images)
    return images.float()

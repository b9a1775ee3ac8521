"""A diffusers FluxPipeline as a model for `sample` and `optimize`."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._messages import missing_extra
from .._quiet import without_progress_bars, without_warnings
from ..path import FlowPath
from .denoiser import Denoiser
from .guidance import TrainedGuidance, check_guidance_scale, flux_guidance
from .latents import decode_shifted, encode_shifted, pack_flux, unpack_flux
from .pixels import clamp_unit
from .prompts import PromptReader, is_word_level

EMOJI128, TURBO = (Path(__file__).with_name(name) for name in ("emoji128", "emoji128-turbo"))
# As its model card says; the pipeline's own default is that of FLUX.1-dev.
EMOJI128_GUIDANCE = TrainedGuidance(default=3.0, lowest=1.0, highest=5.0)
# Tokenizers keep padding and truncation as state, which `encode_prompt` sets.
_ENCODING = threading.Lock()


@dataclass(frozen=True)
class SchedulerPath(FlowPath):
    """The path of flow matching with the time grid of a pipeline's FlowMatchEulerDiscreteScheduler.

    Args:
        scheduler: the scheduler.
        tokens: image tokens, on which dynamic shifting depends.
    """

    scheduler: Any = field(default=None, compare=False)
    tokens: int = 256

    def grid(self, steps: int) -> list[float]:
        """steps + 1 times from 1 to 0, those of a FluxPipeline call with num_inference_steps = steps."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        super().grid(steps)  # refuses numbers of steps that are not 1 or more
        config = self.scheduler.config
        mu = calculate_shift(
            self.tokens,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        scheduler = copy.deepcopy(self.scheduler)  # threads share the scheduler
        if config.get("use_flow_sigmas"):
            scheduler.set_timesteps(steps, mu=mu)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        return [float(sigma) for sigma in scheduler.sigmas]


def _has_dtype(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether all floating-point tensors of a module have a dtype."""
    tensors = (*module.parameters(), *module.buffers())
    return all(tensor.dtype == dtype for tensor in tensors if tensor.is_floating_point())


class FluxModel:
    """A FluxPipeline for `sample` and `optimize`; states are unpacked latents (channels, height / 8, width / 8).

    A transformer with a guidance input (guidance-distilled) is given `guidance`. Any other gets true classifier-free
    guidance (Ho & Salimans 2022, arXiv 2207.12598) against the empty prompt: both halves are one network call.

    Args:
        pipe: the pipeline. Its weights are set to need no gradient.
        guidance: guidance scale, a finite number; without a guidance input, 1 is no guidance. If None, the default of
            `trained`, or else of the pipeline's call: 3.5, and 1 without a guidance input.
        device, dtype: where and in what precision the networks run; states are float32.
        steps: the default number of steps for command lines.
        height, width: of the images in pixels; those of the autoencoder's training if None, which also become the
            default of the pipeline's own call.
        trained: the guidance scales that the network was trained for, if they are known.
    Attributes:
        pipe: the pipeline, which `align` takes too.
        path, shape: flow matching with the scheduler's own time grid, and the shape of one state.
        needs_steps: about how many steps its images need; 1 if that is not known.
        fixed_guidance: whether guidance was distilled into the weights, which then take no other.
    Raises:
        ValueError: if the scheduler is not supported, the guidance is not a finite number, or the size is no multiple
            of two latents.
    """

    def __init__(
        self,
        pipe: Any,
        guidance: float | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        steps: int = 25,
        height: int | None = None,
        width: int | None = None,
        trained: TrainedGuidance | None = None,
    ) -> None:
        name = type(pipe.scheduler).__name__
        if name != "FlowMatchEulerDiscreteScheduler":
            raise ValueError(f"the scheduler {name} is not supported; use FlowMatchEulerDiscreteScheduler")
        self.pipe, self.steps, self.needs_steps = pipe, steps, 1 if trained is None else steps
        self._trained, self.fixed_guidance = trained, False
        self.set_guidance(guidance)
        # Of the two tokenizers, the first has the more special tokens.
        self._reader = PromptReader(pipe.tokenizer) if is_word_level(pipe.tokenizer_2) else None
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                # diffusers warns of every cast, also of one to the dtype that the part has.
                place = (device,) if _has_dtype(part, dtype) else (device, dtype)
                part.to(*place).eval().requires_grad_(False)
        pipe.vae.to(memory_format=torch.channels_last)
        set_defaults(pipe)
        self.shape = (pipe.vae.config.latent_channels, *latent_size(pipe, height, width))
        if trained is not None:
            warn_of_size(pipe, height, width)
        self.path = SchedulerPath(scheduler=pipe.scheduler, tokens=self.shape[1] * self.shape[2] // 4)

    @property
    def device(self) -> torch.device:
        """Where the networks run, also after `pipe.to`."""
        return self.pipe.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """In which the networks run, also after `pipe.to`."""
        return self.pipe.transformer.dtype

    def set_guidance(self, guidance: float | None) -> None:
        """Replaces the guidance scale; None is the default.

        Raises:
            ValueError: if it is not a finite number, or not 1 if guidance was distilled into the weights.
        """
        if self.fixed_guidance:
            self.guidance = _distilled_guidance(guidance)
        elif guidance is None:
            self.guidance = flux_guidance(self.pipe) if self._trained is None else self._trained.default
        else:
            self.guidance = check_guidance_scale(guidance, self._trained)

    @property
    def words(self) -> list[str]:
        """All words, style names and emoji that prompts may have; empty if prompts are free text."""
        return [] if self._reader is None else list(self._reader.words)

    def _encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(sequence (prompt, token, width), pooled (prompt, width))."""
        with _ENCODING:
            sequence, pooled, _ = self.pipe.encode_prompt(
                list(prompts),
                prompt_2=None,
                device=self.device,
            )
        return sequence, pooled

    @torch.no_grad()
    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0 for these prompts, whose text is encoded once.

        Raises:
            ValueError: if the tokenizers know whole words only, and a prompt has an unknown word, none or too many.
        """
        if self._reader is not None:
            prompts = self._reader.read(prompts)
        text = self._encode(prompts)
        if self.pipe.transformer.config.guidance_embeds or self.guidance == 1.0:
            return Denoiser(self.path, self._conditional(text), "velocity")
        return Denoiser(self.path, self._classifier_free(text, self._encode([""])), "velocity")

    def _conditional(self, text: tuple[Tensor, Tensor]) -> Callable[[Tensor, float, Tensor], Tensor]:
        def network(x_t: Tensor, t: float, index: Tensor) -> Tensor:
            return self.velocity(x_t, t, *(part[index] for part in text))

        return network

    def _classifier_free(
        self, text: tuple[Tensor, Tensor], empty: tuple[Tensor, Tensor]
    ) -> Callable[[Tensor, float, Tensor], Tensor]:
        def network(x_t: Tensor, t: float, index: Tensor) -> Tensor:
            both = (
                torch.cat([part[index], none.expand(len(index), *none.shape[1:])])
                for part, none in zip(text, empty, strict=True)
            )
            conditional, unconditional = self.velocity(torch.cat([x_t, x_t]), t, *both).chunk(2)
            return unconditional + self.guidance * (conditional - unconditional)

        return network

    def velocity(self, x_t: Tensor, t: float, sequence: Tensor, pooled: Tensor) -> Tensor:
        """The transformer's prediction of noise − x_0, of x_t's shape and dtype.

        Args:
            x_t: (batch, channels, height, width).
            t: the time of all rows, from 1 (noise) to 0 (data).
            sequence, pooled: encoded text, (batch, token, width) and (batch, width).
        """
        network, (high, wide) = self.pipe.transformer, x_t.shape[2:]
        dtype = self.dtype
        guidance = None
        if network.config.guidance_embeds:
            guidance = torch.full((len(x_t),), self.guidance, device=x_t.device, dtype=torch.float32)
        output = network(
            hidden_states=pack_flux(x_t).to(dtype),
            timestep=torch.full((len(x_t),), t, device=x_t.device, dtype=dtype),
            guidance=guidance,
            pooled_projections=pooled.to(dtype),
            encoder_hidden_states=sequence.to(dtype),
            txt_ids=torch.zeros(sequence.shape[1], 3, device=x_t.device, dtype=dtype),
            img_ids=self._image_ids(high // 2, wide // 2, x_t.device),
            return_dict=False,
        )[0]
        factor = self.pipe.vae_scale_factor
        return unpack_flux(self.pipe, output.to(x_t.dtype), (high * factor, wide * factor))

    def _image_ids(self, high: int, wide: int, device: torch.device) -> Tensor:
        """Rotary positions (high · wide, 3) of the image tokens: 0, row, column."""
        ids = torch.zeros(high, wide, 3, device=device, dtype=self.dtype)
        ids[..., 1] += torch.arange(high, device=device)[:, None]
        ids[..., 2] += torch.arange(wide, device=device)[None, :]
        return ids.flatten(0, 1)

    def decode(self, x_0: Tensor) -> Tensor:
        """Images (batch, 3, H, W) in [0, 1] from latents (batch, *shape); differentiable."""
        latents = x_0.to(self.pipe.vae.dtype).contiguous(memory_format=torch.channels_last)
        return clamp_unit(decode_shifted(self.pipe, latents).to(x_0.dtype) / 2 + 0.5)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (batch, *shape) of images (batch, 3, H, W) in [0, 1]; differentiable. `decode` gives about the
        images back."""
        pixels = (2 * images - 1).to(self.pipe.vae.dtype).contiguous(memory_format=torch.channels_last)
        return encode_shifted(self.pipe, pixels).to(images.dtype)


def latent_size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of a FluxPipeline's latents.

    Raises:
        ValueError: for a size in pixels that is no multiple of two latents.
    """
    factor, sides = pipe.vae_scale_factor, []
    for name, given in (("height", height), ("width", width)):
        side = pipe.vae.config.sample_size if given is None else given
        if side < 1 or side % (2 * factor):
            raise ValueError(f"{name} = {side} must be a multiple of {2 * factor} for this model")
        sides.append(side // factor)
    return sides[0], sides[1]


def set_defaults(pipe: Any) -> None:
    """Makes the size of the autoencoder's training the default of the pipeline's own call, which is 1024 otherwise, and
    its second tokenizer's number of tokens the largest one, which is 512 otherwise."""
    pipe.default_sample_size = pipe.vae.config.sample_size // pipe.vae_scale_factor
    pipe.encode_prompt = functools.partial(_encode_prompt, pipe)


def _encode_prompt(pipe: Any, *args: Any, max_sequence_length: int = 512, **kwargs: Any) -> Any:
    """The pipeline's own encoding of prompts, padded to no more tokens than its text encoder was trained for."""
    tokens = min(max_sequence_length, pipe.tokenizer_2.model_max_length)
    return type(pipe).encode_prompt(pipe, *args, max_sequence_length=tokens, **kwargs)


def warn_of_size(pipe: Any, height: int | None, width: int | None) -> None:
    """Warns of a size in pixels other than that of the autoencoder's training; None is that size."""
    side = pipe.vae.config.sample_size
    if any(given not in (None, side) for given in (height, width)):
        warnings.warn(
            f"height = {height} and width = {width} are not the size that the model was trained for, {side} by {side}; "
            "images of other sizes are broken",
            stacklevel=3,
        )


def verify_checksums(folder: Path) -> None:
    """Compares every file that `checksums.json` of a folder names with its SHA-256.

    Raises:
        ValueError: if a file is another one, or missing.
    """
    for name, digest in json.loads((folder / "checksums.json").read_text("utf-8")).items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            state = "damaged or was replaced" if file.is_file() else "missing"
            raise ValueError(f"the file {file} is {state}; install noisetilt again")


def trained_guidance(folder: str | Path) -> TrainedGuidance | None:
    """The guidance scales of emoji128 if the folder has its transformer, recognised by its SHA-256; otherwise None."""
    name = "transformer/diffusion_pytorch_model.safetensors"
    file, own = Path(folder) / name, EMOJI128 / name
    if not file.is_file() or file.stat().st_size != own.stat().st_size:
        return None
    digest = json.loads((EMOJI128 / "checksums.json").read_text("utf-8"))[name]
    return EMOJI128_GUIDANCE if hashlib.sha256(file.read_bytes()).hexdigest() == digest else None


def _load_pipeline(name: str, dtype: torch.dtype) -> Any:
    """The FluxPipeline of emoji128 or emoji128-turbo."""
    verify_checksums(EMOJI128)
    try:
        with without_warnings():  # the import would warn of image processors, which the model does not use
            from diffusers import FluxPipeline, FluxTransformer2DModel
    except ImportError as error:
        raise ImportError(missing_extra("diffusers", f"the model {name}")) from error
    parts: dict[str, Any] = {}
    with without_progress_bars():
        if name == "emoji128-turbo":
            verify_checksums(TURBO)
            parts["transformer"] = FluxTransformer2DModel.from_pretrained(
                TURBO, subfolder="transformer", torch_dtype=dtype, local_files_only=True
            )
        return FluxPipeline.from_pretrained(EMOJI128, torch_dtype=dtype, local_files_only=True, **parts)


def emoji128(dtype: torch.dtype = torch.float32, **options: Any) -> FluxModel:
    """The embedded model: 128×128 emoji from words, such as "sad cat, 3d"; options are those of `FluxModel`.

    Its guidance is 3 by default; outside 1 to 5, for which it was not trained, there is a warning.

    Raises:
        ImportError: if diffusers or transformers is not installed.
        ValueError: if a file of the model is damaged or missing, or the guidance is not a finite number.
    """
    return FluxModel(_load_pipeline("emoji128", dtype), dtype=dtype, trained=EMOJI128_GUIDANCE, **options)


def emoji128_turbo(dtype: torch.dtype = torch.float32, guidance: float = 1.0, **options: Any) -> FluxModel:
    """emoji128 distilled to one step; it shares all but the transformer with emoji128.

    Raises:
        ImportError: if diffusers or transformers is not installed.
        ValueError: if a file of the model is damaged or missing, or for any guidance but 1, because guidance was
            distilled into the weights.
    """
    _distilled_guidance(guidance)
    model = FluxModel(_load_pipeline("emoji128-turbo", dtype), 1.0, dtype=dtype, steps=4, **options)
    model.fixed_guidance = True
    return model


def _distilled_guidance(guidance: float | None) -> float:
    if guidance not in (None, 1.0):
        raise ValueError(
            f"guidance = {guidance} is not supported by emoji128-turbo, whose weights include emoji128's guidance of "
            f"{EMOJI128_GUIDANCE.default:g}; leave it out or use 1"
        )
    return 1.0

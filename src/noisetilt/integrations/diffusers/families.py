"""How each family of pipelines decodes its latents: the only family-specific code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def decode_scaled(pipe: Any, x_0: Tensor) -> Tensor:
    """Latents that were multiplied by a scaling factor: SD, PixArt, Sana."""
    return pipe.vae.decode(x_0 / pipe.vae.config.scaling_factor, return_dict=False)[0]


def decode_shifted(pipe: Any, x_0: Tensor) -> Tensor:
    """Latents that were shifted, then scaled: SD3, Flux."""
    config = pipe.vae.config
    return pipe.vae.decode(x_0 / config.scaling_factor + (config.shift_factor or 0.0), return_dict=False)[0]


def decode_sdxl(pipe: Any, x_0: Tensor) -> Tensor:
    """Scaled latents, normalised by channel where the autoencoder says so."""
    config = pipe.vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return decode_scaled(pipe, x_0)
    return pipe.vae.decode(
        by_channel(std, x_0) * x_0 / config.scaling_factor + by_channel(mean, x_0), return_dict=False
    )[0]


def decode_video(pipe: Any, x_0: Tensor) -> Tensor:
    """Wan's latents (batch, channel, time, h, w), normalised by channel, as (batch, frame, 3, H, W)."""
    config = pipe.vae.config
    latents = by_channel(config.latents_std, x_0) * x_0 + by_channel(config.latents_mean, x_0)
    return pipe.vae.decode(latents, return_dict=False)[0].transpose(1, 2)


def by_channel(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values).to(like).view(1, -1, *[1] * (like.ndim - 2))


def unpack_flux(pipe: Any, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Flux's rows of 2×2 patches (batch, patch, channel · 4) as (batch, channel, h, w)."""
    high, wide = (side // (pipe.vae_scale_factor * 2) for side in size)
    patches = latents.unflatten(1, (high, wide)).unflatten(3, (-1, 2, 2))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def pack_flux(x: Tensor) -> Tensor:
    """The inverse of `unpack_flux`."""
    patches = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3, 5).flatten(1, 2)


@dataclass(frozen=True)
class Family:
    """Pictures in [-1, 1] from latents (batch, channel, *space); and between the layout of the pipeline's own latents
    and that one, where they differ."""

    decode: Callable[..., Tensor]
    unpack: Callable[[Any, Tensor, tuple[int, int]], Tensor] | None = None
    pack: Callable[[Tensor], Tensor] | None = None


SCALED, SDXL, SHIFTED = Family(decode_scaled), Family(decode_sdxl), Family(decode_shifted)
FLUX = Family(decode_shifted, unpack_flux, pack_flux)
FAMILIES = {
    "StableDiffusionPipeline": SCALED,
    "StableDiffusionImg2ImgPipeline": SCALED,
    "StableDiffusionInpaintPipeline": SCALED,
    "StableDiffusionControlNetPipeline": SCALED,
    "StableDiffusionXLPipeline": SDXL,
    "StableDiffusionXLImg2ImgPipeline": SDXL,
    "StableDiffusionXLInpaintPipeline": SDXL,
    "StableDiffusion3Pipeline": SHIFTED,
    "StableDiffusion3Img2ImgPipeline": SHIFTED,
    "StableDiffusion3InpaintPipeline": SHIFTED,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "FluxInpaintPipeline": FLUX,
    "PixArtAlphaPipeline": SCALED,
    "PixArtSigmaPipeline": SCALED,
    "SanaPipeline": SCALED,
    "SanaSprintPipeline": SCALED,
    "WanPipeline": Family(decode_video),
}


def find_family(pipe: Any) -> Family | None:
    """The family of a pipeline, by the names of its class and of those it derives from."""
    return next((FAMILIES[c.__name__] for c in type(pipe).__mro__ if c.__name__ in FAMILIES), None)

"""How the pipelines of each family decode their latents. The code specific to a family is here, and
in `models.latents` what the native loop shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.latents import decode_shifted, pack_flux, unpack_flux


def decode_scaled(pipe: Any, x_0: Tensor) -> Tensor:
    """Decodes latents that were multiplied by a scaling factor: SD, PixArt, Sana."""
    return pipe.vae.decode(x_0 / pipe.vae.config.scaling_factor, return_dict=False)[0]


def decode_sdxl(pipe: Any, x_0: Tensor) -> Tensor:
    """Decodes scaled latents, which are also normalised per channel if the autoencoder has the statistics: SDXL."""
    config = pipe.vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return decode_scaled(pipe, x_0)
    return pipe.vae.decode(
        by_channel(std, x_0) * x_0 / config.scaling_factor + by_channel(mean, x_0), return_dict=False
    )[0]


def decode_video(pipe: Any, x_0: Tensor) -> Tensor:
    """Decodes Wan's latents (batch, channel, time, h, w), normalised per channel, to (batch, frame, 3, H, W)."""
    config = pipe.vae.config
    latents = by_channel(config.latents_std, x_0) * x_0 + by_channel(config.latents_mean, x_0)
    return pipe.vae.decode(latents, return_dict=False)[0].transpose(1, 2)


def decode_one_frame(pipe: Any, x_0: Tensor) -> Tensor:
    """Latents of a video autoencoder for one image: Qwen-Image."""
    return decode_video(pipe, x_0[:, :, None])[:, 0]


def by_channel(values: list[float], like: Tensor) -> Tensor:
    """One value per channel, shaped to be multiplied with `like` (batch, channel, …)."""
    return torch.tensor(values).to(like).view(1, -1, *[1] * (like.ndim - 2))


@dataclass(frozen=True)
class Family:
    """The functions of a family of pipelines.

    Args:
        decode: images in [-1, 1] from latents (batch, channel, *space).
        unpack, pack: from the pipeline's layout of latents to (batch, channel, *space), and back; None if they are
            the same.
    """

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
    "QwenImagePipeline": Family(decode_one_frame, unpack_flux, pack_flux),
}


def find_family(pipe: Any) -> Family | None:
    """The family of a pipeline, found by the names of its class and base classes; None if it is unknown."""
    return next((FAMILIES[c.__name__] for c in type(pipe).__mro__ if c.__name__ in FAMILIES), None)

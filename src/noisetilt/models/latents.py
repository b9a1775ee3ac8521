"""Latents of Flux pipelines: encoding, decoding and packing, shared by the native loop and by `align`."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def decode_shifted(pipe: Any, x_0: Tensor) -> Tensor:
    """Decodes latents that were shifted, then scaled: SD3, Flux."""
    config = pipe.vae.config
    return pipe.vae.decode(x_0 / config.scaling_factor + (config.shift_factor or 0.0), return_dict=False)[0]


def encode_shifted(pipe: Any, images: Tensor) -> Tensor:
    """Scaled latents (the posterior's mean) of images in [-1, 1], which `decode_shifted` maps back to about them."""
    config = pipe.vae.config
    encoded = pipe.vae.encode(images)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return (latents - (config.shift_factor or 0.0)) * config.scaling_factor


def unpack_flux(pipe: Any, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Flux's latents of 2×2 patches (batch, patch, channel · 4), as (batch, channel, h, w)."""
    high, wide = (side // (pipe.vae_scale_factor * 2) for side in size)
    patches = latents.unflatten(1, (high, wide)).unflatten(3, (-1, 2, 2))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def pack_flux(x: Tensor) -> Tensor:
    """The inverse of `unpack_flux`."""
    patches = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3, 5).flatten(1, 2)

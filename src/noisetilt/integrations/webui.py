"""The guided sampler with the signature that the Stable Diffusion web UIs (AUTOMATIC1111, Forge) call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..methods import Method, find_method
from ..models.pixels import clamp_unit
from ..rewards.reward import RewardFunction
from .k_diffusion import ParticleCalls, sample_noisetilt


def webui_decoder(sd_model: Any) -> Callable[[Tensor], Tensor]:
    """Images in [0, 1] from latents by the VAE of a web UI's model, differentiable; its own method is not."""
    forge = getattr(sd_model, "forge_objects", None)
    vae = sd_model.first_stage_model if forge is None else forge.vae.first_stage_model

    def decode(x_0: Tensor) -> Tensor:
        latent = x_0 / sd_model.scale_factor if forge is None else vae.process_out(x_0)
        return clamp_unit(vae.decode(latent.to(next(vae.parameters()).dtype)).to(x_0.dtype) / 2 + 0.5)

    return decode


def webui_sampler(
    sd_model: Any, reward: RewardFunction, prompt: str = "", method: str | Method = "ntrk", **options: Any
) -> Callable[..., Tensor]:
    """A sampler for `KDiffusionSampler(funcname=...)`, which takes a function in place of a name.

    Args:
        sd_model: the web UI's model, for its VAE.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised.
        prompt: the text that the reward reads.
        method, options: of `sample_noisetilt`. `eta`, `decode` and `prompts` replace what the web UI sets, and what
            `prompt` and `sd_model` give.
    """
    method, decode = find_method(method), webui_decoder(sd_model)
    particles = method.selection.particles

    def sample_guided(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        disable: bool | None = None,
        eta: float = 1.0,
    ) -> Tensor:
        network = ParticleCalls(model, len(x), particles) if particles > 1 else model
        chosen: dict[str, Any] = dict(reward=reward, decode=decode, method=method, eta=eta, prompts=[prompt] * len(x))
        with torch.inference_mode(False):
            return sample_noisetilt(network, x, sigmas, extra_args, callback, disable, **(chosen | options))

    return sample_guided

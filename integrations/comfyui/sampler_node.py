"""The node that guides sampling, and the sampler function that it gives to ComfyUI's KSAMPLER."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from noisetilt import METHODS, Method
from noisetilt.integrations.k_diffusion import ParticleCalls, sample_noisetilt
from noisetilt.models.pixels import clamp_unit
from noisetilt.path import FlowPath
from noisetilt.rewards.reward import reward_name
from noisetilt.sampling.trace import Trace


def decoder(model: Any, vae: Any) -> Callable[[Tensor], Tensor]:
    """A differentiable function from ComfyUI's sampler states to images (batch, 3, H, W) in [0, 1], or to videos
    (batch, frames, 3, H, W).

    Args:
        model: ComfyUI's BaseModel.
        vae: ComfyUI's VAE, whose network is called directly: its own `decode` has no gradient. Its device may be
            another one than the model's, as with --cpu-vae; the images are returned on the device of the states.
    """
    in_unit_range = float(vae.process_output(torch.zeros(1))) == 0.0

    def decode(x_0: Tensor) -> Tensor:
        latent = model.process_latent_out(x_0).to(vae.device, vae.vae_dtype)
        pixels = vae.first_stage_model.decode(latent).to(x_0.device, x_0.dtype)
        if pixels.ndim not in (4, 5):
            raise ValueError(f"the VAE decodes to {tuple(pixels.shape)}, which is no image and no video; use another")
        if pixels.ndim == 5:
            pixels = pixels.movedim(2, 1)
            pixels = pixels[:, 0] if pixels.shape[1] == 1 else pixels
        return clamp_unit(pixels if in_unit_range else pixels / 2 + 0.5)

    return decode


def is_flow(model: Any) -> bool:
    """Whether ComfyUI's BaseModel is a rectified flow, whose states are (1 − σ) x_0 + σ ε."""
    return any(kind.__name__ == "CONST" for kind in type(model.model_sampling).__mro__)


def with_strength(method: Method, strength: float, particles: int) -> Method:
    """The method with this strength, if it has one, and this number of particles, if not 0."""
    options = method.options()
    changed = {name: strength for name in ("rho", "scale", "guidance_rate") if name in options}
    if particles and "particles" in options:
        changed["particles"] = particles
    return method.replace(**changed)


class History:
    """The trace of the latest run of a sampler; the output NOISETILT_TRACE."""

    def __init__(self) -> None:
        self.trace = Trace()


def sample(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Any = None,
    callback: Any = None,
    disable: Any = None,
    *,
    vae: Any,
    reward: Any,
    method: Method,
    eta: float,
    gradient: str,
    prompt: str,
    heldout: Any,
    history: History,
) -> Tensor:
    """The sampler function for ComfyUI's KSAMPLER. It writes the rewards to ComfyUI's log."""
    import comfy.model_management

    guider = model.inner_model
    comfy.model_management.load_models_gpu([guider.model_patcher, *guider.loaded_models, vae.patcher])
    seed = (extra_args or {}).get("seed") or 0
    particles, history.trace = method.selection.particles, Trace()
    x_0 = sample_noisetilt(
        ParticleCalls(model, len(x), particles) if particles > 1 and len(x) > 1 else model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        reward=reward,
        decode=decoder(guider.inner_model, vae),
        method=method,
        eta=eta,
        seeds=[seed + row for row in range(len(x))],
        prompts=[prompt] * len(x),
        path=FlowPath() if is_flow(guider.inner_model) else None,
        gradient_at="x_t" if gradient == "through the model" else "x0",
        heldout=heldout,
        trace=history.trace,
    )
    logging.info(describe(reward, history.trace.rewards))
    if heldout is not None:
        logging.info(f"held-out {describe(heldout, history.trace.heldout)}")
    return x_0


def describe(reward: Any, values: Tensor) -> str:
    """The mean of a reward (step, image) at the first and last step, as text."""
    if not len(values):
        return f"{reward_name(reward)}: no step"
    first, last = values.mean(1)[[0, -1]].tolist()
    return f"{reward_name(reward)} {first:+.4f} at the first step, {last:+.4f} at the last"


class NoisetiltSampler:
    """A reward-guided SAMPLER for SamplerCustom and SamplerCustomAdvanced."""

    CATEGORY = "sampling/custom_sampling/samplers"
    DESCRIPTION = "Guides sampling with a reward. The model, its conditioning and its CFG stay as they are."
    RETURN_TYPES = ("SAMPLER", "NOISETILT_TRACE")
    RETURN_NAMES = ("sampler", "trace")
    FUNCTION = "build"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        supported = [name for name, method in METHODS.items() if not method.initial.needs_reward]
        strength = "rho, scale or guidance_rate of the method; 0 is no guidance. Methods without a strength ignore it"
        return {
            "required": {
                "vae": ("VAE",),
                "reward": ("NOISETILT_REWARD",),
                "method": (supported, {"default": "ntrk"}),
                "strength": (
                    "FLOAT",
                    # ComfyUI's frontend rounds what is typed to the digits of the step.
                    {"default": 0.004, "min": 0.0, "max": 1000.0, "step": 0.00001, "tooltip": strength},
                ),
                "eta": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.001}),
                "gradient": (["through the model", "at the predicted image"],),
            },
            "optional": {
                "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "the text that the reward reads"}),
                "particles": ("INT", {"default": 0, "min": 0, "max": 256, "tooltip": "0: the method's own number"}),
                "heldout": ("NOISETILT_REWARD", {"tooltip": "evaluated at every step and never optimised"}),
            },
        }

    def build(
        self,
        vae: Any,
        reward: Any,
        method: str,
        strength: float,
        eta: float,
        gradient: str,
        prompt: str = "",
        particles: int = 0,
        heldout: Any = None,
    ) -> tuple[Any, History]:
        """Builds the sampler.

        Raises:
            ValueError: if the strength is invalid for the method.
        """
        import comfy.samplers

        history = History()
        function = functools.partial(
            sample,
            vae=vae,
            reward=reward,
            method=with_strength(METHODS[method], strength, particles),
            eta=eta,
            gradient=gradient,
            prompt=prompt,
            heldout=heldout,
            history=history,
        )
        return comfy.samplers.KSAMPLER(function), history

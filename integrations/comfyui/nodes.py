"""The node `NoisetiltSampler`, and the sampler function that it builds."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

from noisetilt import METHODS, rewards
from noisetilt.integrations.k_diffusion import sample_noisetilt
from noisetilt.models.pixels import clamp_unit
from noisetilt.path import FlowPath
from noisetilt.sampling.trace import Trace


def decoder(model: Any, vae: Any) -> Any:
    """A differentiable function from ComfyUI's sampler states to images in [0, 1]."""
    unscale = model.inner_model.inner_model.process_latent_out
    network = vae.first_stage_model

    def decode(x_0: torch.Tensor) -> torch.Tensor:
        dtype = next(network.parameters()).dtype
        return clamp_unit(network.decode(unscale(x_0).to(dtype)).to(x_0.dtype) / 2 + 0.5)

    return decode


def is_flow(model: Any) -> bool:
    """Whether the model is a rectified flow, whose states are (1 − σ) x_0 + σ ε."""
    sampling = model.inner_model.inner_model.model_sampling
    return any(kind.__name__ == "CONST" for kind in type(sampling).__mro__)


def sample(
    model: Any,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: Any = None,
    callback: Any = None,
    disable: Any = None,
    *,
    vae: Any,
    reward: str,
    strength: float,
    method: str,
    eta: float,
    gradient: str,
    prompt: str,
    heldout: str = "",
) -> torch.Tensor:
    """The sampler function for ComfyUI's KSAMPLER. It writes the rewards to ComfyUI's log."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([vae.patcher])
    chosen = METHODS[method]
    rho = strength if "rho" in chosen.options() else None
    if rho is None and "scale" in chosen.options():
        chosen = chosen.replace(scale=strength)
    seed = (extra_args or {}).get("seed") or 0
    trace = Trace()
    x_0 = sample_noisetilt(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        reward=rewards.load(reward),
        decode=decoder(model, vae),
        method=chosen,
        rho=rho,
        eta=eta,
        seeds=[seed + row for row in range(len(x))],
        prompts=[prompt] * len(x),
        path=FlowPath() if is_flow(model) else None,
        gradient_at="x_t" if gradient == "through the model" else "x0",
        heldout=rewards.load(heldout, heldout=True) if heldout else None,
        trace=trace,
    )
    message = describe(reward, trace.rewards)
    logging.info(message + (f"; held-out {describe(heldout, trace.heldout)}" if heldout else ""))
    return x_0


def describe(name: str, values: torch.Tensor) -> str:
    """The mean of a reward (step, image) at the first and last step, as text."""
    first, last = values.mean(1)[[0, -1]].tolist()
    return f"{name} {first:+.4f} at the first step, {last:+.4f} at the last"


class NoisetiltSampler:
    """A reward-guided SAMPLER for SamplerCustom."""

    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "build"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        supported = [name for name, method in METHODS.items() if not method.initial.needs_reward]
        return {
            "required": {
                "vae": ("VAE",),
                "reward": ("STRING", {"default": "redness", "multiline": False}),
                "strength": ("FLOAT", {"default": 0.05, "min": 0.0, "max": 1.0, "step": 0.005}),
                "method": (supported, {"default": "ntrk"}),
                "eta": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05}),
                "gradient": (["through the model", "at the predicted image"],),
            },
            "optional": {
                "prompt": ("STRING", {"default": "", "multiline": True}),
                "heldout": ("STRING", {"default": "", "multiline": False}),
            },
        }

    def build(
        self,
        vae: Any,
        reward: str,
        strength: float,
        method: str,
        eta: float,
        gradient: str,
        prompt: str = "",
        heldout: str = "",
    ) -> tuple[Any]:
        """Builds the sampler.

        Raises:
            ValueError: for an unknown reward.
        """
        import comfy.samplers

        rewards.load(reward)
        if heldout:
            rewards.load(heldout, heldout=True)
        function = functools.partial(
            sample,
            vae=vae,
            reward=reward,
            strength=strength,
            method=method,
            eta=eta,
            gradient=gradient,
            prompt=prompt,
            heldout=heldout,
        )
        return (comfy.samplers.KSAMPLER(function),)


NODE_CLASS_MAPPINGS = {"NoisetiltSampler": NoisetiltSampler}
NODE_DISPLAY_NAME_MAPPINGS = {"NoisetiltSampler": "Noisetilt sampler (reward-guided)"}

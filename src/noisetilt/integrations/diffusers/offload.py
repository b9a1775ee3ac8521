"""Support for offloaded networks, whose weights are needed again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

NETWORKS = (
    "unet",
    "image_unet",
    "transformer",
    "transformer_2",
    "unconditional_transformer",
    "decoder",
    "controlnet",
)
DECODERS = ("vae", "movq", "vqgan", "vqvae")
# diffusers' hooks that no backward pass can follow: what they do, and what to use instead.
HOOKS = {
    "group_offloading": (
        "is group-offloaded, which removes its weights before the backward pass",
        "use enable_model_cpu_offload or enable_sequential_cpu_offload",
    ),
    "layerwise_casting": (
        "has layerwise casting, which stores its weights in another dtype before the backward pass",
        "load it without enable_layerwise_casting",
    ),
}


def networks_of(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    """The pipeline's denoising networks, by name."""
    named = ((name, getattr(pipe, name, None)) for name in NETWORKS)
    return ((name, network) for name, network in named if isinstance(network, nn.Module))


def decoder_of(pipe: Any) -> Any:
    """The module that decodes a pipeline's latents; None if it has none, as in pixel space."""
    parts = (getattr(pipe, name, None) for name in DECODERS)
    return next((part for part in parts if isinstance(part, nn.Module)), None)


@contextlib.contextmanager
def recorded_runs(pipe: Any) -> Iterator[dict[nn.Module, torch.device]]:
    """Records which components under `enable_model_cpu_offload` run, and on which device."""
    ran: dict[nn.Module, torch.device] = {}
    parts = (part for part in pipe.components.values() if isinstance(part, nn.Module))
    placed = [(part, device) for part in parts if (device := execution_device(part)) is not None]
    hooks = [
        part.register_forward_pre_hook(lambda module, _, device=device: ran.update({module: device}))
        for part, device in placed
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def execution_device(module: nn.Module) -> torch.device | None:
    """Where a module under `enable_model_cpu_offload` runs; None for other modules."""
    hook: Any = getattr(module, "_hf_hook", None)
    own = (part for part in getattr(hook, "hooks", [hook]) if type(part).__name__ == "CpuOffload")
    return next((torch.device(part.execution_device) for part in own), None)


def is_on(module: nn.Module, device: torch.device) -> bool:
    """Whether a module is on a device; one without an index is any of its type."""
    place = next((parameter.device for parameter in module.parameters()), device)
    return place.type == device.type and device.index in (None, place.index)


def load_again(modules: dict[nn.Module, torch.device]) -> None:
    """Moves modules to devices, from which the call of another network or of the decoder has sent them away.

    Autograd refers to the parameters, and uses their data at the time of the backward pass. The modules' hooks are not
    called, because those would send other modules away whose backward pass is due too.
    """
    for module, device in modules.items():
        if not is_on(module, device):
            module.to(device)


def check_offload(pipe: Any, through_network: bool) -> None:
    """Checks that no differentiated module is group-offloaded or casts its weights layer by layer: in the backward pass
    its weights would be missing, or in the dtype in which they are stored.

    Args:
        pipe: the pipeline.
        through_network: whether the gradient is taken through the network, or only through the decoder.
    Raises:
        ValueError: if one is.
    """
    decoder = decoder_of(pipe)
    decoders = [(name, decoder) for name in DECODERS if getattr(pipe, name, None) is decoder is not None]
    for name, module in decoders + (list(networks_of(pipe)) if through_network else []):
        for hook, (problem, advice) in HOOKS.items():
            if any(has_hook(part, hook) for part in module.modules()):
                advice = advice if module is decoder else f"pass gradient_at='x0', or {advice}"
                raise ValueError(f"the pipeline's {name} {problem}; {advice}")


def has_hook(module: nn.Module, name: str) -> bool:
    """Whether a module has a hook of diffusers."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook(name) is not None

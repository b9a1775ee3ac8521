"""Support for offloaded networks, whose weights are needed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

NETWORKS = ("unet", "transformer", "transformer_2", "controlnet")


def networks_of(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    """The pipeline's denoising networks, by name."""
    named = ((name, getattr(pipe, name, None)) for name in NETWORKS)
    return ((name, network) for name, network in named if isinstance(network, nn.Module))


def load_offloaded_networks(pipe: Any) -> None:
    """Loads the networks that `enable_model_cpu_offload` offloaded when the decoder was called after them.

    Autograd refers to the parameters, and uses their data at the time of the backward pass.
    """
    for _, network in networks_of(pipe):
        hook = getattr(network, "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            if type(part).__name__ == "CpuOffload":
                part.pre_forward(network)


def check_offload(pipe: Any, through_network: bool) -> None:
    """Checks that no differentiated module is group-offloaded: its weights would be missing in the backward pass.

    Args:
        pipe: the pipeline.
        through_network: whether the gradient is taken through the network, or only through the decoder.
    Raises:
        ValueError: if one is.
    """
    vae = getattr(pipe, "vae", None)
    parts = [("vae", vae)] if isinstance(vae, nn.Module) else []
    for name, module in parts + (list(networks_of(pipe)) if through_network else []):
        if any(is_group_offloaded(part) for part in module.modules()):
            advice = "use enable_model_cpu_offload or enable_sequential_cpu_offload"
            raise ValueError(
                f"the pipeline's {name} is group-offloaded, which removes its weights before the backward pass; "
                + (f"pass gradient_at='x0', or {advice}" if name != "vae" else advice)
            )


def is_group_offloaded(module: nn.Module) -> bool:
    """Whether diffusers' group offloading is on for a module."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None

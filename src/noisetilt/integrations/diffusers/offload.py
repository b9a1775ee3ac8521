"""Networks that are kept elsewhere between their calls: what the way back through them needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

NETWORKS = ("unet", "transformer", "transformer_2", "controlnet")


def networks_of(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    """The pipeline's denoising networks, by name."""
    named = ((name, getattr(pipe, name, None)) for name in NETWORKS)
    return ((name, network) for name, network in named if isinstance(network, nn.Module))


def fetch_back(pipe: Any) -> None:
    """Loads the networks that `enable_model_cpu_offload` sent away when the decoder came after them.

    Autograd keeps their weights by name: it finds them where they are when it goes back.
    """
    for _, network in networks_of(pipe):
        hook = getattr(network, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            if type(one).__name__ == "CpuOffload":
                one.pre_forward(network)


def check_offload(pipe: Any, through: bool) -> None:
    """Refuses group offloading of what is differentiated: its weights leave a group at a time, also on the way back.

    Args:
        pipe: the pipeline.
        through: whether the gradient goes through the network; else through the decoder alone.
    Raises:
        ValueError: in one sentence.
    """
    vae = getattr(pipe, "vae", None)
    parts = [("vae", vae)] if isinstance(vae, nn.Module) else []
    for name, module in parts + (list(networks_of(pipe)) if through else []):
        if any(is_group_offloaded(part) for part in module.modules()):
            advice = "use enable_model_cpu_offload or enable_sequential_cpu_offload"
            raise ValueError(
                f"the pipeline's {name} is group-offloaded, which leaves no weights for the way back of the gradient; "
                + (f"pass gradient_at='x0', or {advice}" if name != "vae" else advice)
            )


def is_group_offloaded(module: nn.Module) -> bool:
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None

"""Reads the networks of the learned rewards, without parameter gradients."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..checksums import digest_of, read_verified

Network = TypeVar("Network", bound=nn.Module)
Load = TypeVar("Load", bound=Callable[..., Any])
VERSIONS = ("target", "heldout")


def read_state(folder: Path, name: str) -> dict[str, Tensor]:
    """The float32 weights of a file `name.safetensors`, whose SHA-256 is in the folder's checksums.json.

    Raises:
        ValueError: if the file is missing or differs from the published one.
    """
    file = folder / f"{name}.safetensors"
    state, _ = read_verified(file, digest_of(folder, file.name))
    return {key: value.float() for key, value in state.items()}


def one_per_device(load: Load) -> Load:
    """A function that loads networks, with an argument `device`; each network is loaded once on each device.

    The first call may be in inference mode, whose tensors later calls could not differentiate through.
    """
    signature, cached = inspect.signature(load), functools.cache(torch.inference_mode(False)(load))

    @functools.wraps(load)
    def loaded(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options)
        given.apply_defaults()
        given.arguments["device"] = torch.device(given.arguments["device"])
        return cached(*given.args, **given.kwargs)

    return loaded  # type: ignore[return-value]


def frozen(network: Network, state: dict[str, Tensor], device: str | torch.device) -> Network:
    """The network with these weights on a device, in evaluation mode and channels-last."""
    network.load_state_dict(state)
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def check_version(which: str, kind: str) -> None:
    """Raises a ValueError if there is no version of the learned rewards of this name."""
    if which not in VERSIONS:
        raise ValueError(f"there is no {kind} {which!r}; expected one of {', '.join(VERSIONS)}")

"""Context managers that change a pipeline during a call and restore it afterwards."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .offload import decoder_of, networks_of

_LOCK = threading.Lock()
_RUNNING: weakref.WeakSet[Any] = weakref.WeakSet()


@contextlib.contextmanager
def exclusive(pipe: Any) -> Iterator[None]:
    """One guided call of a pipeline at a time: each changes the pipeline, and restores what it has found.

    Raises:
        RuntimeError: if one runs, in this thread or in another one.
    """
    with _LOCK:
        if pipe in _RUNNING:
            raise RuntimeError(overlapping(pipe))
        _RUNNING.add(pipe)
    try:
        yield
    finally:
        with _LOCK:
            _RUNNING.discard(pipe)


def overlapping(pipe: Any) -> str:
    """The reason against a call of a pipeline during another one."""
    name = type(pipe).__name__
    return (
        f"{name} is called while an aligned call of the same pipeline runs, in another thread or in a reward or "
        f"callback of the call; make the calls one after the other, or make another pipeline before, by "
        f"{name}.from_pipe(pipe)"
    )


def modules_of(pipe: Any) -> list[nn.Module]:
    """The components of a pipeline that are torch modules."""
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


@contextlib.contextmanager
def frozen(pipe: Any) -> Iterator[None]:
    """Turns off the gradients of all parameters, so that autograd keeps only the graph from x_t to x̂_0.

    The dtype of the autoencoder is restored too.
    """
    named = [(module, dict(module.named_parameters())) for module in modules_of(pipe)]
    trainable = [(module, name) for module, own in named for name, p in own.items() if p.requires_grad]
    decoder = decoder_of(pipe)
    dtype = None if decoder is None else decoder.dtype
    try:
        for module, name in trainable:
            module.get_parameter(name).requires_grad_(False)
        yield
    finally:
        # By name, because sequential offloading replaces the parameters.
        for module, name in trainable:
            parameter = module.get_parameter(name)
            with torch.inference_mode(parameter.is_inference()):
                parameter.requires_grad_(True)
        if decoder is not None and decoder.dtype != dtype:
            decoder.to(dtype)


def without_inference_mode(value: Any) -> Any:
    """A copy of a tensor that was made in inference mode, which autograd cannot save; also in a list. Other values are
    returned unchanged.
    """
    if isinstance(value, list):
        return [without_inference_mode(item) for item in value]
    return value.clone() if torch.is_tensor(value) and value.is_inference() else value


@contextlib.contextmanager
def normal_weights(pipe: Any) -> Iterator[None]:
    """Copies the weights of networks and decoder that were made in inference mode, during the context."""
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    parts = [*(network for _, network in networks_of(pipe)), decoder_of(pipe)]
    own: Any  # a parameter's place may hold a plain tensor for the time of a call
    for module in (m for part in parts if isinstance(part, nn.Module) for m in part.modules()):
        for own in (module._parameters, module._buffers):
            replaced += [(own, name, t) for name, t in own.items() if t is not None and t.is_inference()]
    try:
        for own, name, tensor in replaced:
            copy = tensor.detach().clone()
            own[name] = nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy
        yield
    finally:
        for own, name, tensor in replaced:
            own[name] = tensor


@contextlib.contextmanager
def temporarily_set(pipe: Any, **changes: Any) -> Iterator[None]:
    """Sets attributes temporarily. They bypass diffusers' __setattr__, which would write them into the config."""
    own = vars(pipe)
    before = {name: own[name] for name in changes if name in own}
    try:
        own.update(changes)
        yield
    finally:
        _restore(own, before, changes.keys() - before.keys())


@contextlib.contextmanager
def restored(pipe: Any) -> Iterator[None]:
    """Restores all attributes of a pipeline."""
    own = vars(pipe)
    before = dict(own)
    try:
        yield
    finally:
        _restore(own, before, own.keys() - before.keys())


def _restore(own: dict[str, Any], before: dict[str, Any], added: Iterable[str]) -> None:
    """Restores attributes one by one: another thread that reads them meanwhile must find them all."""
    own.update(before)
    for name in list(added):
        own.pop(name, None)


@contextlib.contextmanager
def complete(pipe: Any) -> Iterator[None]:
    """Gives networks the attribute that says whether they use checkpointing, which some classes of diffusers read but
    do not set.
    """
    modules: list[Any] = modules_of(pipe)
    able = (module for module in modules if getattr(module, "_supports_gradient_checkpointing", False))
    changed = [module for module in able if not hasattr(module, "gradient_checkpointing")]
    try:
        for module in changed:
            module.gradient_checkpointing = False
        yield
    finally:
        for module in changed:
            del module.gradient_checkpointing


@contextlib.contextmanager
def checkpointed(pipe: Any) -> Iterator[None]:
    """Turns on gradient checkpointing temporarily in the networks and the decoder that support it."""
    networks = [*(network for _, network in networks_of(pipe)), decoder_of(pipe)]
    able = [n for n in networks if getattr(n, "_supports_gradient_checkpointing", False)]
    changed = [n for n in able if not n.is_gradient_checkpointing]
    try:
        for network in changed:
            network.enable_gradient_checkpointing()
        yield
    finally:
        for network in changed:
            network.disable_gradient_checkpointing()

"""Callbacks of a pipeline's call: diffusers calls them without gradients, and with latents in its scheduler's scale."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

CALLBACKS = ("callback_on_step_end", "callback")
TENSOR_INPUTS = "callback_on_step_end_tensor_inputs"


class Latents(Protocol):
    """What callbacks need to know of the call's latents."""

    @property
    def to_pipeline(self) -> float:
        """The factor from the present states to the latents of the pipeline's own scheduler."""

    def note_replaced(self, latents: Tensor) -> None:
        """Notes what the pipeline goes on with after a callback."""


def as_pipelines_own(call: dict[str, Any], latents: Latents) -> dict[str, Any]:
    """The arguments of a call, with callbacks that get what they get without guidance: tensors without gradients, and
    latents in the scale of the pipeline's scheduler."""
    given = {name: call[name] for name in CALLBACKS if callable(call.get(name))}
    changed = {name: _noting(_detaching(_rescaling(callback, latents)), latents) for name, callback in given.items()}
    # Pipelines read them from the objects of diffusers' classes, and would not from a function.
    inputs = getattr(call.get(CALLBACKS[0]), "tensor_inputs", None)
    return {**call, **changed} if inputs is None else {**call, **changed, TENSOR_INPUTS: inputs}


def _noting(callback: Callable[..., Any], latents: Latents) -> Callable[..., Any]:
    """The callback, whose result the call notes."""

    @functools.wraps(callback, updated=())
    def noting(*args: Any, **kwargs: Any) -> Any:
        result = callback(*args, **kwargs)
        if isinstance(result, dict) and torch.is_tensor(result.get("latents")):
            latents.note_replaced(result["latents"])
        return result

    return noting


def _rescaling(callback: Callable[..., Any], latents: Latents) -> Callable[..., Any]:
    """The callback with latents in the pipeline's scale, for states in that of the sampler."""

    @functools.wraps(callback, updated=())
    def rescaled(*args: Any, **kwargs: Any) -> Any:
        factor = latents.to_pipeline
        if factor == 1:
            return callback(*args, **kwargs)
        given: list[tuple[Tensor, int, Tensor]] = []

        def scaled(states: Tensor) -> Tensor:
            own = factor * states
            given.append((own, own._version, states))
            return own

        def of_argument(value: Any) -> Any:
            if isinstance(value, dict) and torch.is_tensor(value.get("latents")):
                return {**value, "latents": scaled(value["latents"])}
            return scaled(value) if torch.is_tensor(value) and value.ndim > 1 else value

        result = callback(*map(of_argument, args), **{name: of_argument(value) for name, value in kwargs.items()})
        for own, version, states in given:
            if own._version != version:
                states.copy_(own / factor)
        if not isinstance(result, dict) or not torch.is_tensor(result.get("latents")):
            return result
        new = result["latents"]
        states = next((states for own, _, states in given if own is new), None)
        return {**result, "latents": new / factor if states is None else states}

    return rescaled


def _detaching(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The callback without gradients, which returns the tensors that it does not replace as they were."""

    @functools.wraps(callback, updated=())
    def detached(*args: Any, **kwargs: Any) -> Any:
        # Pairs of each tensor with its own detached one, which is kept as long as its id is looked up.
        pairs: dict[int, tuple[Tensor, Tensor]] = {}

        def detach(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            own = tensor.detach()
            pairs[id(own)] = own, tensor
            return own

        with torch.no_grad():
            given = tree_map_only(Tensor, detach, (args, kwargs))
            result = callback(*given[0], **given[1])
        found = tree_map_only(Tensor, lambda tensor: pairs.get(id(tensor), (None, tensor))[1], result)
        return _differentiable(found, args) if isinstance(found, dict) else found

    return detached


def _differentiable(result: dict[str, Any], args: tuple) -> dict[str, Any]:
    """A callback's result, in which what replaces a tensor with a gradient has that gradient."""
    before = next((given for given in args if isinstance(given, dict)), {})

    def connected(new: Any, old: Any) -> Any:
        both = torch.is_tensor(old) and torch.is_tensor(new)
        if not both or not old.requires_grad or new.requires_grad or not new.is_floating_point():
            return new
        if new.shape != old.shape:
            return new.detach().requires_grad_()
        return new + (old - old.detach()).to(new)

    return {name: connected(new, before.get(name)) for name, new in result.items()}

"""Callbacks of a pipeline's call, which diffusers calls without gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

CALLBACKS = ("callback_on_step_end", "callback")
TENSOR_INPUTS = "callback_on_step_end_tensor_inputs"


def without_gradients(call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with callbacks that get tensors without gradients, as in diffusers."""
    given = {name: call[name] for name in CALLBACKS if callable(call.get(name))}
    changed = {name: _detaching(callback) for name, callback in given.items()}
    # Pipelines read them from the objects of diffusers' classes, and would not from a function.
    inputs = getattr(call.get(CALLBACKS[0]), "tensor_inputs", None)
    return {**call, **changed} if inputs is None else {**call, **changed, TENSOR_INPUTS: inputs}


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

"""Gradients through networks whose weights were made in `torch.inference_mode`, as ComfyUI's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PLAIN = (Tensor, torch.nn.Parameter)


def normal_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or an ordinary tensor on the same memory if it was made in inference mode.

    Autograd cannot save a tensor that was made in inference mode. An ordinary tensor on the same storage holds the same
    values without a copy. Subclasses, such as quantised tensors, are returned unchanged.
    """
    if type(tensor) not in PLAIN or not tensor.is_inference() or tensor.layout != torch.strided:
        return tensor
    view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return view.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


class NormalTensors(TorchFunctionMode):
    """Context in which every torch function is given ordinary tensors in place of those made in inference mode.

    It covers whatever a network uses: weights, conditioning, constants outside of modules, control networks and
    patches. No weight is copied or replaced. The cost is about 10 µs per torch function and 15 µs per inference tensor
    on the CPU. Inference mode itself must be off: `torch.inference_mode(False)`.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.__name__ == "__set__":  # an assignment to an attribute, such as .data, is for the tensor itself
            return function(*args, **kwargs)
        return function(*map(_replaced, args), **{name: _replaced(value) for name, value in kwargs.items()})


def _replaced(value: Any) -> Any:
    if isinstance(value, Tensor):
        return normal_tensor(value)
    return type(value)(map(_replaced, value)) if type(value) in (list, tuple) else value

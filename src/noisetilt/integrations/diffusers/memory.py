"""Counts the memory of tensors while a program runs, on any device, the meta device included."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are created inside the context, until they are freed.

    Storages are counted, not tensors: a view takes no memory and keeps its storage alive. On the meta device nothing
    is computed and the count is the same. The workspaces of kernels are not counted.

    Args:
        known: modules and tensors whose memory is not counted.
    Attributes:
        live, peak: bytes allocated now, and the maximum so far.
    """

    def __init__(self, known: Iterable[nn.Module | Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for one in known:
            tensors = [one] if torch.is_tensor(one) else [*one.parameters(), *one.buffers()]
            for tensor in tensors:
                self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        return result

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            size = storage.nbytes()
            self._known[storage] = True
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, size)
        return tensor

    def _forget(self, size: int) -> None:
        self.live -= size


class _Fused(torch.autograd.Function):
    """Allocates what fused attention (Dao et al. 2022, arXiv 2205.14135) allocates, without computing its values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Replaces attention by a function that keeps the same tensors for its gradient as the fused kernels of GPUs:
    queries, keys, values, the output and a log-sum per row. On the meta device torch would keep the full attention
    matrix. The function computes no values, so it is for counting only."""
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _Fused.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original

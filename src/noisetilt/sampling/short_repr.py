"""A `repr` for results: shapes of large tensors and values of short ones, so that a result prints as a few lines."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

MAX_VALUES = 8


class ShortRepr:
    """Base of dataclasses (with `repr=False`) whose tensors are printed as a shape, or as values if there are few."""

    def __repr__(self) -> str:
        shown = [f"{part.name}={_short(getattr(self, part.name))}" for part in fields(self) if part.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        few = value.ndim == 1 and len(value) <= MAX_VALUES
        return _values(value.tolist()) if few else f"tensor{tuple(value.shape)}"
    if isinstance(value, list | tuple) and len(value) > MAX_VALUES:
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, list) and value and all(isinstance(number, float) for number in value):
        return _values(value)
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _values(numbers: list[Any]) -> str:
    return f"[{', '.join(f'{n:.4g}' if isinstance(n, float) else str(n) for n in numbers)}]"

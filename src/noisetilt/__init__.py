"""noisetilt: inference-time alignment of diffusion and flow models by noise-tilted sampling."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import noise, path, rewards
    from .integrations.diffusers import align
    from .integrations.load import load
    from .inversion import InversionResult, invert
    from .methods import METHODS, Method
    from .sampling import Result, optimize, sample

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "InversionResult",
    "Method",
    "Result",
    "align",
    "invert",
    "load",
    "noise",
    "optimize",
    "path",
    "rewards",
    "sample",
]

_HOME = {
    "METHODS": "methods",
    "Method": "methods",
    "align": "integrations.diffusers",
    "load": "integrations.load",
    "InversionResult": "inversion",
    "Result": "sampling",
    "invert": "inversion",
    "optimize": "sampling",
    "sample": "sampling",
}


def __getattr__(name: str) -> Any:
    # Imported when first used: torch takes seconds, and `noisetilt --help` has no need of it.
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name in ("noise", "path", "rewards"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'noisetilt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Images, plots and text tables for the command line, the benchmark and the recipes.

The names below are imported when they are first used, because `pictures` needs torch and the plots do not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pictures import encode_picture, file_stem, grid, save_animation, save_image, save_picture, to_image
    from .tables import table

__all__ = [
    "encode_picture",
    "file_stem",
    "grid",
    "save_animation",
    "save_image",
    "save_picture",
    "table",
    "to_image",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(".tables" if name == "table" else ".pictures", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

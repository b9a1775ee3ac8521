"""Models that `noisetilt.load` knows, and exact ones for ground truth."""

from __future__ import annotations

from typing import Any

MODELS = {"emoji64": "64×64 emoji in the styles 3d, noto and twemoji: a pixel-space flow transformer that ships along"}


def load(name: str, **options: Any) -> Any:
    """A model by name, ready for `sample`.

    Args:
        name: one of MODELS.
        options: passed to the model: for emoji64 `guidance` (default 2.0), `device`, `dtype`.
    Raises:
        ValueError: if no model has that name.
    """
    if name == "emoji64":
        from .emoji64.model import Emoji64Model

        return Emoji64Model(**options)
    raise ValueError(f"model {name!r} is unknown; the models are: {', '.join(MODELS)}")

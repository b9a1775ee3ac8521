"""Models for `noisetilt.load`, and exact models with a known posterior mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODELS = {
    "emoji128": "128×128 emoji in the styles 3d, noto, twemoji, flat and blob: a small diffusers FluxPipeline",
    "emoji64": "64×64 emoji in the styles 3d, noto and twemoji: a pixel-space flow transformer with included weights",
    "emoji64-turbo": "emoji64 distilled to one step, for noise ascent; 2 or 4 steps refine the images",
}


def _check_device(device: Any) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device = {str(device)!r} is not available: {reason}; use 'cpu'") from None


def load(name: str | Path, **options: Any) -> Any:
    """Load a model by name, for `sample` and `optimize`.

    Args:
        name: one of MODELS, or the folder of a diffusers FluxPipeline as `save_pretrained` writes it.
        options: passed to the model: `device`, `dtype` and, except for emoji64-turbo, `guidance` (default 2.0 for
            emoji64, 3.0 for the others). None means the default.
    Raises:
        ImportError: if the model needs diffusers and it is not installed.
        ValueError: if no model has this name, the device is not available, or guidance is given for emoji64-turbo.
    """
    import torch

    # Tensors made in inference mode have no gradients.
    with torch.inference_mode(False):
        return _load(name, {k: v for k, v in options.items() if v is not None})


def _load(name: str | Path, options: dict[str, Any]) -> Any:
    _check_device(options.get("device", "cpu"))
    if name == "emoji128":
        from .flux import emoji128

        return emoji128(**options)
    if name in MODELS:
        from .emoji64.model import Emoji64Model, turbo

        return {"emoji64": Emoji64Model, "emoji64-turbo": turbo}[name](**options)
    if Path(name).is_dir():
        from .flux import load_folder

        return load_folder(Path(name), **options)
    raise ValueError(
        f"model {str(name)!r} is unknown; the models are: {', '.join(MODELS)}, or give the folder of a FluxPipeline"
    )

"""Models for `noisetilt.load`, and exact models with a known posterior mean."""

from __future__ import annotations

from typing import Any

from .._messages import unknown_name

MODELS = {
    "emoji128": "128×128 emoji in the styles 3d, noto, twemoji, flat and blob: a small diffusers FluxPipeline",
    "emoji128-turbo": "emoji128 distilled to one step, for noise ascent; 2 or 4 steps refine the images",
}


def check_device(device: Any) -> None:
    """Raises a ValueError if a torch device is not available."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if "Expected one of" in str(error):
            raise ValueError(f"device = {str(device)!r} is unknown; use 'cpu' or 'cuda'") from None
        reason = str(error).splitlines()[0]
        raise ValueError(f"device = {str(device)!r} is not available: {reason}; use 'cpu'") from None
    if torch.device(device).type == "meta":
        raise ValueError("device = 'meta' holds no numbers; use 'cpu' or 'cuda'")


def load(name: str, **options: Any) -> Any:
    """Load an included model by name; `noisetilt.load` also loads diffusers pipelines.

    Args:
        name: one of MODELS.
        options: passed to the model: `device`, `dtype` and, except for emoji128-turbo, `guidance` (default 3, trained
            for 1 to 5). None means the default.
    Raises:
        ImportError: if diffusers is not installed.
        ValueError: if no model has this name, the device is not available, guidance is not a finite number, or any but
            1 is given for emoji128-turbo.
    """
    import torch

    # Tensors made in inference mode have no gradients.
    with torch.inference_mode(False):
        return _load(name, {k: v for k, v in options.items() if v is not None})


def _load(name: str, options: dict[str, Any]) -> Any:
    check_device(options.get("device", "cpu"))
    if name not in MODELS:
        raise ValueError(unknown_name("model", name, MODELS))
    from .flux import emoji128, emoji128_turbo

    return {"emoji128": emoji128, "emoji128-turbo": emoji128_turbo}[name](**options)

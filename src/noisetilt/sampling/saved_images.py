"""Results as files: a PNG per image with its prompt and seed, and the figures as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..runs import make_folder, write_bytes, write_json
from .notebook_view import to_pil

FRAME_MILLISECONDS = 60


def save_images(
    folder: str | Path,
    images: Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    figures: Mapping[str, Any],
    noise: Tensor | None = None,
) -> None:
    """Write image-0.png, image-1.png, … and result.json, and the noise, if there is one, as noise.safetensors.

    Each PNG has its prompt and seed as JSON in the text chunk "noisetilt". Each file is written as a whole or not at
    all; one of the same name is replaced.

    Args:
        folder: is made unless it exists.
        images: (image, 3, H, W) in [0, 1], or videos (image, frame, 3, H, W), which become animated PNG files.
        prompts, seeds: one per image, or none if they are not known.
        figures: for result.json, besides prompts and seeds.
        noise: (image, *event).

    Raises:
        FloatingPointError: if an image is not finite; nothing is written.
        OSError: if a file cannot be written; names the file.
    """
    folder, finite = Path(folder), images.isfinite().flatten(1).all(1)
    if not finite.all():
        raise FloatingPointError(f"image {int((~finite).nonzero()[0])} has values that are not finite; none is saved")
    seeds = [int(seed) for seed in seeds]
    make_folder(folder)
    for number, image in enumerate(images):
        known = {"prompt": prompts[number], "seed": seeds[number]} if prompts else {}
        write_bytes(folder / f"image-{number}.png", _encoded(image, known))
    if noise is not None:
        write_bytes(folder / "noise.safetensors", to_safetensors({"noise": noise.detach().cpu().contiguous()}))
    write_json(folder / "result.json", {"prompts": list(prompts), "seeds": seeds, **figures})


def _encoded(image: Tensor, settings: Mapping[str, Any]) -> bytes:
    """An image (3, H, W) or a video (frame, 3, H, W) as PNG."""
    text, stream = PngInfo(), io.BytesIO()
    text.add_text("noisetilt", json.dumps(settings))
    first, *others = [to_pil(frame) for frame in (image if image.ndim == 4 else [image])]
    animation: dict[str, Any] = (
        dict(save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0) if others else {}
    )
    first.save(stream, "PNG", pnginfo=text, **animation)
    return stream.getvalue()

"""Results as HTML for notebooks: images as inline PNG files with their rewards below."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

MAX_IMAGES = 16
MAX_SIDE = 256  # pixels of the longer side, as shown and as encoded
MIN_SIDE = 96


def figures_html(images: Tensor, values: Mapping[str, Tensor | Sequence[float | str] | None], summary: str = "") -> str:
    """The first MAX_IMAGES images, each with its values below.

    Args:
        images: (image, 3, H, W) or videos (image, frame, 3, H, W), of which the first frame is shown; in [0, 1].
        values: label → one number or text per image; None is left out.
        summary: a line of text below the images.
    """
    given = {label: column for label, column in values.items() if column is not None}
    cells = [
        _figure(image, [f"{label} {_text(column[i])}".strip() for label, column in given.items()])
        for i, image in enumerate(images[:MAX_IMAGES])
    ]
    notes = [summary] if summary else []
    if len(images) > MAX_IMAGES:
        notes.append(f"{MAX_IMAGES} of {len(images)} images are shown")
    if images.ndim == 5:
        notes.append(f"the first of {images.shape[1]} frames is shown")
    text = f'<div style="font-size: 85%">{html.escape("; ".join(notes))}</div>' if notes else ""
    return f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{"".join(cells)}</div>{text}'


def _text(value: Tensor | float | str) -> str:
    if isinstance(value, str):
        return value
    number = float(value)
    return f"{number:.0f}" if number.is_integer() else f"{number:.3g}"


def _figure(image: Tensor, lines: Sequence[str]) -> str:
    """One image with its lines of text."""
    picture = to_pil(image[0] if image.ndim == 4 else image)
    longer = max(picture.size)
    if longer > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    encoded = base64.b64encode(stream.getvalue()).decode()
    width = round(picture.width * max(1.0, MIN_SIDE / max(picture.size)))
    text = "<br>".join(html.escape(line) for line in lines)
    return (
        f'<figure style="margin: 0; text-align: center; font-size: 85%">'
        f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(", ".join(lines), quote=True)}" '
        f'width="{width}" style="max-width: 100%; margin: 0; image-rendering: auto">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def to_pil(image: Tensor) -> Image.Image:
    """An image (3, H, W) in [0, 1] for Pillow; values that are not finite are 0 or 1."""
    levels = (image.detach().float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())

"""Image files: PNG with the settings as metadata, grids with labels, animations."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..runs import write_bytes


def file_stem(prompt: str) -> str:
    """A prompt as the first part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"


def to_image(picture: Tensor) -> Image.Image:
    """A picture (3, H, W) in [0, 1] as a PIL image."""
    levels = (picture.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def encode_picture(picture: Tensor, settings: Mapping[str, Any], milliseconds: int = 60) -> bytes:
    """A PNG with its settings as JSON in the text chunk "noisetilt".

    A video (frame, 3, H, W) is an animated PNG, with this time per frame.
    """
    text, stream = PngInfo(), io.BytesIO()
    text.add_text("noisetilt", json.dumps(settings))
    if picture.ndim == 3:
        to_image(picture).save(stream, "PNG", pnginfo=text)
    else:
        frames = [to_image(frame) for frame in picture]
        animation: dict[str, Any] = dict(append_images=frames[1:], duration=milliseconds, loop=0)
        frames[0].save(stream, "PNG", save_all=True, pnginfo=text, **animation)
    return stream.getvalue()


def save_picture(picture: Tensor, file: Path, settings: Mapping[str, Any], milliseconds: int = 60) -> None:
    """Writes a PNG as `encode_picture` makes it, as a whole or not at all."""
    write_bytes(file, encode_picture(picture, settings, milliseconds))


def save_image(image: Image.Image, file: Path) -> None:
    """Writes a PIL image as PNG, as a whole or not at all."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    write_bytes(file, stream.getvalue())


def grid(rows: Sequence[tuple[str, Sequence[Tensor]]], scale: int = 2, gap: int = 4, per_line: int = 8) -> Image.Image:
    """Labelled rows of pictures (3, H, W) in [0, 1]; each row breaks into lines of `per_line` pictures.

    Raises:
        ValueError: if there is no picture.
    """
    if not rows or not all(pictures for _, pictures in rows):
        raise ValueError("a row of the grid has no picture; give at least one per row")
    height, width = rows[0][1][0].shape[1:]
    cell_h, cell_w, label_h = height * scale, width * scale, 18
    columns = min(per_line, max(len(pictures) for _, pictures in rows))
    lines = [-(-len(pictures) // per_line) for _, pictures in rows]
    sheet = Image.new(
        "RGB",
        (columns * (cell_w + gap) + gap, sum(n * (cell_h + gap) + label_h for n in lines) + gap),
        "white",
    )
    draw, top = ImageDraw.Draw(sheet), gap
    for (label, pictures), count in zip(rows, lines, strict=True):
        draw.text((gap + 1, top), label, fill="black", font_size=13)
        top += label_h
        for i, picture in enumerate(pictures):
            tile = to_image(picture).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + (i % per_line) * (cell_w + gap), top + (i // per_line) * (cell_h + gap)))
        top += count * (cell_h + gap)
    return sheet


def save_animation(frames: Sequence[Image.Image], file: Path, milliseconds: int = 120) -> None:
    """Writes an animated PNG that stays on its last frame for a second; viewers that know no such show the first."""
    times = [milliseconds] * (len(frames) - 1) + [1000]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], duration=times, loop=0)
    write_bytes(file, stream.getvalue())

"""Image files: PNG with the settings as metadata, grids with labels, animations."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..runs import to_json, write_bytes
from .text import break_lines, spelt

# Pixels: the least size of text, and the least width of a grid, so that its labels have room.
TEXT, MIN_WIDTH = 13, 240
# The width of a grid in sizes of its text: a page shows a wide grid smaller, and its labels are still read there.
WIDTH_IN_TEXT = 80


def file_stem(prompt: str) -> str:
    """A prompt as the first part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"


def to_image(picture: Tensor) -> Image.Image:
    """A picture (3, H, W) in [0, 1] as a PIL image.

    Raises:
        ValueError: if it is no tensor of this shape.
        FloatingPointError: if a value is not finite.
    """
    if not isinstance(picture, Tensor) or picture.ndim != 3 or len(picture) != 3:
        got = f"has shape {tuple(picture.shape)}" if isinstance(picture, Tensor) else f"is {type(picture).__name__}"
        raise ValueError(
            f"the picture {got}, expected a tensor (3, H, W); give one image of a batch, such as images[0]"
        )
    if not picture.isfinite().all():
        raise FloatingPointError("the picture has values that are not finite, expected [0, 1]; compute it in float32")
    levels = (picture.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def encode_picture(picture: Tensor, settings: Mapping[str, Any], milliseconds: int = 60) -> bytes:
    """A PNG with its settings as JSON in the text chunk "noisetilt".

    A video (frame, 3, H, W) is an animated PNG, with this time per frame.
    """
    text, stream = PngInfo(), io.BytesIO()
    text.add_text("noisetilt", to_json(settings))
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


def grid(
    rows: Sequence[tuple[str, Sequence[Tensor]]],
    scale: int = 2,
    gap: int = 4,
    per_line: int = 8,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Rows of images (3, H, W) in [0, 1], with a label above each row, broken into lines of `per_line` images.

    Args:
        rows: label → images; a row with an empty label follows the row above it closely.
        scale: by which the images are enlarged.
        gap: pixels between images.
        per_line: images in a line.
        captions: a text above each column.

    Raises:
        ValueError: if there is no image.
    """
    if not rows or not all(len(pictures) for _, pictures in rows):
        raise ValueError("a row of the grid has no picture; give at least one per row")
    height, width = (side * scale for side in rows[0][1][0].shape[1:])
    columns = min(per_line, max(len(pictures) for _, pictures in rows))
    across = max(gap + columns * (width + gap), MIN_WIDTH)
    size = max(TEXT, across // WIDTH_IN_TEXT)
    font, space = _font(size), _line_height(size)
    labels = [_lines(label, across - 2 * gap, size) if label else [] for label, _ in rows]
    headings = [_lines(caption, width, size) for caption in captions[:columns]]
    head = space * max(map(len, headings), default=0)
    heights = [
        space * len(label) + -(-len(pictures) // per_line) * (height + gap)
        for label, (_, pictures) in zip(labels, rows, strict=True)
    ]
    sheet = Image.new("RGB", (across, gap + head + sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), gap + head
    for i, lines in enumerate(headings):
        for j, line in enumerate(lines):
            middle = gap + i * (width + gap) + (width - font.getlength(line)) / 2
            draw.text((middle, gap + space * j), line, fill="black", font=font)
    for lines, (_, pictures), below in zip(labels, rows, heights, strict=True):
        for j, line in enumerate(lines):
            draw.text((gap, top + space * j), line, fill="black", font=font)
        for i, picture in enumerate(pictures):
            tile = to_image(picture).resize((width, height), Image.Resampling.NEAREST)
            row, column = divmod(i, per_line)
            sheet.paste(tile, (gap + column * (width + gap), top + space * len(lines) + row * (height + gap)))
        top += below
    return sheet


@functools.cache
def _font(size: int = TEXT) -> Any:
    return ImageFont.load_default(size)


def _line_height(size: int) -> int:
    return round(1.4 * size)


@functools.cache
def _font_has(character: str) -> bool:
    """Whether the font has a sign for a character, and not the box for those that it lacks."""
    return character.isspace() or bytes(_font().getmask(character)) != bytes(_font().getmask("\ufffe"))


def _lines(text: str, width: float, size: int = TEXT) -> list[str]:
    return break_lines(spelt(text, _font_has), lambda line: _font(size).getlength(line) <= width, most=4)


def save_animation(frames: Sequence[Image.Image], file: Path, milliseconds: int = 120) -> None:
    """Writes an animated WebP that stays on its last frame for a second and a half, and repeats.

    Smaller frames are extended with white to the size of the largest.

    Raises:
        ValueError: if there is no frame.
    """
    if not frames:
        raise ValueError("the animation has no frame; give at least one")
    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    sheets = [_extended(frame, size) for frame in frames]
    times = [milliseconds] * (len(sheets) - 1) + [1500]
    stream = io.BytesIO()
    sheets[0].save(stream, "WEBP", save_all=True, append_images=sheets[1:], duration=times, loop=0, quality=90)
    write_bytes(file, stream.getvalue())


def _extended(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    sheet = Image.new("RGB", size, "white")
    sheet.paste(frame)
    return sheet

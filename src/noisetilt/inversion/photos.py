"""Photographs of any size and mode as images of a model's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

MAX_SIDE = 30_000


def read_photo(source: str | Path | Image.Image, size: tuple[int, int]) -> Tensor:
    """A photograph, turned upright, cropped to the centre and resized.

    Args:
        source: a file that Pillow reads, or an image of Pillow. The EXIF orientation is applied, transparency is shown
            on white, and the first frame of an animation is used.
        size: height and width of the result in pixels.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no image, is damaged, or has a side of more than 30000 pixels.
    """
    if isinstance(source, Image.Image):
        return fit(_to_tensor(_upright_rgb(source)), size)
    file = Path(source)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give an image file that exists")
    try:
        with Image.open(file) as stored:
            if max(stored.size) > MAX_SIDE:
                raise ValueError(f"a side has more than {MAX_SIDE} pixels")
            stored.seek(0)
            image = _upright_rgb(stored)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, MemoryError) as error:
        raise ValueError(f"{file} cannot be read as an image: {error}; give a PNG, JPEG or WebP file") from None
    return fit(_to_tensor(image), size)


def _upright_rgb(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied, as RGB; transparent pixels become white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if image.mode == "P" or "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits, 32 bits or floats as 8 bits.

    Its range is [0, 1], [0, 255] or [0, 65535], whichever is the smallest that holds all values.
    """
    levels = np.nan_to_num(np.asarray(image, np.float64))
    top = levels.max()
    full = 65535 if top > 255 or image.mode.startswith("I;16") else 1 if image.mode == "F" and top <= 1 else 255
    return Image.fromarray((levels / full * 255).clip(0, 255).round().astype(np.uint8))


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (3, H, W), cropped at its centre to the aspect ratio of `size` and resized to it with antialiasing."""
    high, wide = size
    ratio = min(image.shape[1] / high, image.shape[2] / wide)
    rows, columns = (max(1, round(side * ratio)) for side in size)
    top, left = (image.shape[1] - rows) // 2, (image.shape[2] - columns) // 2
    cropped = image[:, top : top + rows, left : left + columns]
    if cropped.shape[1:] == torch.Size(size):
        return cropped
    return F.interpolate(cropped[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)

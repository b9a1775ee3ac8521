"""The noise of an earlier inversion, from its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .._messages import counted

NAME = "noise"


def read_noise(file: str | Path) -> Tensor:
    """The noise in a file that `InversionResult.save` or `noisetilt invert` wrote.

    Returns:
        (image, *event), or (*event) of one image, as it was written.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or has no noise.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give a .safetensors file that an inversion wrote")
    try:
        with safe_open(file, framework="pt") as stored:
            return stored.get_tensor(NAME)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} cannot be read as the noise of an inversion: {error}; give a .safetensors file that an inversion "
            "wrote"
        ) from None


def as_noise(noise: Tensor | str | Path, count: int, shape: Sequence[int]) -> Tensor:
    """The noise that an inversion starts from, (image, *shape) float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has another shape.
        FloatingPointError: if it is not finite.
    """
    if not isinstance(noise, Tensor):
        noise = read_noise(noise)
    if count == 1 and noise.shape == torch.Size(shape):
        noise = noise[None]
    expected = (count, *shape)
    if noise.shape != torch.Size(expected):
        images = counted(count, "image")
        raise ValueError(
            f"noise has the shape {tuple(noise.shape)}, expected {expected} for {images} of this model; give the noise "
            "that an inversion of these images with this model found"
        )
    if not (noise.is_floating_point() and noise.isfinite().all()):
        raise FloatingPointError("noise has values that are not finite numbers; give the noise that an inversion found")
    return noise.detach().float()

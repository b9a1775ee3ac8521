"""The preprocessing of published image encoders, in differentiable tensor operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..images import check_images

RESAMPLING = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as in preprocessor_config.json
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def resize(images: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """Images (batch, 3, H, W) in [0, 1] resized as PIL resizes 8-bit images, without the rounding.

    PIL filters along rows and clips to [0, 255], then filters along columns and clips again. With the same order and
    antialiasing, the remaining difference is PIL's rounding to integers: at most 1.1 of 255 levels, 0.4 in root mean
    square, measured on images of white noise. (From version 13, PIL filters columns first if they shrink much more;
    the published rewards are older.)
    """
    for size, of in (((images.shape[2], width), 3), ((height, width), 2)):
        if images.shape[of] != size[of - 2]:
            images = F.interpolate(images, size=size, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
    return images


Rounding = Literal["down", "even"]


def centre(images: Tensor, height: int, width: int, rounding: Rounding = "down") -> Tensor:
    """The middle of images (batch, 3, H, W), padded with black if they are smaller.

    Args:
        rounding: of half the number of pixels that are cut off: "down" as in transformers, or to the next even number
            as in torchvision's CenterCrop.
    """
    over_high, over_wide = images.shape[2] - height, images.shape[3] - width
    if over_high < 0 or over_wide < 0:
        high, wide = max(-over_high, 0), max(-over_wide, 0)
        images = F.pad(images, (-(-wide // 2), wide // 2, -(-high // 2), high // 2))
        over_high, over_wide = max(over_high, 0), max(over_wide, 0)
    top, left = (over // 2 if rounding == "down" else round(over / 2) for over in (over_high, over_wide))
    return images[:, :, top : top + height, left : left + width]


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop or pad, and normalise; every step has a gradient.

    Args:
        size: (height, width) of the encoder's input.
        fit: "stretch" resizes to it; "crop" resizes the shorter side to `shorter` and takes the middle; "pad" resizes
            the longer side to it as torchvision resizes tensors of floats, which does not clip, and pads with black.
        mean, std: of the normalisation, by channel.
        mode: "bicubic" or "bilinear".
        shorter: length of the shorter side before cropping; the smaller of `size` if None.
        rounding: of the place of the crop, see `centre`.
    """

    size: tuple[int, int]
    fit: Literal["stretch", "crop", "pad"] = "crop"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    mode: str = "bicubic"
    shorter: int | None = None
    rounding: Rounding = "down"

    def __call__(self, images: Tensor) -> Tensor:
        """The encoder's input (batch, 3, *size), in float32 or float64, from images (batch, 3, H, W) in [0, 1].

        Raises:
            ValueError: if they are not a float batch of about [0, 1], see `check_images`.
        """
        check_images(images)
        images = self._fitted(images.to(torch.promote_types(images.dtype, torch.float32)))
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std

    def _fitted(self, images: Tensor) -> Tensor:
        (height, width), (high, wide) = images.shape[2:], self.size
        if self.fit == "stretch":
            return resize(images, high, wide, self.mode)
        if self.fit == "crop":
            short, shorter = min(height, width), self.shorter or min(self.size)
            images = resize(images, shorter * height // short, shorter * width // short, self.mode)
            return centre(images, high, wide, self.rounding)
        scale = max(self.size) / max(height, width)
        if scale != 1:
            size = (round(height * scale), round(width * scale))
            images = F.interpolate(images, size, mode=self.mode, antialias=True, align_corners=False)
        high, wide = self.size[0] - images.shape[2], self.size[1] - images.shape[3]
        return F.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def resampling_of(processor: Any) -> str | None:
    """The interpolation of an image processor of transformers; None if it is not one of RESAMPLING."""
    number = getattr(processor, "resample", None)
    return None if number is None else RESAMPLING.get(int(number))


def normalisation_of(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation by channel of an image processor of transformers, 0 and 1 if it does not normalise;
    None if it has no three of them."""
    if not getattr(processor, "do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    mean, std = (tuple(np.ravel(getattr(processor, name, None)).tolist()) for name in ("image_mean", "image_std"))
    return (mean, std) if len(mean) == len(std) == 3 else None


def pixels_by(processor: Any, levels: np.ndarray) -> Tensor | None:
    """What an image processor of transformers makes of an 8-bit image (H, W, 3); None if that is no image."""
    made = processor(images=[levels], input_data_format="channels_last")
    return torch.as_tensor(np.asarray(made["pixel_values"])) if "pixel_values" in made else None


def preprocess_of(processor: Any, name: str) -> Preprocess:
    """The differentiable form of a transformers image processor; both are compared on images of two shapes.

    Args:
        processor: resizes by bicubic or bilinear interpolation, may crop the middle, and may normalise.
        name: of the model, for messages.
    Raises:
        ValueError: if they differ by more than the processor's rounding, because it has an unsupported step.
    """
    size, crop = dict(getattr(processor, "size", None) or {}), getattr(processor, "crop_size", None)
    crops = bool(getattr(processor, "do_center_crop", False)) and crop is not None
    shorter = size.get("shortest_edge")
    to = dict(crop) if crops else size
    refusal = f"{name}'s image processor does more than resize, crop the middle and normalise"
    advice = "write the reward as a function of images yourself"
    resampling, normalisation = resampling_of(processor), normalisation_of(processor)
    known = resampling is not None and normalisation is not None
    if not known or not to.get("height") or not to.get("width") or (crops and not shorter):
        raise ValueError(f"{refusal} (size {size}, crop {crop}); {advice}")
    preprocess = Preprocess(
        size=(to["height"], to["width"]),
        fit="crop" if shorter else "stretch",
        mean=normalisation[0],
        std=normalisation[1],
        mode=resampling,
        shorter=shorter,
    )
    worst = max(difference(preprocess, processor, shape) for shape in ((150, 210), (90, 63)))
    if worst > 2:
        raise ValueError(f"{refusal}: its output differs by {worst:.1f} of 255 levels from the expected one; {advice}")
    return preprocess


def difference(preprocess: Any, processor: Any, shape: tuple[int, int]) -> float:
    """The largest difference of two preprocessings on a smooth image (H, W), in levels; inf if their shapes differ or
    the processor makes no images."""
    across, down = np.meshgrid(np.linspace(0, 6 * np.pi, shape[1]), np.linspace(0, 5 * np.pi, shape[0]))
    waves = [np.sin(across + i) * np.cos(down - i) + 0.2 * np.sin(0.3 * across + 0.1 * down) for i in range(3)]
    levels = (128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)
    images = torch.from_numpy(levels).permute(2, 0, 1)[None] / 255
    expected = pixels_by(processor, levels)
    if expected is None:
        return float("inf")
    found = preprocess(images)
    if found.shape != expected.shape:
        return float("inf")
    return float(((found - expected).abs() * found.new_tensor(preprocess.std).view(1, 3, 1, 1)).max()) * 255

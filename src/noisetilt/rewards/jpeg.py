"""The size as a JPEG file, a black-box reward without gradient (Black et al. 2023, arXiv 2305.13301)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor


def kilobytes(image: Tensor, quality: int) -> float:
    """Size of one image (3, H, W) in [0, 1] as a JPEG, in units of 1000 bytes."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="JPEG", quality=quality)
    return buffer.tell() / 1000


def jpeg_size(sign: float, quality: int = 95) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """sign · size in kilobytes: −1 rewards small files (compressibility), +1 large ones; at least in float32."""

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        sizes = [kilobytes(image, quality) for image in images]
        dtype = torch.promote_types(images.dtype, torch.float32)  # half precision would round sizes of some kilobytes
        return sign * torch.tensor(sizes, device=images.device, dtype=dtype)

    return reward

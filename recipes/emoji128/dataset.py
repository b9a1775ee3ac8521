"""The packed images and their captions in memory, and augmentation."""

from __future__ import annotations

import io
import json
import math
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captions import STYLES, Vocabulary, Words, caption, encode
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Dataset:
    """n images with what is known of them.

    Attributes:
        pictures: (n, 128, 128, 3) uint8.
        style, concept: (n,) int64.
        weight: (n,) float32, how often an image is drawn in training.
        heldout, flippable: (n,) bool.
        words: one entry per image.
        vocabulary: tokens, and which of them share an embedding.
    """

    pictures: np.ndarray
    style: Tensor
    concept: Tensor
    weight: Tensor
    heldout: Tensor
    flippable: Tensor
    words: list[Words]
    vocabulary: Vocabulary

    @property
    def chance(self) -> Tensor:
        """(n,) relative probability of each image in training; 0 for held-out ones."""
        return torch.where(self.heldout, 0.0, self.weight)

    @property
    def index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.vocabulary["tokens"])}

    def images(self, rows: slice | Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Images (batch, 3, 128, 128) in [-1, 1]."""
        picked = self.pictures[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return torch.from_numpy(picked).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_dataset(build: Path, limit: int | None = None) -> Dataset:
    """The images of pack.npz, or the first `limit` of them."""
    with np.load(build / "pack.npz") as data:
        ends = np.cumsum(data["size"])
        starts, blob = ends - data["size"], data["blob"].tobytes()
        columns = {key: torch.from_numpy(data[key][:limit]) for key in ("style", "concept", "heldout", "flippable")}
        weight = torch.from_numpy(data["weight"][:limit]).float()
        words = json.loads(zlib.decompress(data["words"].tobytes()))[:limit]

    def read(span: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(blob[slice(*span)])).convert("RGB"))

    with ThreadPoolExecutor() as pool:
        pictures = np.stack(list(pool.map(read, list(zip(starts, ends, strict=True))[:limit])))
    vocabulary = json.loads((build / "vocabulary.json").read_text("utf-8"))
    return Dataset(pictures, weight=weight, words=words, vocabulary=vocabulary, **columns)


def _captions(task: tuple[list[Words], list[int], dict[str, int], int, int]) -> np.ndarray:
    words, styles, index, copies, seed = task
    random = np.random.default_rng(seed)
    rows = [
        [encode(caption(row, STYLES[style], random), index) for _ in range(copies)]
        for row, style in zip(words, styles, strict=True)
    ]
    return np.array(rows, np.int16)


def draw_captions(data: Dataset, copies: int, workers: int = 1) -> Tensor:
    """(n, copies, 16) int16 token ids: captions drawn once, so that training only indexes them."""
    parts = [part for part in np.array_split(np.arange(len(data.words)), 4 * workers) if len(part)]
    tasks = [
        ([data.words[i] for i in part], data.style[part].tolist(), data.index, copies, seed)
        for seed, part in enumerate(parts)
    ]
    if workers == 1:
        return torch.from_numpy(np.concatenate([_captions(task) for task in tasks]))
    with ProcessPoolExecutor(workers) as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(_captions, tasks))))


@torch.no_grad()
def encode_images(vae, data: Dataset, device: torch.device | str = "cpu", batch: int = 64) -> Tensor:
    """(n, 2, 16, 16, 16) float16: latents of each image and of its mirror image (its own where mirroring is wrong)."""
    latents = []
    for begin in range(0, len(data.pictures), batch):
        rows = slice(begin, begin + batch)
        x = data.images(rows, device)
        mirrored = torch.where(data.flippable[rows, None, None, None].to(device), x.flip(-1), x)
        latents.append(torch.stack([vae.encode(image).latent_dist.mean for image in (x, mirrored)], 1).half())
    return torch.cat(latents)


def recolour(x: Tensor) -> Tensor:
    """Random hue, saturation, contrast and brightness of images (n, 3, h, w) in [-1, 1]."""
    n, device = len(x), x.device
    angle = torch.rand(n, device=device) * 2 * math.pi
    cos, third = torch.cos(angle), 1 / 3
    same, off = third * (1 - cos), math.sqrt(third) * torch.sin(angle)
    low, high, diagonal = same - off, same + off, cos + same
    hue = torch.stack([diagonal, low, high, high, diagonal, low, low, high, diagonal], 1).view(n, 3, 3)
    saturation = (torch.rand(n, 1, 1, device=device) * 1.4).clamp(max=1.2)
    grey = torch.full((3, 3), third, device=device)
    matrix = (saturation * torch.eye(3, device=device) + (1 - saturation) * grey) @ hue
    contrast = 0.6 + 0.7 * torch.rand(n, 1, 1, 1, device=device)
    brightness = 0.4 * (torch.rand(n, 1, 1, 1, device=device) - 0.5)
    return (torch.einsum("nij,njhw->nihw", matrix, x) * contrast + brightness).clamp(-1, 1)


def move(x: Tensor, zoom: tuple[float, float], shift: float, mirror: bool = True) -> Tensor:
    """Random zoom, shift (as a fraction of the side) and mirroring if `mirror`; what comes in from outside is white."""
    n, device = len(x), x.device
    scale = 1 / torch.empty(n, device=device).uniform_(*zoom)
    sign = 1 - 2.0 * (torch.rand(n, device=device) < 0.5) * mirror
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = scale * sign, scale
    theta[:, :, 2] = (torch.rand(n, 2, device=device) - 0.5) * 2 * shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x - 1, grid, padding_mode="zeros", align_corners=False) + 1


def save_grid(images: Tensor, columns: int, file: Path) -> None:
    """Writes images (n, 3, h, w) in [-1, 1] as one, row by row; the last row is filled up with white."""
    x = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).byte().cpu()
    missing = -len(x) % columns
    x = torch.cat([x, torch.full((missing, *x.shape[1:]), 255, dtype=torch.uint8)])
    n, _, height, width = x.shape
    tiles = x.view(n // columns, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    Image.fromarray(tiles.reshape(n // columns * height, columns * width, 3).numpy()).save(file)

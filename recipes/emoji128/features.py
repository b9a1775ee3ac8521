"""ImageNet features of every image and of its mirror image, which the CPU training learns from.

    python recipes/emoji128/features.py build/emoji128 --backbones build/emoji128/backbones   # 2 to 3 minutes

reads EfficientNet-Lite0, which convert_backbones.py writes. It writes features.pt into the folder, all float16:
    pooled (n, 1280)              of the last layer
    middle (n, 2, 112, 8, 8)      of block 10, at stride 16, of the image and of its mirror image (its own where
                                  mirroring is wrong)
    small  (n, 3, 8, 8)           the image in 8×8 pixels
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from dataset import Dataset, load_dataset
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from training import digest, load_weights, write_whole

from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite

MIDDLE_BLOCK, BATCH = 10, 64


def extractor(backbones: Path):
    """A function from images (n, 3, h, w) in [-1, 1] to (pooled, middle) features."""
    network = load_weights(EfficientNetLite("lite0"), backbones / "lite0.safetensors").eval().fold()
    network.requires_grad_(False).to(memory_format=torch.channels_last)

    def extract(x: Tensor) -> tuple[Tensor, Tensor]:
        middle = network.blocks[: MIDDLE_BLOCK + 1](network.stem(x))
        return network.head(network.blocks[MIDDLE_BLOCK + 1 :](middle)).mean((2, 3)), middle

    return extract


@torch.inference_mode()
def features(data: Dataset, backbones: Path) -> dict[str, Tensor]:
    """The arrays that features.pt has."""
    extract, parts = extractor(backbones), []
    for begin in tqdm(range(0, len(data.pictures), BATCH)):
        rows = slice(begin, begin + BATCH)
        x = data.images(rows)
        pooled, plain = extract(x)
        mirrored = extract(x.flip(-1))[1]
        flippable = data.flippable[rows, None, None, None]
        middle = torch.stack([plain, torch.where(flippable, mirrored, plain)], 1)
        parts.append((pooled.half(), middle.half(), F.adaptive_avg_pool2d(x, 8).half()))
    return dict(zip(("pooled", "middle", "small"), map(torch.cat, zip(*parts, strict=True)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--backbones", type=Path, required=True, help="folder of convert_backbones.py")
    parser.add_argument("--limit", type=int, help="only the first images")
    options = parser.parse_args()
    inputs = {"inputs": digest(options.build / "pack.npz", options.limit)}  # for training.read_features
    found = inputs | features(load_dataset(options.build, options.limit), options.backbones)
    write_whole(options.build / "features.pt", lambda unfinished: torch.save(found, unfinished))


if __name__ == "__main__":
    main()

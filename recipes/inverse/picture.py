"""Draw docs/images/inverse.png from the images that recipes/inverse/measure.py stored: one line per task and image.

python recipes/inverse/picture.py recipes/inverse/measured.jsonl docs/images/inverse.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image

from noisetilt.report import save_image
from noisetilt.report.plotting import draw_images, save_figure
from noisetilt.runs import make_folder, read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0, help="number of the first image of the batch")
    parser.add_argument("--images", type=int, nargs="+", default=[0, 1], help="which images of the batch")
    parser.add_argument("--methods", nargs="+", default=["base", "dps", "psld", "pigdm", "ntrk", "ntrk-x0"])
    options = parser.parse_args()
    make_folder(options.out.parent)
    rows = [row for row in map(json.loads, read_lines(options.rows)) if row["stage"] == "test"]
    folder = options.rows.with_suffix("")

    def load(name: str) -> torch.Tensor:
        stored = torch.load(folder / f"{name}-{options.first}.pt", weights_only=True)
        return stored[options.images].permute(0, 2, 3, 1).numpy() / 255

    def quality(task: str, method: str, number: int) -> str:
        fields = (task, method, options.first + number)
        (row,) = (row for row in rows if (row["task"], row["method"], row["image"]) == fields)
        return f"{method}\n{row['psnr']:.1f} dB"

    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        columns = {name: load(f"{task}-{name}") for name in options.methods}
        given = zip(load("targets"), load(f"{task}-y"), strict=True)
        for place, (number, (target, y)) in enumerate(zip(options.images, given, strict=True)):
            line = [("real image", target), (task, y)]
            lines.append(line + [(quality(task, name, number), images[place]) for name, images in columns.items()])
    save_figure(draw_images(lines), options.out)
    save_image(Image.open(options.out).convert("RGB").reduce(2), options.out)


if __name__ == "__main__":
    main()

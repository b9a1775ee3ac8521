"""Reconstruct held-out real emoji from measurements: DPS against noise tilting, each at its best of a few strengths.

    python recipes/bench/inverse.py [--pictures 3] [--steps 25] [--out build/inverse]

For each of four operators, each method's strength is tuned on one picture by PSNR and used on the others. Prints the
table of means over the others and writes a sheet: truth, measurement, and what each method makes of it.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from noisetilt import METHODS, Method, load, sample
from noisetilt.bench.fidelity import perceptual_distance, psnr, ssim
from noisetilt.report import grid, table
from noisetilt.rewards import inverse

METHOD_LADDERS = {
    "base": [METHODS["base"]],
    "dps": [METHODS["dps"].replace(scale=scale) for scale in (10.0, 30.0, 100.0, 300.0)],
    "ntrk": [METHODS["ntrk"].replace(rho=rho) for rho in (0.1, 0.3, 0.6, 0.9)],
    "ntrk mixture": [METHODS["ntrk"].replace(whitened="mixture", rho=rho) for rho in (0.1, 0.3, 0.6, 0.9)],
}
NOISE = 0.02


def operators() -> list[inverse.Operator]:
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[20:44, 20:44] = False
    return [inverse.gaussian_blur(2.0), inverse.downsample(4), inverse.keep(mask), inverse.grey()]


def real_emoji() -> tuple[Tensor, list[str]]:
    """The shipped held-out pictures (12, 3, 64, 64) and words for them."""
    folder = resources.files("noisetilt.bench")
    with resources.as_file(folder / "real_emoji.png") as file:
        sheet = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() / 255
    tiles = sheet.unflatten(0, (-1, 64)).unflatten(2, (-1, 64)).transpose(1, 2).flatten(0, 1)
    labels = json.loads((folder / "real_emoji.json").read_text("utf-8"))
    return tiles.permute(0, 3, 1, 2), [f"{label['prompt']} {label['style']}" for label in labels]


def reconstruct(model: object, method: Method, operator: inverse.Operator, y: Tensor, words: str, steps: int) -> Tensor:
    reward = inverse.matching(operator, y, power=1)
    return sample(model, [words], reward, method, steps, seeds=[0], track=False).images


def beside(sheets: list[Image.Image]) -> Image.Image:
    """Sheets of one height in a row."""
    whole = Image.new("RGB", (sum(s.width for s in sheets), sheets[0].height), "white")
    for number, sheet in enumerate(sheets):
        whole.paste(sheet, (sum(s.width for s in sheets[:number]), 0))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("build/inverse"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, (truth, words), lines, sheets = load("emoji128"), real_emoji(), [], []
    tuned = list(range(1, len(truth), max(1, len(truth) // (args.pictures + 1))))[: args.pictures]
    for operator in operators():
        ys = {i: inverse.measure(operator, truth[i], NOISE, seed=i) for i in [0, *tuned]}
        sheet = [(f"{operator.name}: truth", [truth[i] for i in tuned])]
        for name, ladder in METHOD_LADDERS.items():
            first = [reconstruct(model, m, operator, ys[0], words[0], args.steps) for m in ladder]
            best = max(range(len(ladder)), key=lambda k: psnr(first[k], truth[:1]).item())
            made = torch.cat([reconstruct(model, ladder[best], operator, ys[i], words[i], args.steps) for i in tuned])
            real = truth[tuned]
            tuned = ladder[best].options()
            setting = (
                f"scale = {tuned['scale']}" if "scale" in tuned else f"rho = {tuned['rho']}" if "rho" in tuned else ""
            )
            values = [f(made, real).mean().item() for f in (psnr, ssim, perceptual_distance)]
            misfit = torch.stack([operator(made[k : k + 1])[0].sub(ys[i]).norm() for k, i in enumerate(tuned)])
            lines.append([operator.name, name, setting, *values, misfit.mean().item()])
            sheet.append((f"{name} {setting}", list(made)))
            print(table(["operator", "method", "set", "PSNR", "SSIM", "perceptual", "misfit"], lines[-1:]), flush=True)
        sheets.append(grid(sheet, scale=1))
    text = table(["operator", "method", "set", "PSNR", "SSIM", "perceptual", "misfit"], lines)
    (args.out / "table.txt").write_text(text + "\n")
    beside(sheets).save(args.out / "sheet.png")
    print("\n" + text)


if __name__ == "__main__":
    main()

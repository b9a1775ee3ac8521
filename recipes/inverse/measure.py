"""Inverse problems with emoji128 as the prior, on real images that were held out of its training.

    python recipes/inverse/measure.py build/emoji128 --out build/emoji128/inverse.jsonl
    python recipes/inverse/measure.py --table

Tasks: super-resolution ×4, inpainting of the central square, deblurring, and restoration of a JPEG of quality 5; each
measurement but the JPEG has noise of standard deviation 0.02. The prompt names what the image shows, and its style.

Methods, each with 25 network calls:
- base: the prompt alone;
- dps: a mean shift along the gradient of the distance (Chung 2023, arXiv 2209.14687);
- psld: the same with the term that glues latents to the autoencoder (Rout 2023, arXiv 2307.00619), weight 0.1;
- pigdm: a mean shift along the gradient of the squared distance, which is ΠGDM's direction (Song 2023, ICLR) where A⁺A
  is a projection, through the decoder. ΠGDM's own weights assume a linear map of Gaussian x̂_0 and do not hold for
  latents, so that the scale is tuned as for dps. DDRM (Kawar 2022, arXiv 2201.11793) needs the singular vectors of the
  map from the model's states to the measurement; with a decoder between them this map is not linear and has none.
- ntrk: noise tilting with the distance as the reward (arXiv 2606.18066);
- ntrk-x0: the same with the gradient at x̂_0 and the path whitened.

The strength of each method is tuned for each task on images that are not used afterwards, by the mean PSNR. JPEG's
gradient is straight-through.

A run is resumed from the rows that `--out` has, which must have been measured with the same judge.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import noisetilt
from noisetilt import METHODS, Method
from noisetilt.bench.fidelity import psnr, ssim
from noisetilt.bench.judge import WEIGHTS
from noisetilt.bench.statistics import bootstrap, paired
from noisetilt.report import table
from noisetilt.rewards import Reward, inverse

sys.path.insert(0, str(Path(__file__).parents[1] / "invert"))
from measure import digest, known
from real_images import Judge, RealImages, read_real_images
from stored import Rows, keep_options, rows_file, write_tensor

NOISE, QUALITY = 0.02, 5
STEPS = 25
LADDERS: dict[str, tuple[float, ...]] = {
    "dps": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    "psld": (1.0, 3.0, 10.0, 30.0),
    "pigdm": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "ntrk": (0.03, 0.1, 0.3, 0.6, 0.8, 1.0),
    "ntrk-x0": (0.03, 0.1, 0.3, 0.6, 0.8, 1.0),
}
METHODS_BY_RHO = ("ntrk", "ntrk-x0")
TUNING = 2
PUBLISHED = Path(__file__).with_name("measured.jsonl")
# What rows of the same image have in common; the prompt too, as the images depend on the number for the tuning.
IMAGE = ("image", "prompt")
Row = dict[str, Any]


def tasks(side: int) -> dict[str, inverse.Operator]:
    mask = torch.ones(side, side, dtype=torch.bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = False
    return {
        "super-resolution": inverse.downsample(4),
        "inpainting": inverse.keep(mask),
        "deblurring": inverse.gaussian_blur(3.0),
        "jpeg": inverse.jpeg(QUALITY),
    }


def per_prompt(rewards: dict[str, Reward], name: str) -> Reward:
    """One reward per prompt as one reward of a batch."""

    def each(function: Callable[[Reward], Callable], *batches: Any) -> Tensor:
        rows = zip(*batches, strict=True)
        return torch.cat([function(rewards[row[-1]])(*(x[None] for x in row[:-1]), [row[-1]]) for row in rows])

    def of_images(images: Tensor, prompts: list[str]) -> Tensor:
        return each(lambda reward: reward, images, prompts)

    def of_states(x_0: Tensor, images: Tensor, prompts: list[str]) -> Tensor:
        return each(lambda reward: reward.of_states, x_0, images, prompts)

    glued = next(iter(rewards.values())).of_states is not None
    return Reward(name, of_images, of_states=of_states if glued else None)


def reward_for(name: str, operator: inverse.Operator, ys: list[Tensor], prompts: list[str], model: Any) -> Reward:
    def one(y: Tensor) -> Reward:
        if name == "psld":
            return inverse.psld(operator, y, model)
        return inverse.matching(operator, y, power=2 if name == "pigdm" else 1)

    return per_prompt({prompt: one(y) for prompt, y in zip(prompts, ys, strict=True)}, name)


def method_for(name: str, strength: float) -> Method:
    if name == "base":
        return METHODS["base"]
    return METHODS[name].replace(rho=strength) if name in METHODS_BY_RHO else METHODS["dps"].replace(scale=strength)


def reconstruct(
    model: Any, name: str, strength: float, operator: inverse.Operator, real: RealImages, seeds: list[int]
) -> tuple[Tensor, list[Tensor], float]:
    """Reconstructions, measurements, and CPU seconds per image."""
    noise = 0.0 if operator.name.startswith("jpeg") else NOISE
    ys = [inverse.measure(operator, image, noise, seed) for image, seed in zip(real.images, seeds, strict=True)]
    reward = None if name == "base" else reward_for(name, operator, ys, real.prompts, model)
    begin = time.process_time()
    method = method_for(name, strength)
    images = noisetilt.sample(model, real.prompts, reward, method, STEPS, seeds=seeds, track=False).images
    return images, ys, (time.process_time() - begin) / len(seeds)


def tune(model: Any, name: str, task: str, operator: inverse.Operator, real: RealImages, store: Rows) -> float:
    """The strength with the highest mean PSNR on the images for the tuning."""
    if name == "base":
        return 0.0

    def mean(strength: float) -> float:
        row = {"stage": "tune", "method": name, "task": task, "strength": strength}
        # Rows of as many images; those of fewer are of another tuning.
        count = len(real.labels)
        found = [stored["psnr"] for stored in store.where(**row) if len(stored["psnr"]) == count]
        if not found:
            images, _, _ = reconstruct(model, name, strength, operator, real, list(range(900, 900 + count)))
            found = [psnr(images, real.images).tolist()]
            store.add({**row, "psnr": found[0]})
        return sum(found[0]) / count

    best = max(LADDERS[name], key=mean)
    print("tune", task, name, best, f"{mean(best):.2f} dB", flush=True)
    return best


def as_image(task: str, y: Tensor, side: int) -> Tensor:
    """A measurement at the size of the image."""
    return torch.nn.functional.interpolate(y[None], (side, side), mode="nearest")[0]


def measure(options: argparse.Namespace, store: Rows) -> None:
    keep_options(store, {"judge": digest(WEIGHTS)}, {"judge": digest(options.judge)})
    model = noisetilt.load("emoji128")
    side = model.decode(torch.zeros(1, *model.shape)).shape[-1]
    real = read_real_images(options.build, options.tuning + options.n, side, lambda prompt: known(model, prompt))
    judge, operators = Judge(options.judge, real.concept_of), tasks(side)
    if options.tasks:
        operators = {task: operators[task] for task in options.tasks}
    tuning, real = real.part(range(options.tuning)), real.part(range(options.tuning, options.tuning + options.n))
    strengths = {
        (task, name): tune(model, name, task, operator, tuning, store)
        for task, operator in operators.items()
        for name in options.methods
    }
    pictures = options.out.with_suffix("")
    pictures.mkdir(exist_ok=True)
    for part in (range(i, min(i + options.batch, options.n)) for i in range(0, options.n, options.batch)):
        some = real.part(part)
        for task, operator in operators.items():
            for name in options.methods:
                strength = strengths[task, name]
                if missing(store, task, name, strength, some, part):
                    add_rows(store, model, judge, task, operator, name, strength, some, part, pictures)
        write_tensor(some.images, pictures / f"targets-{part.start}.pt")


def missing(store: Rows, task: str, name: str, strength: float, real: RealImages, part: range) -> list[int]:
    """The positions in a part of the images without a row. With another number of tuning images the test images are
    others, which have other prompts."""
    rows = store.where(stage="test", task=task, method=name, strength=strength)
    measured = {(row["image"], row["prompt"]) for row in rows}
    return [i for i, number in enumerate(part) if (number, real.prompts[i]) not in measured]


def add_rows(
    store: Rows,
    model: Any,
    judge: Judge,
    task: str,
    operator: inverse.Operator,
    name: str,
    strength: float,
    real: RealImages,
    part: range,
    pictures: Path,
) -> None:
    images, ys, seconds = reconstruct(model, name, strength, operator, real, list(part))
    named, styled = judge(images, real.labels, real.styles)
    truth = judge(real.images, real.labels, real.styles)[0]
    distance = psnr(images, real.images)
    similar = ssim(images, real.images)
    write_tensor(images, pictures / f"{task}-{name}-{part.start}.pt")
    side = real.images.shape[-1]
    write_tensor(torch.stack([as_image(task, y, side) for y in ys]), pictures / f"{task}-y-{part.start}.pt")
    for i in missing(store, task, name, strength, real, part):
        row = {"stage": "test", "task": task, "method": name, "strength": strength, "image": part[i]}
        row |= {"prompt": real.prompts[i], "psnr": float(distance[i]), "ssim": float(similar[i])}
        store.add(row | {"named": named[i], "styled": styled[i], "truth_named": truth[i], "seconds": seconds})
    print(task, name, strength, f"{distance.mean():.2f} dB", flush=True)


def leads(test: list[Row]) -> str:
    """The table of differences in PSNR between noise tilting and the best other method of each task, by the mean PSNR,
    paired by image, with 95 % bootstrap intervals; a sentence if there is no such pair."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in test):
        # Of an image that was measured again with another strength, the latest row.
        rows = {
            name: {
                tuple(row[key] for key in IMAGE): row for row in test if (row["task"], row["method"]) == (task, name)
            }
            for name in LADDERS
        }
        means = {name: sum(row["psnr"] for row in some.values()) / len(some) for name, some in rows.items() if some}
        best = max(set(means).difference(METHODS_BY_RHO), key=lambda name: means[name], default=None)
        for name in METHODS_BY_RHO if best else ():
            if rows[name].keys() == rows[best].keys():
                both = (list(rows[each].values()) for each in (name, best))
                lines.append([task, name, best, len(rows[name]), str(bootstrap(paired(*both, "psnr", IMAGE)))])
    if not lines:
        return "No task has rows of noise tilting and of another method for the same images."
    return table(["task", "method", "best other", "images", "PSNR dB minus the best other's"], lines)


def show(store: Rows) -> str:
    """The tables of the stored rows: means, and paired differences, with 95 % bootstrap intervals."""
    test, lines = store.where(stage="test"), []
    for task in dict.fromkeys(row["task"] for row in test):
        for name in dict.fromkeys(row["method"] for row in test):
            some = [row for row in test if (row["task"], row["method"]) == (task, name)]
            for strength in dict.fromkeys(row["strength"] for row in some):
                rows = [row for row in some if row["strength"] == strength]
                cells = [str(bootstrap([float(row[key]) for row in rows])) for key in ("psnr", "ssim", "named")]
                truth = sum(row["truth_named"] for row in rows) / len(rows)
                lines.append([task, name, strength, len(rows), *cells, truth, rows[0]["seconds"]])
    header = ["task", "method", "strength", "images", "PSNR dB", "SSIM", "concept among five", "of real", "CPU s"]
    return f"{table(header, lines)}\n\n{leads(test)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, nargs="?")
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, help="the file of the rows (default with --table: the published rows)")
    parser.add_argument("--methods", nargs="+", default=["base", "ntrk", "ntrk-x0", "dps", "psld", "pigdm"])
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--tuning", type=int, default=TUNING, help="images for the tuning (default: %(default)s)")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--table", action="store_true", help="only print the tables of the stored rows")
    options = parser.parse_args()
    options.out = rows_file(parser, options, PUBLISHED)
    store = Rows(options.out)
    if not options.table:
        measure(options, store)
    print(show(store))


if __name__ == "__main__":
    main()

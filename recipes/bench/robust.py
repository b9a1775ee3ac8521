"""Does averaging a reward over random views lower reward hacking? Target, held-out reward and judge by strength.

    python recipes/bench/robust.py out/robust [--rewards style:3d alignment] [--strengths 0.015 0.03 0.06 0.12]

NTRK in 25 steps on emoji128 with the plain reward and with its mean over views, on the benchmark's tuning prompts.
`rows.jsonl` gets one row per image; a finished setting is not run again, and another number of images is refused.
Printed: means per setting, and the held-out reward and the judge's accuracy of both at equal target reward, by linear
interpolation between strengths.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from noisetilt import METHODS, load, rewards, sample
from noisetilt.bench import judge
from noisetilt.bench.paper_plan import FLAT_STYLES, TUNING_PROMPTS
from noisetilt.report import table
from noisetilt.report.pictures import grid, save_image
from noisetilt.rewards.reward import Reward, evaluate_reward
from noisetilt.rewards.scorers.concepts import concept_row

STEPS, BATCH = 25, 8
PLAIN = "plain"


def robust(
    reward: Reward,
    views: int = 4,
    noise: float = 0.05,
    crop: float = 0.1,
    shift: float = 0.06,
    colour: float = 0.1,
    seed: int = 0,
) -> Reward:
    """The mean of a reward over `views` views: cropped or extended, shifted, recoloured and noisy.

    The views are drawn once from `seed`, so the result is a function of the image alone, whatever the batch.

    Args:
        reward: of images; a video reward is refused.
        views: evaluations per image, 1 or more; time and memory grow with it.
        noise: standard deviation of Gaussian noise on pixels in [0, 1].
        crop: the scale of a view is between 1 − crop and 1 + crop.
        shift: largest shift, as a fraction of the side.
        colour: largest change of brightness, and of contrast and saturation as fractions.
        seed: of the views.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if reward.video:
        raise ValueError(f"the reward {reward.name!r} takes videos, expected a reward of images")
    if views < 1 or not all(0 <= value < 0.5 for value in (noise, crop, shift, colour)):
        raise ValueError(
            f"views = {views}, noise = {noise}, crop = {crop}, shift = {shift}, colour = {colour}: expected at least "
            "one view and values from 0 to below 0.5"
        )

    def mean_over_views(images: Tensor, prompts: Sequence[str]) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        for _ in range(views):
            view = _view(images, generator, noise, crop, shift, colour)
            total = total + evaluate_reward(reward, view, prompts)
        return total / views

    return replace(reward, name=f"robust({reward.name})", function=mean_over_views, terms=())


def _view(x: Tensor, generator: torch.Generator, noise: float, crop: float, shift: float, colour: float) -> Tensor:
    """One view of images (n, 3, h, w) in [0, 1], the same for all; what comes in from outside repeats the border."""

    def uniform(*size: int) -> Tensor:
        return 2 * torch.rand(*size, generator=generator, dtype=torch.float64) - 1

    scale = math.exp(float(uniform(1)) * math.log1p(crop))
    theta = torch.zeros(1, 2, 3, dtype=torch.float64)
    theta[0, 0, 0] = theta[0, 1, 1] = scale
    theta[0, :, 2] = 2 * shift * uniform(2)
    grid = F.affine_grid(theta.to(x), [1, *x.shape[1:]], align_corners=False).expand(len(x), -1, -1, -1)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    brightness, contrast, saturation = (colour * uniform(3)).tolist()
    grey = x.mean(1, keepdim=True)
    x = grey + (1 + saturation) * (x - grey)
    x = 0.5 + (1 + contrast) * (x - 0.5) + brightness / 2
    return (x + noise * torch.randn(x.shape[1:], generator=generator).to(x)).clamp(0, 1)


def measure(model, name: str, kind: str, rho: float, options: argparse.Namespace) -> list[dict]:
    target, heldout = rewards.load(name), rewards.load(name, heldout=True)
    reward = target if kind == PLAIN else robust(target, **json.loads(kind))
    names = [TUNING_PROMPTS[i % len(TUNING_PROMPTS)] for i in range(options.images)]
    prompts = [f"{concept} {FLAT_STYLES[i % len(FLAT_STYLES)]}" for i, concept in enumerate(names)]
    method = METHODS["ntrk"].replace(rho=rho) if rho else METHODS["base"]
    rows, made = [], []
    for begin in range(0, len(prompts), BATCH):
        some = prompts[begin : begin + BATCH]
        seeds = [100 + begin + i for i in range(len(some))]
        images = sample(model, some, reward if rho else None, method, STEPS, seeds=seeds).images
        found = judge.evaluate(images)
        log_chance = found.concepts.log_softmax(1)
        with torch.no_grad():
            values, theirs = target(images, some), heldout(images, some)
        for i, prompt in enumerate(some):
            right = concept_row(names[begin + i])
            rows.append(
                {
                    "reward": name, "kind": kind, "rho": rho, "prompt": prompt, "seed": seeds[i],
                    "target": float(values[i]), "heldout": float(theirs[i]),
                    "named": bool(judge.names_concept(found.concepts[i : i + 1], [[right]], 1)),
                    "log_chance": float(log_chance[i, right]),
                }
            )  # fmt: skip
        made.append(images)
    number = ["plain", *options.kinds].index(kind)
    save_image(
        grid([(f"{name}, {kind}, rho {rho:g}", list(torch.cat(made)))]),
        options.out / f"{name.replace(':', '-')}-{number}-{rho:g}.png",
    )
    return rows


FIELDS = ("target", "heldout", "named", "log_chance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rewards", nargs="+", default=["style:3d", "alignment"])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.015, 0.03, 0.06, 0.12])
    parser.add_argument("--kinds", nargs="+", default=['{"views": 4}'], help="arguments of `robust` as JSON")
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    guided = [(kind, rho) for rho in options.strengths for kind in (PLAIN, *options.kinds)]
    settings = [(name, *setting) for name in options.rewards for setting in [(PLAIN, 0.0), *guided]]
    measured = Counter((row["reward"], row["kind"], row["rho"]) for row in rows)
    if other := next((count for s in settings if (count := measured[s]) not in (0, options.images)), 0):
        parser.error(
            f"{file} has {other} images of a setting and --images is {options.images}; give --images {other} or "
            "another folder"
        )
    model = load("emoji128")
    for name, kind, rho in settings:
        if not measured[name, kind, rho]:
            more = measure(model, name, kind, rho, options)
            rows += more
            with file.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in more)
            print(
                name,
                kind,
                rho,
                *(f"{field} {np.mean([row[field] for row in more]):.3f}" for field in FIELDS),
                flush=True,
            )
    for name in options.rewards:
        print(table(["setting", "n", *FIELDS], _means(rows, name)))
        print(table(["at equal target", *FIELDS], _at_equal_target(rows, name)))


def _curve(rows: list[dict], name: str, kind: str) -> list[tuple[float, int, list[float]]]:
    chosen = [row for row in rows if row["reward"] == name and row["kind"] == kind]
    found = []
    for rho in sorted({row["rho"] for row in chosen}):
        some = [row for row in chosen if row["rho"] == rho]
        found.append((rho, len(some), [float(np.mean([row[field] for row in some])) for field in FIELDS]))
    return found


def _means(rows: list[dict], name: str) -> list[list]:
    kinds = dict.fromkeys(row["kind"] for row in rows if row["reward"] == name)
    return [[f"{kind}, rho {rho:g}", n, *means] for kind in kinds for rho, n, means in _curve(rows, name, kind)]


def _at_equal_target(rows: list[dict], name: str) -> list[list]:
    """Each kind's figures at the target values of the plain reward's strengths, where its own curve reaches them."""
    base, *plain = _curve(rows, name, PLAIN)
    lines = []
    for rho, _, means in plain:
        lines.append([f"{PLAIN}, rho {rho:g}", *means])
        for kind in dict.fromkeys(row["kind"] for row in rows if row["reward"] == name and row["kind"] != PLAIN):
            curve = np.array([base[2], *(point[2] for point in _curve(rows, name, kind))])
            if curve[:, 0].min() <= means[0] <= curve[:, 0].max():
                order = curve[:, 0].argsort()
                lines.append(
                    [kind, *(float(np.interp(means[0], curve[order, 0], column)) for column in curve[order].T)]
                )
    return lines


if __name__ == "__main__":
    main()

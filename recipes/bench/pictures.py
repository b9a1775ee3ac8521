"""Draws eight test images of each method from the rows of the suite `paper`, as in docs/results.md.

    mkdir -p out/paper && gunzip -c docs/bench/rows.jsonl.gz > out/paper/rows.jsonl
    python recipes/bench/pictures.py out/paper docs/images/bench-images.png
    python recipes/bench/pictures.py out/paper docs/images/teapot.png --target classifier:imagenet:teapot --free

The methods have the strengths that the rule of fairness chose, or with --free those of their largest mean reward. The
images are sampled again with the prompts and seeds of the rows; one takes 2 to 4 s on a core. The mean rewards are
those of all rows.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from noisetilt import load, rewards, sample
from noisetilt.bench.paper_lines import Line, lines_of
from noisetilt.bench.paper_plan import BASE, METHODS_OF_SUITE, STEPS, Plan, restrict
from noisetilt.bench.paper_suite import MODEL, Runner
from noisetilt.report import grid, save_image
from noisetilt.rewards import Reward
from noisetilt.runs import make_folder

SHOWN = 8


def images_of(line: Line, name: str, std: float) -> Tensor:
    """The first images of a method, sampled again."""
    rows = sorted(line.rows, key=lambda row: (row["seed"], row["prompt"]))[:SHOWN]
    reward = rewards.load(name)
    standardised = Reward(name, lambda x, p: reward(x, p) / std, reward.differentiable)
    method = METHODS_OF_SUITE.get(line.method, BASE).at(rows[0]["value"])
    prompts, seeds = [row["prompt"] for row in rows], [row["seed"] for row in rows]
    return sample(load(MODEL), prompts, standardised, method, STEPS, seeds, track=False).images


def label(line: Line) -> str:
    name = f"{line.method}, {line.strength}" if line.strength else line.method
    return f"{name}: reward {line.reward.value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with rows.jsonl")
    parser.add_argument("image", type=Path)
    parser.add_argument("--target", default="style:3d")
    parser.add_argument("--images", type=int, default=64, help="test images of the methods that are shown")
    parser.add_argument("--free", action="store_true", help="without the rule of fairness")
    args = parser.parse_args()
    make_folder(args.image.parent)
    plan = replace(restrict(Plan(), None, [args.target], args.images), tuning_images=Plan().tuning_images)
    runner = Runner(args.run, plan, measure=False)
    target = plan.targets[0]
    lines = lines_of(runner, target, searches=False, constrained=not args.free)
    lines = [line for line in lines if METHODS_OF_SUITE.get(line.method, BASE).calls is None]
    std = runner.reward_std(target)
    save_image(grid([(label(line), images_of(line, args.target, std)) for line in lines], scale=1), args.image)


if __name__ == "__main__":
    main()

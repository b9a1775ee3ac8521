"""What noise tilting costs over DPS at equal steps on emoji128.

    python recipes/bench/overhead.py [--images 8] [--steps 25] [--rounds 3] [--methods ntrk]

Runs the methods one after the other, round by round, so that what else the machine does falls on all alike, and prints
the median over rounds of each method's processor time over that of DPS in the same round. The first step of a flow has
no gradient and the last no noise, so that W works in all steps but two: few steps would flatter it.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from noisetilt import METHODS, Method, load, rewards, sample
from noisetilt.noise.whitening import to_unit_rms
from noisetilt.proposals import Step
from noisetilt.report import table


@dataclass(frozen=True)
class Unwhitened:
    """The noise tilt with the gradient as it is, for what W alone costs."""

    rho: float = 0.05
    needs_gradient: ClassVar[bool] = True

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        mixed = math.sqrt(self.rho) * to_unit_rms(step.gradient) + math.sqrt(1 - self.rho) * noise
        return step.mean + step.std * mixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", help="only these beside DPS")
    args = parser.parse_args()
    model, reward = load("emoji128"), rewards.load("style:3d")
    methods = {
        "dps": METHODS["dps"].replace(scale=0.1),
        "ntrk without W": Method(proposal=Unwhitened()),
        "ntrk": METHODS["ntrk"],
        "ntrk, mixture whitened": METHODS["ntrk"].replace(whitened="mixture"),
        "ntrk, path whitened": METHODS["ntrk"].replace(whitened="path"),
    }
    methods = {n: m for n, m in methods.items() if n == "dps" or not args.methods or n in args.methods}
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(args.rounds + 1):
        for name, method in methods.items():
            started = time.process_time()
            sample(model, ["cat face noto"] * args.images, reward, method, args.steps, chunk=args.images, track=False)
            if number:  # the first round warms up
                spent[name].append(time.process_time() - started)
    ratios = {name: np.array(seconds) / np.array(spent["dps"]) for name, seconds in spent.items()}
    per_step = {name: 1000 * float(np.median(s)) / args.images / args.steps for name, s in spent.items()}
    rows = [[n, float(np.median(r)), float(r.min()), float(r.max()), per_step[n]] for n, r in ratios.items()]
    print(table(["method", "time over DPS", "least", "most", "ms per image and step"], rows))
    print(f"{args.images} images, {args.steps} steps, {args.rounds} rounds, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()

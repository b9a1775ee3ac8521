"""What W is applied to and how ρ_t runs, on emoji128: target reward, held-out reward and judge at a few strengths.

    python recipes/bench/tilts.py [--reward style:3d] [--images 8]

The tuning prompts of the suite `paper` and the same seeds for all; 25 steps. Prints means, the standard error of the
reward, and the median p-value that the injected noise is white Gaussian.
"""

from __future__ import annotations

import argparse

import torch

from noisetilt import METHODS, load, rewards, sample
from noisetilt.bench.meter import injected_p_values, record_noise
from noisetilt.bench.metrics import total_variation
from noisetilt.bench.paper_plan import TARGETS
from noisetilt.bench.paper_suite import judged_figures, prompt_seeds
from noisetilt.report import table

HEADER = ["W of", "schedule", "rho", "n", "reward", "± error", "held-out", "named right", "total variation", "p"]
SETTINGS = [
    ("gradient", "constant", (0.01, 0.02, 0.05)),
    ("gradient", "early", (0.03, 0.06)),
    ("gradient", "late", (0.03, 0.06)),
    ("mixture", "constant", (0.01, 0.02, 0.05)),
    ("path", "constant", (0.01, 0.02, 0.05)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="style:3d")
    parser.add_argument("--images", type=int, default=8)
    args = parser.parse_args()
    target = next(target for target in TARGETS if target.reward == args.reward)
    model, reward = load("emoji128"), rewards.load(args.reward)
    heldout = rewards.load(target.heldout, heldout=True)
    prompts, seeds = map(list, zip(*prompt_seeds(target, False, args.images), strict=True))
    methods = [("–", "–", 0.0, METHODS["base"])]
    for whitened, schedule, strengths in SETTINGS:
        for rho in strengths:
            made = METHODS["ntrk"].replace(whitened=whitened, schedule=schedule, rho=rho)
            methods.append((whitened, schedule, rho, made))
    for *name, method in methods:
        recorded, seen = record_noise(method, (7, 13))
        result = sample(model, prompts, reward, recorded, 25, seeds, track=False)
        with torch.no_grad():
            other = heldout(result.images, prompts).mean().item()
        named = [row["named"] for row in judged_figures(target, result.images, prompts)]
        error = result.rewards.std().item() / len(prompts) ** 0.5
        p = injected_p_values(seen, len(prompts), 1).median().item()
        figures = [len(prompts), result.rewards.mean().item(), error, other, sum(named) / len(named)]
        figures += [total_variation(result.images).mean().item(), p]
        print(table(HEADER, [[*name, *figures]]), flush=True)


if __name__ == "__main__":
    main()

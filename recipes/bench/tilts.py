"""What W is applied to and how ρ_t runs, on emoji64: target reward, held-out reward and prompt at a few strengths.

    python recipes/bench/tilts.py [--reward style:3d] [--seeds 2]

Four prompts in other styles and the same seeds for all; 25 steps. Prints means, the standard error of the reward,
and the median p-value that the injected noise is white Gaussian.
"""

from __future__ import annotations

import argparse

import torch

from noisetilt import METHODS, load, rewards, sample
from noisetilt.bench.meter import injected_p_values, record_noise
from noisetilt.bench.metrics import total_variation
from noisetilt.report import table

PROMPTS = ["bear face", "tree", "clock", "fish"]
STYLES = ["noto", "twemoji"]
HEADER = ["W of", "schedule", "rho", "reward", "± error", "held-out", "on the prompt", "total variation", "p"]
SETTINGS = [
    ("gradient", "constant", (0.1, 0.3, 0.8)),
    ("gradient", "early", (0.3, 0.8)),
    ("mixture", "constant", (0.1, 0.3, 0.8)),
    ("path", "constant", (0.1, 0.3, 0.8)),
    ("path", "early", (0.8,)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="style:3d")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    model, reward = load("emoji64"), rewards.load(args.reward)
    heldout_rewards = [rewards.load(name, heldout=True) for name in (args.reward, "alignment")]
    pairs = [(f"{p} {STYLES[s % 2]}", s) for p in PROMPTS for s in range(args.seeds)]
    prompts, seeds = map(list, zip(*pairs, strict=True))
    methods = [("–", "–", 0.0, METHODS["base"])]
    for whitened, schedule, strengths in SETTINGS:
        for rho in strengths:
            made = METHODS["ntrk"].replace(whitened=whitened, schedule=schedule, rho=rho)
            methods.append((whitened, schedule, rho, made))
    for *name, method in methods:
        recorded, seen = record_noise(method, (7, 13))
        result = sample(model, prompts, reward, recorded, 25, seeds, track=False)
        with torch.no_grad():
            others = [heldout(result.images, prompts).mean().item() for heldout in heldout_rewards]
        error = result.rewards.std().item() / len(prompts) ** 0.5
        p = injected_p_values(seen, len(prompts), 1).median().item()
        figures = [
            result.rewards.mean().item(),
            error,
            *others,
            total_variation(result.images).mean().item(),
            p,
        ]
        print(table(HEADER, [[*name, *figures]]), flush=True)


if __name__ == "__main__":
    main()

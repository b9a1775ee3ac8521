"""The figure and table of docs/ascent.md: reward, held-out reward and typicality of the noise along each ascent.

    python recipes/ascent/figure.py docs/images/ascent.png

Every method at its defaults, in one step of emoji64-turbo, the same noise for all; W in the place of the projection is
left out for its time.
"""

import argparse

import matplotlib.pyplot as plt
import torch

from noisetilt import load, optimize, rewards
from noisetilt.bench.one_step_report import COLOURS
from noisetilt.methods import METHODS
from noisetilt.noise import audit
from noisetilt.report import table

PROMPTS = ["cat face", "house", "grinning face", "automobile"]
NAMES = ["none", "reno", "prno", "mpgr", "gper", "gper-latent", "gper-both", "gper-rotation"]


def ascent(model, name: str, reward: str, iterations: int):
    """The ascent's result and the audit's log10 p-values (iteration, image)."""
    p = []
    result = optimize(
        model,
        PROMPTS,
        rewards.load(reward),
        METHODS[name].replace(iterations=iterations),
        heldout=rewards.load(reward, heldout=True),
        callback=lambda report: p.append(audit(report.noise).p_value.clamp(min=1e-300).log10()),
    )
    return result, torch.stack(p)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--reward", default="style:3d")
    parser.add_argument("--iterations", type=int, default=24)
    options = parser.parse_args()
    model, rows = load("emoji64-turbo"), []
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    for name in NAMES:
        result, p = ascent(model, name, options.reward, options.iterations)
        target, heldout = result.trace.rewards.mean(1), result.trace.heldout.mean(1)
        for axis, values in zip(axes, (target, heldout, p.mean(1)), strict=True):
            axis.plot(values, label=name, color=COLOURS[name])
        energy = result.noise.square().mean().item()
        rows.append([name, *(v[-1].item() for v in (target, heldout)), energy, f"1e{p[-1].median().item():.0f}"])
        print(table(["method", options.reward, "held-out", "mean square", "median audit p"], rows) + "\n", flush=True)
    axes[2].axhline(-2, color="#000000", linewidth=0.8, linestyle=":")
    for axis, label in zip(axes, (options.reward, f"held-out {options.reward}", "log10 of the audit's p"), strict=True):
        axis.set(xlabel="iteration", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[2].set_ylim(-40, 1)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()

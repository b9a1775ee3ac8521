"""The figure and table of docs/ascent.md: reward, held-out reward and typicality of the noise along each ascent; the
table has those of the last iterate.

    python recipes/ascent/figure.py out/ascent.png

Every method at its defaults, in one step of emoji128-turbo, the same noise for all; W in the place of the projection is
left out for its time.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from noisetilt import load, optimize, rewards
from noisetilt.bench.one_step import MODEL
from noisetilt.methods import METHODS
from noisetilt.noise import audit
from noisetilt.report import table
from noisetilt.report.plotting import Panel, Series, draw_panels, save_figure
from noisetilt.runs import make_folder

PROMPTS = ["cat face", "house", "grinning face", "automobile"]
NAMES = ["none", "reno", "prno", "mpgr", "gper", "gper-latent", "gper-both", "gper-rotation"]


def ascent(model, name: str, reward: str, iterations: int):
    """The ascent's result, and of each iterate the audit's log10 p-values (iteration, image) and the mean square of the
    noise (iteration,). The noise of the result is that of the best iterate."""
    p, energy = [], []

    def record(report) -> None:
        p.append(audit(report.noise).p_value.clamp(min=1e-300).log10())
        energy.append(report.noise.square().mean().item())

    result = optimize(
        model,
        PROMPTS,
        rewards.load(reward),
        METHODS[name].replace(iterations=iterations),
        heldout=rewards.load(reward, heldout=True),
        callback=record,
    )
    return result, torch.stack(p), energy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--reward", default="style:3d")
    parser.add_argument("--iterations", type=int, default=24)
    options = parser.parse_args()
    make_folder(options.out.parent)
    model, rows = load(MODEL), []
    labels = (options.reward, f"held-out {options.reward}", "log10 of the audit's p")
    series = {label: {} for label in labels}
    for name in NAMES:
        result, p, energy = ascent(model, name, options.reward, options.iterations)
        target, heldout = result.trace.rewards.mean(1), result.trace.heldout.mean(1)
        for label, values in zip(labels, (target, heldout, p.mean(1)), strict=True):
            series[label][name] = Series(range(len(values)), values.tolist(), markers=False)
        rows.append([name, *(v[-1].item() for v in (target, heldout)), energy[-1], f"1e{p[-1].median().item():.0f}"])
        print(table(["method", options.reward, "held-out", "mean square", "median audit p"], rows) + "\n", flush=True)
    panels = [Panel("iteration", label, series[label]) for label in labels]
    level = {"p = 0.01": ([0, options.iterations], [-2, -2])}
    panels[2] = replace(panels[2], guides=level, limits=(None, (-40, 1)))
    save_figure(draw_panels(panels), options.out)


if __name__ == "__main__":
    main()

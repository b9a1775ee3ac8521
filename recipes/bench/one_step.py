"""The suite `one-step` at a size that two CPU cores can measure.

    python recipes/bench/one_step.py out/one-step [--targets style:3d alignment] [--methods none mpgr gper]

A run that was stopped is resumed. Writes report.md and report.html, and prints one table per target: each method at the
iterate chosen in the tuning, and the iteration at which it reaches MPGR's highest mean reward.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from noisetilt.bench import one_step_report
from noisetilt.bench.one_step import FULL, INITIAL, SETTINGS, Run, Size, restrict
from noisetilt.bench.paper_plan import Target
from noisetilt.bench.statistics import mean_interval
from noisetilt.report import table


def summary(run: Run, target: Target, steps: int) -> str:
    """Each method at the chosen iterate, and when it reaches MPGR's highest mean reward."""
    methods = one_step_report.tested(run, target, steps)
    if not methods:
        return f"{target.reward}: not measured yet"
    level = one_step_report.mean_curve(methods["mpgr"], "targets").max() if "mpgr" in methods else None
    lines = []
    for name, rows in one_step_report.stopped(run, target, steps, methods).items():
        reached = None
        if level is not None and name != INITIAL:
            reached = one_step_report.first_at(one_step_report.mean_curve(methods[name], "targets"), level)
        lines.append(
            [
                name,
                rows[0]["options"].strip("{}").replace('"', ""),
                "" if name == INITIAL else len(rows[0]["seconds"]) - 1,
                *(str(mean_interval(rows, field)) for field in ("target", "probability", "named", "heldout_2")),
                float(np.mean([row["energy"] for row in rows])),
                reached,
            ]
        )
    header = ["method", "options", "iterations", "target", "probability", "named right", "held-out", "mean square"]
    header.append("mpgr's best at")
    notes = [*one_step_report.broken_rules(run, target, steps, methods), *one_step_report.goals(methods)]
    goals = "\n".join(f"- {line}" for line in notes)
    return f"{target.reward}, {steps} steps, n = {len(methods[INITIAL])}\n\n{table(header, lines)}\n\n{goals}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--targets", nargs="+", default=["style:3d", "alignment", "concept:tiger face"])
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS))
    parser.add_argument("--steps", type=int, nargs="+", default=[1], help="of the generator")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--tuning-images", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--tuning-iterations", type=int, default=40)
    parser.add_argument("--settings", type=int, default=3, help="settings tried for each method")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = {name: getattr(options, name) for name in ("images", "tuning_images", "iterations", "tuning_iterations")}
    targets = restrict(FULL, options.targets).targets
    size = Size(targets, tuple(options.steps), **sizes, settings=options.settings)
    run = Run(options.out, options.methods, size, measure=not options.report)
    try:
        if not options.report:
            run.measure()
    finally:
        one_step_report.write(options.out, run)
    print("\n\n".join(summary(run, target, steps) for target in targets for steps in options.steps))


if __name__ == "__main__":
    main()

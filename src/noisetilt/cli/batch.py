"""The command `noisetilt batch`: an image for every row of a table of prompts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .._messages import counted
from ..batch import Summary, run_batch
from ..batch.run import MODEL_OPTIONS
from ..batch.sinks import LOGS, Prometheus, Sink, tracker
from ..batch.summary import fewer_rows, group_lines, message_lines

# The exit status when rows failed and the others are done.
FAILED_ROWS = 1


def main(args: argparse.Namespace) -> int:
    """Runs the command."""
    values = {k: v for k, v in vars(args).items() if k not in ("command", "log", "prometheus", "track", "set")}
    model_options = {name: values.pop(name) for name in MODEL_OPTIONS}
    values |= {"options": dict(args.options), "model_options": model_options}
    sinks: list[Sink] = [LOGS[args.log]()]
    sinks += [] if args.prometheus is None else [Prometheus(args.prometheus)]
    sinks += [tracker(name, args.out) for name in args.track]
    summary = run_batch(**values, sinks=sinks)
    print_summary(summary)
    return 0 if summary.complete else FAILED_ROWS


def print_summary(summary: Summary) -> None:
    """Prints what was done, which errors there were, and where the files are."""
    means = {"reward": summary.reward_mean, "held-out": summary.heldout_mean}
    figures = [f"{name} {value:+.3f}" for name, value in means.items() if value is not None]
    if summary.heldout_mean is not None:
        figures[-1] += fewer_rows(summary.heldout_rows, summary.groups[0]["rows"])
    print(", ".join([f"{summary.done} of {counted(summary.rows, 'row')} done", *figures]))
    if len(summary.groups) > 1:
        _print_lines(group_lines(summary.groups))
    if summary.failed:
        print(f"{counted(summary.failed, 'row')} failed:")
        _print_lines(message_lines(summary.errors, summary.first_rows, summary.first_lines, summary.failed))
    if summary.warned:
        print(f"done with a warning: {counted(summary.warned, 'row')}")
        _print_lines(message_lines(summary.warnings, summary.first_rows, summary.first_lines, summary.warned))
    print(f"the images, rows.jsonl, run.json and report.html are in {summary.out}/")


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  {line}")

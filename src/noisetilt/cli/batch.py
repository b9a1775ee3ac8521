"""The command `noisetilt batch`: an image for every row of a table of prompts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from ..batch import Summary, run_batch
from ..batch.sinks import LOGS, Prometheus, Sink, tracker
from ..batch.summary import message_lines

# The exit status when rows failed and the others are done.
FAILED_ROWS = 1
PIPELINE_OPTIONS = ("dtype", "offload", "height", "width", "frames", "lora", "checkpointing")


def main(args: argparse.Namespace) -> int:
    """Runs the command."""
    values = {k: v for k, v in vars(args).items() if k not in ("command", "log", "prometheus", "track", "set")}
    model_options = {name: values.pop(name) for name in PIPELINE_OPTIONS}
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
    print(", ".join([f"{summary.done} of {summary.rows} rows done", *figures]))
    if summary.failed:
        print(f"{_rows(summary.failed)} failed:")
        _print_messages(summary.errors, summary)
    if summary.warnings:
        print(f"done with a warning: {_rows(sum(summary.warnings.values()))}")
        _print_messages(summary.warnings, summary)
    print(f"the images, rows.jsonl, run.json and report.html are in {summary.out}/")


def _print_messages(messages: Mapping[str, int], summary: Summary) -> None:
    for line in message_lines(messages, summary.first_rows):
        print(f"  {line}")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"

"""Prints the tables of docs/results.md from the rows of the suite `paper`.

    mkdir -p out/paper && gunzip -c docs/bench/rows.jsonl.gz > out/paper/rows.jsonl
    python recipes/bench/results.py out/paper --targets redness --images 32

Of each target: every method that is measured for so many test images, at the strength that the rule of fairness chose
on so many tuning images, and without the rule. A last table depends little on the steps between the strengths: the
reward at which the probability of the right concept is 5 or 20 points below base's, interpolated between the strengths
on the tuning images, and the probability at the largest reward that all methods reach. In brackets 95 % bootstrap
intervals.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from noisetilt.bench.paper_lines import Line, lines_of
from noisetilt.bench.paper_plan import SEARCHES, TARGETS, TOLERANCE, Plan, Target, restrict
from noisetilt.bench.paper_suite import Runner
from noisetilt.bench.paper_verdict import PAIR
from noisetilt.bench.statistics import Interval, bootstrap, paired

LOSSES = (TOLERANCE, 0.2)
Read = Callable[[np.ndarray], float]
HEADER = ("method", "strength", "calls", "target", "minus {}", "held-out", "probability, minus base's", "named right")


def number(value: float, digits: int = 1) -> str:
    """A number with a minus sign, and zero without one."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(found: Interval, digits: int = 1, scale: float = 1.0) -> str:
    """A value with its interval in brackets."""
    value, low, high = (number(scale * part, digits) for part in found)
    return f"{value} [{low}, {high}]"


def cells(line: Line, reference: Line | None, constrained: bool, digits: int) -> list[str]:
    """A row of the table."""
    lead = ""
    if reference is not None and line.method != reference.method:
        lead = interval(bootstrap(paired(line.rows, reference.rows, "reward", PAIR)), digits)
    calls = number(float(np.mean([row["nfe"] for row in line.rows])), 0)
    note = ", none satisfies the rule" if constrained and line.note == "none" else ""
    probability = "" if line.method == "base" else interval(line.probability_gain, 0, 100)
    reward, heldout = interval(line.reward, digits), number(line.heldout.value)
    named = f"{100 * line.named.value:.0f} %"
    return [f"`{line.method}`", line.strength + note, calls, reward, lead, heldout, probability, named]


def table(runner: Runner, target: Target, constrained: bool, reference: str, digits: int) -> Iterator[str]:
    """The lines of a table in Markdown."""
    singles, searches = (lines_of(runner, target, many, constrained) for many in (False, True))
    lines = [*(singles or searches)[:1], *sorted([*singles[1:], *searches[1:]], key=lambda line: -line.reward.value)]
    found = next((line for line in lines if line.method == reference), None)
    yield "| " + " | ".join(HEADER).format(f"`{reference}`") + " |"
    yield "|---|---|" + "---:|" * (len(HEADER) - 2)
    yield from ("| " + " | ".join(cells(line, found, constrained, digits)) + " |" for line in lines)


def reward_at(points: np.ndarray, loss: float) -> float:
    """The largest reward on the line through (reward, probability) points, from base on, whose probability is at most
    `loss` below base's; points (strength, 2), the first one is base."""
    bound, best = points[0, 1] - loss, points[0, 0]
    for (reward, probability), (next_reward, next_probability) in itertools.pairwise(points):
        if next_probability >= bound:
            best = max(best, next_reward)
        elif probability >= bound:
            fraction = (probability - bound) / (probability - next_probability)
            best = max(best, reward + fraction * (next_reward - reward))
    return best


def front_points(runner: Runner, target: Target, name: str) -> np.ndarray:
    """Reward and probability of each tuning image without guidance and at each strength, (image, strength, 2)."""
    base = runner.rows("tuning", target, "base")
    tried = [{tuple(row[k] for k in PAIR): row for row in rows} for rows in runner.tuning_rows(target, name).values()]
    keys = [tuple(row[k] for k in PAIR) for row in base]
    found = [base, *([rows[key] for key in keys] for rows in tried)]
    return np.array([[(row["reward"], row["probability"]) for row in rows] for rows in found]).swapaxes(0, 1)


def probability_at(points: np.ndarray, reward: float) -> float:
    """The probability in percent where the line through (reward, probability) points first has a reward; that of the
    last point if it never has."""
    for (before, probability), (after, next_probability) in itertools.pairwise(points):
        if before <= reward <= after and before < after:
            return 100 * (probability + (reward - before) / (after - before) * (next_probability - probability))
    return 100 * points[-1, 1]


def fronts(runner: Runner, target: Target, reference: str, digits: int) -> Iterator[str]:
    """The lines of a table in Markdown: the rewards at some losses, the probability at the largest reward that all
    methods reach, and their differences to those of the reference."""
    names = [name for name in runner.methods(target) if name not in SEARCHES and runner.tuning_rows(target, name)]
    images = {name: front_points(runner, target, name) for name in names}
    common = min(found.mean(0)[:, 0].max() for found in images.values())
    readings = {
        f"{100 * loss:.0f} points below base's": (functools.partial(reward_at, loss=loss), digits) for loss in LOSSES
    }
    readings[f"probability at {number(common, digits)}"] = (functools.partial(probability_at, reward=common), 0)
    yield f"| method | {' | '.join(f'{title} | minus `{reference}`' for title in readings)} |"
    yield "|---|" + "---:|" * (2 * len(readings))
    for name in names:
        count, both = images[name].shape[1], np.concatenate([images[name], images.get(reference, images[name])], axis=1)
        found = []
        for read, places in readings.values():

            def own(drawn: np.ndarray, read: Read = read, count: int = count) -> float:
                return read(drawn.mean(0)[:count])

            def lead(drawn: np.ndarray, read: Read = read, count: int = count) -> float:
                return read(drawn.mean(0)[:count]) - read(drawn.mean(0)[count:])

            found.append(interval(bootstrap(both, own), places))
            found.append("" if name == reference else interval(bootstrap(both, lead), places))
        yield f"| `{name}` | {' | '.join(found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with rows.jsonl")
    parser.add_argument("--targets", nargs="+", default=[target.reward for target in TARGETS])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--tuning-images", type=int, help="default: as many as --images, at most 32")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--reference", default="ntrk")
    parser.add_argument("--digits", type=int, default=1, help="of the target reward")
    options = parser.parse_args()
    plan = restrict(Plan(), options.methods, options.targets, options.images)
    plan = replace(plan, tuning_images=options.tuning_images or plan.tuning_images)
    runner = Runner(options.run, plan, measure=False)
    for target in plan.targets:
        for constrained in (True, False):
            print(f"\n{target.reward}, {'by' if constrained else 'without'} the rule, n = {options.images}\n")
            print(*table(runner, target, constrained, options.reference, options.digits), sep="\n")
        print(f"\n{target.reward}, equal probability and equal reward, n = {plan.tuning_images}\n")
        print(*fronts(runner, target, options.reference, options.digits), sep="\n")


if __name__ == "__main__":
    main()

"""Prints the tables of docs/results.md from the rows of the suite `paper`.

    mkdir -p out/paper && gunzip -c docs/bench/rows.jsonl.gz > out/paper/rows.jsonl
    python recipes/bench/results.py out/paper --targets redness --images 64 --digits 2

Of each target: every method that is measured for so many test images, at the strength that the rule of fairness chose
on so many tuning images, and without the rule, at the strength of its largest mean reward, where fewer test images were
measured. A last table depends little on the steps between the strengths: the
reward at which the probability of the right concept is 5 or 20 points below base's, interpolated between the strengths
on the tuning images, and the probability at a reward that all methods reach, 5 % of the gain over base below the
smallest of their largest mean rewards. "≥" marks a method whose probability never falls so far at the strengths tried:
the reward is that of its strongest effect. A difference to the reference is then "≥" or "≤", and left out if both are
marked. In brackets 95 % bootstrap intervals, in which the images of a concept are drawn together.
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
from noisetilt.bench.statistics import PAIR, Interval, bootstrap, common_level, concepts_of, paired_interval, value_at

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
        lead = interval(paired_interval(line.rows, reference.rows, "reward"), digits)
    calls = number(float(np.mean([row["nfe"] for row in line.rows])), 0)
    note = ", none satisfies the rule" if constrained and line.note == "none" else ""
    probability = "" if line.method == "base" else interval(line.probability_gain, 0, 100)
    reward, heldout = interval(line.reward, digits), number(line.heldout.value)
    named = f"{100 * line.named.value:.0f} %"
    return [f"`{line.method}`", line.strength + note, calls, reward, lead, heldout, probability, named]


def table(runner: Runner, target: Target, constrained: bool, reference: str, digits: int) -> Iterator[str]:
    """The lines of a table in Markdown; a sentence if no method has so many test images at its chosen strength."""
    singles, searches = (lines_of(runner, target, many, constrained) for many in (False, True))
    if not (singles or searches):
        yield no_table(runner, target, constrained)
        return
    lines = [*(singles or searches)[:1], *sorted([*singles[1:], *searches[1:]], key=lambda line: -line.reward.value)]
    found = next((line for line in lines if line.method == reference), None)
    yield "| " + " | ".join(HEADER).format(f"`{reference}`") + " |"
    yield "|---|---|" + "---:|" * (len(HEADER) - 2)
    yield from ("| " + " | ".join(cells(line, found, constrained, digits)) + " |" for line in lines)


def no_table(runner: Runner, target: Target, constrained: bool) -> str:
    """Why there is no table, with the largest number of test images for which there is one."""
    chosen = [(name, runner.chosen_strength(target, name, constrained)) for name in runner.methods(target)]
    most = max((len(runner.rows("test", target, name, value=value)) for name, value in chosen), default=0)
    strength = "chosen" if constrained else "of its largest mean reward"
    hint = f"use --images {most}" if most >= 2 else "measure more"
    return f"No method has {runner.plan.images} test images at the strength {strength}; {hint}."


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


def never_falls(points: np.ndarray, loss: float) -> bool:
    """Whether the probability of no point is more than `loss` below base's, so that `reward_at` is a lower bound."""
    return bool((points[:, 1] >= points[0, 1] - loss).all())


def front_points(runner: Runner, target: Target, name: str) -> np.ndarray:
    """Reward and probability of each tuning image without guidance and at each strength, (image, strength, 2)."""
    base = runner.rows("tuning", target, "base")
    tried = [{tuple(row[k] for k in PAIR): row for row in rows} for rows in runner.tuning_rows(target, name).values()]
    keys = [tuple(row[k] for k in PAIR) for row in base]
    found = [base, *([rows[key] for key in keys] for rows in tried)]
    return np.array([[(row["reward"], row["probability"]) for row in rows] for rows in found]).swapaxes(0, 1)


def fronts(runner: Runner, target: Target, reference: str, digits: int) -> Iterator[str]:
    """The lines of a table in Markdown: the rewards at some losses, the probability at a reward that all methods reach,
    and their differences to those of the reference."""
    names = [name for name in runner.methods(target) if name not in SEARCHES and runner.tuning_rows(target, name)]
    images = {name: front_points(runner, target, name) for name in names}
    means = {name: found.mean(0) for name, found in images.items()}
    common = common_level([points[:, 0] for points in means.values()])
    readings: list[tuple[str, Read, int, float | None]] = [
        (f"{100 * loss:.0f} points below base's", functools.partial(reward_at, loss=loss), digits, loss)
        for loss in LOSSES
    ]
    readings.append((f"probability at {number(common, digits)}", lambda mean: 100 * value_at(mean, common), 0, None))
    yield f"| method | {' | '.join(f'{title} | minus `{reference}`' for title, *_ in readings)} |"
    yield "|---|" + "---:|" * (2 * len(readings))
    groups = concepts_of(runner.rows("tuning", target, "base"))
    for name in names:
        count, both = images[name].shape[1], np.concatenate([images[name], images.get(reference, images[name])], axis=1)
        found = []
        for _, read, places, loss in readings:

            def own(mean: np.ndarray, read: Read = read, count: int = count) -> float:
                return read(mean[:count])

            def lead(mean: np.ndarray, read: Read = read, count: int = count) -> float:
                return read(mean[:count]) - read(mean[count:])

            bounded, other = (
                loss is not None and never_falls(means.get(n, means[name]), loss) for n in (name, reference)
            )
            found.append(("≥ " if bounded else "") + interval(bootstrap(both, own, groups=groups), places))
            if name == reference or reference not in images or (bounded and other):
                found.append("")
            else:
                sign = "≥ " if bounded else "≤ " if other else ""
                found.append(sign + interval(bootstrap(both, lead, groups=groups), places))
        yield f"| `{name}` | {' | '.join(found)} |"


def images_of(runner: Runner, target: Target, wanted: int | None) -> int | None:
    """The number of images to tabulate for a target: the one that is wanted, or as many as base and a method have; None
    if they do not have so many, with a sentence."""
    measured = runner.measured_images(target)
    if measured >= (wanted or 2):
        return wanted or measured
    hint = f"use --images {measured}" if measured >= 2 else "measure more"
    print(f"\n{target.reward}: base and a method are measured for {measured} test images; {hint}.")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with rows.jsonl")
    parser.add_argument("--targets", nargs="+", default=[target.reward for target in TARGETS])
    parser.add_argument("--images", type=int, help="default: of each target as many as base and a method have")
    parser.add_argument("--tuning-images", type=int, help="default: as many as --images, at most 32")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--reference", default="ntrk")
    parser.add_argument("--digits", type=int, default=1, help="of the target reward")
    options = parser.parse_args()
    runner = Runner(options.run, restrict(Plan(), options.methods, options.targets), measure=False)
    for target in runner.plan.targets:
        images = images_of(runner, target, options.images)
        if images is None:
            continue
        plan = restrict(runner.plan, images=images)
        runner.plan = replace(plan, tuning_images=options.tuning_images or min(images, Plan().tuning_images))
        for constrained in (True, False):
            print(f"\n{target.reward}, {'by' if constrained else 'without'} the rule, n = {images}\n")
            print(*table(runner, target, constrained, options.reference, options.digits), sep="\n")
        tuning = runner.plan.tuning_images
        if len(runner.rows("tuning", target, "base")) < tuning:
            print(f"\n{target.reward}: base has fewer than {tuning} tuning images; use a smaller --tuning-images.")
            continue
        print(f"\n{target.reward}, equal probability and equal reward, n = {tuning}\n")
        print(*fronts(runner, target, options.reference, options.digits), sep="\n")


if __name__ == "__main__":
    main()

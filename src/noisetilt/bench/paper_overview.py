"""The beginning of the report of the suite `paper`: what was compared, all methods and targets in one table and one
figure, the user's own methods against all others, and what is not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..report.plotting import Panel, draw_panels, figure_bytes
from .document import Document
from .paper_lines import Line, breaks_rule, lines_of
from .paper_plan import POINTS, Target
from .paper_plots import PROBABILITY, point_of
from .paper_suite import Runner
from .statistics import Interval, paired_interval

COLUMNS = 3
# Below it, percentile intervals are too narrow.
FEW_IMAGES = 10
LOSS = "*"


class Part(NamedTuple):
    """A table of the report: a target, single trajectories or searches, by the rule of fairness or without it."""

    target: Target
    searches: bool
    constrained: bool


Results = Mapping[Part, Sequence[Line]]


def results_of(runner: Runner) -> dict[Part, list[Line]]:
    """The lines of all tables that have any."""
    parts = [
        Part(target, searches, constrained)
        for target in runner.plan.targets
        for searches in (False, True)
        for constrained in (True, False)
    ]
    found = {part: lines_of(runner, part.target, part.searches, part.constrained) for part in parts}
    return {part: lines for part, lines in found.items() if lines}


def by_rule(results: Results, target: Target) -> list[Line]:
    """Base, then all methods that are measured for a target by the rule, by decreasing reward."""
    tables = [lines for part, lines in results.items() if part.target == target and part.constrained]
    methods = sorted((line for lines in tables for line in lines[1:]), key=lambda line: -line.reward.value)
    return [*tables[0][:1], *methods] if tables else []


def write_overview(document: Document, runner: Runner, results: Results) -> None:
    """Adds what a reader wants first."""
    lines = {target: found for target in runner.plan.targets if (found := by_rule(results, target))}
    names = list(dict.fromkeys(line.method for found in lines.values() for line in found))
    document.text(_introduction(runner, len(names) - 1, len(lines)))
    if lines:
        document.heading("Results")
        document.table(*_table(runner, lines))
        document.text(
            f"Target reward, higher is better; in brackets 95 % intervals. {LOSS}: the images are less recognisable "
            f"than base's by more than the rule allows, {POINTS}, on the test prompts."
        )
        document.items([_best(target, found) for target, found in lines.items()])
        document.picture("overview.png", _figure(lines), "Up and to the right is better. Bars are 95 % intervals.")
        for name in runner.own:
            _against_others(document, name, lines)
    missing = list(_missing(runner, lines))
    if missing:
        document.heading("Not measured")
        document.items(missing)


def _introduction(runner: Runner, methods: int, targets: int) -> str:
    plan = runner.plan
    few, many = plan.budgets
    text = (
        f"{methods or 'No'} {'method is' if methods == 1 else 'methods are'} compared with the sampler without "
        f"guidance (base) on {targets} target reward{'' if targets == 1 else 's'}. Each image costs {few} network "
        f"calls, in a search {many}, if the table gives no other number. The strength of each method was chosen on "
        "other prompts: the one with the highest target reward at which the images stay about as recognisable as "
        f"base's, for a judge that no method optimises. Results are means over {plan.images} test images per method "
        "and target, with the same prompts and seeds for all methods. The words are defined at the end."
    )
    few_images = " The intervals are too narrow for so few images." if plan.images < FEW_IMAGES else ""
    return text + few_images + _unequal_tuning(runner)


def _unequal_tuning(runner: Runner) -> str:
    """A sentence on own methods that were tuned on fewer images than others; "" if there is none."""
    counts = {
        name: runner.tuned_images(target, name)
        for target in runner.plan.targets
        for name in runner.reported(target)
        if runner.tuning_rows(target, name)
    }
    most = max(counts.values(), default=0)
    fewer = [name for name in runner.own if counts.get(name, most) < most]
    if not fewer:
        return ""
    return (
        f" The strength of {', '.join(fewer)} was chosen on {min(counts[name] for name in fewer)} images, those of "
        f"others on {most}: measure it on more --images for a fair comparison."
    )


def _table(runner: Runner, lines: Mapping[Target, Sequence[Line]]) -> tuple[list[str], list[list[str]]]:
    """The rewards of all methods for all targets, the methods with the highest rewards first."""
    ranks: dict[str, list[float]] = {}
    cells: dict[tuple[str, Target], str] = {}
    calls: dict[str, float] = {}
    for target, found in lines.items():
        for rank, line in enumerate(found):
            ranks.setdefault(line.method, []).append(rank / len(found))
            cells[line.method, target] = f"{line.reward}{LOSS if breaks_rule(line) else ''}"
            calls.setdefault(line.method, line.calls)
    order = sorted(ranks, key=lambda name: (name != "base", float(np.mean(ranks[name]))))
    header = ["method", "calls", *(target.reward for target in lines)]
    return header, [
        [name, f"{calls[name]:.0f}", *(cells.get((name, target), "–") for target in lines)] for name in order
    ]


def _best(target: Target, lines: Sequence[Line]) -> str:
    """Which method has the highest reward for a target, and how sure that is."""
    base, best, *others = lines
    text = f"{target.reward}: {best.method} has the highest reward, {best.reward.value:.3g}; base has "
    text += f"{base.reward.value:.3g}."
    if breaks_rule(best):
        text += " Its images are less recognisable than the rule allows."
    if others:
        lead = paired_interval(best.rows, others[0].rows, "reward")
        sure = "significant" if lead.excludes(0) else "not significant"
        text += f" Its difference to the second, {others[0].method}, is {lead}: {sure}."
    return text


def _figure(lines: Mapping[Target, Sequence[Line]]) -> bytes:
    """A panel per target: target reward against the judge's probability of the right concept."""
    panels = [
        Panel(PROBABILITY, target.reward, {line.method: point_of(line, line.probability) for line in found})
        for target, found in lines.items()
    ]
    return figure_bytes(draw_panels(panels, "each method at the strength that the rule chooses", COLUMNS))


def _against_others(document: Document, name: str, lines: Mapping[Target, Sequence[Line]]) -> None:
    """The differences of a method to every other one, at the same prompts and seeds."""
    rows = []
    for target, found in lines.items():
        own = next((line for line in found if line.method == name), None)
        for other in found if own is not None else ():
            if other.method == name or own is None:
                continue
            reward, probability = (paired_interval(own.rows, other.rows, f) for f in ("reward", "probability"))
            row = [target.reward, other.method, str(other.reward), str(reward), _outcome(reward), str(probability)]
            rows.append([*row, _outcome(probability)])
    if not rows:
        return
    document.heading(f"{name} against each other method")
    header = ["target", "other method", "its reward", "reward, minus its", "result", "probability, minus its", "result"]
    document.table(header, rows)
    document.text(
        "Paired differences at the same prompts and seeds, with 95 % intervals that are not corrected for the number "
        "of comparisons. Probability: of the right concept, by the judge."
    )


def _outcome(difference: Interval) -> str:
    if not difference.excludes(0):
        return "not significant"
    return "higher" if difference.value > 0 else "lower"


def _missing(runner: Runner, lines: Mapping[Target, Sequence[Line]]) -> Iterator[str]:
    """Sentences on the methods and targets of the plan without a result."""
    targets = runner.plan.targets
    planned = {target: runner.methods(target) for target in targets}
    measured = {target: {line.method for line in lines.get(target, ())} for target in targets}
    empty = [target.reward for target in targets if target not in lines]
    if empty:
        yield f"Targets: {', '.join(empty)}."
    absent = {
        name: [target for target in lines if name in planned[target] and name not in measured[target]]
        for name in dict.fromkeys(name for target in lines for name in planned[target])
    }
    fully = [name for name, some in absent.items() if len(some) == sum(name in planned[target] for target in lines)]
    if fully:
        yield f"Methods, for {runner.plan.images} images: {', '.join(fully)}."
    for name in [name for name, some in absent.items() if some and name not in fully]:
        yield f"{name}: {', '.join(target.reward for target in absent[name])}."

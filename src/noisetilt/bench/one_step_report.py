"""The report of the suite `one-step`: tables, rewards by iteration, trade-offs and images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..report import file_stem
from ..report.plotting import Panel, Series, draw_panels, figure_bytes
from .document import Document
from .judge import real_features, real_sample
from .ledger import Row
from .metrics import kernel_distance, precision_recall, vendi_score
from .one_step import INITIAL, SETTINGS, Run, choose, options_label, picture_file
from .paper_plan import POINTS, Target
from .paper_report import check_calls
from .paper_verdict import HELDOUT_MARGIN
from .statistics import (
    PAIR,
    Interval,
    bootstrap,
    common_level,
    concepts_of,
    mean_interval,
    paired_interval,
    prompted_concept,
    value_at,
)

TIME_GOAL = 0.3


def tested(run: Run, target: Target, steps: int) -> dict[str, list[Row]]:
    """The test rows, with the chosen options, of each method whose test is complete, those of the initial noise first;
    empty if there are none of the initial noise."""
    found = {INITIAL: run.rows(target, steps, "test", INITIAL)}
    if not found[INITIAL]:
        return {}
    for name in SETTINGS:
        chosen, complete = choose(run, target, steps, name), run.complete(target, steps, "test", name)
        if chosen is not None and options_label(chosen.options) in complete:
            found[name] = complete[options_label(chosen.options)]
    return found


def set_metrics(rows: Sequence[Row]) -> dict[str, float | None]:
    """Kernel distance, precision and recall of rows against real emoji; None for fewer than four rows."""
    if len(rows) < 4:
        return dict.fromkeys(("distance", "precision", "recall"))
    mine, real = torch.tensor([row["features"] for row in rows]), real_features()
    precision, recall = precision_recall(real, mine)
    return {"distance": kernel_distance(real_sample(), mine), "precision": precision, "recall": recall}


def diversity(rows: Sequence[Row]) -> float:
    """The mean over concepts of the Vendi score; a suite may have one image per prompt only."""
    concepts: dict[str, list[list[float]]] = {}
    for row in rows:
        concepts.setdefault(prompted_concept(row["prompt"]), []).append(row["features"])
    return float(np.mean([vendi_score(torch.tensor(features)) for features in concepts.values()]))


def at_snapshot(row: Row, number: int) -> Row:
    """A test row with the results of a snapshot."""
    way = {
        "target": row["targets"][number],
        "alignment": row["alignments"][number],
        "nfe": row["nfe"] * (number + 1) / len(row["seconds"]),
    }
    return {**row, **row["snapshots"][str(number)], **way, "seconds": row["seconds"][: number + 1]}


def stopped(run: Run, target: Target, steps: int, methods: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The test rows of each method at the iterate chosen in the tuning."""
    found = {INITIAL: methods[INITIAL]}
    for name in (m for m in methods if m != INITIAL):
        stop = choose(run, target, steps, name).stop
        found[name] = [at_snapshot(row, stop) for row in methods[name]]
    return found


def broken_rules(run: Run, target: Target, steps: int, methods: dict[str, list[Row]]) -> list[str]:
    """A sentence with the methods of which no setting satisfies the rule of fairness, if there are any."""
    names = [name for name in methods if name != INITIAL and not choose(run, target, steps, name).admissible]
    text = (
        "No setting satisfied the rule in the tuning; the one with the highest probability of the right concept is used"
    )
    return [f"{text}: {', '.join(names)}."] if names else []


def _line(name: str, rows: list[Row], drawn: list[Row]) -> list[Any]:
    metrics = set_metrics(rows)
    gain = "–" if name == INITIAL else str(paired_interval(rows, drawn, "target"))

    def mean(field: str) -> float:
        return float(np.mean([row[field] for row in rows]))

    return [
        name,
        ", ".join(sorted({row["options"].strip("{}").replace('"', "") for row in rows})),
        len(rows),
        mean("nfe"),
        str(mean_interval(rows, "target")),
        gain,
        str(mean_interval(rows, "probability")),
        str(mean_interval(rows, "named")),
        str(mean_interval(rows, "heldout_2")),
        mean("alignment"),
        metrics["distance"],
        metrics["precision"],
        metrics["recall"],
        diversity(rows),
        mean("cosine"),
        mean("energy"),
        float(np.median([row["p_value"] for row in rows])),
        float(np.mean([row["p_value"] < 0.01 for row in rows])),
        float(np.mean([row["seconds"][-1] for row in rows])),
    ]


HEADER = (
    "method, options, n, NFE, target, gain, probability, named right, held-out, held-out alignment, kernel distance, "
    "precision, recall, Vendi, cosine to start, mean square, audit p, rejected, seconds"
).split(", ")


def first_at(curve: Iterable[float], level: float) -> int | None:
    """The first iteration at which a curve reaches a level."""
    return next((i for i, value in enumerate(curve) if value >= level), None)


def verdicts(rows: dict[str, list[Row]]) -> list[str]:
    """The order of the methods, in sentences."""
    ascents = {name: some for name, some in rows.items() if name != INITIAL}
    means = {name: float(np.mean([row["target"] for row in some])) for name, some in ascents.items()}
    order = sorted(means, key=means.get, reverse=True)
    lines = ["Target reward, highest first: " + ", ".join(f"{m} {means[m]:.2f}" for m in order) + "."] if order else []
    # The first is chosen on the rows that it is tested on, so the intervals hold for all pairs (Bonferroni).
    pairs = len(order) * (len(order) - 1) // 2
    for rival in order[1:]:
        first, level = order[0], 1 - 0.05 / pairs
        ahead = paired_interval(ascents[first], ascents[rival], "target", level)
        more = paired_interval(ascents[first], ascents[rival], "probability")
        significant = "significant" if ahead.excludes(0) else "not significant"
        corrected = f", an interval of {level:.3%} for {pairs} pairs" if pairs > 1 else ""
        lines.append(
            f"{first} minus {rival}: target {ahead} ({significant}{corrected}), probability of the right "
            f"concept {more}."
        )
    return lines


def goals(methods: dict[str, list[Row]]) -> list[str]:
    """Whether the goals are reached, in sentences. The gper methods are compared with the penalties and with no
    regularisation."""
    rivals: dict[str, list[Row]] = {name: methods[name] for name in ("none", "reno", "prno", "mpgr") if name in methods}
    lines = []
    for name in (m for m in methods if m.startswith("gper")):
        if "mpgr" in methods:
            lines.append(_time_goal(name, methods[name], methods["mpgr"]))
        if rivals:
            lines.append(_reward_goal(name, methods[name], rivals, methods[INITIAL]))
            lines += _probability_goals(name, methods[name], rivals, methods[INITIAL])
    if "none" in methods:
        change = paired_interval(methods["none"], methods[INITIAL], "probability")
        hacking = "reward hacking" if change.high < 0 else "no significant loss"
        lines.append(f"Without regularisation the probability of the right concept changes by {change}: {hacking}.")
    return lines


def _probability_goals(name: str, rows: list[Row], rivals: dict[str, list[Row]], drawn: list[Row]) -> list[str]:
    """The judge's probability of the right concept for a method and each rival at equal target, interpolated between
    the initial noise and the snapshots."""
    lines, own, groups = [], _front(rows, drawn), concepts_of(drawn)
    for rival, theirs in rivals.items():
        other = _front(theirs, drawn)
        level = common_level([points.mean(0)[:, 0] for points in (own, other)])

        def difference(mean: np.ndarray, level: float = level) -> float:
            mine, their = np.split(mean, [own.shape[1]])
            return value_at(mine, level) - value_at(their, level)

        ahead = bootstrap(np.concatenate([own, other], axis=1), difference, groups=groups)
        lines.append(
            f"At a target of {level:.2f}, interpolated between snapshots, the probability of the right concept of "
            f"{name}'s images minus that of {rival}'s is {ahead}, n = {len(rows)} (goal: above 0): "
            f"{_reached(ahead.low > 0)}."
        )
    return lines


def _front(rows: Sequence[Row], drawn: Sequence[Row]) -> np.ndarray:
    """Target reward and probability of each image at the initial noise and at each snapshot, (image, snapshot, 2), in
    the order of the initial noises."""
    partner = {tuple(row[name] for name in PAIR): row for row in rows}
    found = []
    for start in drawn:
        row = partner[tuple(start[name] for name in PAIR)]
        ways = [(number, row["snapshots"][str(number)]) for number in sorted(map(int, row["snapshots"]))]
        points = [(row["targets"][number], way["probability"]) for number, way in ways]
        found.append([(row["targets"][0], start["probability"]), *points])
    return np.array(found, dtype=float)


def _time_goal(name: str, rows: list[Row], rival: list[Row]) -> str:
    """When a method reaches the best mean reward of mpgr, in iterations, and in the seconds that mpgr takes to it."""
    theirs, own = mean_curve(rival, "targets"), mean_curve(rows, "targets")
    level = theirs.max()
    reached = first_at(own, level)
    if reached is None:
        return f"{name} does not reach mpgr's best mean reward {level:.2f}: goal not reached."
    fraction = mean_curve(rows, "seconds")[reached] / mean_curve(rival, "seconds")[theirs.argmax()]
    return (
        f"{name} reaches mpgr's best mean reward {level:.2f} after {reached} of {len(own) - 1} iterations, in "
        f"{fraction:.0%} of the seconds in which mpgr does (goal: {TIME_GOAL:.0%}): {_reached(fraction <= TIME_GOAL)}."
    )


def _reward_goal(name: str, rows: list[Row], rivals: dict[str, list[Row]], drawn: list[Row]) -> str:
    """Whether a method has a higher reward than each of the others, and its held-out rewards relative to the initial
    noise."""
    ahead = {rival: paired_interval(rows, theirs, "target") for rival, theirs in rivals.items()}
    lowest = min(ahead, key=lambda rival: ahead[rival].low)
    fields = ("alignment", "heldout_2")
    changes = [paired_interval(rows, drawn, field) for field in fields]
    margins = [HELDOUT_MARGIN * float(np.std([row[field] for row in drawn])) for field in fields]
    alignment, second = (f"{c} (margin {m:.3g})" for c, m in zip(changes, margins, strict=True))
    return (
        f"Goal: {name} above all others: {_reached(ahead[lowest].low > 0)} ({ahead[lowest]} above {lowest}, the lowest "
        f"bound). Relative to the initial noise held-out alignment changes by {alignment}, the second held-out reward "
        f"by {second}: {_kept(changes, margins)}."
    )


def _kept(changes: Sequence[Interval], margins: Sequence[float]) -> str:
    """Whether no held-out reward is more than its margin below before (a test of non-inferiority)."""
    pairs = list(zip(changes, margins, strict=True))
    if all(change.low >= -margin for change, margin in pairs):
        return "preserved"
    return "not preserved" if any(change.high < -margin for change, margin in pairs) else "undecided"


def _reached(reached: bool) -> str:
    return "reached" if reached else "not reached"


def mean_curve(rows: Sequence[Row], field: str) -> np.ndarray:
    """The mean over images of a field by iteration, (iterations + 1,)."""
    return np.mean([row[field] for row in rows], axis=0)


def _plot_curves(methods: dict[str, list[Row]], reward: str) -> bytes:
    by_iteration, by_time, against = {}, {}, {}
    for name, rows in methods.items():
        target, aligned, seconds = (mean_curve(rows, field) for field in ("targets", "alignments", "seconds"))
        by_iteration[name] = Series(range(len(target)), target, markers=False)
        by_time[name] = Series(seconds, target, markers=False)
        against[name] = Series(target, aligned, markers=False, circled=len(target) - 1)
    panels = [
        Panel("iteration", reward, by_iteration),
        Panel("seconds per image", reward, by_time),
        Panel(reward, "held-out alignment", against),
    ]
    return figure_bytes(draw_panels(panels))


def _plot_frontier(methods: dict[str, list[Row]], target: Target) -> bytes:
    """Target reward against its costs, at the snapshots of each method."""
    labels = {
        "probability": "probability of the right concept",
        "distance": "kernel distance to real emoji",
        "heldout_2": f"held-out {target.heldout}",
    }
    series: dict[str, dict[str, Series]] = {field: {} for field in labels}
    for name, rows in methods.items():
        at = sorted(map(int, rows[0]["snapshots"]))
        ways = [[at_snapshot(row, number) for row in rows] for number in at]
        distance = [set_metrics(some)["distance"] for some in ways]
        for field in labels:
            cost = distance if field == "distance" else _means(ways, field)
            if None not in cost:
                series[field][name] = Series(cost, _means(ways, "target"))
    panels = [Panel(label, target.reward, series[field]) for field, label in labels.items() if series[field]]
    return figure_bytes(draw_panels(panels))


def _means(ways: Sequence[Sequence[Row]], field: str) -> list[float]:
    return [float(np.mean([row[field] for row in rows])) for rows in ways]


def _plot_costs(lines: Sequence[list[Any]], reward: str) -> bytes:
    """Target reward of all methods against its costs."""
    panels = []
    for column in ("precision", "Vendi", "rejected"):
        points = {
            line[0]: (float(line[HEADER.index("target")].split()[0]), line[HEADER.index(column)]) for line in lines
        }
        series = {name: Series([x], [y], connected=False) for name, (x, y) in points.items() if y is not None}
        panels += [Panel(reward, column, series)] if series else []
    return figure_bytes(draw_panels(panels))


def write(out: Path, run: Run) -> Document:
    """report.md, report.html, their plots and picture grids, of what is measured so far.

    Raises:
        ValueError: if a row's reported and counted network calls differ.
    """
    check_calls({**row, "target": row["reward"]} for row in run.ledger.where())
    document = Document("One-step suite: noise ascent")
    document.text(
        f"Settings: {run.settings}. Options and the iterate to stop at were tuned on the tuning prompts, with equally "
        "many settings and iterations per method: the highest mean target reward among the iterates where the judge "
        f"gives the right concept a mean probability of at most {POINTS} below that of the initial noise. No method "
        "optimises the judge. Brackets are 95 % bootstrap intervals unless another level is given, in which the images "
        "of a concept are drawn together; 'gain' is the difference to the initial noise at the same seeds. NFE are "
        "counted by a hook on the network, without recomputation in the backward pass. Kernel distance (KID), "
        "precision and recall are against 3 000 real emoji; the last two depend on the number of images. Vendi is the "
        "effective number of different images of a concept. Cosine to start, mean square and audit p are those of "
        "the noise; 'rejected' is the fraction that the typicality audit rejects at 1 %. Seconds do not include the "
        "held-out rewards."
    )
    for target, steps in itertools.product(run.size.targets, run.size.steps):
        methods = tested(run, target, steps)
        if methods:
            _section(document, run, target, steps, methods)
    document.write(out)
    return document


def _section(document: Document, run: Run, target: Target, steps: int, methods: dict[str, list[Row]]) -> None:
    stem, out, reward = f"{file_stem(target.reward)}-{steps}", run.out, target.reward
    document.heading(f"Reward {reward}, {steps} step{'s' if steps > 1 else ''}")
    document.items(goals(methods))
    early = stopped(run, target, steps, methods)
    stops = {name: None if name == INITIAL else len(rows[0]["seconds"]) - 1 for name, rows in early.items()}
    document.text("At the iterate chosen in the tuning:")
    document.items([*verdicts(early), *broken_rules(run, target, steps, methods)])
    document.table(HEADER, [_line(name, rows, methods[INITIAL]) for name, rows in early.items()])
    shown = [
        (name if n is None else f"{name}, {n} iterations", [picture_file(out, row, n) for row in early[name][:8]])
        for name, n in stops.items()
    ]
    document.images(f"{stem}-stopped.png", shown, "The same seeds, at the chosen iterate.")
    document.text("At the best of all iterates:")
    document.items(verdicts(methods))
    lines = [_line(name, some, methods[INITIAL]) for name, some in methods.items()]
    document.table(HEADER, lines)
    ascents = {name: some for name, some in methods.items() if name != INITIAL}
    if ascents:
        document.picture(f"{stem}-ways.png", _plot_curves(ascents, reward), "Mean rewards of the iterates.")
        caption = "The iterates of each method: target reward against what it costs."
        document.picture(f"{stem}-frontier.png", _plot_frontier(ascents, target), caption)
    document.picture(f"{stem}-trade.png", _plot_costs(lines, reward), "Target reward against its costs.")
    rows = [(name, [picture_file(out, row) for row in some[:8]]) for name, some in methods.items()]
    document.images(f"{stem}-pictures.png", rows, "The same seeds, at the best of all iterates.")

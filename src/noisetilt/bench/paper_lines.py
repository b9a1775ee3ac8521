"""The results of the methods at one target and budget, and what they say in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .judge import real_features, real_sample
from .ledger import Row
from .metrics import kernel_distance, precision_recall, vendi_score
from .paper_plan import POINTS, TOLERANCE, Target
from .paper_suite import Runner
from .paper_verdict import complete
from .statistics import Interval, mean_interval, paired_interval


@dataclass(frozen=True)
class Line:
    """The results of a method at one target and budget; a row of the report's table."""

    method: str
    strength: str
    note: str
    rows: Sequence[Row]
    reward: Interval
    gain: Interval
    named: Interval
    probability: Interval
    probability_gain: Interval
    heldout: Interval
    heldout_gain: Interval
    alignment: float
    distance: float
    precision: float | None
    recall: float | None
    vendi: float
    roughness: float
    p_value: float | None
    rejected: float | None
    calls: float
    seconds: float
    processor_seconds: float
    megabytes: float | None


def breaks_rule(line: Line) -> bool:
    """Whether the images of a method are less recognisable than the rule allows, on the test prompts."""
    return line.probability_gain.value < -TOLERANCE


def mean_of(rows: Sequence[Row], field: str) -> float | None:
    """The mean of a field, without missing values."""
    values = [row[field] for row in rows if row[field] is not None]
    return float(np.mean(values)) if values else None


def _line(method: str, strength: str, note: str, rows: Sequence[Row], base: Sequence[Row]) -> Line:
    real, features = real_features(), torch.tensor([row["features"] for row in rows])
    precision, recall = precision_recall(real, features) if len(rows) > 3 else (None, None)
    p_values = [row["p_value"] for row in rows if row["p_value"] is not None]
    return Line(
        method,
        strength,
        note,
        rows,
        mean_interval(rows, "reward"),
        paired_interval(rows, base, "reward"),
        mean_interval(rows, "named"),
        mean_interval(rows, "probability"),
        paired_interval(rows, base, "probability"),
        mean_interval(rows, "heldout"),
        paired_interval(rows, base, "heldout"),
        mean_of(rows, "heldout_alignment"),
        kernel_distance(features, real_sample()) if len(rows) > 1 else float("nan"),
        precision,
        recall,
        vendi_score(features),
        mean_of(rows, "roughness"),
        float(np.median(p_values)) if p_values else None,
        float(np.mean(np.array(p_values) < 0.01)) if p_values else None,
        mean_of(rows, "network_calls"),
        mean_of(rows, "seconds"),
        mean_of(rows, "processor_seconds"),
        max((row["megabytes"] for row in rows if row["megabytes"] is not None), default=None),
    )


def lines_of(runner: Runner, target: Target, searches: bool, constrained: bool = True) -> list[Line]:
    """Base, then all single-trajectory methods or all searches whose test of a target is complete, by decreasing
    reward, with the strengths chosen by the rule of fairness or without it."""
    names = [name for name in runner.reported(target) if runner.entries[name].is_search == searches]
    tests = {name: rows for name in names if (rows := complete(runner, target, name, constrained))}
    base = complete(runner, target, "base")
    if not (base and tests):
        return []
    lines = [
        _line(name, *_strength(runner, target, name, rows, constrained), rows, base) for name, rows in tests.items()
    ]
    return [_line("base", "", "", base, base), *sorted(lines, key=lambda line: -line.reward.value)]


def _strength(runner: Runner, target: Target, name: str, rows: Sequence[Row], constrained: bool) -> tuple[str, str]:
    """The strength of rows as text, and a note: "none" satisfied the rule, or it is at the "edge" of those tried."""
    tried, value = runner.values(target, name), rows[0]["value"]
    if not tried:
        return "", ""
    none = constrained and not runner.admissible_strengths(target, name)
    note = "none" if none else "edge" if value in (tried[0], tried[-1]) else ""
    return f"{runner.entries[name].option} = {value:g}", note


def verdicts(target: Target, lines: Sequence[Line]) -> list[str]:
    """What the results say, in sentences."""
    methods = lines[1:]
    if not methods:
        return []
    best = methods[0]
    sentences = [
        f"Highest target reward: {best.method}, {best.reward.value:.3g}; base has {lines[0].reward.value:.3g} (gain "
        f"{best.gain})."
    ]
    if len(methods) > 1:
        second = methods[1]
        lead = paired_interval(best.rows, second.rows, "reward")
        significant = "significant" if lead.excludes(0) else "not significant"
        sentences.append(f"Its difference to the second best, {second.method}, is {lead}: {significant}.")
    by_heldout = max(methods, key=lambda line: line.heldout.value)
    sentences.append(f"Highest held-out {target.heldout}: {by_heldout.method}, gain {by_heldout.heldout_gain}.")
    return sentences + _warnings(target, methods)


def _warnings(target: Target, methods: Sequence[Line]) -> list[str]:
    """Sentences on reward hacking, tuning and untypical noise."""

    def tuned(note: str) -> list[str]:
        return [f"{line.method} ({line.strength})" for line in methods if line.note == note]

    hacked = [line.method for line in methods if line.gain.low > 0 and line.heldout_gain.high < 0]
    lost = [line.method for line in methods if breaks_rule(line)]
    rejected = [line.method for line in methods if line.rejected is not None and line.rejected > 0.5]
    sentences: list[tuple[str, Any]] = [
        (f"Significantly higher target and significantly lower held-out {target.heldout} (reward hacking)", hacked),
        (f"The judge gives the right concept a lower probability than base's, by more than {POINTS}", lost),
        ("No strength satisfied the rule in the tuning; the weakest is used", tuned("none")),
        ("The strength is the weakest or strongest tried, so another value may be better", tuned("edge")),
        ("The audit rejects the injected noise of more than half of the images", rejected),
    ]
    return [f"{text}: {', '.join(names)}." for text, names in sentences if names]

"""The report of the suite `exact`: plots of gain against disturbance, with the optimum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..report.plotting import Panel, Series, draw_panels, figure_bytes
from .document import Document
from .exact_suite import Run, disturbance
from .ledger import Row
from .statistics import Interval, bootstrap, paired


class Point(NamedTuple):
    """The results of a method at one strength, over all seeds."""

    method: str
    strength: float
    nfe: float
    gain: Interval
    disturbance: Interval
    ring: float


def points(rows: Sequence[Row]) -> list[Point]:
    """All settings of one problem against base with the same kernel and seeds."""
    settings = dict.fromkeys((row["method"], row["strength"]) for row in rows)
    base = {name: [row for row in rows if row["method"] == name] for name in ("base", "base eta 0.7")}
    found = []
    for method, strength in settings if all(base.values()) else ():
        mine = [row for row in rows if (row["method"], row["strength"]) == (method, strength)]
        partner = base["base eta 0.7" if method.endswith("eta 0.7") else "base"]
        gains, excess = (paired(mine, partner, name, ("seed",)) for name in ("reward", "energy"))
        power, before = (np.mean([row["rings"] for row in part], axis=0) for part in (mine, partner))
        found.append(
            Point(
                method,
                strength,
                mine[0]["nfe"],
                bootstrap(gains),
                bootstrap(excess, disturbance),
                float((power / before).max()),
            )
        )
    return found


def gain_at(points: Sequence[Point], method: str, level: float) -> float | None:
    """A method's gain at a disturbance, interpolated between its strengths; None above its largest disturbance."""
    mine = sorted((max(0.0, p.disturbance.value), p.gain.value) for p in points if p.method == method)
    if not mine or mine[-1][0] < level:
        return None
    x, y = zip(*[(0.0, 0.0), *mine], strict=True)
    return float(np.interp(level, x, y))


def verdicts(name: str, points: Sequence[Point]) -> list[str]:
    """The results in sentences."""
    level = 8.0
    at = {m: g for m in dict.fromkeys(p.method for p in points) if (g := gain_at(points, m, level)) is not None}
    lines = []
    if at:
        best = max(at, key=at.get)
        rest = ", ".join(f"{m} {g:.1f}" for m, g in sorted(at.items(), key=lambda item: -item[1]) if m != best)
        lines.append(
            f"At a disturbance of {level:g}, {best} has the highest gain, {at[best]:.1f}; others: {rest or 'none'}."
        )
    for method in ("ntrk", "ntrk mixture", "ntrk path"):
        gains = [(p.strength, p.gain.value) for p in points if p.method == method]
        if gains and name != "mixture":
            text = ", ".join(f"{gain:.1f} of {requested:g}" for requested, gain in gains)
            lines.append(f"Gain of {method}, of the gain requested by best_of: {text}.")
    return lines


def _plot(points: Sequence[Point], name: str, linear: bool) -> bytes:
    series = {}
    for method in dict.fromkeys(p.method for p in points if not p.method.startswith("base")):
        mine = sorted((p for p in points if p.method == method), key=lambda p: p.strength)
        x, y = [max(0.0, p.disturbance.value) for p in mine], [p.gain.value for p in mine]
        series[method] = Series(x, y, connected=method not in ("best-of-n", "svdd"))
    right = min(max(max(0.0, p.disturbance.value) for p in points), 25.0) or 1.0
    panel = Panel(
        "disturbance, square root of added energy",
        "gain, standard deviations of the reward",
        series,
        guides={"optimal tilt": ([0, right], [0, right])} if linear else {},
        limits=((-0.02 * right, right * 1.03), (-1, right * 1.05) if linear else None),
    )
    return figure_bytes(draw_panels([panel], name))


def write(out: Path, run: Run) -> Document:
    """report.md, report.html and their plots, of what is measured."""
    document = Document("Exact suite: gain against disturbance")
    document.text(f"Images 3 × {run.size} × {run.size}, {run.steps} steps, {run.seeds} seeds.")
    document.text(
        "The gain is in standard deviations of the reward under the prior. The disturbance is the square root of the "
        "energy added to the whitened image, in the same units; the optimal tilt of a linear reward is on the "
        "diagonal. Both are relative to base at the same seeds; brackets are 95 % bootstrap intervals. 'most disturbed "
        "ring' is the largest ratio of power to base's over the rings of frequencies. Tilts with a whitened path "
        "preserve the energy, because it decreases in all other directions, so they are above the diagonal."
    )
    for problem in run.problems:
        found = points(run.ledger.where(problem=problem.name))
        if not found:
            continue
        document.heading(f"{problem.name}: {problem.summary}")
        document.items(verdicts(problem.name, found))
        linear = problem.name != "mixture"
        caption = f"Reward {problem.name}: each point is one strength."
        document.picture(f"{problem.name}.png", _plot(found, problem.name, linear), caption)
        document.table(
            ["method", "strength", "NFE", "gain", "disturbance", "most disturbed ring"],
            [[p.method, p.strength, p.nfe, str(p.gain), str(p.disturbance), p.ring] for p in found],
        )
    document.write(out)
    return document

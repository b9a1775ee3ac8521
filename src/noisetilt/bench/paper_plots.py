"""The plots and image grids of the report of the suite `paper`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..report.plotting import Panel, Series, draw_panels, figure_bytes
from .judge import real_sample
from .ledger import Row
from .metrics import kernel_distance
from .paper_lines import Line, mean_of
from .paper_plan import POINTS, TOLERANCE, Target
from .paper_suite import Runner
from .statistics import Interval

PROBABILITY = "probability of the right concept, by the judge"
DISTANCE = "kernel distance to real emoji (lower is better)"


def plot_lines(target: Target, lines: Sequence[Line], title: str) -> bytes:
    """Target reward against the judge's probability of the right concept, the kernel distance and the held-out
    reward, at the tested strengths."""
    panels = [
        Panel(PROBABILITY, target.reward, {line.method: point_of(line, line.probability) for line in lines}),
        Panel(DISTANCE, target.reward, {line.method: point_of(line, line.distance) for line in lines}),
        Panel(
            f"held-out {target.heldout}", target.reward, {line.method: point_of(line, line.heldout) for line in lines}
        ),
    ]
    return figure_bytes(draw_panels(panels, title))


def point_of(line: Line, x: Interval | float) -> Series:
    """The target reward of a method against another of its results, with their intervals."""
    y = _errors(line.reward)
    if isinstance(x, Interval):
        return Series([x.value], [line.reward.value], x_error=_errors(x), y_error=y, connected=False)
    return Series([x], [line.reward.value], y_error=y, connected=False)


def _errors(interval: Interval) -> tuple[list[float], list[float]]:
    return [interval.value - interval.low], [interval.high - interval.value]


def distance_of(rows: Sequence[Row]) -> float | None:
    """Kernel distance of rows to real emoji; None for fewer than two rows."""
    if len(rows) < 2:
        return None
    return kernel_distance(torch.tensor([row["features"] for row in rows]), real_sample())


def plot_fronts(runner: Runner, target: Target, tried: dict[str, dict[float, list[Row]]]) -> bytes:
    """A line per method over its strengths in the tuning: target reward against the judge's probability of the right
    concept, with the least one that the rule admits, and against the kernel distance."""
    base = runner.tuning_base(target)
    start, probability, distance = mean_of(base, "reward"), mean_of(base, "probability"), distance_of(base)
    by_probability, by_distance = {"base": Series([probability], [start])}, {"base": Series([distance], [start])}
    for name, cells in tried.items():
        y = [mean_of(rows, "reward") for rows in cells.values()]
        circled = list(cells).index(runner.chosen_strength(target, name))
        by_probability[name] = Series([mean_of(rows, "probability") for rows in cells.values()], y, circled=circled)
        by_distance[name] = Series([distance_of(rows) for rows in cells.values()], y, circled=circled)
    heights = [y for series in by_probability.values() for y in series.y if y is not None]
    least = probability - TOLERANCE
    guides = {f"base minus {POINTS}": ([least, least], [min(heights), max(heights)])}
    panels = [
        Panel(PROBABILITY, target.reward, by_probability, guides=guides),
        Panel(DISTANCE, target.reward, by_distance),
    ]
    return figure_bytes(draw_panels(panels, f"{target.reward}: every strength tried, n = {len(base)} images each"))


def image_files(out: Path, lines: Sequence[Line]) -> list[tuple[str, list[Path]]]:
    """A label with the mean target reward, and the files of the first eight images, of each method."""
    rows = []
    for line in lines:
        first = sorted(line.rows, key=lambda row: (row["seed"], row["prompt"]))[:8]
        files = [out / "pictures" / row["picture"] for row in first]
        name = f"{line.method}, {line.strength}" if line.strength else line.method
        rows.append((f"{name}: reward {line.reward.value:.3g}", files))
    return rows

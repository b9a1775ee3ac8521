"""Reward curves as SVG, which is redrawn after each step and follows the colours of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

import numpy as np

from ..report.plotting.axes import tick_labels

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 34
# Of a digit, at the font size of style.css.
DIGIT = 6.5


def draw_curves(curves: Mapping[str, np.ndarray], title: str, unit: str, steps: int, base: str | None = None) -> str:
    """A chart of means of curves (step, image) with the range of the images; "" if no curve has a value.

    Args:
        curves: by their names in the legend.
        title: above the chart.
        unit: of the horizontal axis.
        steps: length of the horizontal axis.
        base: name of the curve that is drawn dashed in grey; the others are lines.
    """
    curves = {name: values for name, values in curves.items() if values.size}
    if not curves:
        return ""
    low = min(float(values.min()) for values in curves.values())
    high = max(float(values.max()) for values in curves.values())
    margin = 0.05 * (high - low) or max(0.5, abs(high) * 0.1)
    low, high = low - margin, high + margin
    heights = ticks(low, high)
    labels = tick_labels(heights)
    left = max(LEFT, 8 + DIGIT * max(map(len, labels), default=0))

    def x(step: float) -> float:
        return left + (WIDTH - left - RIGHT) * (step - 1) / max(steps - 1, 1)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [_grid_line(left, y(tick), label) for tick, label in zip(heights, labels, strict=True)]
    for name, values in curves.items():
        kind, across = _kind(name, base), [x(step) for step in range(1, len(values) + 1)]
        band = [*zip(across, map(y, values.max(1)), strict=True)]
        band += [*zip(across, map(y, values.min(1)), strict=True)][::-1]
        parts.append(f'<polygon class="nt-band nt-{kind}" points="{_points(band)}"/>')
        mean = zip(across, map(y, values.mean(1)), strict=True)
        parts.append(f'<polyline class="nt-line nt-{kind}" points="{_points(mean)}"/>')
    first, end = (0, steps - 1) if unit == "iteration" else (1, steps)
    parts.append(f'<text x="{left:g}" y="{HEIGHT - 14}">{first}</text>')
    if end > first:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 14}" text-anchor="end">{end}</text>')
    parts.append(f'<text x="{(left + WIDTH) / 2:g}" y="{HEIGHT - 4}" text-anchor="middle">{escape(unit)}</text>')
    said = "; ".join(f"{name}: {values[0].mean():.2f} to {values[-1].mean():.2f}" for name, values in curves.items())
    return (
        f'<figure class="nt-chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}. {said}", quote=True)}">'
        f"{''.join(parts)}</svg>{_legend(list(curves), base)}</figure>"
    )


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values between two values."""
    step = 10.0 ** np.floor(np.log10(high - low))
    for factor in (2.0, 1.0, 0.5, 0.2):
        first = np.ceil(low / (step * factor))
        values = [float(round((first + i) * step * factor, 10)) + 0.0 for i in range(20)]
        values = [value for value in values if value <= high]
        if len(values) >= 3:
            return values
    return values


def _grid_line(left: float, height: float, label: str) -> str:
    return (
        f'<line class="nt-grid" x1="{left:g}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        f'<text x="{left - 6:g}" y="{height + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in pairs)


def _kind(name: str, base: str | None) -> str:
    return "base" if name == base else "guided"


def _legend(names: list[str], base: str | None) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li class="nt-{_kind(name, base)}"><span class="nt-key"></span>{escape(name)}</li>' for name in names
    )
    return f'<ul class="nt-legend">{items}</ul>'

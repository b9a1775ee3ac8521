"""Ticks of the axes: few, with as many digits as tell them apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def tick_labels(values: Sequence[float]) -> list[str]:
    """Texts of numbers, all with as many significant digits as the nearest two need."""
    numbers = sorted({float(value) for value in values})
    step = min((b - a for a, b in itertools.pairwise(numbers)), default=0.0)
    for digits in range(1, 17):
        texts = [_number(value, digits) for value in values]
        if all(abs(float(t) - v) <= 0.02 * (step or abs(v)) for t, v in zip(texts, values, strict=True)):
            break
    return [text.replace("-", "−") for text in texts]


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = np.format_float_positional(float(text), trim="-")
    return text


def set_ticks(axis: Any, scale: str = "linear", count: int = 6, whole: bool = False) -> None:
    """Sets the ticks of an axis of matplotlib: at most about `count`, of a linear, log or symlog scale; with `whole`, a
    linear one has them at whole numbers only."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    if scale == "linear":
        axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=whole))
    else:
        low, high = axis.get_view_interval()
        axis.set_major_locator(FixedLocator(decades(low, high, scale == "symlog")))
    axis.set_minor_locator(NullLocator())
    formatter: Any = FuncFormatter(lambda value, _: tick_labels([value])[0])
    formatter.format_ticks = tick_labels
    axis.set_major_formatter(formatter)


def decades(low: float, high: float, symmetric: bool = False, count: int = 7) -> list[float]:
    """At most `count` round numbers from low to high for a logarithmic axis; with `symmetric` also 0 and below."""
    if symmetric:
        above, below = (decades(1.0, abs(end), count=3) if abs(end) > 1 else [] for end in (max(high, 0), min(low, 0)))
        return [*(-value for value in reversed(below)), 0.0, *above]
    low, high = math.log10(low), math.log10(high)
    gap = 0.14 * (high - low)  # labels that are nearer overlap
    for numbers in ((1, 1.1, 1.25, 1.5, 2, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            number * 10.0**power
            for power in range(math.floor(low) - 1, math.ceil(high) + 1)
            for number in numbers
            if low <= math.log10(number * 10.0**power) <= high
        ]
        logs = [math.log10(value) for value in found]
        if len(found) <= count and all(b - a >= gap for a, b in itertools.pairwise(logs)):
            break
    return found[:: max(1, -(-len(found) // count))]

"""Means with confidence intervals: percentile bootstrap, paired for images with the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

DRAWS = 2000


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def excludes(self, value: float) -> bool:
        """Whether a value is outside the interval."""
        return self.low > value or self.high < value


def bootstrap(
    values: Sequence[Any] | np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, draws: int = DRAWS
) -> Interval:
    """A statistic with its 95 % percentile bootstrap interval (Efron 1979), from a fixed seed.

    Args:
        values: (n, …), n ≥ 1; for a single row the interval is infinite.
        statistic: (n, …) → a number.
        draws: number of bootstrap draws.
    Raises:
        ValueError: if there is no row.
    """
    values = np.asarray(values)
    if len(values) == 0:
        raise ValueError("bootstrap was given no values; expected at least one")
    estimate = float(statistic(values))
    if len(values) == 1:
        return Interval(estimate, -np.inf, np.inf)
    rows = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile([statistic(values[row]) for row in rows], [0.025, 0.975])
    return Interval(estimate, float(low), float(high))


def paired(
    rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], field: str, key: Sequence[str]
) -> np.ndarray:
    """Differences of a field between rows and base rows of the same key (the same prompt and seed), (n,).

    Raises:
        ValueError: if a row has no partner.
    """
    partner = {tuple(row[k] for k in key): row[field] for row in base}
    missing = [row for row in rows if tuple(row[k] for k in key) not in partner]
    if missing:
        raise ValueError(
            f"no base row has {key} = {[missing[0][k] for k in key]}; pair only rows of the same prompts and seeds"
        )
    return np.array([row[field] - partner[tuple(row[k] for k in key)] for row in rows])

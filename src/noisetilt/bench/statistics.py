"""Means with confidence intervals: percentile bootstrap over the concepts of the prompts, paired for images with the
same seeds.

Images of one concept are not independent, so a concept is drawn with all its images. The intervals cover other prompts
of the same kind with other seeds, at the strengths that were tested; they do not cover other tuning images, which might
lead to other strengths. Prompts share seeds, and what a seed does to all of them is not covered. With fewer than about
ten concepts percentile intervals are too narrow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..rewards.scorers.words import STYLES

DRAWS = 2000
# The fields that rows of the same image have in common.
PAIR = ("prompt", "seed")
# How far below the highest points curves are compared, as a fraction of their rise, so that bootstrap draws reach it.
MARGIN = 0.05


class Interval(NamedTuple):
    """An estimate and its interval, 95 % unless another level is given."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def excludes(self, value: float) -> bool:
        """Whether a value is outside the interval."""
        return self.low > value or self.high < value


def bootstrap(
    values: Sequence[Any] | np.ndarray,
    statistic: Callable[[Any], float] = float,
    draws: int = DRAWS,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Interval:
    """A function of a mean, with its percentile bootstrap interval (Efron 1979), from a fixed seed.

    Args:
        values: (n, …), n ≥ 1.
        statistic: of the mean of the values, (…) → a number; the mean itself by default.
        draws: number of bootstrap draws.
        groups: (n,) labels; values of one group are drawn together (cluster bootstrap, Davison & Hinkley 1997). None:
            each value is a group. For a single group the interval is infinite.
        level: of the interval.
    Raises:
        ValueError: if there is no value, or there are not as many labels as values.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("bootstrap was given no values; expected at least one")
    labels = list(range(len(values)) if groups is None else groups)
    if len(labels) != len(values):
        raise ValueError(f"bootstrap was given {len(values)} values and {len(labels)} groups; give one group per value")
    estimate = float(statistic(values.mean(0)))
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    many = len(numbers)
    if many == 1:
        return Interval(estimate, -np.inf, np.inf)
    of_value = np.array([numbers[label] for label in labels])
    sums = np.zeros((many, *values.shape[1:]))
    np.add.at(sums, of_value, values)
    drawn = np.random.default_rng(0).integers(many, size=(draws, many))
    times = np.bincount((drawn + many * np.arange(draws)[:, None]).ravel(), minlength=draws * many)
    times = times.reshape(draws, many).astype(np.float64)
    means = np.tensordot(times, sums, 1).T / (times @ np.bincount(of_value))
    low, high = np.quantile([statistic(mean) for mean in means.T], [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def prompted_concept(prompt: str) -> str:
    """A prompt without its style words."""
    return " ".join(word for word in prompt.split(" ") if word not in STYLES)


def concepts_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The concept of each row's prompt, the groups for `bootstrap`."""
    return [prompted_concept(row["prompt"]) for row in rows]


def mean_interval(rows: Sequence[Mapping[str, Any]], field: str) -> Interval:
    """The mean of a field over rows, with its interval over the concepts of the prompts."""
    return bootstrap([float(row[field]) for row in rows], groups=concepts_of(rows))


def paired_interval(
    rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], field: str, level: float = 0.95
) -> Interval:
    """The mean difference of a field between rows and base rows of the same prompts and seeds, with its interval over
    the concepts of the prompts.

    Raises:
        ValueError: if a row has no partner.
    """
    return bootstrap(paired(rows, base, field, PAIR), groups=concepts_of(rows), level=level)


def common_level(curves: Sequence[np.ndarray]) -> float:
    """A level that all curves (point,) reach: MARGIN of the rise from its first point below the highest point of a
    curve, of the curve where this is least."""
    return min(float((1 - MARGIN) * curve.max() + MARGIN * curve[0]) for curve in curves)


def value_at(points: np.ndarray, level: float) -> float:
    """The second coordinate where the line through points (point, 2) first has a level of the first coordinate; that of
    the point with the highest if it never has."""
    for (before, value), (after, next_value) in itertools.pairwise(points):
        if before <= level <= after and before < after:
            return float(value + (level - before) / (after - before) * (next_value - value))
    return float(points[points[:, 0].argmax(), 1])


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

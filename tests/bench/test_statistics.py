"""The bootstrap against normal theory, and pairing."""

import math

import numpy as np
import pytest

from noisetilt.bench.statistics import bootstrap, paired


def test_the_interval_of_a_mean_is_that_of_normal_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval, half = bootstrap(values), 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = [not bootstrap(rng.normal(0, 1, 40), draws=300).excludes(0) for _ in range(200)]
    assert 0.88 < np.mean(hits) < 0.99


def test_any_statistic_of_rows():
    values = np.arange(12.0).reshape(6, 2)
    interval = bootstrap(values, lambda rows: float(rows[:, 1].max()))
    assert interval.value == 11 and interval.high == 11 and interval.low < 11


def test_little_is_known_of_one_row_and_nothing_of_none():
    assert bootstrap([2.0]) == (2.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_pairs_are_of_the_same_key_whatever_their_order():
    rows = [{"seed": s, "reward": 10.0 + s * s} for s in (2, 0, 1)]
    base = [{"seed": s, "reward": 10.0} for s in (0, 1, 2, 3)]
    assert paired(rows, base, "reward", ("seed",)).tolist() == [4, 0, 1]
    with pytest.raises(ValueError, match="no base row"):
        paired(base, rows, "reward", ("seed",))

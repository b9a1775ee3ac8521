"""The bootstrap against normal theory, and pairing."""

import math

import numpy as np
import pytest

from noisetilt.bench.statistics import bootstrap, common_level, mean_interval, paired, value_at


def test_the_interval_of_a_mean_is_that_of_normal_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval, half = bootstrap(values), 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = [not bootstrap(rng.normal(0, 1, 40), draws=300).excludes(0) for _ in range(200)]
    assert 0.88 < np.mean(hits) < 0.99


def test_any_function_of_the_mean():
    values = np.arange(12.0).reshape(6, 2)
    interval = bootstrap(values, lambda mean: mean[0] / mean[1])
    assert interval.value == 5 / 6 and interval.low < 5 / 6 < interval.high
    assert bootstrap(values.reshape(6, 1, 2), lambda mean: mean[0, 1]) == bootstrap(values[:, 1])


def test_images_of_one_prompt_are_drawn_together():
    """Ten equal images of each of twelve prompts say as much as one of each; other images of a prompt say more."""
    means = np.random.default_rng(2).normal(0, 1, 12)
    groups = [number for number in range(12) for _ in range(10)]
    alike = bootstrap(np.repeat(means, 10), groups=groups)
    assert alike == pytest.approx(bootstrap(means))
    assert alike.high - alike.low > 2.5 * np.subtract(*bootstrap(np.repeat(means, 10))[:0:-1])
    assert bootstrap([1.0, 2.0, 3.0], groups="aaa") == (2.0, -math.inf, math.inf)
    uneven = bootstrap([0.0, 3.0, 3.0], groups="abb")
    assert (uneven.value, uneven.low, uneven.high) == (2.0, 0.0, 3.0)
    with pytest.raises(ValueError, match="2 values and 1 groups"):
        bootstrap([1.0, 2.0], groups="a")


def test_prompts_of_one_concept_in_other_styles_are_one_group():
    rows = [{"prompt": f"top hat {word}".strip(), "named": word == "3d"} for word in ("3d", "noto", "")]
    assert mean_interval(rows, "named") == (pytest.approx(1 / 3), -math.inf, math.inf)
    assert mean_interval([*rows, {"prompt": "key", "named": True}], "named").high < math.inf


def test_little_is_known_of_one_row_and_nothing_of_none():
    assert bootstrap([2.0]) == (2.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_an_interval_of_another_level():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    wide, half = bootstrap(values, level=0.99), 2.576 * values.std() / 20
    assert (wide.low, wide.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_the_value_where_a_level_is_never_reached_is_that_of_the_highest_point():
    points = np.array([(0.0, 0.9), (4.0, 0.7), (2.0, 0.1)])
    assert value_at(points, 2.0) == pytest.approx(0.8) and value_at(points, 5.0) == 0.7
    assert common_level([points[:, 0], np.array([1.0, 3.0])]) == pytest.approx(2.9)


def test_pairs_are_of_the_same_key_whatever_their_order():
    rows = [{"seed": s, "reward": 10.0 + s * s} for s in (2, 0, 1)]
    base = [{"seed": s, "reward": 10.0} for s in (0, 1, 2, 3)]
    assert paired(rows, base, "reward", ("seed",)).tolist() == [4, 0, 1]
    with pytest.raises(ValueError, match="no base row"):
        paired(base, rows, "reward", ("seed",))

"""The rule for reward hacking, on curves whose answer is known."""

import numpy as np
import pytest

from noisetilt.studio.gauge import gauge_of_ascent, gauge_of_curves

STEPS = 20


def curve(end, images=4, steps=STEPS, start=0.0, bend=None):
    """(steps, image), rising in a line to `end`, for each image a little later; from the middle on to `bend`."""
    values = (
        np.linspace(start, end, steps)
        if bend is None
        else np.interp(np.arange(steps), [0, steps // 2, steps - 1], [start, end, bend])
    )
    return values[:, None] + 0.01 * np.arange(images)


def level(target, heldout, done=STEPS, base=None, base_heldout=None):
    base = curve(0.0) if base is None else base
    base_heldout = curve(0.0) if base_heldout is None else base_heldout
    return gauge_of_curves(base, base_heldout, target[:done], None if heldout is None else heldout[:done], STEPS).level


def test_both_rise():
    assert level(curve(5.0), curve(3.0)) == "none"


def test_the_heldout_reward_is_lower_than_without_guidance():
    assert level(curve(5.0), curve(-2.0)) == "hacked"


def test_the_heldout_reward_falls_from_its_maximum():
    assert level(curve(5.0), curve(3.0, bend=1.0)) == "warning"


def test_a_target_that_falls_too_is_not_hacking():
    assert level(curve(-1.0), curve(-2.0)) == "none"


def test_a_fall_within_the_spread_of_the_images_is_none():
    spread = curve(0.0) + np.linspace(-8, 8, 4)
    assert level(curve(5.0), spread - 0.5 * np.linspace(0, 1, STEPS)[:, None]) == "none"


def test_gains_are_paired_by_seed():
    """Images that differ much from each other, and each of which falls a little: the spread of the gains is small."""
    base_heldout = curve(0.0) + np.linspace(-8, 8, 4)
    assert level(curve(5.0), base_heldout - np.linspace(0, 0.5, STEPS)[:, None], base_heldout=base_heldout) == "hacked"


def test_before_half_of_the_steps_nothing_is_said():
    assert level(curve(5.0), curve(-2.0), done=9) == "unknown" and level(curve(5.0), curve(-2.0), done=10) == "hacked"


def test_without_a_heldout_reward_nothing_is_said():
    assert level(curve(5.0), None) == "unknown"


def test_runs_of_other_lengths_are_compared_at_the_same_fraction():
    """A guided run with twice the steps, along the same curve as the base, has no gain."""
    base = curve(4.0, steps=10)
    found = gauge_of_curves(base, base, curve(4.0), curve(4.0), STEPS)
    assert found.level == "none" and "not fallen" in found.text


def test_one_image_has_no_spread():
    found = gauge_of_curves(curve(0, 1), curve(0, 1), curve(5, 1), curve(-5, 1), STEPS)
    assert found.level == "unknown" and found.text.startswith("One image cannot tell whether the reward is exploited")
    assert gauge_of_ascent(curve(5, 1), curve(-5, 1)).level == "unknown"


@pytest.mark.parametrize("falls, expected", [([-0.2, -0.5, -0.6, -0.4], "hacked"), ([0.3, -0.5, -0.6, -0.4], "none")])
def test_a_fall_counts_from_two_standard_errors_on(falls, expected):
    """The second one falls by 1.5 of them."""
    assert level(curve(5.0), np.linspace(0, 1, STEPS)[:, None] * np.array(falls)) == expected


@pytest.mark.parametrize(
    "heldout, expected", [(curve(3.0), "none"), (curve(-3.0), "hacked"), (curve(3.0, bend=1.0), "warning")]
)
def test_noise_ascent_is_compared_with_its_first_iterate(heldout, expected):
    assert gauge_of_ascent(curve(5.0), heldout).level == expected
    assert gauge_of_ascent(curve(5.0)[:1], heldout[:1]).level == "unknown"

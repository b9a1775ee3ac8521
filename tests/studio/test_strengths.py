"""The strength: one number for all methods, and back from their options."""

import pytest

from noisetilt import METHODS
from noisetilt.studio.strengths import ASCENTS, SAMPLERS, SCALES, describe_strength, options_for, strength_of


@pytest.mark.parametrize("name", SCALES)
def test_the_scale_is_monotone_and_every_value_is_accepted(name):
    values = [next(iter(options_for(name, n / 10).values())) for n in range(11)]
    assert values in (sorted(values), sorted(values, reverse=True)) and values[0] != values[-1]
    for value in values:
        assert METHODS[name].replace(**{SCALES[name].option: value}).options()[SCALES[name].option] == value


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("strength", [0, 0.13, 0.5, 0.77, 1])
def test_the_strength_is_read_back_from_the_option(name, strength):
    options = options_for(name, strength)
    assert options_for(name, strength_of(name, options)) == options


def test_the_table_gives_the_ends_and_the_middle():
    assert options_for("ntrk", 0.5) == {"rho": 0.015}
    assert options_for("ntrk", 0) == {"rho": 0.002} and options_for("ntrk", 1) == {"rho": 0.05}
    assert options_for("base", 0.3) == {} and describe_strength("base", 0.3) == "no option"
    assert describe_strength("svdd", 1) == "particles = 20"


def test_an_option_beyond_the_scale_is_the_nearest_end():
    assert strength_of("ntrk", {"rho": 0.9}) == 1 and strength_of("ntrk", {"rho": 1e-9}) == 0
    assert strength_of("ntrk", {"rho": 10**400}) == 1
    for wrong in ("much", None, True, -1.0, 0, float("nan"), float("inf")):
        assert strength_of("ntrk", {"rho": wrong}) is None


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), "half", None, True])
def test_a_wrong_strength_is_refused(strength):
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        options_for("ntrk", strength)


def test_the_tabs_offer_samplers_and_ascents():
    assert {"ntrk", "dps", "svdd", "das"} <= set(SAMPLERS) and {"none", "gper", "reno"} <= set(ASCENTS)
    assert not set(SAMPLERS) & set(ASCENTS) and set(ASCENTS) <= set(SCALES)

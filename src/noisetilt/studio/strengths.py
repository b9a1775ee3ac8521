"""One strength from 0 to 1 for every method: the option that it sets, and the table of values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..methods import METHODS
from ..sampling.noise_ascent import find_ascent

DEFAULT_STRENGTH = 0.5


class Scale(NamedTuple):
    """The option of a method that the strength sets, and its values at the strengths 0, 0.5 and 1."""

    option: str
    weak: float
    middle: float
    strong: float
    whole: bool = False


# ntrk, ntrk-x0, dps, freedom and mpgd: emoji128, style:3d, 25 steps (docs/results.md). At the middle the judge's
# probability of the right concept is that of base within 5 points, at the strong end it is 7 to 25 points lower. none,
# reno, prno, mpgr and the gper methods: 20 iterations on emoji128-turbo lose 4 to 14 points at the middle, 20 to 35 at
# the end. dsg, ugd and lgd (16 images): no loss at 0.05, 3 and 0.75; dsg loses 17 points at 0.2, lgd 12 at 2. tfg (32):
# 4 points lost at 1, 17 at 2. gper-ntrk (16): no loss at 0.015, 17 lost at 0.05. psi (8 images): no loss at
# 10, 1 and 0.3, 14 lost at 0.1. das (8): no loss at 1 and 0.03, 21 lost at 0.01. ntrk-svdd and ntrk-smc (8): no loss at
# 0.015, 13 and 1 lost at 0.05. ntrk-best-of-n (8): 17 lost at 0.05. ntrk-black-box (8): no loss at 0.2 and 0.8. fk (16)
# loses nothing at any of its values, svdd and best-of-n nothing at 20, the default and the largest number. rbf was not
# measured.
SCALES: dict[str, Scale] = {
    "ntrk": Scale("rho", 0.002, 0.015, 0.05),
    "ntrk-x0": Scale("rho", 0.002, 0.015, 0.1),
    "ntrk-best-of-n": Scale("rho", 0.002, 0.015, 0.05),
    "ntrk-svdd": Scale("rho", 0.002, 0.015, 0.05),
    "ntrk-smc": Scale("rho", 0.002, 0.015, 0.05),
    "gper-ntrk": Scale("rho", 0.002, 0.015, 0.05),
    "ntrk-black-box": Scale("rho", 0.02, 0.2, 0.8),
    "dps": Scale("scale", 0.1, 0.75, 2.0),
    "lgd": Scale("scale", 0.1, 0.75, 2.0),
    "mpgd": Scale("scale", 0.1, 1.0, 5.0),
    "ugd": Scale("scale", 0.3, 3.0, 30.0),
    "freedom": Scale("scale", 0.02, 0.1, 0.2),
    "tfg": Scale("rho", 0.1, 1.0, 3.0),
    "dsg": Scale("guidance_rate", 0.01, 0.07, 0.2),
    "das": Scale("temperature", 1.0, 0.03, 0.01),
    "psi": Scale("temperature", 10.0, 0.3, 0.1),
    "fk": Scale("temperature", 1.0, 0.1, 0.01),
    "best-of-n": Scale("particles", 1, 4, 20, whole=True),
    "svdd": Scale("particles", 1, 4, 20, whole=True),
    "rbf": Scale("budget", 1, 4, 20, whole=True),
    "none": Scale("rate", 0.005, 0.02, 0.05),
    "reno": Scale("rate", 0.5, 1.25, 5.0),
    "prno": Scale("rate", 0.005, 0.02, 0.05),
    "mpgr": Scale("rate", 0.005, 0.02, 0.05),
    "gper": Scale("rate", 0.005, 0.02, 0.05),
    "gper-latent": Scale("rate", 0.005, 0.02, 0.05),
    "gper-both": Scale("rate", 0.005, 0.02, 0.05),
    "gper-w": Scale("rate", 0.005, 0.02, 0.05),
    "gper-rotation": Scale("rate", 0.005, 0.02, 0.05),
}


def check_strength(strength: Any) -> None:
    """Raises a ValueError unless a strength is a number from 0 to 1."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
        raise ValueError(f"the strength is {strength!r}, expected a number from 0 to 1, such as {DEFAULT_STRENGTH}")


def options_for(method: str, strength: float) -> dict[str, Any]:
    """The options that give a method a strength.

    Between the three strengths of the table the value is interpolated on a logarithmic scale.

    Args:
        method: a name in METHODS.
        strength: from 0 to 1.

    Returns:
        One option, or {} for a method without a strength, such as base.

    Raises:
        ValueError: if the strength is not a number from 0 to 1.
    """
    check_strength(strength)
    if method not in SCALES:
        return {}
    scale = SCALES[method]
    low, high = (scale.weak, scale.middle) if strength <= 0.5 else (scale.middle, scale.strong)
    fraction = 2 * strength if strength <= 0.5 else 2 * strength - 1
    value = math.exp((1 - fraction) * math.log(low) + fraction * math.log(high))
    return {scale.option: round(value) if scale.whole else float(f"{value:.3g}")}


def strength_of(method: str, options: Mapping[str, Any]) -> float | None:
    """The strength, to the nearest 0.01, whose option is nearest to the given one; None if there is no such option."""
    scale = SCALES.get(method)
    value = None if scale is None else options.get(scale.option)
    if scale is None or isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        return None
    hundredths = range(101)
    # The middle one first: whole numbers have many strengths that round to them.
    nearest = sorted(hundredths, key=lambda n: abs(n - 50))
    target = math.log(value)  # also of whole numbers that no float can be
    return min(nearest, key=lambda n: abs(math.log(options_for(method, n / 100)[scale.option]) - target)) / 100


def _is_ascent(name: str) -> bool:
    try:
        find_ascent(name)
    except ValueError:
        return False
    return True


ASCENTS = tuple(name for name in METHODS if _is_ascent(name))
SAMPLERS = tuple(name for name in SCALES if name not in ASCENTS)


def describe_strength(method: str, strength: float) -> str:
    """The strength in the method's own option, such as "rho = 0.015"."""
    options = options_for(method, strength)
    return ", ".join(f"{name} = {value:g}" for name, value in options.items()) or "no option"

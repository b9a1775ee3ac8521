"""The checks of the options of a method's parts by type, choices and range. They import no other part."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ._messages import nearest_name

# Smallest and largest value; the parts of a method check what else they need.
RANGES: dict[str, tuple[float, float]] = {
    "particles": (1, 10_000),
    "repeats": (1, 1_000),
    "budget": (1, 100_000),
    "initial_noises": (1, 100_000),
    "draws": (0, 10_000),
    "iterations": (0, 100_000),
    "chain_steps": (1, 1_000),
    "interval": (1, 1_000_000),
    "block_size": (1, 2**20),
    "after": (0, 1),
    "before": (0, 1),
    "scale": (-1e6, 1e6),
    "mu": (-1e6, 1e6),
    "gamma": (0, 1e6),
    "rate": (0, 1e6),
    "width": (0, 1e6),
    "temperature": (0, 1e12),
    "tempering": (0, 1e6),
    "penalty_weight": (0, 1e12),
    "best_of": (1, math.inf),
}
# Options that must lie strictly between two values.
OPEN_RANGES: dict[str, tuple[float, float]] = {"alpha": (0, 1)}


def check_option(part: Any, option: str, value: Any) -> None:
    """Checks a value for an option of a part of a method.

    Args:
        part: a dataclass with the option as a field.
        option: the name of the field.
        value: the new value.

    Raises:
        ValueError: if the value has another type than the field, is not one of its choices, or is out of its range;
            says what was expected.
    """
    hints = type_hints(part)
    if hints is None:
        return
    _check_type(option, hints.get(option, Any), value, getattr(part, option))
    if isinstance(value, Real) and not isinstance(value, bool):
        _check_range(option, value)


def check_types(part: Any) -> None:
    """Checks all options of a part of a method by their types and choices.

    Raises:
        ValueError: as in `check_option`.
    """
    hints = type_hints(part)
    for option in dataclasses.fields(part) if hints is not None else ():
        _check_type(option.name, hints.get(option.name, Any), getattr(part, option.name), option.default)


def type_hints(part: Any) -> dict[str, Any] | None:
    """The types of the fields of a part; None for one that was defined inside a function, with types that are not known
    here."""
    return _hints_of(type(part))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def _hints_of(kind: type) -> dict[str, Any] | None:
    try:
        return get_type_hints(kind)
    except NameError:
        return None


def _check_type(option: str, hint: Any, value: Any, old: Any) -> None:
    if get_origin(hint) in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
        old = 1.0 if old is None else old
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            choices = list(map(str, get_args(hint)))
            nearest = nearest_name(str(value), choices)
            raise ValueError(f"{option} = {value!r} is unknown{nearest}; use one of {', '.join(choices)}")
    elif hint is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{option} = {value!r} must be true or false")
    elif hint is int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{option} = {value!r} must be a whole number, such as {old!r}")
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
            raise ValueError(f"{option} = {value!r} must be a number, such as {old!r}")
    elif hint is str and not isinstance(value, str):
        raise ValueError(f"{option} = {value!r} must be text, such as {old!r}")


def _check_range(option: str, value: Real) -> None:
    number = float(value)
    if option in RANGES:
        least, most = RANGES[option]
        if not least <= number <= most:
            raise ValueError(f"{option} = {value} must be between {_limit(least)} and {_limit(most)}")
    if option in OPEN_RANGES:
        least, most = OPEN_RANGES[option]
        if not least < number < most:
            raise ValueError(f"{option} = {value} must be greater than {least:g} and less than {most:g}")


def _limit(number: float) -> str:
    """A limit for a message: a whole number with all its digits, as it is typed, unless it is very large."""
    return str(int(number)) if abs(number) < 1e9 and number == int(number) else f"{number:g}"

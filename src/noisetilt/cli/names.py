"""Checks of the names that a user gives. An unknown name is answered with the nearest known one."""

from __future__ import annotations

from .._messages import unknown_name
from ..methods import METHODS


def check_method(name: str) -> None:
    """Raises a ValueError if there is no method of that name."""
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))

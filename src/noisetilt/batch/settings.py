"""The settings of one row of a batch: how an image is made, and how a cell of a table is read as a setting."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any

from .._messages import unknown_name
from ..method_identity import describe_method
from ..methods import METHODS, Method, find_method

WHOLE = {"steps", "seed", "n"}
NUMBERS = {"guidance", "eta"}
MAX_PROMPT, MAX_STEPS = 100_000, 10_000


@dataclass(frozen=True)
class Settings:
    """How the image of a row is made.

    Args:
        prompt: the prompt.
        reward: name or weighted sum, as `rewards.load` takes it; None for methods without a reward.
        method: a name in METHODS, the name of one in a Python file ("file.py:NAME"), or a Method.
        options: options of the method that differ from its own.
        model: what `load` takes.
        steps, guidance: None means the model's own.
        seed: of the noise, a whole number ≥ 0.
        eta: stochasticity of the reverse kernel.
        gradient_at: "x_t" or "x0", as in `sample`.
    """

    prompt: str
    reward: str | None = None
    method: str | Method = "ntrk"
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = "emoji128"
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    eta: float = 1.0
    gradient_at: str = "x_t"

    def __post_init__(self) -> None:
        """Raises a ValueError for a value that is wrong whatever the model is."""
        for name in ("options", "steps", "guidance", "seed", "eta"):
            object.__setattr__(self, name, json_value(getattr(self, name)))
        if isinstance(self.eta, str):  # as records have infinity
            object.__setattr__(self, "eta", _number("eta", self.eta))
        _check_prompt(self.prompt)
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps = {self.steps} must be a whole number from 1 to {MAX_STEPS}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed} must be a whole number from 0 to 2**63 - 1")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise ValueError(f"guidance = {self.guidance} must be a finite number, such as 2.0")
        if not self.eta >= 0:
            raise ValueError(f"eta = {self.eta} must be 0 or more, such as 1.0")
        if self.gradient_at not in ("x_t", "x0"):
            raise ValueError(f"gradient_at = {self.gradient_at!r} is unknown; use one of x_t, x0")
        if isinstance(self.method, str) and self.method not in METHODS and ".py" not in self.method:
            raise ValueError(unknown_name("method", self.method, METHODS))
        find_method(self.method).replace(**self.options)

    @property
    def method_name(self) -> str:
        """The name of the method; of a Method the call that makes it."""
        return self.method if isinstance(self.method, str) else describe_method(self.method)

    def as_json(self) -> dict[str, Any]:
        """The fields as a dictionary that JSON can hold."""
        return {**vars(self), "method": self.method_name, "options": dict(self.options)}

    def digest(self) -> str:
        """A checksum of the settings, which identifies the image."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    def group(self) -> tuple[str, ...]:
        """What rows that are sampled in one call have in common: everything but prompt and seed."""
        return tuple(json.dumps(v, sort_keys=True) for k, v in self.as_json().items() if k not in ("prompt", "seed"))


FIELDS = tuple(f.name for f in fields(Settings))
OPTIONS = tuple(dict.fromkeys(option for method in METHODS.values() for option in method.options()))


def json_value(value: Any) -> Any:
    """A value as JSON can hold it: numbers of NumPy and torch and decimals as Python's numbers, arrays as lists, and
    what JSON does not have, such as a date, as its text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _check_prompt(prompt: Any) -> None:
    if not isinstance(prompt, str):
        raise ValueError(f"the prompt is {prompt!r}, expected a text, such as 'cat face'")
    if not prompt.strip():
        raise ValueError("the prompt is empty; write what the image shows, such as 'cat face'")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(prompt)} characters and {MAX_PROMPT} are allowed; shorten it")
    control = [c for c in prompt if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r"]
    if control:
        raise ValueError(f"the prompt has the control character {control[0]!r}; remove it")


def cell_value(name: str, value: Any) -> Any:
    """The value of a cell of a column, from a CSV file as text or from JSON or Parquet with a type.

    Raises:
        ValueError: if the value is not one of the column's type.
    """
    if name in WHOLE:
        return _whole(name, value)
    if name in NUMBERS:
        return _number(name, value)
    if name == "options":
        return _options(value)
    if name in FIELDS and not isinstance(value, str):
        raise ValueError(f"{name} = {value!r} must be a text")
    return value if name in FIELDS else option_value(value)


def _whole(name: str, value: Any) -> int:
    value = json_value(value)
    try:
        if isinstance(value, bool):
            raise ValueError
        # A CSV file that pandas wrote has 25.0 for 25 where the column has gaps.
        real = isinstance(value, float) or (isinstance(value, str) and "." in value)
        number = float(value) if real else int(value)
        if number != int(number):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} = {value!r} must be a whole number, such as 25") from None
    return int(number)


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, TypeError):
        raise ValueError(f"{name} = {value!r} must be a number, such as 1.0") from None


def _options(value: Any) -> dict[str, Any]:
    """Options of a method: an object, or the text "rho=0.1 particles=4"."""
    if isinstance(value, Mapping):
        return {str(name): option_value(item) for name, item in value.items() if item is not None}
    pairs = [item.partition("=") for item in str(value).split()]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise ValueError(f"options = {value!r} must be pairs NAME=VALUE, such as rho=0.1")
    return {name: option_value(text) for name, _, text in pairs}


def option_value(value: Any) -> Any:
    """A number, true, false, none or a word from a text; any other value as `json_value` has it."""
    value = json_value(value)
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def with_cells(defaults: Settings, cells: Mapping[str, Any]) -> Settings:
    """The settings of a row: the defaults, with the cells of the row in their place.

    Args:
        defaults: of the run.
        cells: column → value; a column is a field of Settings or an option of a method.

    Raises:
        ValueError: if a value is wrong.
    """
    values = {name: cell_value(name, value) for name, value in cells.items()}
    own = {name: value for name, value in values.items() if name in FIELDS}
    # Options of the run belong to the run's method.
    same = "method" not in own or own["method"] == defaults.method
    options = {**(defaults.options if same else {}), **own.pop("options", {})}
    options |= {name: value for name, value in values.items() if name not in FIELDS}
    return replace(defaults, **{**own, "options": options})

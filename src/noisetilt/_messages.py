"""Error messages, and a check, that several parts of the package share. This module imports nothing of noisetilt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Real
from typing import Any


class UnguidedWarning(UserWarning):
    """The reward guides no step of a method that uses it in the steps: none can use the gradient, all gradients are
    zero, or particles are not resampled before the last step."""


# Characters of a name from which a known name is suggested that begins with it.
LEAST_BEGINNING = 3
PACKAGES = {
    "plot": "matplotlib",
    "completion": "shtab",
    "diffusers": "diffusers",
    "rewards": "transformers",
    "lora": "peft",
    "kdiffusion": "k-diffusion",
    "ray": "ray",
    "parquet": "pyarrow",
    "table": "rich",
    "prometheus": "prometheus-client",
    "opentelemetry": "opentelemetry-sdk",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "studio": "gradio",
}


def missing_extra(extra: str, feature: str) -> str:
    """The message for a feature whose optional dependency is not installed.

    Args:
        extra: a name in `project.optional-dependencies` of pyproject.toml.
        feature: what needs it.
    """
    return f'{feature} needs {PACKAGES[extra]}; run pip install ".[{extra}]" in the noisetilt checkout'


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest known name, if any, and all known names.

    Args:
        kind: what the name is of, such as "method".
        name: the unknown name.
        known: the names that exist.
    """
    known = list(known)
    return f"{kind} {shown(name)} is unknown{nearest_name(name, known)}; the {kind}s are: {', '.join(known) or 'none'}"


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The text " (did you mean …?)" with the known name that is most like a name, or begins with it, or "" if none
    does."""
    folded = {each.casefold(): each for each in known}
    nearest = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if not nearest and len(name) >= LEAST_BEGINNING:
        nearest = [each for each in folded if each.startswith(name.casefold())][:1]
    return f" (did you mean {folded[nearest[0]]!r}?)" if nearest else ""


def whole_number(name: str, value: Any, least: int, remark: str = "") -> int:
    """A whole number, also one such as 4.0, as an int.

    Args:
        name: of the argument, for the message.
        value: the number.
        least: the smallest that is allowed.
        remark: the end of the message.

    Raises:
        ValueError: if it is no whole number, or less than `least`.
    """
    whole = isinstance(value, Real) and not isinstance(value, bool) and value % 1 == 0
    if not whole or value < least:
        raise ValueError(f"{name} = {value!r} must be a whole number, {least} or more{remark}")
    return int(value)


def counted(count: int, noun: str) -> str:
    """A number with a noun: "1 row" or "2 rows"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shown(text: object, limit: int = 60) -> str:
    """A text in quotes, with its middle left out beyond a number of characters."""
    text = str(text)
    return repr(text if len(text) <= limit else f"{text[: limit - 21]} … {text[-18:]}")


def one_line(error: BaseException) -> str:
    """The first 200 characters of an error's message without line breaks; its type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__

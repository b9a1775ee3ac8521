"""A reward from a Python file: "file.py:function"."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from .reward import Reward, as_reward


def is_function_in_file(name: str) -> bool:
    """Whether the name of a reward has the form "file.py:function"."""
    return ".py:" in name


def load_from_file(name: str) -> Reward:
    """The reward that a function in a Python file computes. The file is executed.

    Args:
        name: "file.py:function", with the path of the file. The function takes images (batch, 3, H, W) in [0, 1], and
            optionally prompts, and returns (batch,).

    Raises:
        ValueError: if there is no such file or function, or the file raises an error.
    """
    place, _, function = name.rpartition(":")
    file = Path(place).expanduser()
    if not file.is_file():
        raise ValueError(f"the reward {name!r} needs the file {file}, which does not exist; give a Python file")
    spec = importlib.util.spec_from_file_location(f"noisetilt_reward_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} cannot be executed: {type(error).__name__}: {error}; mend the file") from error
    found = getattr(module, function, None)
    if not callable(found):
        names = ", ".join(n for n, v in vars(module).items() if callable(v) and not n.startswith("_")) or "none"
        raise ValueError(f"{file} has no function {function!r}; its functions are: {names}")
    return replace(as_reward(found), name=name)

"""A reward from a Python file: "file.py:function"."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .._python_files import describe_error, execute_named, file_of
from .reward import Reward, as_reward, call_reward, may_use_prompts


def function_names(file: str) -> list[str]:
    """The public functions that a Python file defines, without executing it; none if it cannot be read."""
    try:
        tree = ast.parse(Path(file).expanduser().read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def load_from_file(name: str) -> Reward:
    """The reward that a function in a Python file computes. The file is executed.

    Args:
        name: "file.py:function", with the path of the file. The function takes images (batch, 3, H, W) in [0, 1], and
            optionally prompts, and returns (batch,). It may import modules from the file's folder. An error that it
            raises becomes a ValueError with the file and the line.

    Raises:
        ValueError: if there is no such file or function, or the file raises an error.
    """
    file, function = file_of(name), name.rpartition(":")[2]
    module, imports = execute_named("reward", name)
    found = getattr(module, function, None)
    if not callable(found):
        names = ", ".join(n for n, v in vars(module).items() if callable(v) and not n.startswith("_")) or "none"
        raise ValueError(f"{file} has no function {function!r}; its functions are: {names}")
    reward = as_reward(found)

    def call(images: Tensor, prompts: Sequence[str]) -> Tensor:
        try:
            with imports.allowed():
                return call_reward(reward.function, images, prompts)
        except (OSError, MemoryError, torch.cuda.OutOfMemoryError):  # may pass, or are explained elsewhere
            raise
        except (Exception, SystemExit) as error:
            raise ValueError(f"the reward {name!r} fails: {describe_error(error, file)}") from error

    return replace(reward, name=name, function=call, uses_prompts=may_use_prompts(reward))

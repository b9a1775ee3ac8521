"""A reward from a Python file: "file.py:function"."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from .reward import Reward, as_reward, call_reward, may_use_prompts

PREFIX = "noisetilt_reward_"  # of the names of modules that are executed here


def is_function_in_file(name: str) -> bool:
    """Whether the name of a reward has the form "file.py:function"."""
    return ".py:" in name


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
            optionally prompts, and returns (batch,). An error that it raises becomes a ValueError with the file and
            the line.

    Raises:
        ValueError: if there is no such file or function, or the file raises an error.
    """
    place, _, function = name.rpartition(":")
    file = Path(place).expanduser()
    if not file.is_file():
        raise ValueError(f"the reward {name!r} needs the file {file}, which does not exist; give a Python file")
    try:
        module = execute_file(file)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{file} cannot be executed: {describe_error(error, file)}; mend the file") from error
    found = getattr(module, function, None)
    if not callable(found):
        names = ", ".join(n for n, v in vars(module).items() if callable(v) and not n.startswith("_")) or "none"
        raise ValueError(f"{file} has no function {function!r}; its functions are: {names}")
    reward = as_reward(found)

    def call(images: Tensor, prompts: Sequence[str]) -> Tensor:
        try:
            return call_reward(reward.function, images, prompts)
        except (OSError, MemoryError, torch.cuda.OutOfMemoryError):  # may pass, or are explained elsewhere
            raise
        except (Exception, SystemExit) as error:
            raise ValueError(f"the reward {name!r} fails: {describe_error(error, file)}") from error

    return replace(reward, name=name, function=call, uses_prompts=may_use_prompts(reward))


def execute_file(file: Path) -> ModuleType:
    """The module of a Python file, which is executed; raises what the file raises. It may import modules from its
    folder."""
    spec = importlib.util.spec_from_file_location(f"{PREFIX}{file.stem}_{zlib.crc32(bytes(file.resolve())):08x}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with registered(module), importing_from(file.absolute().parent):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Lets imports find the modules in a folder, as when a file in it is run.

    They are not kept in sys.modules, where those of another folder with the same names would find them.
    """
    place = str(folder)
    if place in sys.path:
        yield
        return
    before = set(sys.modules)
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it itself
            sys.path.remove(place)
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            found = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
            # Packages of an environment inside the folder have another place than one by their name.
            if Path(found).with_suffix("") in (own := folder.joinpath(*name.split(".")), own / "__init__"):
                del sys.modules[name]


@contextlib.contextmanager
def registered(module: ModuleType) -> Iterator[None]:
    """Puts a module that is executed here into sys.modules, where dataclasses look it up; an error takes it out."""
    sys.modules[module.__name__] = module
    try:
        yield
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise


def describe_error(error: BaseException, file: str | Path) -> str:
    """An error with its type and with the last line of the file, if any, that led to it."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in (str(file), os.path.abspath(file)):
            line = trace.tb_lineno
        trace = trace.tb_next
    text, place = f"{type(error).__name__}: {error}", f" ({Path(file).name}, line {line})"
    return text + (place if line and not text.endswith(place) else "")

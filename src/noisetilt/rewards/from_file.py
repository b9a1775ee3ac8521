"""A reward from a Python file: "file.py:function"."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
import threading
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
            optionally prompts, and returns (batch,). It may import modules from the file's folder. An error that it
            raises becomes a ValueError with the file and the line.

    Raises:
        ValueError: if there is no such file or function, or the file raises an error.
    """
    place, _, function = name.rpartition(":")
    file = Path(place).expanduser()
    if not file.is_file():
        raise ValueError(f"the reward {name!r} needs the file {file}, which does not exist; give a Python file")
    try:
        module, imports = execute_file(file)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{file} cannot be executed: {describe_error(error, file)}; mend the file") from error
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


def execute_file(file: Path) -> tuple[ModuleType, FolderImports]:
    """The module of a Python file, which is executed, and the imports from its folder; raises what the file raises."""
    spec = importlib.util.spec_from_file_location(f"{PREFIX}{file.stem}_{zlib.crc32(bytes(file.resolve())):08x}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    imports = FolderImports(file.absolute().parent)
    with registered(module), imports.allowed():
        spec.loader.exec_module(module)
    return module, imports


class FolderImports:
    """Lets imports find the modules in a folder for some time, as when a file in it is run.

    They are in sys.modules for that time only: otherwise imports of another folder's modules with the same names would
    find them.
    """

    _lock = threading.RLock()  # sys.path and sys.modules are those of all threads

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Imports find the folder's modules inside; each is executed once. Another thread's calls wait."""
        place = str(self.folder)
        with self._lock:
            if place in sys.path:
                yield
                return
            others = {name: sys.modules[name] for name in self._modules if name in sys.modules}
            sys.modules.update(self._modules)
            before = set(sys.modules) - set(self._modules)
            sys.path.insert(0, place)
            try:
                yield
            finally:
                with contextlib.suppress(ValueError):  # the file may have removed it itself
                    sys.path.remove(place)
                for name in set(sys.modules) - before:
                    if self._has(name, sys.modules[name]):
                        self._modules[name] = sys.modules.pop(name)
                sys.modules.update(others)

    def _has(self, name: str, module: ModuleType) -> bool:
        """Whether a module is of this folder. Packages of an environment inside it have another place than one by their
        name."""
        found = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
        own = self.folder.joinpath(*name.split("."))
        return Path(found).with_suffix("") in (own, own / "__init__")


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

"""Python files that a user names, as in "file.py:name", which are executed.

This module imports nothing of noisetilt.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

PREFIX = "noisetilt_file_"  # of the names of modules that are executed here


def is_in_file(name: str) -> bool:
    """Whether a name has the form "file.py:name"."""
    return ".py:" in name


def file_of(name: str) -> Path:
    """The path of the file in "file.py:name"."""
    return Path(name.rpartition(":")[0]).expanduser()


def execute_named(kind: str, name: str) -> tuple[ModuleType, FolderImports]:
    """The module of the file in "file.py:name", which is executed, and the imports from its folder.

    Args:
        kind: what the name is of, for messages, such as "reward".
        name: "file.py:name", with the path of the file. It may import modules from its folder.

    Raises:
        ValueError: if there is no such file, or it raises an error.
    """
    file = file_of(name)
    if not file.is_file():
        raise ValueError(f"the {kind} {name!r} needs the file {file}, which does not exist; give a Python file")
    try:
        return execute_file(file)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{file} cannot be executed: {describe_error(error, file)}; mend the file") from error


def imported_files(file: Path) -> list[Path]:
    """A Python file, and the modules of its folder that it imports, directly or through each other, as its import
    statements say. A file that cannot be read counts as one without imports."""
    found: dict[Path, None] = {}
    queue = [file]
    while queue:
        one = queue.pop()
        if one not in found:
            found[one] = None
            queue += _imports_of(one, file.parent)
    return list(found)


def _imports_of(file: Path, folder: Path) -> Iterator[Path]:
    """The files of the modules that a file imports from a folder, or from its own package."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            places = [(folder, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder if node.level == 0 else file.parents[min(node.level, len(file.parents)) - 1]
            names = [".".join(filter(None, (node.module, *rest))) for rest in [(), *((a.name,) for a in node.names)]]
            places = [(base, name) for name in names if name]
        else:
            continue
        for base, name in places:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                module = base.joinpath(*parts[:end])
                yield from (f for f in (module.with_name(f"{module.name}.py"), module / "__init__.py") if f.is_file())


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

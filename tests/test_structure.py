"""The order of the packages: which may import which, read from the source."""

import ast
import functools
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "noisetilt"

# What each package may import of the others. `_messages`, `_files`, `_python_files`, `_quiet`,
# `_progress` and the version in `noisetilt` itself are allowed everywhere.
ALLOWED = {
    "noise": set(),
    "rewards": set(),
    "path": {"_options"},
    "runs": set(),
    "report": {"runs"},
    "_messages": set(),
    "_options": set(),
    "_files": set(),
    "_python_files": set(),
    "_quiet": set(),
    "_progress": set(),
    "proposals": {"_options", "noise", "path"},
    "selection": {"_options", "noise", "path"},
    "initial_noise": {"_options", "noise", "path"},
    "models": {"path", "rewards"},
    "methods": {"_options", "initial_noise", "proposals", "selection", "path"},
    "method_identity": {"methods"},
    "sampling": {"methods", "initial_noise", "proposals", "selection", "noise", "path", "rewards", "models", "runs"},
    "integrations": {"sampling", "methods", "initial_noise", "path", "rewards", "models"},
    "inversion": {"sampling", "methods", "initial_noise", "noise", "path", "rewards", "models", "report", "runs"},
    "batch": {"integrations", "sampling", "method_identity", "methods", "rewards", "models", "report", "runs"},
    "bench": {
        "runs",
        "sampling",
        "method_identity",
        "methods",
        "selection",
        "proposals",
        "noise",
        "path",
        "rewards",
        "models",
        "report",
    },
    "studio": {"cli", "integrations", "methods", "models", "report", "rewards", "runs", "sampling"},
    "cli": {
        "batch",
        "runs",
        "bench",
        "inversion",
        "sampling",
        "integrations",
        "methods",
        "noise",
        "rewards",
        "models",
        "report",
    },
}


def package_of(file):
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(file):
    """The modules of noisetilt that a file imports, as paths below noisetilt; () is noisetilt itself."""
    here = file.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + tuple(filter(None, (node.module or "").split(".")))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "noisetilt":
            base = tuple(node.module.split(".")[1:])
        elif isinstance(node, ast.Import):
            yield from (tuple(n.name.split(".")[1:]) for n in node.names if n.name.split(".")[0] == "noisetilt")
            continue
        else:
            continue
        yield from [base] if base else [() if n.name.startswith("__") else (n.name,) for n in node.names]


@functools.cache
def imports():
    """Package → the other packages that its files import."""
    found = {name: set() for name in ALLOWED}
    for file in SOURCE.rglob("*.py"):
        if package_of(file) in ("__init__", "__main__"):
            continue
        found[package_of(file)] |= {path[0] for path in imported_modules(file) if path} - {package_of(file)}
    return found


@pytest.mark.parametrize("name", ALLOWED)
def test_a_package_imports_only_those_below_it(name):
    assert imports()[name] <= ALLOWED[name] | {"_messages", "_files", "_python_files", "_quiet", "_progress"}


def test_every_package_has_a_rule():
    packages = {package_of(file) for file in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert packages == set(ALLOWED)


def test_the_rules_have_no_cycle():
    remaining = dict(ALLOWED)
    while remaining:
        bottom = [name for name, allowed in remaining.items() if not allowed & set(remaining)]
        assert bottom, f"cycle among {sorted(remaining)}"
        for name in bottom:
            del remaining[name]


def test_imports_are_found():
    """Otherwise the rules above would hold for want of imports."""
    assert {"sampling", "methods", "_messages"} <= imports()["cli"] and "noise" in imports()["proposals"]

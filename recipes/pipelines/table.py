"""Which method runs in which pipeline, and how close guided pipelines are to plain ones.

`python recipes/pipelines/table.py` runs the tests and prints what they found, in Markdown: a cell is a test, "yes" if
it passed. A difference is the largest of all pixels (in [0, 1]) between a guided pipeline that only samples and the
plain one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[2] / "tests" / "integrations"
METHODS = "test_align.py::test_every_method_on_every_family"
ASCENTS = "test_one_step_pipelines.py::test_every_ascent_on_every_one_step_family"


class Reports:
    """What each test said: its outcome and the properties it noted."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.noted: dict[str, list[tuple[str, Any]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            name = report.nodeid.rpartition("integrations/")[2]
            self.outcomes[name], self.noted[name] = report.outcome, report.user_properties

    def cells(self, test: str) -> Iterator[tuple[str, str, str]]:
        """Family, method and outcome of the cases of a test."""
        for name, outcome in self.outcomes.items():
            case = re.fullmatch(rf"{re.escape(test)}\[(.*)\]", name)
            if case:
                family, method = split(case[1], test)
                yield family, method, outcome

    def differences(self) -> Iterator[tuple[str, float, float]]:
        """Each test that noted a difference, the largest one, and its bound."""
        for name, noted in self.noted.items():
            found = [value for key, value in noted if key == "difference"]
            if found:
                yield name, max(found), dict(noted)["within"]


def split(case: str, test: str) -> tuple[str, str]:
    """Family and method of a case; families of one step have a hyphen in their names."""
    if test == METHODS:
        return tuple(case.split("-", 1))
    one, two, method = case.split("-", 2)
    return f"{one}-{two}", method


def matrix(cells: list[tuple[str, str, str]]) -> str:
    """The table of families by methods."""
    families = list(dict.fromkeys(family for family, _, _ in cells))
    methods = list(dict.fromkeys(method for _, method, _ in cells))
    passed = {(family, method): outcome == "passed" for family, method, outcome in cells}
    lines = ["| | " + " | ".join(families) + " |", "|---" * (1 + len(families)) + "|"]
    for method in methods:
        marks = ["yes" if passed[family, method] else "**no**" for family in families]
        lines.append(f"| `{method}` | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def readable(name: str) -> str:
    """A test's name in words, with its case."""
    words = name.partition("::test_")[2]
    what, _, case = words.partition("[")
    return what.replace("_", " ") + (f": {case.rstrip(']')}" if case else "")


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = Reports()
    status = pytest.main(["-q", "--no-header", "-W", "ignore", "-p", "no:cacheprovider", str(TESTS)], plugins=[found])
    for title, test in (("Methods, in a few steps", METHODS), ("Noise ascent, in one step", ASCENTS)):
        cells = list(found.cells(test))
        passed = sum(outcome == "passed" for _, _, outcome in cells)
        print(f"\n{title}: {passed} of {len(cells)} pass\n\n{matrix(cells)}")
    print("\nLargest difference to the plain pipeline\n\n| | difference | held to |\n|---|---|---|")
    for name, difference, within in found.differences():
        print(f"| {readable(name)} | {difference:.1e} | {within:.0e} |")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())

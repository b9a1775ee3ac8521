"""`noisetilt bench`: run a suite, resume it, and write its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .document import new_figure

SUITES = ("exact", "paper", "one-step")


def bench(suite: str, out: Path, quick: bool = False, methods: Sequence[str] | None = None) -> Path:
    """Measures what is missing in a folder and writes report.md and report.html there, also after Ctrl-C.

    Args:
        suite: one of SUITES.
        out: folder of the run; rows that it holds already are kept.
        quick: a small version, minutes on two cores.
        methods: names to restrict the suite to; base always runs.
    Returns:
        The HTML report.
    Raises:
        ValueError: for an unknown suite or method, a folder of another run, or without matplotlib.
    """
    if suite not in SUITES:
        raise ValueError(f"suite = {suite!r} is unknown; the suites are: {', '.join(SUITES)}")
    new_figure()  # a missing matplotlib is told before hours of work
    {"exact": _exact, "paper": _paper, "one-step": _one_step}[suite](out, quick, methods)
    return out / "report.html"


def _exact(out: Path, quick: bool, methods: Sequence[str] | None) -> None:
    from . import exact_report, exact_suite

    exact = exact_suite.Run(out, quick, methods)
    try:
        exact.measure()
    finally:
        exact_report.write(out, exact)


def _paper(out: Path, quick: bool, methods: Sequence[str] | None) -> None:
    from . import paper_report, paper_suite

    plan = paper_suite.with_methods(paper_suite.QUICK if quick else paper_suite.Plan(), methods)
    runner = paper_suite.Runner(out, plan)
    try:
        runner.run()
    finally:
        paper_report.write(out, runner)


def _one_step(out: Path, quick: bool, methods: Sequence[str] | None) -> None:
    from . import one_step, one_step_report

    run = one_step.Run(out, quick, methods)
    try:
        run.measure()
    finally:
        one_step_report.write(out, run)

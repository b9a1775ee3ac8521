"""`noisetilt bench`: run a suite, resume it, and write its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .document import new_figure

SUITES = ("exact", "paper", "one-step")


def bench(
    suite: str,
    out: Path,
    quick: bool = False,
    methods: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    measure: bool = True,
) -> Path:
    """Measures what is missing in a folder and writes report.md and report.html there, also after Ctrl-C.

    Args:
        suite: one of SUITES.
        out: folder of the run; rows that it holds already are kept.
        quick: a small version, minutes on two cores.
        methods: names to restrict the suite to; base always runs.
        targets: target rewards to restrict the suite paper to.
        measure: False writes the report of what is there, also while another process measures on.
    Returns:
        The HTML report.
    Raises:
        ValueError: for an unknown suite or method, a folder of another run, or without matplotlib.
    """
    if suite not in SUITES:
        raise ValueError(f"suite = {suite!r} is unknown; the suites are: {', '.join(SUITES)}")
    new_figure()  # a missing matplotlib is told before hours of work
    if suite != "paper" and (targets or not measure):
        raise ValueError(f"the suite {suite} has no choice of targets and no report of its own; leave both options out")
    if suite == "paper":
        _paper(out, quick, methods, targets, measure)
    else:
        {"exact": _exact, "one-step": _one_step}[suite](out, quick, methods)
    return out / "report.html"


def _exact(out: Path, quick: bool, methods: Sequence[str] | None) -> None:
    from . import exact_report, exact_suite

    exact = exact_suite.Run(out, quick, methods)
    try:
        exact.measure()
    finally:
        exact_report.write(out, exact)


def _paper(out: Path, quick: bool, methods: Sequence[str] | None, targets: Sequence[str] | None, measure: bool) -> None:
    from . import paper_plan, paper_report, paper_suite

    plan = paper_plan.restricted(paper_plan.QUICK if quick else paper_plan.Plan(), methods, targets)
    runner = paper_suite.Runner(out, plan, measure=measure)
    try:
        if measure:
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

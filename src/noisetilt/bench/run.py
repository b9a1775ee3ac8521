"""Runs or resumes a benchmark suite and writes its report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from .._messages import unknown_name
from ..report.plotting import require_matplotlib
from ..runs import ROWS, Interrupts, locked, says_what_is_kept
from . import paper_plan
from .ledger import SETTINGS

SUITES = ("exact", "paper", "one-step")
REPORTS = ("report.md", "report.html")


def bench(
    suite: str,
    out: Path,
    quick: bool = False,
    methods: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    measure: bool = True,
    images: int | None = None,
) -> Path:
    """Measures the missing rows of a run and writes report.md and report.html, also after Ctrl-C.

    Args:
        suite: one of SUITES.
        out: folder of the run; its rows are kept.
        quick: whether to run a small version, which takes minutes on two cores.
        methods: run only these methods, and base.
        targets: run only these target rewards; for the suites paper and one-step.
        measure: False only writes the report, which is safe while another process measures; for the same suites.
        images: images per method and strength, instead of 64 in the test and 32 in the tuning; for the same suites. A
            report without it has as many as base has for one of the targets.
    Returns:
        The path of the HTML report.
    Raises:
        ValueError: for an unknown suite or method, a folder with a run of other settings, or the report of a folder
            without measured rows.
        ImportError: if matplotlib is not installed.
    """
    if suite not in SUITES:
        raise ValueError(unknown_name("suite", suite, SUITES))
    require_matplotlib("the benchmark report")  # before hours of work
    if suite == "exact" and (targets or images is not None or not measure):
        raise ValueError(
            "targets, images and report-only runs are for the suites paper and one-step and the suite is exact; leave "
            "them out"
        )
    if not measure and not (out / ROWS).is_file():
        raise ValueError(f"{out} has no measured rows to report; give the folder of a run")
    own = next((name for name in REPORTS if (out / name).exists()), None)
    if own is not None and not ((out / ROWS).exists() or (out / SETTINGS).exists()):
        raise ValueError(
            f"{out} has {own}, which is no file of a benchmark and would be replaced; choose another --out"
        )
    kept = lambda: f"the measured rows are in {out}; the same command continues"  # noqa: E731
    # The report of a run that another process measures may be written at any time.
    with locked(out) if measure else contextlib.nullcontext(), Interrupts(unit=""), says_what_is_kept(kept):
        if suite == "paper":
            plan = paper_plan.restrict(paper_plan.QUICK if quick else paper_plan.Plan(), methods, targets, images)
            _paper(out, plan, measure, given=images is not None)
        elif suite == "one-step":
            _one_step(out, quick, methods, targets, images, measure)
        else:
            _exact(out, quick, methods)
    return out / "report.html"


def _exact(out: Path, quick: bool, methods: Sequence[str] | None) -> None:
    from . import exact_report, exact_suite

    exact = exact_suite.Run(out, quick, methods)
    try:
        exact.measure()
    finally:
        exact_report.write(out, exact)


def _paper(out: Path, plan: paper_plan.Plan, measure: bool, given: bool) -> None:
    from . import paper_report, paper_suite

    runner = paper_suite.Runner(out, plan, measure=measure)
    if not measure and not given:
        most = max(runner.measured_images(target, "base") for target in plan.targets)
        runner.plan = paper_plan.restrict(plan, images=most) if most >= 2 else plan
    try:
        if measure:
            runner.run()
    finally:
        paper_report.write(out, runner)


def _one_step(
    out: Path,
    quick: bool,
    methods: Sequence[str] | None,
    targets: Sequence[str] | None,
    images: int | None,
    measure: bool,
) -> None:
    from . import one_step, one_step_report

    size = one_step.restrict(one_step.QUICK if quick else one_step.FULL, targets, images)
    run = one_step.Run(out, methods, size, measure=measure)
    try:
        if measure:
            run.measure()
    finally:
        one_step_report.write(out, run)

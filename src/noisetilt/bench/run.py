"""Runs or resumes a benchmark suite and writes its report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .._messages import unknown_name
from ..report.plotting import require_matplotlib
from ..runs import ROWS, Interrupts, locked, says_what_is_kept
from . import paper_plan
from .ledger import SETTINGS
from .own_methods import Strength, codes, short_name, split_own
from .paper_plan import Entry

SUITES = ("exact", "paper", "one-step")
REPORTS = ("report.md", "report.html")


def bench(
    suite: str,
    out: str | Path,
    quick: bool = False,
    methods: Sequence[str | Entry] | None = None,
    targets: Sequence[str] | None = None,
    measure: bool = True,
    images: int | None = None,
    strength: Strength | None = None,
) -> Path:
    """Measures the missing rows of a run and writes report.md and report.html, also after Ctrl-C.

        from noisetilt.bench import bench

        bench("paper", "out/mine", methods=["mine.py:MINE"], strength=("omega", (0.01, 0.02, 0.05, 0.1, 0.2)))

    Args:
        suite: one of SUITES.
        out: folder of the run; its rows are kept. The report has all methods that it has rows of, such as the published
            ones.
        quick: whether to run a small version, which takes minutes on two cores.
        methods: measure only these methods, and base; with `measure=False`, report only these. A method that is not in
            the suite is an `Entry` with a name, or "FILE.py:NAME", a Method in a Python file, in the report without the
            folder of the file; for the suite paper.
        targets: run only these target rewards; for the suites paper and one-step.
        measure: False only writes the report, which is safe while another process measures; for the same suites.
        images: images per method and strength, instead of 64 in the test and 32 in the tuning; for the same suites. A
            report without it has as many as base has for one of the targets, or as methods have that are not in the
            suite.
        strength: for methods "FILE.py:NAME" the option that is tuned and five values to try, from the weakest to the
            strongest, such as ("omega", (0.01, 0.02, 0.05, 0.1, 0.2)); (None, ()): nothing is tuned.
    Returns:
        The path of the HTML report.
    Raises:
        ValueError: for an unknown suite or method, a folder with a run of other settings or with rows of other code of
            a method, or the report of a folder without measured rows.
        ImportError: if matplotlib is not installed.
    """
    out = Path(out)
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
            plan = replace(paper_plan.QUICK if quick else paper_plan.Plan(), all_tuning=True)
            (_paper if measure else _paper_report)(out, plan, methods, targets, images, strength)
        else:
            names, others = split_own(methods, strength, list(paper_plan.METHODS_OF_SUITE))
            if others:
                raise ValueError(f"{next(iter(others))} is not in the suite {suite}; the suite paper takes your own")
            if suite == "one-step":
                _one_step(out, quick, names, targets, images, measure)
            else:
                _exact(out, quick, names)
    return out / "report.html"


def _exact(out: Path, quick: bool, methods: Sequence[str] | None) -> None:
    from . import exact_report, exact_suite

    exact = exact_suite.Run(out, quick, methods)
    try:
        exact.measure()
    finally:
        exact_report.write(out, exact)


def _paper(
    out: Path,
    plan: paper_plan.Plan,
    methods: Sequence[str | Entry] | None,
    targets: Sequence[str] | None,
    images: int | None,
    strength: Strength | None,
) -> None:
    from . import paper_report, paper_suite

    names, own = split_own(methods, strength, list(paper_plan.METHODS_OF_SUITE))
    plan = paper_plan.restrict(replace(plan, own=own), names, targets, images)
    runner = paper_suite.Runner(out, plan, codes=codes(methods or (), own))
    try:
        runner.run()
    finally:
        paper_report.write(out, runner)


def _paper_report(
    out: Path,
    plan: paper_plan.Plan,
    methods: Sequence[str | Entry] | None,
    targets: Sequence[str] | None,
    images: int | None,
    strength: Strength | None,
) -> None:
    """The report of the rows that a folder has."""
    from . import paper_report, paper_suite

    if strength is not None:
        raise ValueError("strength is for measuring, and a report has the strengths of the rows; leave it out")
    runner = paper_suite.Runner(out, plan, measure=False)
    plan = replace(plan, own={name: runner.entries[name] for name in runner.own})
    names = [given.name if isinstance(given, Entry) else short_name(given) for given in methods or ()]
    plan = paper_plan.restrict(plan, names, targets, images)
    runner.plan, runner.reports_all = plan, not names
    if images is None:
        counted = ["base", *(name for name in runner.own if not names or name in names)]
        most = min(max(runner.measured_images(target, name) for target in plan.targets) for name in counted)
        runner.plan = paper_plan.restrict(plan, images=most) if most >= 2 else plan
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

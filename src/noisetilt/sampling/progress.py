"""The progress of `sample`, `optimize` and `invert` with progress=True."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .._progress import progress_bar
from .check_inputs import check_callback
from .optimize_result import AscentReport
from .result import StepReport


@contextlib.contextmanager
def shown_progress(callback: Callable[[Any], Any] | None, unit: str) -> Iterator[Callable[[Any], None]]:
    """A bar, on the standard error or in a notebook, for a call whose reports are passed to the function that this
    yields; it passes them on to the caller's own callback.

    Raises:
        ValueError: if the callback is no function.
    """
    check_callback(callback)
    bar, done = None, 0
    with contextlib.ExitStack() as stack:

        def show(report: StepReport | AscentReport) -> None:
            nonlocal bar, done
            if bar is None:
                total = report.steps if isinstance(report, StepReport) else report.iterations
                bar = stack.enter_context(progress_bar(total, unit))
            bar.update(report.number - done)
            done = report.number
            if callback is not None:
                callback(report)

        yield show

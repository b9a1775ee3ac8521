"""The progress bar of `sample`, `optimize` and `invert`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tqdm.auto import tqdm

from .check_inputs import check_callback
from .optimize_result import AscentReport
from .result import StepReport


@contextlib.contextmanager
def progress_bar(callback: Callable[[Any], Any] | None, unit: str) -> Iterator[Callable[[Any], None]]:
    """A bar, on the standard error or in a notebook, for a call whose reports are passed to the function that this
    yields; it passes them on to the caller's own callback.

    Raises:
        ValueError: if the callback is no function.
    """
    check_callback(callback)
    with tqdm(unit=unit) as bar:

        def show(report: StepReport | AscentReport) -> None:
            bar.total = report.steps if isinstance(report, StepReport) else report.iterations
            bar.update(report.number - bar.n)
            if callback is not None:
                callback(report)

        yield show

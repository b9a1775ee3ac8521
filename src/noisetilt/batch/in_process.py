"""The engine "process": one worker in this process."""

from __future__ import annotations

from collections.abc import Iterator

from .worker import Groups, Outcome, Worker, WorkerOptions


def run_in_process(groups: Groups, options: WorkerOptions) -> Iterator[Outcome]:
    """The outcomes of all rows, in their order."""
    worker = Worker(options)
    for rows in groups:
        yield from worker(rows)

"""Ctrl-C and SIGTERM during a run that keeps its finished results."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from .._messages import counted


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM; a command then ends with the exit status 143."""

    status = 128 + signal.SIGTERM


class Interrupts:
    """A context in which the first Ctrl-C requests a stop, and a second one or SIGTERM stops at once.

    In a thread other than the main one, which cannot receive signals, it does nothing.

    Args:
        unit: what is finished after the first Ctrl-C, for the message; empty: the first Ctrl-C stops at once.
    Attributes:
        requested: whether a stop was requested; work that is under way is finished.
    """

    def __init__(self, unit: str = "batch") -> None:
        self.unit, self.requested = unit, False
        self._before: dict[int, Any] = {}
        self._deferred = 0
        self._waiting: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self.install()
        return self

    def install(self) -> None:
        """Installs the handlers; again after a library has replaced them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def check(self) -> None:
        """Raises KeyboardInterrupt if a stop was requested."""
        if self.requested:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A context in which signals wait until its end, for the short time that files are written. Of several, SIGTERM
        counts."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
            waiting, self._waiting = self._waiting, None
            if waiting is not None and not self._deferred:
                self._handle(waiting, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferred:
            if self._waiting != signal.SIGTERM:
                self._waiting = number
        elif number == signal.SIGTERM:
            raise Terminated
        elif self.requested or not self.unit:
            raise KeyboardInterrupt
        else:
            self.requested = True
            print(
                f"\nnoisetilt: finishing the current {self.unit}; press Ctrl-C again to stop at once", file=sys.stderr
            )


@contextlib.contextmanager
def says_what_is_kept(kept: Callable[[], str]) -> Iterator[None]:
    """A context in which the KeyboardInterrupt that ends it gets a text for the user.

    Args:
        kept: () → the text, called when the interrupt arrives.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.args = (kept(),)
        raise


def finished_parts(done: int, total: int, part: str, out: Path, *, resume: bool, overwrite: bool) -> str:
    """How many parts of a run are finished, and how it continues.

    Args:
        done, total: the number of its finished parts and of all parts.
        part: what one of them is, such as "image".
        out: the folder of the run.
        resume, overwrite: the options of the command that was interrupted.
    """
    if not done:
        return f"no {part} is finished"
    again = "" if resume else " with --resume instead of --overwrite" if overwrite else " with --resume"
    return (
        f"{done} of {counted(total, part)} {'is' if done == 1 else 'are'} in {out}; the same command{again} continues"
    )

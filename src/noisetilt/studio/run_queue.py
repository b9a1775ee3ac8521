"""The queue of runs: one at a time, in the order in which they came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RunQueue:
    """Lets one run at a time through, first come, first served."""

    def __init__(self) -> None:
        self._tickets: list[Any] = []
        self._changed = threading.Condition()

    def position(self, ticket: Any) -> int:
        """How many runs are before this one; 0 for the one that runs, and for one that has left."""
        with self._changed:
            return self._tickets.index(ticket) if ticket in self._tickets else 0

    def join(self, ticket: Any) -> None:
        """Puts a run at the end."""
        with self._changed:
            self._tickets.append(ticket)

    @contextmanager
    def turn(self, ticket: Any, cancelled: threading.Event) -> Iterator[bool]:
        """Waits for the turn of a run that has joined; it leaves when the block ends.

        Yields:
            Whether it is its turn: False if the run was cancelled while it waited.
        """
        try:
            with self._changed:
                while self._tickets[0] is not ticket and not cancelled.is_set():
                    self._changed.wait(0.1)
            yield not cancelled.is_set()
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

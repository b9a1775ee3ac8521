"""A run: computes in a worker thread when its turn comes, can be cancelled, and tells the page what changed."""

from __future__ import annotations

import dataclasses
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .._python_files import describe_error
from ..rewards import Reward
from ..sampling import UnguidedWarning
from .run_queue import RunQueue
from .views import View

POLL = 0.5
# Seconds between two updates, so that a fast model does not send more than a browser draws.
INTERVAL = 0.05
# What the library raises for what a user can mend; the message says it all.
EXPECTED = (ValueError, FloatingPointError, OSError, ImportError, MemoryError)


# This package, and Python itself.
LIBRARIES = (str(Path(__file__).parents[1]), str(Path(threading.__file__).parent))


class CancelledError(Exception):
    """Raised inside a run that was cancelled."""


class Run:
    """One run of a visitor.

    Args:
        queue: of the runs of all visitors.
        work: computes; it is given this run, changes its view and calls `changed` and `check`.
    """

    def __init__(self, queue: RunQueue, work: Callable[[Run], None]) -> None:
        self.view, self._queue, self._work = View(), queue, work
        self._cancelled, self._changed, self.finished = threading.Event(), threading.Event(), False
        self._queue.join(self)
        self._thread = threading.Thread(target=self._main, daemon=True, name="noisetilt-run")

    def updates(self) -> Iterator[View]:
        """Starts the run; yields the view after each change, and while it waits every half second."""
        self._thread.start()
        while not self.finished:
            self._changed.wait(POLL)
            self._changed.clear()
            if self.view.state == "waiting":
                self.view.message = _waiting(self._queue.position(self))
            if not self.finished:
                yield self.view
                time.sleep(INTERVAL)
        yield self.view

    def cancel(self) -> None:
        """Ends the run within one step."""
        self._cancelled.set()

    def check(self) -> None:
        """Raises a CancelledError if the run was cancelled."""
        if self._cancelled.is_set():
            raise CancelledError

    def changed(self) -> None:
        """Says that the view has changed."""
        self._changed.set()

    def watched(self, reward: Reward) -> Reward:
        """The reward, which ends a cancelled run also within a step."""

        def function(images: Tensor, prompts: Sequence[str]) -> Tensor:
            self.check()
            return reward(images, prompts)

        return dataclasses.replace(reward, function=function)

    def _main(self) -> None:
        view = self.view
        try:
            with self._queue.turn(self, self._cancelled), _noted_warnings(view):
                self.check()
                view.state, view.message = "running", ""
                self.changed()
                self._work(self)
                view.state = "done"
        except CancelledError:
            view.state = "cancelled"
            view.message = "What is shown is incomplete." if view.rows else "Nothing was computed."
        except EXPECTED as error:
            view.state, view.message = "failed", _sentence(str(error) or type(error).__name__)
        except BaseException as error:  # an own reward may raise anything
            traceback.print_exc()
            view.state, view.message = "failed", _sentence(describe_error(error, _file_of(error)))
        finally:
            self.finished = True
            self.changed()


@contextmanager
def _noted_warnings(view: View) -> Iterator[None]:
    """Puts the warnings that nothing was guided into the view, as the visitor does not see the terminal."""
    thread = threading.current_thread()
    with warnings.catch_warnings():
        warnings.simplefilter("always", UnguidedWarning)
        before = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **further: Any) -> None:
            # The fields of other visitors are checked in other threads.
            if not issubclass(category, UnguidedWarning) or threading.current_thread() is not thread:
                before(message, category, *place, **further)
            elif _sentence(str(message)) not in view.warnings:
                view.warnings.append(_sentence(str(message)))

        warnings.showwarning = show
        yield


def _file_of(error: BaseException) -> str:
    """The file of a user, such as that of an own reward, whose code led to an error; "" if there is none."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    users = [file for file in files if not file.startswith(LIBRARIES) and "site-packages" not in file]
    return users[-1] if users else ""


def _waiting(before: int) -> str:
    runs = "1 run is" if before == 1 else f"{before} runs are"
    return f"Waiting in the queue: {runs} before yours." if before else "The run starts."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")

"""Two loops that take turns: one asks, the other answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


class _Closed(BaseException):
    """Ends the asking loop from outside."""


class Coroutine(Generic[Request, Response]):
    """Runs `body(ask)` strictly in turns with its owner, who sees each request and answers it.

    A sampler asks for x̂_0 in the middle of its own loops; a pipeline calls its scheduler in the middle of its own. The
    body has a thread to keep its place in, but only ever runs while the owner waits in `open` or `answer`.

    Attributes:
        request: the one to be answered next, None once the body has returned.
        result: what the body returned.
    """

    def __init__(self, body: Callable[[Callable[[Request], Response]], Any]) -> None:
        self.request: Request | None = None
        self.result: Any = None
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        self._news: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)

    def _run(self, body: Callable[[Callable[[Request], Response]], Any]) -> None:
        try:
            self._news.put(("done", body(self._ask)))
        except _Closed:
            pass
        except BaseException as error:
            self._news.put(("error", error))

    def _ask(self, request: Request) -> Response:
        self._news.put(("asked", request))
        answer = self._answers.get()
        if answer is _Closed:
            raise _Closed
        return answer

    def open(self) -> None:
        """Runs the body up to its first request."""
        self._thread.start()
        self._wait()

    def answer(self, answer: Response) -> None:
        """Runs the body on to its next request, or to its end. What it raises is raised here."""
        self._answers.put(answer)
        self._wait()

    def _wait(self) -> None:
        self.request = None
        kind, value = self._news.get()
        if kind == "error":
            raise value
        if kind == "asked":
            self.request = value
        else:
            self.result = value

    def close(self) -> None:
        """Ends the body where it stands; nothing happens if it has ended."""
        if self._thread.is_alive():
            self._answers.put(_Closed)
            self._thread.join()

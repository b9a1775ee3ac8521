"""A function that is suspended in the middle of its loop until its caller has the result of a request."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

Request = TypeVar("Request")
Response = TypeVar("Response")


class _Closed(BaseException):
    """Raised inside the body to end it."""


class Coroutine(Generic[Request, Response]):
    """Runs `body(request)` and its caller alternately.

    The body calls `request(value)` where it needs something from the caller, and is suspended until the caller passes
    the response to `send`. This connects two loops neither of which can call the other: the sampler needs predictions
    in the middle of its loop, and a pipeline calls its scheduler in the middle of its own. The body runs in a thread,
    but only while the caller waits in `start` or `send`, and with torch's default device of the thread that made this.

    Attributes:
        request: the request that waits for its response; None once the body has returned.
        result: what the body returned.
    """

    def __init__(self, body: Callable[[Callable[[Request], Response]], Any]) -> None:
        self.request: Request | None = None
        self.result: Any = None
        self._responses: queue.SimpleQueue = queue.SimpleQueue()
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._device = torch.get_default_device()
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)

    def _run(self, body: Callable[[Callable[[Request], Response]], Any]) -> None:
        try:
            # A default device costs time in every call of torch, so that the usual one is not set.
            with contextlib.nullcontext() if self._device.type == "cpu" else self._device:
                result = body(self._suspend)
            self._events.put(("returned", result))
        except _Closed:
            pass
        except BaseException as error:
            self._events.put(("raised", error))

    def _suspend(self, request: Request) -> Response:
        self._events.put(("requested", request))
        response = self._responses.get()
        if response is _Closed:
            raise _Closed
        return response

    def start(self) -> None:
        """Runs the body to its first request."""
        self._thread.start()
        self._wait()

    def send(self, response: Response) -> None:
        """Runs the body to its next request or its end. Errors of the body are raised here."""
        self._responses.put(response)
        self._wait()

    def _wait(self) -> None:
        self.request = None
        kind, value = self._events.get()
        if kind == "raised":
            raise value
        if kind == "requested":
            self.request = value
        else:
            self.result = value

    def close(self) -> None:
        """Ends the body at its current request; does nothing if the body has ended."""
        if self._thread.is_alive():
            self._responses.put(_Closed)
            self._thread.join()

"""Progress on the standard error: tqdm's bar in a terminal or a notebook, lines in a file or a pipe. Imports nothing of
noisetilt."""

from __future__ import annotations

import sys
import time
from typing import Any

# Lines are printed at each tenth of the work, and after so many seconds without one.
TENTHS, SECONDS = 10, 60.0


def progress_bar(total: int, unit: str, initial: int = 0, columns: int | None = None) -> Any:
    """A bar with the methods `update`, `set_postfix_str` and `close` of tqdm; also a context.

    Args:
        total: of what is counted.
        unit: what is counted, such as "step".
        initial: how many of them are finished already.
        columns: characters of the bar; None: as many as the terminal has.
    """
    if not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        return ProgressLines(total, unit, initial)
    from tqdm.auto import tqdm

    return tqdm(total=total, unit=unit, initial=initial, ncols=columns, dynamic_ncols=columns is None)


class ProgressLines:
    """A few lines instead of a bar, whose redraws would fill a file; the arguments are those of `progress_bar`."""

    def __init__(self, total: int, unit: str, initial: int = 0) -> None:
        self.total, self.unit, self.count, self.text = total, unit, initial, ""
        self._tenth, self._printed = self._tenths(), time.monotonic()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _tenths(self) -> int:
        return TENTHS * self.count // max(self.total, 1)

    def update(self, count: int = 1) -> None:
        """Counts, and prints a line where one is due."""
        self.count += count
        if self._tenths() > self._tenth or time.monotonic() - self._printed > SECONDS:
            self._tenth, self._printed = self._tenths(), time.monotonic()
            text = f": {self.text}" if self.text else ""
            print(f"{self.unit} {self.count} of {self.total}{text}", file=sys.stderr, flush=True)

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Sets the end of the next lines; `refresh` has no effect."""
        self.text = text

    def close(self) -> None:
        """Does nothing: every line is complete."""

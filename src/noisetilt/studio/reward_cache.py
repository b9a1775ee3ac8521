"""The rewards that are loaded, so that the checks and the runs of a page do not load them again."""

from __future__ import annotations

import hashlib
import threading

from .._python_files import file_of, imported_files, is_in_file
from ..rewards import Reward
from ..rewards.catalogue import is_of_hub, load_term

# Of the hub and of files. Each may be a network of gigabytes.
MOST = 4


class RewardCache:
    """Loads rewards by name, and keeps the last ones that were asked for. Threads may share it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str | None], Reward] = {}
        self._lock = threading.Lock()

    def load(self, name: str, heldout: bool = False) -> Reward:
        """The reward of one name, as `catalogue.load_term` gives it. A file that has changed is executed again.

        Raises:
            ValueError, OSError, ImportError: if the reward cannot be loaded.
        """
        # The package keeps its own networks. Those of the hub and of files have no held-out version of the same name.
        if not (is_of_hub(name) or is_in_file(name)):
            return load_term(name, heldout)
        with self._lock:  # also while it loads, so that a second check waits for the network of the first
            key = (name, _digest(name))
            self._kept[key] = self._kept.pop(key, None) or load_term(name)
            while len(self._kept) > MOST:
                del self._kept[next(iter(self._kept))]
            return self._kept[key]


def _digest(name: str) -> str | None:
    """Of the content of the reward's file, and of what it imports from its folder; None if it has none."""
    if not is_in_file(name) or not file_of(name).is_file():
        return None
    return hashlib.sha256(b"".join(file.read_bytes() for file in imported_files(file_of(name)))).hexdigest()

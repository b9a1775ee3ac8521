"""Reading and checksums of files that a user may have changed. This module imports nothing of noisetilt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: if the file holds anything else; names the file.
        OSError: if it cannot be read.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, or no JSON file: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds {type(value).__name__}, expected an object; restore the file")
    return value


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def checksums(files: Iterable[Path]) -> dict[str, str]:
    """Path → SHA-256 of files, in the order of their paths."""
    return {str(file): sha256(file) for file in sorted(files)}


def changed_file(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first file that has another checksum than before; files that were not known then count as unchanged."""
    return next((file for file, checksum in now.items() if before.get(file, checksum) != checksum), None)

"""Reading of JSON files that a user may have changed. This module imports nothing of noisetilt."""

from __future__ import annotations

import json
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

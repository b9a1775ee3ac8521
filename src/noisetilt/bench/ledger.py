"""The measured rows of a benchmark run on disk, one JSON line each, so that an interrupted run can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .._files import json_object
from ..runs import ROWS, append_line, make_folder, write_json, write_text

Row = dict[str, Any]
SETTINGS = "settings.json"
PACKAGE = Path(__file__).parents[1]
SCORED = ("rewards/scorers/concepts", "rewards/scorers/imagenet", "rewards/scorers/style", "bench/weights")


def weights_digest(model: str) -> str:
    """One checksum of all weights that the results depend on: the model's, the rewards' and the judge's."""
    folders = (f"models/{model}", *SCORED)
    files = [PACKAGE / folder / "checksums.json" for folder in folders]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Ledger:
    """The rows of one run on disk, indexed by their key.

    An incomplete last line, left by a crash, is dropped. `settings.json` has the settings of the run, and a folder with
    other settings is an error.

    Args:
        folder: created if missing; has `rows.jsonl` and `settings.json`.
        key: the fields that identify a row.
        settings: everything else that the rows depend on, as JSON.
        mend: whether to remove incomplete lines from the file; pass False while another process writes to it.
    Raises:
        ValueError: if the folder has a run with other settings, or of another kind; then nothing is written.
    """

    def __init__(self, folder: Path, key: Sequence[str], settings: Row, mend: bool = True) -> None:
        self.folder, self.key, self.file = folder, tuple(key), folder / ROWS
        make_folder(folder)
        self._check(settings)
        lines = self.file.read_text("utf-8").splitlines() if self.file.exists() else []
        rows = [row for row in map(_parsed, lines) if row is not None]
        foreign = sorted({name for row in rows for name in self.key if name not in row})
        if foreign:
            raise ValueError(f"{self.file} has rows without {', '.join(foreign)}, of another run; choose another --out")
        write_json(folder / SETTINGS, settings)
        if mend and len(rows) < len(lines):
            write_text(self.file, "".join(_line(row) for row in rows))
        self._rows: dict[tuple, Row] = {}
        # Positions and rows by all fields of the key but the last two, so that `where` does not read all rows.
        self._cells: dict[tuple, dict[tuple, tuple[int, Row]]] = {}
        self._keep(rows)

    def _keep(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key = self.key_of(row)
            self._rows[key] = row
            cell = self._cells.setdefault(key[:-2], {})
            cell[key] = (cell[key][0] if key in cell else len(self._rows), row)

    def _check(self, settings: Row) -> None:
        file, settings = self.folder / SETTINGS, json.loads(json.dumps(settings))
        before = json_object(file) if file.exists() else settings
        changed = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
        if changed:
            raise ValueError(
                f"{self.folder} has a run with another {', '.join(changed)}; choose another --out, or empty the folder"
            )

    def key_of(self, row: Row) -> tuple:
        """The key of a row."""
        return tuple(row[name] for name in self.key)

    def __contains__(self, key: tuple) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Appends rows to the file."""
        rows = list(rows)
        if rows:
            append_line(self.file, "".join(map(_line, rows)).rstrip("\n"))
        self._keep(rows)

    def where(self, **fields: Any) -> list[Row]:
        """The rows with these values, in the order of measurement."""
        first = [(number, fields.pop(name)) for number, name in enumerate(self.key[:-2]) if name in fields]
        cells = (rows for cell, rows in self._cells.items() if all(cell[number] == value for number, value in first))
        found = [
            (place, row)
            for rows in cells
            for place, row in rows.values()
            if all(row[name] == value for name, value in fields.items())
        ]
        return [row for _, row in sorted(found, key=lambda one: one[0])]


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"

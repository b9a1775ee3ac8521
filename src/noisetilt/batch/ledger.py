"""The finished rows of a batch on disk: an image and a line of rows.jsonl each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..report import file_stem
from ..runs import IMAGES, ROWS, append_line, make_folder, read_lines, to_json, write_bytes
from .settings import json_value
from .table import Row
from .worker import Outcome

PER_FOLDER = 1000


class BatchLedger:
    """The records of a run's rows. The last record of a row counts.

    A row is finished when its record is written, which happens after its image is written as a whole.

    Args:
        folder: of the run.
        fresh: whether to delete the images and the records of an earlier run.
    Attributes:
        count: of the records, also of those that do not count any more.

    Raises:
        ValueError: if a line is not the record of a row, as in the folder of a benchmark; then nothing is deleted.
    """

    def __init__(self, folder: Path, fresh: bool) -> None:
        self.folder, self.file = folder, folder / ROWS
        if fresh:
            self._remove()
        # The finished rows: index → (digest, number of the record).
        self._done: dict[int, tuple[str, int]] = {}
        self.count = 0
        for record in read_records(self.folder):
            if record["status"] == "done" and self._has_image(record):
                self._done[record["index"]] = record["digest"], self.count
            else:
                self._done.pop(record["index"], None)
            self.count += 1

    def _remove(self) -> None:
        """Deletes the images and the records of an earlier run."""
        for name in [record["file"] for record in read_records(self.folder) if record["status"] == "done"]:
            (self.folder / name).unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)

    def finished(self, rows: int) -> Iterator[dict[str, Any]]:
        """The records of the finished rows with numbers below `rows`."""
        for number, record in enumerate(read_records(self.folder)):
            index = record["index"]
            if index in self._done and index < rows and self._done[index][1] == number:
                yield record

    @property
    def has_finished(self) -> bool:
        """Whether the image of a row is finished."""
        return bool(self._done)

    def _has_image(self, record: Mapping[str, Any]) -> bool:
        file = self.folder / record["file"]
        return file.is_file() and file.stat().st_size == record["bytes"]

    def is_done(self, row: Row) -> bool:
        """Whether the image of a row is finished.

        Raises:
            ValueError: if the image of this number is finished and has other settings.
        """
        known = self._done.get(row.index)
        if known is not None and known[0] != _digest(row):
            raise ValueError(
                f"{row.name} has other settings than in the run in {self.folder}; choose another --out, or --overwrite"
            )
        return known is not None

    def add(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Writes the image and the record of a row, and returns the record.

        Raises:
            OSError: if the disk is full or the folder cannot be written to; names the file.
        """
        record: dict[str, Any] = {
            "index": row.index,
            **({} if row.line is None else {"line": row.line}),
            "status": "failed" if outcome.error else "done",
            "digest": _digest(row),
            **({"settings": row.settings.as_json()} if row.settings else {}),
            **outcome.results,
            **({"columns": json_value(row.kept)} if row.kept else {}),
        }
        if outcome.error:
            record["error"] = outcome.error
        else:
            name = f"{row.index:07d}-{file_stem(row.made().prompt)}.png"
            file = self.folder / IMAGES / f"{row.index // PER_FOLDER:05d}" / name
            make_folder(file.parent)
            write_bytes(file, outcome.image)
            record |= {"file": file.relative_to(self.folder).as_posix(), "bytes": len(outcome.image)}
        append_line(self.file, to_json(record))
        if not outcome.error:
            self._done[row.index] = record["digest"], self.count
        self.count += 1
        return record


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """All records of the run in a folder, in the order of writing; incomplete lines are dropped.

    Raises:
        ValueError: if a line is not the record of a row; names it.
    """
    file = folder / ROWS
    for number, line in enumerate(read_lines(file), 1):
        try:
            record = json.loads(line)
            _check_record(record)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"{file}, line {number} is not a record of a row; remove the line if it is damaged, or choose another "
                "--out if the file is not of a batch"
            ) from None
        yield record


def check_records(folder: Path) -> None:
    """Raises a ValueError as `read_records` does."""
    for _ in read_records(folder):
        pass


def _check_record(record: Any) -> None:
    """Raises an error if a record lacks what is read of it, or its image is outside of the folder."""
    kinds: dict[str, type] = {"index": int, "digest": str, "status": str}
    if record["status"] == "done":
        kinds |= {"file": str, "bytes": int, "settings": dict}
        file = PurePosixPath(record["file"])
        if file.is_absolute() or ".." in file.parts:
            raise ValueError(f"the image {file} is outside of the folder")
    for name, kind in kinds.items():
        if not isinstance(record[name], kind):
            raise TypeError(f"{name} = {record[name]!r} is no {kind.__name__}")


def _digest(row: Row) -> str:
    return row.settings.digest() if row.settings else ""

"""Tables of prompts: CSV, JSON lines, Parquet, text files with a prompt a line, or rows given in Python."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

from .._messages import missing_extra, nearest_name, unknown_name
from ..methods import find_method
from .settings import FIELDS, OPTIONS, Settings, cell_value, with_cells

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
COLUMNS = (*FIELDS, "n", *(option for option in OPTIONS if option not in FIELDS))
MAX_ROWS = 50_000_000


@dataclass(frozen=True)
class Row:
    """One image of a batch.

    Args:
        index: its number in the batch, from 0; the same whenever the table is read.
        settings: how it is made, or None if the row is wrong.
        problem: why the row is wrong, in one sentence.
        kept: further columns of the table, which are copied to the record of the row.
        line: of the file, from 1, in which the row begins; None for tables without lines.
    """

    index: int
    settings: Settings | None
    problem: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None

    @property
    def name(self) -> str:
        """The number of the row, from 0, and its line in the file, from 1."""
        return f"row {self.index}" + ("" if self.line is None else f", line {self.line} of the table,")

    def made(self) -> Settings:
        """The settings of a row that is not wrong.

        Raises:
            ValueError: if the row is wrong.
        """
        if self.settings is None:
            raise ValueError(f"{self.name} has no settings: {self.problem}")
        return self.settings


# The number of a line, or None, and the cells of the row that begins there.
Cells = tuple[int | None, Mapping[str, Any]]
Table = str | Path | Iterable[str | Mapping[str, Any]]


def read_table(table: Table, defaults: Mapping[str, Any], keep: Sequence[str] = ()) -> list[Row]:
    """The rows of a table, one per image.

    A column `n` asks for that many images, at consecutive seeds. The seed of an image without a seed column is the
    default seed plus the number of images before it.

    Args:
        table: a file (.csv, .tsv, .jsonl, .parquet or .txt), or prompts and dictionaries.
        defaults: fields of Settings and `n` for what a row does not say; without the prompt.
        keep: further columns, which are copied to the records and otherwise ignored, also where an option of a method
            has the same name.

    Raises:
        ValueError: if the file cannot be read, a column is unknown, no row has a column of `keep`, one of `keep` is a
            setting, or there is no row.
            A wrong value in a row is recorded in the row instead.
        OSError: if the file does not exist.
    """
    cells = _file_cells(Path(table)) if isinstance(table, (str, Path)) else ((None, _as_cells(row)) for row in table)
    defaults = dict(defaults)
    count = cell_value("n", defaults.pop("n", 1))
    _check_count(count)
    base = Settings(prompt="-", **defaults)
    rows: list[Row] = []
    columns: dict[str, None] = {}
    own = [option for option in find_method(base.method).options() if option not in COLUMNS]
    _check_keep(keep)
    for line, values in cells:
        _check_columns(values, [*COLUMNS, *own], keep)
        columns |= dict.fromkeys(values)
        rows += _rows_of(values, base, count, len(rows), keep, line)
        if len(rows) > MAX_ROWS:
            raise ValueError(f"the table has more than {MAX_ROWS} images; split it")
    if not rows:
        raise ValueError("the table has no row; give at least one prompt")
    for name in keep:
        if name not in columns:
            hint = nearest_name(name, columns)
            raise ValueError(f"keep = {name!r} is no column of the table{hint}; it has: {', '.join(columns)}")
    return rows


def _check_count(count: int) -> None:
    if not 1 <= count <= 1_000_000:
        raise ValueError(f"n = {count} must be a whole number from 1 to 1000000")


def _check_keep(keep: Sequence[str]) -> None:
    for name in keep:
        if name in (*FIELDS, "n"):
            raise ValueError(f"keep = {name!r} is a setting of rows, which the records have already; leave it out")


def _check_columns(values: Mapping[str, Any], known: Sequence[str], keep: Sequence[str]) -> None:
    for name in values:
        if name not in known and name not in keep:
            raise ValueError(f"{unknown_name('column', str(name), known)}; to copy it to the records, give --keep")


def _rows_of(
    values: Mapping[str, Any], base: Settings, count: int, first: int, keep: Sequence[str], line: int | None
) -> list[Row]:
    """The images of a row of the table. A wrong row has as many, so that the others keep their numbers when it is
    corrected."""
    values = {name: None if _is_nan(value) else value for name, value in values.items()}
    kept = {name: value for name, value in values.items() if name in keep}
    cells = {name: v for name, v in values.items() if name not in kept and v is not None and v != ""}
    number = 1
    try:
        images = cell_value("n", cells.pop("n", count))
        _check_count(images)
        number = images
        if "prompt" not in cells:
            raise ValueError("the row has no prompt; fill the column prompt")
        settings = with_cells(base, {"seed": base.seed + first, **cells})
        return [Row(first + i, replace(settings, seed=settings.seed + i), kept=kept, line=line) for i in range(number)]
    except ValueError as error:
        given = {**kept, "row": {k: _short(v) for k, v in cells.items()}}
        return [Row(first + i, None, str(error), given, line) for i in range(number)]


def _is_nan(value: Any) -> bool:
    """Whether a value is NaN, which pandas has in the cells that are empty."""
    return isinstance(value, Real) and value != value


def _short(value: Any) -> Any:
    """A value for the record of a wrong row."""
    return value if isinstance(value, (int, float, bool)) else str(value)[:200]


def _as_cells(row: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(row, str):
        return {"prompt": row}
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is {row!r}, expected a prompt or a dictionary with the key prompt")
    return row


def _file_cells(file: Path) -> Iterator[Cells]:
    readers = {".csv": _csv, ".tsv": _tsv, ".jsonl": _json_lines, ".parquet": _parquet, ".txt": _text}
    if file.suffix.lower() not in readers:
        raise ValueError(f"the table is {file.name!r}, expected a file that ends in {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give a table of prompts")
    return readers[file.suffix.lower()](file)


def _decoded_lines(file: Path) -> Iterator[str]:
    """The lines of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: if the file is in another encoding.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream:
        try:
            yield from stream
        except UnicodeDecodeError:
            raise ValueError(f"{file} is not in UTF-8; save it in this encoding") from None


def _instead(header: Sequence[str]) -> str:
    """The column that may be the prompts under a misspelt name, for a message."""
    near = [name for name in header if nearest_name(name, ["prompt"])]
    return f" (rename the column {near[0]!r}?)" if near else ""


def _tsv(file: Path) -> Iterator[Cells]:
    return _csv(file, "\t")


def _csv(file: Path, delimiter: str = ",") -> Iterator[Cells]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(_decoded_lines(file), delimiter=delimiter, strict=True)
    try:
        header = reader.fieldnames or []
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise ValueError(f"{file} has the column {repeated[0]!r} twice; remove one")
        other = next((mark for mark in ";\t" if mark != delimiter and len(header) == 1 and mark in header[0]), None)
        if other is not None:
            raise ValueError(f"{file} separates its columns by {other!r}; save it with commas, or with tabs as .tsv")
        if "prompt" not in header:
            raise ValueError(
                f"{file} has no column prompt{_instead(header)}; its first line must name the columns, such as "
                f"prompt{delimiter}seed"
            )
        for row in reader:
            if None in row:
                mark = "tabs" if delimiter == "\t" else "commas"
                raise ValueError(f"{file}, line {reader.line_num}: more cells than columns; quote prompts with {mark}")
            yield reader.line_num - sum(str(cell).count("\n") for cell in row.values()), row
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}; it is not a CSV file") from None


def _json_lines(file: Path) -> Iterator[Cells]:
    for number, line in enumerate(_decoded_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} is {line.strip()[:40]!r}, expected an object with a prompt")
        yield number, row


def _text(file: Path) -> Iterator[Cells]:
    for number, line in enumerate(_decoded_lines(file), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _parquet(file: Path) -> Iterator[Cells]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(missing_extra("parquet", f"the table {file.name}")) from None
    try:
        with pq.ParquetFile(file) as stored:
            if "prompt" not in stored.schema_arrow.names:
                raise ValueError(f"{file} has no column prompt; name the column of prompts so")
            for part in stored.iter_batches(batch_size=4096):
                yield from ((None, row) for row in part.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a Parquet file that can be read: {str(error).splitlines()[0]}") from None

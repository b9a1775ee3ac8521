"""Rows and images of a measurement on disk, and the search for the best of a few ordered settings."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisetilt.runs import append_line, read_lines, write_bytes

Row = dict[str, Any]


class Rows:
    """Rows on disk, one JSON line each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[Row] = [json.loads(line) for line in read_lines(file)]

    def where(self, **fields: Any) -> list[Row]:
        return [row for row in self.rows if all(row.get(k) == v for k, v in fields.items())]

    def add(self, row: Row) -> None:
        append_line(self.file, json.dumps(row))
        self.rows.append(row)


def keep_options(store: Rows, defaults: Row, options: Row) -> None:
    """Notes the options of a measurement in its first row, so that its rows are not mixed with those of others.

    Args:
        store: the rows.
        defaults: the options of a file that has rows and no options.
        options: those that are given.

    Raises:
        ValueError: if the rows were measured with other options.
    """
    noted = store.where(stage="options")
    before = noted[0]["options"] if noted else defaults if store.rows else options
    for name, value in options.items():
        old = before.get(name, defaults[name])
        if old != value:
            raise ValueError(
                f"{store.file} was measured with {name} = {old!r} and {name} = {value!r} is given; give the same, or "
                "another --out"
            )
    if not store.rows:
        store.add({"stage": "options", "options": options})


def rows_file(parser: argparse.ArgumentParser, options: argparse.Namespace, published: Path) -> Path:
    """The option --out; with --table alone it is that of the published rows, to which a measurement adds none."""
    if options.out is None and not options.table:
        parser.error(f"--out is missing; give the file of the rows, another one than {published}")
    file = options.out or published
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def write_tensor(images: Tensor, file: Path) -> None:
    """Images as levels from 0 to 255; values outside [0, 1], which a measurement may have, are clipped."""
    stream = io.BytesIO()
    torch.save((images.clamp(0, 1) * 255).round().byte(), stream)
    write_bytes(file, stream.getvalue())


def climb(count: int, start: int, value: Callable[[int], float]) -> int:
    """The place from 0 to count − 1 with the highest value, by steps from `start` in both directions while it rises."""
    place, highest = start, value(start)
    for step in (-1, 1):
        while 0 <= place + step < count and (found := value(place + step)) > highest:
            place, highest = place + step, found
    return place

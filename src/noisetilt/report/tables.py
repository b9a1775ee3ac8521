"""Text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def _cell(value: Any, form: str) -> str:
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    text = f"{value:{form}}"
    return text.removeprefix("-") if float(text) == 0 else text


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None = None, form: str = ".3f") -> str:
    """Text columns: words to the left, numbers to the right.

    Args:
        header, rows: the cells; None is a dash.
        width: characters of a line. A table that is wider has a block of lines per row instead: the first cell, and
            below it a line per further cell.
        form: of the numbers that are no whole ones, as `format` takes it; by default three decimals.
    """
    texts = [[_cell(v, form) for v in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        return _blocks(header, texts)
    numeric = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)
        ).rstrip()

    return "\n".join([line(header), line(["─" * w for w in widths]), *map(line, texts)])


def _blocks(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One block of lines per row."""
    lines = []
    for row in rows:
        lines.append(f"{header[0]} {row[0]}".strip())
        lines += [f"  {name}: {text.strip()}" for name, text in zip(header[1:], row[1:], strict=True)]
    return "\n".join(lines)

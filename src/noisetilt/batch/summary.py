"""Statistics of a batch while it runs, and its report: histograms, the images with the highest and lowest rewards."""

from __future__ import annotations

import heapq
import html
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..report.plotting import draw_histograms, has_matplotlib, save_figure
from ..runs import write_text

GALLERY, MAX_MESSAGES, ROWS_NAMED = 12, 1000, 5
TITLES = {"reward": "reward", "heldout": "held-out reward", "seconds": "seconds per row"}
Record = Mapping[str, Any]


class Statistics:
    """Counts and means of the rows so far, in bounded memory."""

    def __init__(self) -> None:
        self.done = self.failed = 0
        self._sums = {"reward": 0.0, "heldout": 0.0}
        self._counts = {"reward": 0, "heldout": 0}
        self.errors: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()
        # Message of an error or a warning → the numbers of the first rows with it.
        self.first_rows: dict[str, list[int]] = {}

    def add(self, record: Record) -> None:
        """Adds the record of a row."""
        if record["status"] != "done":
            self.failed += 1
            self._count(self.errors, record["error"], record["index"])
            return
        if record.get("warning"):
            self._count(self.warnings, record["warning"], record["index"])
        self.done += 1
        for name in self._sums:
            if record.get(name) is not None:
                self._sums[name] += record[name]
                self._counts[name] += 1

    def as_json(self) -> dict[str, Any]:
        """done, failed, reward_mean and heldout_mean."""
        means = {f"{k}_mean": self._sums[k] / count if count else None for k, count in self._counts.items()}
        return {"done": self.done, "failed": self.failed, **means}

    def _count(self, messages: Counter[str], message: str, row: int) -> None:
        message = message[:300]
        if message in messages or len(messages) < MAX_MESSAGES:
            messages[message] += 1
            rows = self.first_rows.setdefault(message, [])
            if len(rows) < ROWS_NAMED:
                rows.append(row)


def message_lines(messages: Mapping[str, int], first_rows: Mapping[str, Sequence[int]]) -> list[str]:
    """Each message with how many rows have it, and the numbers of the first ones."""
    lines = []
    for message, count in messages.items():
        rows = [*map(str, first_rows[message]), *(["…"] if count > len(first_rows[message]) else [])]
        lines.append(f"{count} × {message} (row{'s' if count > 1 else ''} {', '.join(rows)})")
    return lines


def write_report(out: Path, run: Record, records: Iterable[Record]) -> None:
    """Writes report.html, and histograms.png where matplotlib is installed.

    Args:
        out: the folder of the run.
        run: the content of run.json.
        records: the records of the finished rows, which are read once and need not fit into memory.
    """
    values, best, worst = _gathered(records)
    plotted = _plot(out / "histograms.png", values)
    body = [_progress(run), _figures(values)]
    body.append(_PLOT if plotted else "")
    body += [_gallery("Highest rewards", best), _gallery("Lowest rewards", worst)]
    body += [_messages(title, run[title.lower()], run["first_rows"]) for title in ("Errors", "Warnings")]
    # A folder's name may have bytes that are no UTF-8.
    title = html.escape(out.resolve().name.encode("utf-8", errors="replace").decode())
    write_text(out / "report.html", _PAGE.format(title=title, body="\n".join(part for part in body if part)))


_PLOT = '<h2>Distributions</h2><img class="plot" src="histograms.png" alt="histograms">'
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>noisetilt batch</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 66em; margin: 2em auto; padding: 0 1em }}
h1 {{ font-size: 1.6em }} h2 {{ font-size: 1.2em; margin-top: 2em }}
table {{ border-collapse: collapse }} td, th {{ padding: .25em 1em; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child {{ text-align: left; padding-left: 0 }}
.settings {{ color: #555 }} .bar {{ background: #eee; height: 8px; border-radius: 4px; display: flex }}
.done {{ background: #2e6da4 }} .failed {{ background: #c0392b }} .plot {{ max-width: 100% }}
.gallery {{ display: grid; grid-template-columns: repeat(6, 1fr); gap: 14px }}
figure {{ margin: 0; font-size: 12px; line-height: 1.35; overflow-wrap: anywhere }}
figure img {{ width: 100%; border-radius: 4px; background: #f4f4f4 }} figcaption b {{ font-weight: 600 }}
@media (max-width: 50em) {{ .gallery {{ grid-template-columns: repeat(3, 1fr) }} }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def _gathered(records: Iterable[Record]) -> tuple[dict[str, np.ndarray], list[Record], list[Record]]:
    """The values of records, and the records of the highest and of the lowest rewards."""
    values = {name: array("d") for name in TITLES}
    best: list[tuple[float, int, Record]] = []
    worst: list[tuple[float, int, Record]] = []
    for record in records:
        for name, numbers in values.items():
            if record.get(name) is not None:
                numbers.append(record[name])
        if record.get("reward") is not None:
            shown = {"prompt": record["settings"]["prompt"], **{k: record[k] for k in ("file", "reward", "heldout")}}
            for heap, sign in ((best, 1), (worst, -1)):
                push = heapq.heappush if len(heap) < GALLERY else heapq.heappushpop
                push(heap, (sign * record["reward"], sign * record["index"], shown))
    highest, lowest = ([record for *_, record in sorted(heap, reverse=True)] for heap in (best, worst))
    return {name: np.array(numbers) for name, numbers in values.items()}, highest, lowest


def _progress(run: Record) -> str:
    parts = {name: 100 * run[name] / run["rows"] for name in ("done", "failed")}
    bars = "".join(f'<div class="{name}" style="width: {width:.2f}%"></div>' for name, width in parts.items())
    shown = {name: value for name, value in run["settings"].items() if value not in (None, {}, [], "")}
    settings = ", ".join(f"{name} {html.escape(str(value))}" for name, value in shown.items())
    state = f"{run['done']} of {run['rows']} rows are done, {run['failed']} failed, in {run['seconds']:.0f} s."
    return f'<p>{state}</p><div class="bar">{bars}</div><p class="settings">{settings}</p>'


def _figures(values: Mapping[str, np.ndarray]) -> str:
    if not any(len(numbers) for numbers in values.values()):
        return ""
    rows = ["<table><tr><th></th><th>mean</th><th>10 %</th><th>median</th><th>90 %</th></tr>"]
    for name, numbers in values.items():
        if len(numbers):
            figures = [numbers.mean(), *np.quantile(numbers, [0.1, 0.5, 0.9])]
            rows.append(f"<tr><th>{TITLES[name]}</th>{''.join(f'<td>{value:.3f}</td>' for value in figures)}</tr>")
    return "\n".join([*rows, "</table>"])


def _gallery(title: str, records: Sequence[Record]) -> str:
    if not records:
        return ""
    figures = [
        f'<figure><img src="{html.escape(r["file"])}" alt="" loading="lazy"><figcaption>{html.escape(r["prompt"][:80])}'
        f"<br><b>{r['reward']:+.3f}</b>{_heldout(r)}</figcaption></figure>"
        for r in records
    ]
    return f'<h2>{title}</h2>\n<div class="gallery">' + "\n".join(figures) + "</div>"


def _heldout(record: Record) -> str:
    return "" if record["heldout"] is None else f", held-out {record['heldout']:+.3f}"


def _messages(title: str, messages: Mapping[str, int], first_rows: Mapping[str, Sequence[int]]) -> str:
    if not messages:
        return ""
    lines = [f"<li>{html.escape(line)}</li>" for line in message_lines(messages, first_rows)]
    return f"<h2>{title}</h2><ul>" + "\n".join(lines) + "</ul>"


def _plot(file: Path, values: Mapping[str, np.ndarray]) -> bool:
    """Histograms of the values; False, and no file, if there is none or matplotlib is not installed."""
    if not has_matplotlib() or not any(np.isfinite(numbers).any() for numbers in values.values()):
        return False
    shown = {TITLES[name]: numbers for name, numbers in values.items() if len(numbers)}
    save_figure(draw_histograms(shown, "rows"), file)
    return True

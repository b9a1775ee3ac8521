"""Statistics of a batch while it runs, and its report: histograms, the images with the highest and lowest rewards."""

from __future__ import annotations

import heapq
import html
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runs import write_bytes, write_text

GALLERY, BINS, MAX_MESSAGES = 12, 40, 1000
Record = Mapping[str, Any]


class Statistics:
    """Counts and means of the rows so far, in bounded memory."""

    def __init__(self) -> None:
        self.done = self.failed = 0
        self._sums = {"reward": 0.0, "heldout": 0.0}
        self._counts = {"reward": 0, "heldout": 0}
        self.errors: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """Adds the record of a row."""
        if record["status"] != "done":
            self.failed += 1
            _count(self.errors, record["error"])
            return
        if record.get("warning"):
            _count(self.warnings, record["warning"])
        self.done += 1
        for name in self._sums:
            if record.get(name) is not None:
                self._sums[name] += record[name]
                self._counts[name] += 1

    def as_json(self) -> dict[str, Any]:
        """done, failed, reward_mean and heldout_mean."""
        means = {f"{k}_mean": self._sums[k] / count if count else None for k, count in self._counts.items()}
        return {"done": self.done, "failed": self.failed, **means}


def _count(messages: Counter[str], message: str) -> None:
    message = message[:300]
    if message in messages or len(messages) < MAX_MESSAGES:
        messages[message] += 1


def write_report(out: Path, run: Record, records: Callable[[], Iterator[Record]]) -> None:
    """Writes report.html, and histograms.png where matplotlib is installed.

    Args:
        out: the folder of the run.
        run: the content of run.json.
        records: the records of the finished rows; called several times, so that they need not fit into memory.
    """
    values = {name: _values(records(), name) for name in ("reward", "heldout", "seconds")}
    plotted = _plot(out / "histograms.png", values)
    scored = [r for r in (_scored(record) for record in records()) if r is not None] if len(values["reward"]) else []
    best = [record for _, _, record in heapq.nlargest(GALLERY, scored, key=lambda item: item[:2])]
    worst = [record for _, _, record in heapq.nsmallest(GALLERY, scored, key=lambda item: item[:2])]
    body = [_figures(run, values), '<img src="histograms.png" alt="histograms">' if plotted else ""]
    body += [_gallery("Highest rewards", best), _gallery("Lowest rewards", worst)]
    body += [_messages("Failures", run["errors"]), _messages("Warnings", run["warnings"])]
    write_text(out / "report.html", _PAGE.format(body="\n".join(part for part in body if part)))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>noisetilt batch</title>
<style>body{{font:15px sans-serif;margin:2em;max-width:70em}}td,th{{padding:.2em 1em;text-align:right}}
figure{{display:inline-block;margin:.4em;width:130px;font-size:12px;vertical-align:top}}
figure img{{width:128px}}</style>
</head><body><h1>noisetilt batch</h1>
{body}
</body></html>
"""


def _values(records: Iterator[Record], name: str) -> np.ndarray:
    return np.fromiter((r[name] for r in records if r.get(name) is not None), float)


def _scored(record: Record) -> tuple[float, int, Record] | None:
    if record.get("reward") is None:
        return None
    shown = {"prompt": record["settings"]["prompt"], **{k: record[k] for k in ("file", "reward", "heldout")}}
    return record["reward"], record["index"], shown


def _figures(run: Record, values: Mapping[str, np.ndarray]) -> str:
    rows = [f"<p>{run['done']} of {run['rows']} rows done, {run['failed']} failures.</p><table>"]
    rows.append("<tr><th></th><th>mean</th><th>10 %</th><th>median</th><th>90 %</th></tr>")
    for name, numbers in values.items():
        if len(numbers):
            figures = [numbers.mean(), *np.quantile(numbers, [0.1, 0.5, 0.9])]
            rows.append(f"<tr><th>{name}</th>{''.join(f'<td>{value:.3f}</td>' for value in figures)}</tr>")
    return "\n".join([*rows, "</table>"])


def _gallery(title: str, records: Sequence[Record]) -> str:
    if not records:
        return ""
    figures = [
        f'<figure><img src="{html.escape(r["file"])}" loading="lazy"><figcaption>{html.escape(r["prompt"][:80])}<br>'
        f"{r['reward']:+.3f}{_heldout(r)}</figcaption></figure>"
        for r in records
    ]
    return f"<h2>{title}</h2>\n" + "\n".join(figures)


def _heldout(record: Record) -> str:
    return "" if record["heldout"] is None else f", held-out {record['heldout']:+.3f}"


def _messages(title: str, messages: Mapping[str, int]) -> str:
    if not messages:
        return ""
    lines = [f"<li>{count} × {html.escape(message)}</li>" for message, count in messages.items()]
    return f"<h2>{title}</h2><ul>" + "\n".join(lines) + "</ul>"


def _plot(file: Path, values: Mapping[str, np.ndarray]) -> bool:
    """Histograms of the values; False, and no file, if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    shown = {name: numbers for name, numbers in values.items() if len(numbers)}
    figure = Figure(figsize=(4 * max(len(shown), 1), 3), layout="constrained")
    for axes, (name, numbers) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        axes.hist(numbers, bins=BINS, color="#2e6da4")
        axes.set(xlabel=name, ylabel="rows")
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    write_bytes(file, stream.getvalue())
    return True

"""Statistics of a batch while it runs, and its report: histograms, the images with the highest and lowest rewards."""

from __future__ import annotations

import heapq
import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..report.plotting import draw_histograms, has_matplotlib, save_figure
from ..runs import write_text

GALLERY = 12
Record = Mapping[str, Any]


class Statistics:
    """Counts and means of the rows so far, in bounded memory."""

    def __init__(self) -> None:
        self.done = self.failed = 0
        self._sums = {"reward": 0.0, "heldout": 0.0}
        self._counts = {"reward": 0, "heldout": 0}
        self._errors: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """Adds the record of a row."""
        if record["status"] != "done":
            self.failed += 1
            message = record["error"][:300]
            if message in self._errors or len(self._errors) < 1000:
                self._errors[message] += 1
            return
        self.done += 1
        for name in self._sums:
            if record.get(name) is not None:
                self._sums[name] += record[name]
                self._counts[name] += 1

    def as_json(self) -> dict[str, Any]:
        """done, failed, reward_mean and heldout_mean."""
        means = {f"{k}_mean": self._sums[k] / count if count else None for k, count in self._counts.items()}
        return {"done": self.done, "failed": self.failed, **means}

    def most_frequent_errors(self, count: int) -> dict[str, int]:
        """Message → rows, of the most frequent messages."""
        return dict(self._errors.most_common(count))


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
    body += [_gallery("Highest rewards", best), _gallery("Lowest rewards", worst), _errors(run)]
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


def _errors(run: Record) -> str:
    if not run["errors"]:
        return ""
    lines = [f"<li>{count} × {html.escape(message)}</li>" for message, count in run["errors"].items()]
    return "<h2>Failures</h2><ul>" + "\n".join(lines) + "</ul>"


def _plot(file: Path, values: Mapping[str, np.ndarray]) -> bool:
    """Histograms of the values; False, and no file, if there is none or matplotlib is not installed."""
    if not has_matplotlib() or not any(np.isfinite(numbers).any() for numbers in values.values()):
        return False
    save_figure(draw_histograms(values, "rows"), file)
    return True

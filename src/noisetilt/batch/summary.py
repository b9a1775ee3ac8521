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

from .._messages import counted
from ..report.plotting import draw_histograms, has_matplotlib, save_figure
from ..runs import write_text

GALLERY, MAX_MESSAGES, ROWS_NAMED = 12, 1000, 5
# Pairs of a reward and a held-out reward that are listed, and those that have histograms.
MAX_GROUPS, PLOTTED_GROUPS = 20, 3
TITLES = {"reward": "reward", "heldout": "held-out reward", "seconds": "seconds per row"}
Record = Mapping[str, Any]
Rewards = tuple[str | None, str | None]


class Statistics:
    """Counts and means of the rows so far, in bounded memory. Rewards are averaged over the rows that have the same
    reward and the same held-out reward."""

    def __init__(self) -> None:
        self.done = self.failed = self.warned = 0
        # Of the first MAX_MESSAGES pairs of rewards.
        self._means: dict[Rewards, _Means] = {}
        self.errors: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()
        # Message of an error or a warning → the numbers of the first rows with it, and their lines in the table's file.
        self.first_rows: dict[str, list[int]] = {}
        self.first_lines: dict[str, list[int]] = {}

    def add(self, record: Record) -> None:
        """Adds the record of a row."""
        if record["status"] != "done":
            self.failed += 1
            self._count(self.errors, record["error"], record)
            return
        if record.get("warning"):
            self.warned += 1
            self._count(self.warnings, record["warning"], record)
        self.done += 1
        rewards = _rewards(record)
        if rewards is not None and (rewards in self._means or len(self._means) < MAX_MESSAGES):
            self._means.setdefault(rewards, _Means()).add(record)

    def as_json(self) -> dict[str, Any]:
        """done, failed, reward_mean, heldout_mean and heldout_rows, the number of rows that the latter is of. The means
        are None if no row has a reward, or the rows have more than one reward or held-out reward."""
        one = next(iter(self._means.values())) if len(self._means) == 1 else _Means()
        return {"done": self.done, "failed": self.failed, **one.as_json()}

    def groups(self) -> list[dict[str, Any]]:
        """reward, heldout_reward, rows, reward_mean, heldout_mean and heldout_rows of the rows with the same rewards;
        the most frequent ones first."""
        found = [
            {"reward": reward, "heldout_reward": heldout, "rows": means.counts["reward"], **means.as_json()}
            for (reward, heldout), means in self._means.items()
        ]
        return sorted(found, key=lambda group: -group["rows"])

    def _count(self, messages: Counter[str], message: str, record: Record) -> None:
        message = message[:300]
        if message in messages or len(messages) < MAX_MESSAGES:
            messages[message] += 1
            rows = self.first_rows.setdefault(message, [])
            lines = self.first_lines.setdefault(message, [])
            if len(rows) < ROWS_NAMED:
                rows.append(record["index"])
                lines += [record["line"]] if record.get("line") is not None else []


class _Means:
    """The means of the rewards and the held-out rewards of some rows."""

    def __init__(self) -> None:
        self.sums, self.counts = {"reward": 0.0, "heldout": 0.0}, {"reward": 0, "heldout": 0}

    def add(self, record: Record) -> None:
        for name in self.sums:
            if record.get(name) is not None:
                self.sums[name] += record[name]
                self.counts[name] += 1

    def as_json(self) -> dict[str, float | None]:
        means = {f"{k}_mean": self.sums[k] / count if count else None for k, count in self.counts.items()}
        return {**means, "heldout_rows": self.counts["heldout"]}


def _rewards(record: Record) -> Rewards | None:
    """The names of the reward and the held-out reward of a finished row; None if it has no reward."""
    return None if record.get("reward") is None else (record["settings"].get("reward"), record.get("heldout_reward"))


def message_lines(
    messages: Mapping[str, int],
    first_rows: Mapping[str, Sequence[int]],
    first_lines: Mapping[str, Sequence[int]],
    count: int,
) -> list[str]:
    """Each message with how many rows have it, and the numbers and lines of the first ones.

    Args:
        messages: message → number of the rows with it.
        first_rows: message → the numbers of the first rows with it.
        first_lines: message → the lines of the table's file in which these begin.
        count: of the rows with any message; the last line says how many of them have others.
    """
    lines = []
    for message, rows in messages.items():
        more = rows > len(first_rows[message])
        places = [_named("row", first_rows[message], more)]
        # Records of earlier versions have no lines.
        places += [_named("line", found, more)] if (found := first_lines.get(message)) else []
        lines.append(f"{rows} × {message} ({'; '.join(places)})")
    further = count - sum(messages.values())
    return [*lines, *([f"{further} × other messages, which rows.jsonl has"] if further > 0 else [])]


def _named(noun: str, numbers: Sequence[int], more: bool) -> str:
    """Such as "row 4" or "lines 6, 8, …"."""
    texts = [*map(str, dict.fromkeys(numbers)), *(["…"] if more else [])]
    return f"{noun}{'s' if len(texts) > 1 else ''} {', '.join(texts)}"


def fewer_rows(heldout: int, rows: int) -> str:
    """The text " (4 rows)" for a held-out mean that is of fewer rows than the mean reward beside it; otherwise ""."""
    return f" ({counted(heldout, 'row')})" if 0 < heldout < rows else ""


def group_lines(groups: Sequence[Record]) -> list[str]:
    """A line with the means of each reward and held-out reward of a batch; of the first ones, if there are many."""
    lines = []
    for group in groups[:MAX_GROUPS]:
        # Records of earlier versions do not name the held-out reward.
        names = {"reward": "reward", "heldout": f"held-out {group['heldout_reward'] or ''}".strip()}
        means = [f"{names[k]} {group[f'{k}_mean']:+.3f}" for k in names if group[f"{k}_mean"] is not None]
        of_some = fewer_rows(group["heldout_rows"], group["rows"])
        lines.append(f"{group['reward']}: {', '.join([counted(group['rows'], 'row'), *means])}{of_some}")
    more = len(groups) - MAX_GROUPS
    return [*lines, *([f"and {more} more pairs of rewards, which run.json has"] if more > 0 else [])]


def write_report(out: Path, run: Record, records: Iterable[Record]) -> None:
    """Writes report.html, and histograms.png where matplotlib is installed.

    Args:
        out: the folder of the run.
        run: the content of run.json.
        records: the records of the finished rows, which are read once and need not fit into memory.
    """
    groups: dict[Rewards, _Group] = {
        (group["reward"], group["heldout_reward"]): _Group() for group in run["groups"][:MAX_GROUPS]
    }
    seconds = _gather(records, groups)
    several = len(groups) > 1
    body = [_progress(run), _lines("Rewards", group_lines(run["groups"])) if several else ""]
    shown = {} if several else {name: v for group in groups.values() for name, v in group.values.items()}
    body.append(_figures({**shown, "seconds": seconds}))
    body.append(_PLOT if _plot(out / "histograms.png", groups, seconds) else "")
    for (reward, heldout), group in groups.items():
        if several:
            body += [f"<h2>{html.escape(_pair(reward, heldout))}</h2>", _figures(group.values)]
        body += [_gallery("Highest rewards", group.best), _gallery("Lowest rewards", group.worst)]
    for title, count in (("Errors", run["failed"]), ("Warnings", run["warned"])):
        body.append(_lines(title, message_lines(run[title.lower()], run["first_rows"], run["first_lines"], count)))
    # A folder's name may have bytes that are no UTF-8.
    title = html.escape(out.resolve().name.encode("utf-8", errors="replace").decode())
    write_text(out / "report.html", _PAGE.format(title=title, body="\n".join(part for part in body if part)))


_PLOT = '<h2>Distributions</h2><img class="plot" src="histograms.png" alt="histograms">'
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>noisetilt batch: {title}</title>
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
</style></head><body><h1>noisetilt batch: {title}</h1>
{body}
</body></html>
"""


class _Group:
    """The values of the rows with the same rewards, and the records of the highest and the lowest rewards."""

    def __init__(self) -> None:
        self.values = {"reward": array("d"), "heldout": array("d")}
        self._best: list[tuple[float, int, Record]] = []
        self._worst: list[tuple[float, int, Record]] = []

    def add(self, record: Record) -> None:
        for name, numbers in self.values.items():
            if record.get(name) is not None:
                numbers.append(record[name])
        shown = {"prompt": record["settings"]["prompt"], **{k: record[k] for k in ("file", "reward", "heldout")}}
        for heap, sign in ((self._best, 1), (self._worst, -1)):
            push = heapq.heappush if len(heap) < GALLERY else heapq.heappushpop
            push(heap, (sign * record["reward"], sign * record["index"], shown))

    @property
    def best(self) -> list[Record]:
        return [record for *_, record in sorted(self._best, reverse=True)]

    @property
    def worst(self) -> list[Record]:
        return [record for *_, record in sorted(self._worst, reverse=True)]


def _gather(records: Iterable[Record], groups: Mapping[Rewards, _Group]) -> array[float]:
    """Adds the records to their groups, if they are among these; returns the seconds of all rows."""
    seconds = array("d")
    for record in records:
        if record.get("seconds") is not None:
            seconds.append(record["seconds"])
        group = groups.get(_rewards(record) or (None, None))
        if group is not None:
            group.add(record)
    return seconds


def _pair(reward: str | None, heldout: str | None) -> str:
    return f"{reward}" if heldout is None else f"{reward}, held-out {heldout}"


def _progress(run: Record) -> str:
    parts = {name: 100 * run[name] / run["rows"] for name in ("done", "failed")}
    bars = "".join(f'<div class="{name}" style="width: {width:.2f}%"></div>' for name, width in parts.items())
    shown = {name: value for name, value in run["settings"].items() if value not in (None, {}, [], "")}
    if shown.get("heldout") is True:
        # Which reward it is, the rows know; the headings name it if there are several.
        names = {group["heldout_reward"] for group in run["groups"]}
        shown["heldout"] = next(iter(names)) if len(names) == 1 else None
        shown = {name: value for name, value in shown.items() if value is not None}
    settings = ", ".join(f"{name} {html.escape(str(value))}" for name, value in shown.items())
    state = f"{run['done']} of {counted(run['rows'], 'row')} done, {run['failed']} failed, in {run['seconds']:.0f} s."
    return f'<p>{state}</p><div class="bar">{bars}</div><p class="settings">{settings}</p>'


def _figures(values: Mapping[str, array[float]]) -> str:
    if not any(len(numbers) for numbers in values.values()):
        return ""
    rows = ["<table><tr><th></th><th>mean</th><th>10 %</th><th>median</th><th>90 %</th></tr>"]
    for name, numbers in values.items():
        if len(numbers):
            of_some = fewer_rows(len(numbers), len(values["reward"])) if name == "heldout" else ""
            figures = [np.mean(numbers), *np.quantile(numbers, [0.1, 0.5, 0.9])]
            rows.append(
                f"<tr><th>{TITLES[name]}{of_some}</th>{''.join(f'<td>{value:.3f}</td>' for value in figures)}</tr>"
            )
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


def _lines(title: str, lines: Sequence[str]) -> str:
    items = "\n".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _plot(file: Path, groups: Mapping[Rewards, _Group], seconds: array[float]) -> bool:
    """Histograms of the first groups and of the seconds; False, and no file, if there is no value or matplotlib is not
    installed."""
    shown: dict[str, np.ndarray] = {}
    for (reward, heldout), group in list(groups.items())[:PLOTTED_GROUPS]:
        of = f" ({_pair(reward, heldout)})" if len(groups) > 1 else ""
        shown |= {f"{TITLES[name]}{of}": np.array(numbers) for name, numbers in group.values.items() if numbers}
    shown |= {TITLES["seconds"]: np.array(seconds)} if seconds else {}
    if not has_matplotlib() or not any(np.isfinite(numbers).any() for numbers in shown.values()):
        return False
    save_figure(draw_histograms(shown, "rows"), file)
    return True

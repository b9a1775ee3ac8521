"""The report of the suite `paper`: one table a target and budget, plots of reward against damage, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..report import grid
from .document import Document, colour, figure_bytes, new_figure, picture_bytes
from .features import real_features
from .ledger import Row
from .metrics import frechet_distance, precision_recall, vendi_score
from .paper_plan import KEEP, METHODS_OF_SUITE, SEARCHES, Target
from .paper_suite import Runner
from .paper_verdict import ASKED, PAIR, answers, complete, same, summary
from .statistics import Interval, bootstrap, paired

MARKS = "os^Dv<>Pp*hX"


@dataclass(frozen=True)
class Line:
    """A method's figures at one target and budget, and what they are of."""

    method: str
    knob: str
    note: str
    rows: Sequence[Row]
    reward: Interval
    gain: Interval
    judges: tuple[Interval, Interval]
    judge_gain: Interval
    aligned: float
    frechet: float
    precision: float | None
    recall: float | None
    vendi: float
    roughness: float
    p_value: float | None
    rejected: float | None
    seconds: float
    processor_seconds: float
    megabytes: float | None


def _mean(rows: Sequence[Row], field: str) -> float | None:
    values = [row[field] for row in rows if row[field] is not None]
    return float(np.mean(values)) if values else None


def _line(method: str, knob: str, note: str, rows: Sequence[Row], base: Sequence[Row]) -> Line:
    real, mine = real_features(), torch.tensor([row["features"] for row in rows])
    precision, recall = precision_recall(real, mine) if len(rows) > 3 else (None, None)
    p_values = [row["p_value"] for row in rows if row["p_value"] is not None]
    return Line(
        method,
        knob,
        note,
        rows,
        bootstrap([row["reward"] for row in rows]),
        bootstrap(paired(rows, base, "reward", PAIR)),
        (bootstrap([row["judge_1"] for row in rows]), bootstrap([row["judge_2"] for row in rows])),
        bootstrap(paired(rows, base, "judge_1", PAIR)),
        _mean(rows, "aligned"),
        frechet_distance(mine, real) if len(rows) > 1 else float("nan"),
        precision,
        recall,
        vendi_score(mine),
        _mean(rows, "roughness"),
        float(np.median(p_values)) if p_values else None,
        float(np.mean(np.array(p_values) < 0.01)) if p_values else None,
        _mean(rows, "seconds"),
        _mean(rows, "processor_seconds"),
        max((row["megabytes"] for row in rows if row["megabytes"] is not None), default=None),
    )


def lines_of(runner: Runner, target: Target, budget: int) -> list[Line]:
    """Base and all methods of a target and budget whose test is complete, best reward first after base."""
    names = [name for name in runner.methods(target) if runner.budget(name) == budget]
    tests = {name: rows for name in names if (rows := complete(runner, target, name))}
    base = complete(runner, target, "base")
    if not (base and tests):
        return []
    base = same(base, next(iter(tests.values())))
    lines = [_line(name, *_strength(runner, target, name, rows), rows, base) for name, rows in tests.items()]
    return [_line("base", "", "", base, base), *sorted(lines, key=lambda line: -line.reward.value)]


def _strength(runner: Runner, target: Target, name: str, rows: Sequence[Row]) -> tuple[str, str]:
    """The strength of rows in words, and what is to be said of how it was chosen."""
    tried, value = runner.values(name), rows[0]["value"]
    if not tried:
        return "", ""
    note = "none" if not runner.keeping(target, name) else "edge" if value in (tried[0], tried[-1]) else ""
    return f"{METHODS_OF_SUITE[name].knob} = {value:g}", note


def verdicts(target: Target, budget: int, lines: Sequence[Line]) -> list[str]:
    """What the figures say, in sentences."""
    rivals = lines[1:]
    if not rivals:
        return []
    best, said = rivals[0], []
    said.append(
        f"Highest target reward at {budget} calls: {best.method}, {best.reward.value:.3g} against base's "
        f"{lines[0].reward.value:.3g} (gain {best.gain})."
    )
    if len(rivals) > 1:
        second = rivals[1]
        apart = bootstrap(paired(best.rows, second.rows, "reward", PAIR))
        sure = "which the interval tells apart" if apart.excludes(0) else "which may be chance"
        said.append(f"Its lead over the next, {second.method}, is {apart}, {sure}.")
    judge = max(rivals, key=lambda line: line.judges[0].value)
    said.append(f"Highest as {target.judges[0]} sees it: {judge.method}, gain {judge.judge_gain}.")
    hacked = [line.method for line in rivals if line.gain.low > 0 and line.judge_gain.high < 0]
    if hacked:
        said.append(f"Target up while {target.judges[0]} is down, both beyond chance: {', '.join(hacked)}.")
    none = [f"{line.method} ({line.knob})" for line in rivals if line.note == "none"]
    if none:
        said.append(f"No strength kept the {target.kept} in the tuning, so the weakest stands here: {', '.join(none)}.")
    edge = [f"{line.method} ({line.knob})" for line in rivals if line.note == "edge"]
    if edge:
        said.append(f"Tuned to the strongest or weakest value tried, so more may be in it: {', '.join(edge)}.")
    odd = [line.method for line in rivals if line.rejected is not None and line.rejected > 0.5]
    if odd:
        said.append(f"Noise that the audit tells from Gaussian in more than half of the pictures: {', '.join(odd)}.")
    return said


def look(name: str) -> dict[str, Any]:
    """The marker and colour of a method, the same in every plot."""
    if name == "base":
        return {"marker": "P", "color": "black"}
    number = list(METHODS_OF_SUITE).index(name)
    return {"marker": MARKS[number % len(MARKS)], "color": colour(number)}


def _plot(target: Target, lines: Sequence[Line], budget: int) -> bytes:
    figure = new_figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    for line in lines:
        mark = look(line.method) | {"linestyle": "none"}
        left.plot(line.frechet, line.reward.value, label=line.method, **mark)
        judge, reward = line.judges[0], line.reward
        spread = [[[v.value - v.low], [v.high - v.value]] for v in (judge, reward)]
        right.errorbar(judge.value, reward.value, xerr=spread[0], yerr=spread[1], elinewidth=0.6, **mark)
    left.set(xlabel="Fréchet distance to real emoji (less is better)", ylabel=target.reward)
    right.set(xlabel=target.judges[0], ylabel=target.reward)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"{target.reward} at {budget} network calls a picture")
    return figure_bytes(figure)


def _load(file: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def _pictures(out: Path, lines: Sequence[Line]) -> bytes:
    rows = [
        (f"{line.method} {line.knob}  {line.reward.value:.3g}", [_load(out / "pictures" / r["picture"]) for r in first])
        for line in lines
        for first in [sorted(line.rows, key=lambda row: (row["seed"], row["prompt"]))[:8]]
    ]
    return picture_bytes(grid(rows, scale=1))


HEADER = (
    "method,knob,n,reward,gain,{0},{1},on the prompt,Fréchet,precision,recall,Vendi,roughness,p,told,s/picture,"
    "of a processor,MB"
)


def _table_row(line: Line) -> list[Any]:
    return [
        line.method,
        line.knob,
        len(line.rows),
        str(line.reward),
        str(line.gain),
        *map(str, line.judges),
        line.aligned,
        line.frechet,
        line.precision,
        line.recall,
        line.vendi,
        line.roughness,
        line.p_value,
        line.rejected,
        line.seconds,
        line.processor_seconds,
        line.megabytes,
    ]


RULE = (
    "The strength is that with the highest target reward in the tuning among those that keep to the prompt (mean "
    f"held-out alignment at most {KEEP} below base's of {{1}} seeds; for alignment itself mean total variation within "
    "2/3 to 3/2 of base's). Searches are tuned with {0} calls; a move with a search around it has the move's strength. "
    "'gain' is against base at the same prompts and seeds; brackets are 95 % bootstrap intervals; 'on the prompt' is "
    "held-out alignment. Fréchet distance, precision and recall are against held-out real emoji, on few pictures: "
    "compare them within a table only. 'p' is the median p-value that the injected noise is white Gaussian, 'told' the "
    "share of pictures where it is below 1 %. Seconds are those of the clock, then those the processor spent, which "
    "other programs on the machine do not lengthen. MB is the peak of memory in use."
)

FRONTIER = (
    "Lines join a method's strengths, dotted where 100 calls were spent instead of 25; rings are what was chosen. Up "
    "and to the right is better, but for total variation, which should stay base's."
)


def write(out: Path, runner: Runner) -> Document:
    """report.md, report.html, plots and grids of what is complete."""
    document, plan = Document("Paper suite: methods at equal network calls on emoji64"), runner.plan
    words = f"Prompts {', '.join(plan.prompts)}; strengths tuned on {', '.join(plan.tuning_prompts)}, other seeds, "
    words += f"{len(plan.values)} values each; {runner.measured()} of {runner.count()} pictures measured. "
    document.text(words + RULE.format(plan.tuning_budgets[1], plan.reference))
    _verdict(document, runner)
    for target in plan.targets:
        for budget in plan.budgets:
            lines = lines_of(runner, target, budget)
            if lines:
                _section(document, out, target, budget, lines)
    _tuning_section(document, runner)
    document.write(out)
    return document


def _verdict(document: Document, runner: Runner) -> None:
    """What was asked of noise tilting, and what the rows say."""
    found = answers(runner)
    document.heading("What was asked")
    document.items(summary(runner, found))
    header = ["target", *(asked.format(*runner.plan.budgets) for asked in ASKED)]
    document.table(header, [[reward, *map(str, asked)] for reward, asked in found.items()])
    document.items([f"{reward}: {q.said}." for reward, asked in found.items() for q in asked if q.answer])


def _section(document: Document, out: Path, target: Target, budget: int, lines: Sequence[Line]) -> None:
    """A target at a budget: sentences, table, plot, pictures."""
    stem = f"{_stem(target)}-{budget}"
    document.heading(f"{target.reward}, {budget} calls a picture")
    document.items(verdicts(target, budget, lines))
    document.table(HEADER.format(*target.judges).split(","), [_table_row(line) for line in lines])
    document.picture(f"{stem}.png", _plot(target, lines, budget), "Up is more reward; crosses are intervals.")
    document.picture(f"{stem}-pictures.png", _pictures(out, lines), "The same prompts and seeds in every row.")


def _tuning_section(document: Document, runner: Runner) -> None:
    """Every strength that was tried, in figures and drawn."""
    document.heading("Tuning")
    document.table(["target", "method", "calls", "strength: target reward, on the prompt, roughness"], _tuning(runner))
    for target in runner.plan.targets:
        tried = {name: cells for name in _tuned_names(runner, target) if (cells := _tried_cells(runner, target, name))}
        if tried:
            document.picture(f"{_stem(target)}-tuning.png", _frontier(runner, target, tried), FRONTIER)


def _tuned_names(runner: Runner, target: Target) -> list[str]:
    """The methods whose strength is tuned for a target."""
    names = dict.fromkeys(runner.tuned(name) for name in runner.methods(target))
    return [name for name in names if runner.values(name)]


def _tried_cells(runner: Runner, target: Target, name: str) -> dict[float, list[Row]]:
    """The rows of each strength of a method, empty unless all are measured."""
    cells = {value: runner.rows("tuning", target, name, value=value) for value in runner.values(name)}
    return cells if all(cells.values()) else {}


def _frontier(runner: Runner, target: Target, tried: dict[str, dict[float, list[Row]]]) -> bytes:
    """A line a method through its strengths: target reward over the first judge, and over what the rule looks at."""
    kept, words = ("roughness", "total variation") if target.kept == "roughness" else ("aligned", "held-out alignment")
    figure, base = new_figure(figsize=(10, 4.6)), runner.rows("reference", target, "base")
    panels = figure.subplots(1, 2)
    for axes, field in zip(panels, ("judge_1", kept), strict=True):
        axes.plot(_mean(base, field), _mean(base, "reward"), label="base", markersize=10, **look("base"))
        for name, cells in tried.items():
            x, y = ([_mean(rows, of) for rows in cells.values()] for of in (field, "reward"))
            chosen, line = list(cells).index(runner.chosen(target, name)), ":" if name in SEARCHES else "-"
            axes.plot(x, y, line, markersize=4, linewidth=1, label=name, **look(name))
            axes.plot(x[chosen], y[chosen], "o", color=look(name)["color"], markersize=11, fillstyle="none")
        axes.set(xlabel=target.judges[0] if field == "judge_1" else words, ylabel=target.reward)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"{target.reward}: every strength that was tried")
    return figure_bytes(figure)


def _stem(target: Target) -> str:
    return target.reward.replace(":", "-").replace("*", "").replace(" ", "")


def _tuning(runner: Runner) -> list[list[Any]]:
    """Every strength that was tried; the chosen one is in brackets."""
    found = []
    for target in runner.plan.targets:
        for name in _tuned_names(runner, target):
            tried = _tried_cells(runner, target, name)
            if tried:
                texts = {value: f"{value:g}: {_tried(rows)}" for value, rows in tried.items()}
                best, kept = runner.chosen(target, name), runner.keeping(target, name)
                texts[best] = f"[{texts[best]}]" + ("" if kept else " (none kept)")
                knob = f"{METHODS_OF_SUITE[name].knob} "
                found.append([target.reward, name, runner.budget(name, "tuning"), knob + "; ".join(texts.values())])
    return found


def _tried(rows: Sequence[Row]) -> str:
    return f"{_mean(rows, 'reward'):.3g}, {_mean(rows, 'aligned'):.2f}, {_mean(rows, 'roughness'):.3f}"

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
from .document import Document, figure_bytes, new_figure, picture_bytes
from .features import real_features
from .ledger import Row
from .metrics import frechet_distance, precision_recall, vendi_score
from .paper_suite import MOVES, SEARCHES, Runner, Target
from .statistics import Interval, bootstrap, paired

PAIR = ("prompt", "seed")
MARKS = "os^Dv<>Pp*hX"


@dataclass(frozen=True)
class Line:
    """A method's figures at one target and budget, and what they are of."""

    method: str
    knob: str
    at_edge: bool
    rows: Sequence[Row]
    reward: Interval
    gain: Interval
    judges: tuple[Interval, Interval]
    judge_gain: Interval
    frechet: float
    precision: float | None
    recall: float | None
    vendi: float
    roughness: float
    p_value: float | None
    rejected: float | None
    seconds: float
    megabytes: float | None


def _mean(rows: Sequence[Row], field: str) -> float | None:
    values = [row[field] for row in rows if row[field] is not None]
    return float(np.mean(values)) if values else None


def _line(method: str, knob: str, at_edge: bool, rows: Sequence[Row], base: Sequence[Row]) -> Line:
    real, mine = real_features(), torch.tensor([row["features"] for row in rows])
    precision, recall = precision_recall(real, mine) if len(rows) > 3 else (None, None)
    p_values = [row["p_value"] for row in rows if row["p_value"] is not None]
    return Line(
        method,
        knob,
        at_edge,
        rows,
        bootstrap([row["reward"] for row in rows]),
        bootstrap(paired(rows, base, "reward", PAIR)),
        (bootstrap([row["judge_1"] for row in rows]), bootstrap([row["judge_2"] for row in rows])),
        bootstrap(paired(rows, base, "judge_1", PAIR)),
        frechet_distance(mine, real) if len(rows) > 1 else float("nan"),
        precision,
        recall,
        vendi_score(mine),
        _mean(rows, "roughness"),
        float(np.median(p_values)) if p_values else None,
        float(np.mean(np.array(p_values) < 0.01)) if p_values else None,
        _mean(rows, "seconds"),
        max((row["megabytes"] for row in rows if row["megabytes"] is not None), default=None),
    )


def lines_of(runner: Runner, target: Target, budget: int) -> list[Line]:
    """Base and all methods of a target and budget whose test is complete, best reward first after base."""
    ledger, wanted = runner.ledger, runner._wanted("test", target, budget)
    base = ledger.where(stage="test", target=target.reward, method="base")
    base = [row for row in base if (row["prompt"], row["seed"]) in wanted]
    if len(base) < len(wanted):
        return []
    lines = []
    for name, its_budget, entry in runner.cells(target):
        rows = ledger.where(stage="test", target=target.reward, method=name, budget=budget)
        if its_budget == budget and len(rows) >= len(wanted):
            value = rows[0]["value"]
            tried = runner.values(entry)
            knob, at_edge = ("", False) if not tried else (f"{entry.knob} = {value:g}", value in (tried[0], tried[-1]))
            lines.append(_line(name, knob, at_edge, rows, base))
    return [_line("base", "", False, base, base), *sorted(lines, key=lambda line: -line.reward.value)]


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
    edge = [f"{line.method} ({line.knob})" for line in rivals if line.at_edge]
    if edge:
        said.append(f"Tuned to the strongest or weakest value tried, so more may be in it: {', '.join(edge)}.")
    odd = [line.method for line in rivals if line.rejected is not None and line.rejected > 0.5]
    if odd:
        said.append(f"Noise that the audit tells from Gaussian in more than half of the pictures: {', '.join(odd)}.")
    return said


def _plot(target: Target, lines: Sequence[Line], budget: int) -> bytes:
    figure = new_figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    for number, line in enumerate(lines):
        mark = {"marker": MARKS[number % len(MARKS)], "color": f"C{number % 10}", "linestyle": "none"}
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


HEADER = "method,knob,n,reward,gain,{0},{1},Fréchet,precision,recall,Vendi,roughness,p,told,s/picture,MB"


def _table_row(line: Line) -> list[Any]:
    return [
        line.method,
        line.knob,
        len(line.rows),
        str(line.reward),
        str(line.gain),
        *map(str, line.judges),
        line.frechet,
        line.precision,
        line.recall,
        line.vendi,
        line.roughness,
        line.p_value,
        line.rejected,
        line.seconds,
        line.megabytes,
    ]


def write(out: Path, runner: Runner) -> Document:
    """report.md, report.html, plots and grids of what is complete."""
    document, plan = Document("Paper suite: methods at equal network calls on emoji64"), runner.plan
    document.text(
        f"Prompts {', '.join(plan.prompts)}; strengths tuned on {', '.join(plan.tuning_prompts)}, other seeds, "
        f"{len(plan.values)} values each: the highest target reward among those that keep total variation within 2/3 "
        "to 3/2 of base's. 'gain' is against base at the same prompts and seeds; brackets are 95 % bootstrap "
        "intervals. Fréchet distance, precision and recall are against held-out real emoji, on few pictures: compare "
        "them within a table only. 'p' is the median p-value that the injected noise is white Gaussian, 'told' the "
        "share of pictures where it is below 1 %. MB is the peak of memory in use."
    )
    for target in plan.targets:
        for budget in plan.budgets:
            lines = lines_of(runner, target, budget)
            if len(lines) < 2:
                continue
            stem = f"{target.reward}-{budget}".replace(":", "-").replace("*", "").replace(" ", "")
            document.heading(f"{target.reward}, {budget} calls a picture")
            document.items(verdicts(target, budget, lines))
            header = HEADER.format(*target.judges).split(",")
            document.table(header, [_table_row(line) for line in lines])
            document.picture(f"{stem}.png", _plot(target, lines, budget), "Up is more reward; crosses are intervals.")
            document.picture(f"{stem}-pictures.png", _pictures(out, lines), "The same prompts and seeds in every row.")
    document.heading("Tuning")
    document.table(["target", "method", "budget", "strength: target reward, roughness"], _tuning(runner))
    document.write(out)
    return document


def _tuning(runner: Runner) -> list[list[Any]]:
    """Every strength that was tried; the chosen one is in brackets."""
    found = []
    for target in runner.plan.targets:
        for name, budget, entry in runner.cells(target):
            tried = []
            for value in runner.values(entry):
                cell = {"stage": "tuning", "target": target.reward, "method": name, "budget": budget, "value": value}
                rows = runner.ledger.where(**cell)
                if rows:
                    text = f"{value:g}: {_mean(rows, 'reward'):.3g}, {_mean(rows, 'roughness'):.3f}"
                    tried.append((value, text))
            if len(tried) == len(entry.values and runner.plan.values) and tried:
                best = runner.chosen(target, name, budget)
                texts = [f"[{text}]" if value == best else text for value, text in tried]
                knob = {**MOVES, **SEARCHES}[name].knob
                found.append([target.reward, name, budget, f"{knob} " + "; ".join(texts)])
    return found

"""The report of the suite `one-step`: a table, the ways of the rewards, trade-offs and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..report import grid
from .document import Document, figure_bytes, new_figure, picture_bytes
from .features import features, real_features
from .ledger import Ledger, Row
from .metrics import frechet_distance, precision_recall, vendi_score
from .one_step import DRAWN, JUDGES, SETTINGS, Run, choose, picture_of
from .paper_plan import KEEP
from .statistics import bootstrap, paired

PAIR = ("prompt", "seed")
RACE = 0.3
COLOURS = {
    DRAWN: "#000000",
    "none": "#999999",
    "reno": "#2e6da4",
    "prno": "#8e44ad",
    "mpgr": "#16a085",
    "gper": "#c0392b",
    "gper-latent": "#e67e22",
    "gper-both": "#7f5539",
    "gper-w": "#e377c2",
    "gper-rotation": "#000080",
}


def tested(ledger: Ledger, reward: str) -> dict[str, list[Row]]:
    """The test rows of each method that has all of them, as drawn first; none before those are there."""
    found = {name: ledger.where(reward=reward, phase="test", method=name) for name in (DRAWN, *SETTINGS)}
    return {name: rows for name, rows in found.items() if rows and len(rows) == len(found[DRAWN])}


def set_metrics(images: torch.Tensor) -> dict[str, float | None]:
    """Fréchet distance, precision and recall of pictures (count, 3, H, W) against held-out real emoji; None for too
    few pictures."""
    if len(images) < 4:
        return dict.fromkeys(("frechet", "precision", "recall"))
    mine, real = features(images), real_features()
    precision, recall = precision_recall(real, mine)
    return {"frechet": frechet_distance(real, mine), "precision": precision, "recall": recall}


def pictures_of(out: Path, rows: Sequence[Row], iterate: int | None = None) -> torch.Tensor:
    """All pictures of some rows, (count, 3, H, W) in [0, 1]: the best, or those of one of their snapshots."""
    return torch.stack([picture_of(out, row, iterate) for row in rows])


def diversity(rows: Sequence[Row], images: torch.Tensor) -> float:
    """The mean over prompts of the Vendi score."""
    mine, prompts = features(images), dict.fromkeys(row["prompt"] for row in rows)
    return float(np.mean([vendi_score(mine[[row["prompt"] == prompt for row in rows]]) for prompt in prompts]))


def at_snapshot(row: Row, number: int) -> Row:
    """A test row as it would be, had its ascent stopped there."""
    way = {"target": row["targets"][number], "alignment": row["alignments"][number], "nfe": number + 1.0}
    return {**row, **row["snapshots"][str(number)], **way, "seconds": row["seconds"][: number + 1]}


def stopped(run: Run, reward: str, methods: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The test rows of each method as they are where the tuning prompts say to stop."""
    found = {DRAWN: methods[DRAWN]}
    for name in (m for m in methods if m != DRAWN):
        found[name] = [at_snapshot(row, choose(run.ledger, reward, name).stop) for row in methods[name]]
    return found


def _line(name: str, rows: list[Row], drawn: list[Row], images: torch.Tensor) -> list[Any]:
    metrics = set_metrics(images)
    gain = "–" if name == DRAWN else str(bootstrap(paired(rows, drawn, "target", PAIR)))

    def mean(field: str) -> float:
        return float(np.mean([row[field] for row in rows]))

    return [
        name,
        ", ".join(sorted({row["knobs"].strip("{}").replace('"', "") for row in rows})),
        mean("nfe"),
        str(bootstrap([row["target"] for row in rows])),
        gain,
        str(bootstrap([row["alignment"] for row in rows])),
        str(bootstrap([row["judge"] for row in rows])),
        metrics["frechet"],
        metrics["precision"],
        metrics["recall"],
        diversity(rows, images),
        mean("cosine"),
        mean("energy"),
        float(np.median([row["p_value"] for row in rows])),
        float(np.mean([row["p_value"] < 0.01 for row in rows])),
        float(np.mean([row["seconds"][-1] for row in rows])),
    ]


HEADER = (
    "method, knobs, NFE, target, gain, held-out alignment, judge, Fréchet, precision, recall, Vendi, cosine to start, "
    "mean square, audit p, told from noise, seconds"
).split(", ")


def first_at(curve: Iterable[float], level: float) -> int | None:
    """The first iteration at which a curve reaches a level."""
    return next((i for i, value in enumerate(curve) if value >= level), None)


def verdicts(rows: dict[str, list[Row]]) -> list[str]:
    """What the figures say of the order of the methods, in sentences."""
    climbs = {name: some for name, some in rows.items() if name != DRAWN}
    means = {name: float(np.mean([row["target"] for row in some])) for name, some in climbs.items()}
    order = sorted(means, key=means.get, reverse=True)
    lines = ["Target reward, highest first: " + ", ".join(f"{m} {means[m]:.2f}" for m in order) + "."] if order else []
    for rival in order[1:]:
        first = order[0]
        ahead, held = (bootstrap(paired(climbs[first], climbs[rival], f, PAIR)) for f in ("target", "alignment"))
        sure = "is certain at 95 %" if ahead.excludes(0) else "is not certain"
        lines.append(f"{first} over {rival}: target {ahead}, which {sure}; held-out alignment {held}.")
    return lines


def targets(methods: dict[str, list[Row]]) -> list[str]:
    """Whether what is asked of gper and of the benchmark itself is met, in sentences; rivals are the soft penalties and
    no regularisation."""
    rivals: dict[str, list[Row]] = {name: methods[name] for name in ("none", "reno", "prno", "mpgr") if name in methods}
    lines = []
    for name in (m for m in methods if m.startswith("gper")):
        if "mpgr" in methods:
            lines.append(_race(name, methods[name], methods["mpgr"]))
        if rivals:
            lines.append(_lead(name, methods[name], rivals, methods[DRAWN]))
    if "none" in methods:
        change = bootstrap(paired(methods["none"], methods[DRAWN], "alignment", PAIR))
        seen = "the benchmark sees it hack" if change.high < 0 else "it does not hack by that"
        lines.append(f"Without regularisation held-out alignment changes by {change}: {seen}.")
    return lines


def _race(name: str, rows: list[Row], rival: list[Row]) -> str:
    """How soon a method has the mean reward that mpgr ends with, in iterations and in seconds."""
    level, own = mean_curve(rival, "targets").max(), mean_curve(rows, "targets")
    reached = first_at(own, level)
    if reached is None:
        return f"{name} never has mpgr's best mean reward {level:.2f}: missed."
    share = mean_curve(rows, "seconds")[reached] / mean_curve(rival, "seconds")[-1]
    return (
        f"{name} has mpgr's best mean reward {level:.2f} after {reached} of {len(own) - 1} iterations, "
        f"in {share:.0%} of its seconds (asked: {RACE:.0%}): {'met' if share <= RACE else 'missed'}."
    )


def _lead(name: str, rows: list[Row], rivals: dict[str, list[Row]], drawn: list[Row]) -> str:
    """Whether a method ends above all rivals, and what the judges say against the pictures as drawn."""
    ahead = {rival: bootstrap(paired(rows, theirs, "target", PAIR)) for rival, theirs in rivals.items()}
    nearest = min(ahead, key=lambda rival: ahead[rival].value)
    aligned, judge = (bootstrap(paired(rows, drawn, field, PAIR)) for field in ("alignment", "judge"))
    kept = "kept" if min(aligned.high, judge.high) >= 0 else "not kept"
    return (
        f"{name} above every rival: {'met' if ahead[nearest].low > 0 else 'missed'} ({ahead[nearest]} over {nearest}, "
        f"the nearest). Against pictures as drawn held-out alignment changes by {aligned}, the judge by {judge}, "
        f"{kept}."
    )


def mean_curve(rows: Sequence[Row], field: str) -> np.ndarray:
    """The mean over pictures of a way, (iterations + 1,)."""
    return np.mean([row[field] for row in rows], axis=0)


def _ways(methods: dict[str, list[Row]], reward: str) -> bytes:
    figure = new_figure(figsize=(15, 4.4))
    by_iteration, by_time, against = figure.subplots(1, 3)
    for name, rows in methods.items():
        target, aligned, seconds = (mean_curve(rows, field) for field in ("targets", "alignments", "seconds"))
        style = {"color": COLOURS[name], "label": name}
        by_iteration.plot(target, **style)
        by_time.plot(seconds, target, **style)
        against.plot(target, aligned, **style)
        against.plot(target[-1], aligned[-1], "o", color=COLOURS[name])
    by_iteration.set(xlabel="iteration", ylabel=reward)
    by_time.set(xlabel="seconds a picture", ylabel=reward)
    against.set(xlabel=reward, ylabel="held-out alignment")
    for axes in (by_iteration, by_time, against):
        axes.spines[["top", "right"]].set_visible(False)
    by_iteration.legend(frameon=False, fontsize=8)
    return figure_bytes(figure)


def _frontier(out: Path, methods: dict[str, list[Row]], reward: str) -> bytes:
    """The way of each method at its snapshots: target against what pictures and noise lose."""
    figure = new_figure(figsize=(15, 4.4))
    panels = figure.subplots(1, 3)
    for name, rows in methods.items():
        at = sorted(map(int, rows[0]["snapshots"]))
        ways = [[at_snapshot(row, number) for row in rows] for number in at]
        target, judge, cosine = (
            [float(np.mean([row[field] for row in some])) for some in ways] for field in ("target", "judge", "cosine")
        )
        frechet = [set_metrics(pictures_of(out, rows, number))["frechet"] for number in at]
        for axes, way in zip(panels, (frechet, judge, cosine), strict=True):
            if None not in way:
                axes.plot(target, way, ".-", color=COLOURS[name], label=name)
    for axes, label in zip(panels, ("Fréchet distance", JUDGES[reward], "cosine to start"), strict=True):
        axes.set(xlabel=f"mean {reward}", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    return figure_bytes(figure)


def _trade(lines: Sequence[list[Any]], reward: str) -> bytes:
    """Points of all methods: the target against what it may cost."""
    figure = new_figure(figsize=(15, 4.4))
    columns = ("precision", "Vendi", "told from noise")
    for axes, column in zip(figure.subplots(1, 3), columns, strict=True):
        for line in lines:
            x, y = float(line[HEADER.index("target")].split()[0]), line[HEADER.index(column)]
            if y is not None:
                axes.plot(x, y, "o", color=COLOURS[line[0]])
                axes.annotate(line[0], (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel=reward, ylabel=column)
        axes.spines[["top", "right"]].set_visible(False)
    return figure_bytes(figure)


def write(out: Path, run: Run) -> Document:
    """report.md, report.html, their plots and picture grids, of what is measured so far."""
    document = Document("One-step suite: noise ascent")
    document.text(
        f"Settings: {run.settings}. Knobs and where to stop were tuned on the tuning prompts, as many settings and "
        "iterations for each method: the highest mean target among the iterates whose mean held-out alignment is at "
        f"most {KEEP} below that of pictures as drawn. Brackets are 95 % bootstrap intervals; gain is over the picture "
        "of the same seed as it was drawn. Fréchet distance, precision and recall are against held-out real emoji, and "
        "biased by the number of pictures; Vendi is the effective number of different pictures of a prompt. Cosine, "
        "mean square and audit are of the noise; 'told from noise' is the share that the typicality audit rejects at "
        "1 %. Seconds leave the judges out."
    )
    for reward in run.size.rewards:
        methods = tested(run.ledger, reward)
        if methods:
            _section(document, run, reward, methods)
    document.write(out)
    return document


def _section(document: Document, run: Run, reward: str, methods: dict[str, list[Row]]) -> None:
    stem, out = reward.replace(":", "-"), run.out
    document.heading(f"Reward {reward}")
    document.text(f"What only looks on: held-out alignment, and the judge {JUDGES[reward]}.")
    document.items(targets(methods))
    early = stopped(run, reward, methods)
    stops = {name: None if name == DRAWN else len(rows[0]["seconds"]) - 1 for name, rows in early.items()}
    document.text("Where the tuning prompts say to stop:")
    document.items(verdicts(early))
    shown = {name: pictures_of(out, rows, stops[name]) for name, rows in early.items()}
    document.table(HEADER, [_line(name, rows, methods[DRAWN], shown[name]) for name, rows in early.items()])
    rows = [(name if n is None else f"{name}, {n} iterations", list(shown[name][:8])) for name, n in stops.items()]
    document.picture(f"{stem}-stopped.png", picture_bytes(grid(rows)), "The same seeds, stopped there.")
    document.text("At the best iterate of all:")
    document.items(verdicts(methods))
    lines = [_line(name, some, methods[DRAWN], pictures_of(out, some)) for name, some in methods.items()]
    document.table(HEADER, lines)
    climbs = {name: some for name, some in methods.items() if name != DRAWN}
    if climbs:
        document.picture(f"{stem}-ways.png", _ways(climbs, reward), "Rewards of the iterates, means of pictures.")
        caption = "Along each ascent: the target against what pictures and noise lose."
        document.picture(f"{stem}-frontier.png", _frontier(out, climbs, reward), caption)
    document.picture(f"{stem}-trade.png", _trade(lines, reward), "The target against what it may cost.")
    rows = [(name, list(pictures_of(out, some[:8]))) for name, some in methods.items()]
    document.picture(f"{stem}-pictures.png", picture_bytes(grid(rows)), "The same seeds, the best iterate of all.")

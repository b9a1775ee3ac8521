"""The report of the suite `one-step`: a table, the ways of the rewards, trade-offs and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..report import grid
from .document import Document, figure_bytes, new_figure, picture_bytes
from .features import features, real_features
from .ledger import Ledger, Row
from .metrics import precision_recall, vendi_score
from .one_step import DRAWN, SETTINGS, Run, picture_of
from .statistics import bootstrap, paired

PAIR = ("prompt", "seed")
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
    """The test rows of each method that has any, as drawn first."""
    found = {name: ledger.where(reward=reward, phase="test", method=name) for name in (DRAWN, *SETTINGS)}
    return {name: rows for name, rows in found.items() if rows}


def set_metrics(out: Path, rows: Sequence[Row]) -> tuple[float | None, float | None, float]:
    """Precision and recall against held-out real emoji, and the mean over prompts of the Vendi score."""
    mine = features(torch.stack([picture_of(out, row) for row in rows]))
    precision, recall = precision_recall(real_features(), mine) if len(rows) > 3 else (None, None)
    prompts = dict.fromkeys(row["prompt"] for row in rows)
    each = [vendi_score(mine[[row["prompt"] == prompt for row in rows]]) for prompt in prompts]
    return precision, recall, float(np.mean(each))


def _line(out: Path, name: str, rows: list[Row], drawn: list[Row]) -> list[Any]:
    precision, recall, vendi = set_metrics(out, rows)
    gain = "–" if name == DRAWN else str(bootstrap(paired(rows, drawn, "target", PAIR)))

    def mean(field: str) -> float:
        return float(np.mean([row[field] for row in rows]))

    return [
        name,
        ", ".join(sorted({row["knobs"].strip("{}").replace('"', "") for row in rows})),
        str(bootstrap([row["target"] for row in rows])),
        gain,
        str(bootstrap([row["heldout"] for row in rows])),
        str(bootstrap([row["other"] for row in rows])),
        precision,
        recall,
        vendi,
        mean("cosine"),
        mean("energy"),
        float(np.median([row["p_value"] for row in rows])),
        float(np.mean([row["p_value"] < 0.01 for row in rows])),
        mean("nfe"),
        float(np.mean([row["seconds"][-1] for row in rows])),
    ]


HEADER = (
    "method, knobs, target, gain, held-out target, held-out other, precision, recall, Vendi, cosine to start, "
    "mean square, audit p, told from noise, NFE, seconds"
).split(", ")


def first_at(curve: Sequence[float], level: float) -> int | None:
    """The first iteration at which a curve reaches a level."""
    return next((i for i, value in enumerate(curve) if value >= level), None)


def verdicts(methods: dict[str, list[Row]]) -> list[str]:
    """What the figures say, in sentences."""
    lines, climbs = [], {name: rows for name, rows in methods.items() if name != DRAWN}
    means = {name: float(np.mean([row["target"] for row in rows])) for name, rows in climbs.items()}
    order = sorted(means, key=means.get, reverse=True)
    if order:
        lines.append("Target reward, highest first: " + ", ".join(f"{m} {means[m]:.2f}" for m in order) + ".")
    for rival in order[1:]:
        first = order[0]
        ahead, held = (bootstrap(paired(climbs[first], climbs[rival], f, PAIR)) for f in ("target", "heldout"))
        sure = "is certain at 95 %" if ahead.excludes(0) else "is not certain"
        reached = first_at(mean_curve(climbs[first], "targets"), mean_curve(climbs[rival], "targets").max())
        after = "never has its best mean" if reached is None else f"has its best mean after {reached} iterations"
        lines.append(f"{first} over {rival}: target {ahead}, which {sure}; held-out {held}; it {after}.")
    return lines


def mean_curve(rows: Sequence[Row], field: str) -> np.ndarray:
    """The mean over pictures of a way, (iterations + 1,)."""
    return np.mean([row[field] for row in rows], axis=0)


def _ways(methods: dict[str, list[Row]], reward: str) -> bytes:
    figure = new_figure(figsize=(15, 4.4))
    by_iteration, by_time, against = figure.subplots(1, 3)
    for name, rows in methods.items():
        if name == DRAWN:
            continue
        target, heldout, seconds = (mean_curve(rows, field) for field in ("targets", "heldouts", "seconds"))
        style = {"color": COLOURS[name], "label": name}
        by_iteration.plot(target, **style)
        by_time.plot(seconds, target, **style)
        against.plot(target, heldout, **style)
        against.plot(target[-1], heldout[-1], "o", color=COLOURS[name])
    by_iteration.set(xlabel="iteration", ylabel=reward)
    by_time.set(xlabel="seconds a picture", ylabel=reward)
    against.set(xlabel=reward, ylabel=f"held-out {reward}")
    for axes in (by_iteration, by_time, against):
        axes.spines[["top", "right"]].set_visible(False)
    by_iteration.legend(frameon=False, fontsize=8)
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
        f"Settings: {run.settings}. Knobs were tuned on the tuning prompts, as many settings for each method, by the "
        "mean held-out version of the target. Brackets are 95 % bootstrap intervals; gain is over the picture of the "
        "same seed as it was drawn. Precision and recall are against held-out real emoji; Vendi is the effective "
        "number of different pictures of a prompt. Cosine, mean square and audit are of the noise; 'told from noise' "
        "is the share that the typicality audit rejects at 1 %."
    )
    for reward in run.size.rewards:
        methods = tested(run.ledger, reward)
        if not methods:
            continue
        lines = [_line(out, name, rows, methods[DRAWN]) for name, rows in methods.items()]
        stem = reward.replace(":", "-")
        document.heading(f"Reward {reward}")
        document.items(verdicts(methods))
        document.table(HEADER, lines)
        if len(methods) > 1:
            document.picture(f"{stem}-ways.png", _ways(methods, reward), "Rewards of the iterates, means of pictures.")
        document.picture(f"{stem}-trade.png", _trade(lines, reward), "The target against what it may cost.")
        rows = [(name, [picture_of(out, row) for row in some[:8]]) for name, some in methods.items()]
        document.picture(f"{stem}-pictures.png", picture_bytes(grid(rows)), "The same seeds under each method.")
    document.write(out)
    return document

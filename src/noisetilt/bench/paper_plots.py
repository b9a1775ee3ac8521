"""The plots and image grids of the report of the suite `paper`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..report import grid
from .document import colour, figure_bytes, new_figure, picture_bytes
from .ledger import Row
from .paper_lines import Line, mean_of
from .paper_plan import METHODS_OF_SUITE, SEARCHES, Target
from .paper_suite import Runner

MARKS = "os^Dv<>Pp*hX"


def style_of(name: str) -> dict[str, Any]:
    """The marker and colour of a method, the same in every plot."""
    if name == "base":
        return {"marker": "P", "color": "black"}
    number = list(METHODS_OF_SUITE).index(name)
    return {"marker": MARKS[number % len(MARKS)], "color": colour(number)}


def plot_lines(target: Target, lines: Sequence[Line], budget: int) -> bytes:
    """Target reward against Fréchet distance, and against the first held-out reward."""
    figure = new_figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    for line in lines:
        style = style_of(line.method) | {"linestyle": "none"}
        left.plot(line.frechet, line.reward.value, label=line.method, **style)
        heldout, reward = line.heldout[0], line.reward
        errors = [[[v.value - v.low], [v.high - v.value]] for v in (heldout, reward)]
        right.errorbar(heldout.value, reward.value, xerr=errors[0], yerr=errors[1], elinewidth=0.6, **style)
    left.set(xlabel="Fréchet distance to real emoji (lower is better)", ylabel=target.reward)
    right.set(xlabel=target.heldout[0], ylabel=target.reward)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"{target.reward} at {budget} network calls per image")
    return figure_bytes(figure)


def load_image(file: Path) -> Tensor:
    """An image file as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def image_grid(out: Path, lines: Sequence[Line]) -> bytes:
    """The first eight images of each method."""
    rows = []
    for line in lines:
        first = sorted(line.rows, key=lambda row: (row["seed"], row["prompt"]))[:8]
        images = [load_image(out / "pictures" / row["picture"]) for row in first]
        rows.append((f"{line.method} {line.strength}  {line.reward.value:.3g}", images))
    return picture_bytes(grid(rows, scale=1))


def plot_tuning(runner: Runner, target: Target, tried: dict[str, dict[float, list[Row]]]) -> bytes:
    """A line per method over its strengths: target reward against the first held-out reward, and against the quantity
    of the tuning constraint."""
    roughness = target.constraint == "roughness"
    fields = {
        "heldout_1": target.heldout[0],
        "roughness" if roughness else "heldout_alignment": "total variation" if roughness else "held-out alignment",
    }
    figure, base = new_figure(figsize=(10, 4.6)), runner.rows("reference", target, "base")
    panels = figure.subplots(1, 2)
    columns = ["heldout_1", list(fields)[-1]]
    for axes, field in zip(panels, columns, strict=True):
        axes.plot(mean_of(base, field), mean_of(base, "reward"), label="base", markersize=10, **style_of("base"))
        for name, cells in tried.items():
            x, y = ([mean_of(rows, of) for rows in cells.values()] for of in (field, "reward"))
            chosen = list(cells).index(runner.chosen_strength(target, name))
            line = ":" if name in SEARCHES else "-"
            axes.plot(x, y, line, markersize=4, linewidth=1, label=name, **style_of(name))
            axes.plot(x[chosen], y[chosen], "o", color=style_of(name)["color"], markersize=11, fillstyle="none")
        axes.set(xlabel=fields[field], ylabel=target.reward)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"{target.reward}: all strengths tried")
    return figure_bytes(figure)

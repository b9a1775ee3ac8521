"""The plots and image grids of the report of the suite `paper`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..report import grid
from ..report.plotting import Panel, Series, draw_panels, figure_bytes
from .document import picture_bytes
from .ledger import Row
from .paper_lines import Line, mean_of
from .paper_plan import Target
from .paper_suite import Runner
from .statistics import Interval


def plot_lines(target: Target, lines: Sequence[Line], budget: int) -> bytes:
    """Target reward against Fréchet distance, and against the first held-out reward."""
    distance = {line.method: Series([line.frechet], [line.reward.value], connected=False) for line in lines}
    heldout = {
        line.method: Series(
            [line.heldout[0].value],
            [line.reward.value],
            x_error=_error_bars(line.heldout[0]),
            y_error=_error_bars(line.reward),
            connected=False,
        )
        for line in lines
    }
    panels = [
        Panel("Fréchet distance to real emoji (lower is better)", target.reward, distance),
        Panel(target.heldout[0], target.reward, heldout),
    ]
    return figure_bytes(draw_panels(panels, f"{target.reward} at {budget} network calls per image"))


def _error_bars(interval: Interval) -> tuple[list[float], list[float]]:
    return [interval.value - interval.low], [interval.high - interval.value]


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
    base = runner.rows("reference", target, "base")
    fields = {"heldout_1": target.heldout[0]}
    if target.constraint == "roughness":
        fields["roughness"] = "total variation"
    elif target.heldout[0] != "held-out alignment":  # otherwise both panels would be the same
        fields["heldout_alignment"] = "held-out alignment"
    panels = []
    for field, label in fields.items():
        series = {"base": Series([mean_of(base, field)], [mean_of(base, "reward")])}
        for name, cells in tried.items():
            x, y = ([mean_of(rows, of) for rows in cells.values()] for of in (field, "reward"))
            series[name] = Series(x, y, circled=list(cells).index(runner.chosen_strength(target, name)))
        panels.append(Panel(label, target.reward, series))
    return figure_bytes(draw_panels(panels, f"{target.reward}: all strengths tried"))

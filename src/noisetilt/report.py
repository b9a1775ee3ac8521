"""Pictures and tables that people look at: PNG files that carry their settings, grids, plots, text tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def to_image(picture: Tensor) -> Image.Image:
    """A picture (3, H, W) in [0, 1] as a PIL image."""
    levels = (picture.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def save_picture(picture: Tensor, file: Path, settings: Mapping[str, Any]) -> None:
    """Writes a PNG with its settings as JSON in the text chunk "noisetilt"."""
    text = PngInfo()
    text.add_text("noisetilt", json.dumps(settings))
    to_image(picture).save(file, pnginfo=text)


def grid(rows: Sequence[tuple[str, Sequence[Tensor]]], scale: int = 2, gap: int = 4, per_line: int = 8) -> Image.Image:
    """Labelled rows of pictures (3, H, W) in [0, 1]; each row breaks into lines of `per_line` pictures."""
    height, width = rows[0][1][0].shape[1:]
    cell_h, cell_w, label_h = height * scale, width * scale, 18
    columns = min(per_line, max(len(pictures) for _, pictures in rows))
    lines = [-(-len(pictures) // per_line) for _, pictures in rows]
    sheet = Image.new(
        "RGB",
        (columns * (cell_w + gap) + gap, sum(n * (cell_h + gap) + label_h for n in lines) + gap),
        "white",
    )
    draw, top = ImageDraw.Draw(sheet), gap
    for (label, pictures), count in zip(rows, lines, strict=True):
        draw.text((gap + 1, top), label, fill="black", font_size=13)
        top += label_h
        for i, picture in enumerate(pictures):
            tile = to_image(picture).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + (i % per_line) * (cell_w + gap), top + (i // per_line) * (cell_h + gap)))
        top += count * (cell_h + gap)
    return sheet


def plot_rewards(curves: Mapping[str, np.ndarray], ylabel: str, file: Path) -> bool:
    """Mean reward by step with the band of the middle 80 % of pictures; curves are (step, image).

    Returns False, and writes nothing, where matplotlib is not installed.
    """
    return plot_panels({ylabel: curves}, "step", file)


def plot_panels(panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str, file: Path, first: int = 1) -> bool:
    """Panels side by side, by the labels of their y axes: means of curves (step, image) from step `first` on, with the
    band of the middle 80 % of images.

    Returns False, and writes nothing, where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6 * len(panels), 3.6), layout="constrained")
    for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for (label, values), colour in zip(curves.items(), ("#8a8a8a", "#c0392b", "#2e6da4", "#2e8b57"), strict=False):
            steps = np.arange(first, first + len(values))
            low, high = np.quantile(values, [0.1, 0.9], axis=1)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(steps, values.mean(axis=1), color=colour, label=label)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(file, dpi=140)
    return True


def save_animation(frames: Sequence[Image.Image], file: Path, milliseconds: int = 120) -> None:
    """Writes an animated PNG that stays on its last frame for a second; viewers that know no such show the first."""
    times = [milliseconds] * (len(frames) - 1) + [1000]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=times, loop=0)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Text columns: words to the left, numbers to the right with three decimals."""

    def cell(value: Any) -> str:
        return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    texts = [[cell(v) for v in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    numeric = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)
        ).rstrip()

    return "\n".join([line(header), line(["─" * w for w in widths]), *map(line, texts)])

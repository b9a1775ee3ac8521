"""Plots of rewards. They need matplotlib, the extra `plot`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..runs import write_bytes


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
    if not panels or any(np.size(values) == 0 for curves in panels.values() for values in curves.values()):
        raise ValueError("a curve of the plot has no value; give curves of shape (step, image)")
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
    stream = io.BytesIO()
    figure.savefig(stream, dpi=140)
    write_bytes(file, stream.getvalue())
    return True

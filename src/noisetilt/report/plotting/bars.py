"""Plots of bars: histograms, and the band energies of noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .axes import set_ticks
from .figures import FONT_SIZE, SMALL, band_handle, new_figure, own_settings, wrapped
from .styles import PALETTE

WIDTH, HEIGHT, BINS, COLUMNS = 3.8, 3.0, 40, 3
OUTSIDE, INSIDE = PALETTE[0], "#5b7fa6"


class Bands(NamedTuple):
    """Energies of bands over their expectation, each (band,), and the interval in which they are expected."""

    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray


@own_settings
def draw_histograms(values: Mapping[str, np.ndarray], ylabel: str) -> Any:
    """A matplotlib figure of one histogram for each name that has a value, at most COLUMNS in a line; numbers that are
    not finite are left out.

    Raises:
        ValueError: if there is no number at all.
        ImportError: if matplotlib is not installed.
    """
    finite = {name: numbers[np.isfinite(numbers)] for name, numbers in values.items()}
    shown = {name: numbers for name, numbers in finite.items() if len(numbers)}
    if not shown:
        raise ValueError("the histogram has no finite number; give at least one")
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    figure = new_figure(WIDTH * columns, HEIGHT * lines)
    places = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in places[len(shown) :]:
        axes.remove()
    for axes, (name, numbers) in zip(places, shown.items(), strict=False):
        axes.hist(numbers, bins=min(BINS, max(1, len(np.unique(numbers)))), color=INSIDE)
        set_ticks(axes.xaxis, count=4)
        set_ticks(axes.yaxis, whole=True)
        axes.set_xlabel(wrapped(name, WIDTH - 1, FONT_SIZE))
        axes.set_ylabel(wrapped(ylabel, HEIGHT - 1, FONT_SIZE))
    return figure


@own_settings
def draw_bands(panels: Mapping[str, Bands], heading: str, interval: str) -> Any:
    """A matplotlib figure of one panel for each title: a bar per band, in another colour outside the interval, and a
    legend below.

    Args:
        panels: title → bands.
        heading: a title above all panels.
        interval: what the interval is, for the legend.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    wide = 5.0 * len(panels)
    figure = new_figure(wide, 4.3)
    for axes, (title, bands) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        position = np.arange(len(bands.ratio))
        ratio = np.maximum(bands.ratio, 1e-6)
        outside = (bands.ratio < bands.low) | (bands.ratio > bands.high)
        axes.set_yscale("log")
        axes.bar(position, ratio - 1, bottom=1, color=np.where(outside, OUTSIDE, INSIDE))
        edges = np.concatenate([position - 0.5, position[-1:] + 0.5])
        low, high = (np.append(np.maximum(end, 1e-6), max(end[-1], 1e-6)) for end in (bands.low, bands.high))
        axes.fill_between(edges, low, high, step="post", color="black", alpha=0.15, linewidth=0, zorder=0)
        axes.axhline(1, color="black", lw=0.8)
        # Bands of few numbers have intervals of several powers of ten, which would hide the others.
        top, bottom = max(ratio.max(), np.median(high)), min(ratio.min(), np.median(low))
        axes.set_ylim(bottom / 1.3, top * 1.3)
        axes.set_xlim(-0.7, len(ratio) - 0.3)
        set_ticks(axes.xaxis, whole=True)
        set_ticks(axes.yaxis, "log")
        axes.set_title(wrapped(title, 4.0, FONT_SIZE + 1, lines=2))
        axes.set_xlabel("band, low to high frequency")
        axes.set_ylabel("energy / expected")
    signs = {interval: band_handle(), "band inside": band_handle(INSIDE, 1), "band outside": band_handle(OUTSIDE, 1)}
    handles, texts = list(signs.values()), [wrapped(text, 2.4, SMALL, lines=2) for text in signs]
    columns = 3 if len(panels) > 1 else 1
    figure.legend(handles, texts, loc="outside lower center", frameon=False, ncols=columns)
    figure.suptitle(wrapped(heading, wide - 0.6, FONT_SIZE + 1, lines=2), fontsize=FONT_SIZE + 1)
    return figure

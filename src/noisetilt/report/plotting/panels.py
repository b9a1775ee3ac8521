"""Plots of methods: points, lines and bands in panels side by side, with one legend for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .axes import set_ticks
from .figures import FONT_SIZE, HEADING, SMALL, band_handle, new_figure, own_settings, text_width, wrapped
from .styles import Style, styles_of

Scale = Literal["linear", "log", "symlog"]
Numbers = Sequence[float] | Sequence[float | None] | np.ndarray
# Inches.
PANEL_WIDTH, PANEL_HEIGHT, LEGEND_TEXT, LEGEND_LINE, LEGEND_HEIGHT = 4.6, 3.7, 2.4, 0.2, 9.0
GREY = "#8a8a8a"
BAND = "shaded: the middle 80 % of the images"
# Line styles of the guides of a plot, in their order.
GUIDE_DASHES = ("-", "--", ":")


@dataclass(frozen=True)
class Series:
    """The points of a method.

    Args:
        x, y: the points; points that are None or not finite are left out.
        x_error, y_error: the lengths of the error bars below and above each point.
        band: the lower and upper edge of a shaded band at each point.
        band_name: what the band is, for the legend.
        connected: whether a line connects the points.
        markers: whether the points are marked.
        circled: the number of a point with a circle.
    """

    x: Numbers
    y: Numbers
    x_error: tuple[Numbers, Numbers] | None = None
    y_error: tuple[Numbers, Numbers] | None = None
    band: tuple[Numbers, Numbers] | None = None
    band_name: str = ""
    connected: bool = True
    markers: bool = True
    circled: int | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        xlabel, ylabel, title: texts; they are broken into lines.
        series: name → points. Methods have their own colours, see `styles_of`.
        guides: name → (x, y) of thin grey lines to compare with, the first one solid.
        limits: the first and last number of the x axis and of the y axis; None: from the points.
        scales: of the x axis and of the y axis.
    """

    xlabel: str
    ylabel: str
    series: Mapping[str, Series]
    title: str = ""
    guides: Mapping[str, tuple[Numbers, Numbers]] = field(default_factory=dict)
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)
    scales: tuple[Scale, Scale] = ("linear", "linear")


@own_settings
def draw_panels(panels: Sequence[Panel], heading: str = "", columns: int | None = None) -> Any:
    """A matplotlib figure of panels side by side with one legend to the right, none for a single name without a band.

    Args:
        panels: one or more.
        heading: a title above all panels.
        columns: how many panels are side by side; None: all.

    Raises:
        ValueError: if there is no panel, or a panel has no point.
        ImportError: if matplotlib is not installed.
    """
    if not panels or not all(len(series.y) for panel in panels for series in panel.series.values()):
        raise ValueError("a curve of the plot has no value; give at least one point per curve")
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    guides = list(dict.fromkeys(name for panel in panels for name in panel.guides if name))
    styles = styles_of(names)
    bands = list(dict.fromkeys(s.band_name for panel in panels for s in panel.series.values() if _shows_band(s)))
    entries = [*names, *guides, *bands] if len(names) + len(guides) + len(bands) > 1 else []
    width, height, legend_columns = _legend_size(entries)
    columns = min(columns or len(panels), len(panels))
    lines = math.ceil(len(panels) / columns)
    wide = columns * PANEL_WIDTH
    figure = new_figure(wide + width, max(lines * PANEL_HEIGHT, height) + (0.5 if heading else 0))
    places = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        _draw_panel(axes, panel, styles, guides)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    if entries:
        handles = [_handle(styles[name], _drawn(panels, name)) for name in names]
        handles += [_guide_handle(guides, name) for name in guides] + [band_handle() for _ in bands]
        texts = [_legend_text(name) for name in entries]
        figure.legend(handles, texts, loc="outside right upper", frameon=False, ncols=legend_columns, handlelength=3.2)
    if heading:
        figure.suptitle(wrapped(heading, wide - 0.4, HEADING, lines=2), x=wide / 2 / (wide + width))
    return figure


def _shows_band(series: Series) -> bool:
    """Whether a series has a band with a name, and of a width above 0."""
    if series.band is None or not series.band_name:
        return False
    low, high = map(_numbers, series.band)
    return not np.array_equal(low, high)


def _legend_text(name: str) -> str:
    text = wrapped(name, LEGEND_TEXT, SMALL, lines=2)
    return f"\u200b{text}" if text.startswith("_") else text  # matplotlib leaves out labels that begin with "_"


def _legend_size(entries: Sequence[str]) -> tuple[float, float, int]:
    """Width and height of a legend in inches, and its number of columns."""
    if not entries:
        return 0.0, 0.0, 1
    texts = [_legend_text(name).split("\n") for name in entries]
    height = LEGEND_LINE * max(map(len, texts)) * len(texts)
    columns = math.ceil(height / LEGEND_HEIGHT)
    widest = max(text_width(line, SMALL) for text in texts for line in text)
    return columns * (widest + 0.75), LEGEND_LINE * max(map(len, texts)) * -(-len(texts) // columns) + 0.3, columns


def _drawn(panels: Sequence[Panel], name: str) -> list[Series]:
    return [panel.series[name] for panel in panels if name in panel.series]


def _line_style(style: Style, connected: bool, markers: bool) -> dict[str, Any]:
    return {
        "color": style.colour,
        "linestyle": ((0, style.dashes) if style.dashes else "-") if connected else "none",
        "marker": style.marker if markers else "",
        "markersize": 5,
        "linewidth": 1.3,
    }


def _handle(style: Style, drawn: Sequence[Series]) -> Any:
    from matplotlib.lines import Line2D

    connected, markers = (any(getattr(series, name) for series in drawn) for name in ("connected", "markers"))
    return Line2D([], [], **_line_style(style, connected, markers))


def _guide_style(guides: Sequence[str], name: str) -> dict[str, Any]:
    dashes = GUIDE_DASHES[guides.index(name) % len(GUIDE_DASHES)] if name else "-"
    return {"color": GREY, "linewidth": 0.9, "linestyle": dashes}


def _guide_handle(guides: Sequence[str], name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **_guide_style(guides, name))


def _numbers(values: Numbers) -> np.ndarray:
    numbers = np.array([math.nan if value is None else value for value in values], dtype=float)
    return np.where(np.isfinite(numbers), numbers, math.nan)


def _draw_panel(axes: Any, panel: Panel, styles: Mapping[str, Style], guides: Sequence[str]) -> None:
    for name, (along, up) in panel.guides.items():
        axes.plot(along, up, **_guide_style(guides, name), zorder=1)
    for name, series in panel.series.items():
        x, y, style = _numbers(series.x), _numbers(series.y), styles[name]
        if series.band is not None:
            axes.fill_between(x, *map(_numbers, series.band), color=style.colour, alpha=0.15, linewidth=0)
        if series.x_error is not None or series.y_error is not None:
            errors = {"xerr": series.x_error, "yerr": series.y_error}
            axes.errorbar(x, y, **errors, fmt="none", ecolor=style.colour, elinewidth=0.6, alpha=0.7)
        axes.plot(x, y, **_line_style(style, series.connected, series.markers))
        if series.circled is not None:
            at = slice(series.circled, series.circled + 1)
            axes.plot(x[at], y[at], "o", color=style.colour, markersize=11, fillstyle="none")
    for axis, limits, scale in zip("xy", panel.limits, panel.scales, strict=True):
        if scale != "linear":
            getattr(axes, f"set_{axis}scale")(scale, **({"linthresh": 1.0} if scale == "symlog" else {}))
        if limits is not None:
            getattr(axes, f"set_{axis}lim")(*limits)
        set_ticks(getattr(axes, f"{axis}axis"), scale)
    axes.set_xlabel(wrapped(panel.xlabel, PANEL_WIDTH - 1, FONT_SIZE))
    axes.set_ylabel(wrapped(panel.ylabel, PANEL_HEIGHT - 1.2, FONT_SIZE))
    if panel.title:
        axes.set_title(wrapped(panel.title, PANEL_WIDTH - 1.5, FONT_SIZE + 1, lines=2))


def curve(values: np.ndarray, first: int = 1) -> Series:
    """The mean over images of values (step, image) from step `first` on, with the band of the middle 80 % of images."""
    steps = np.arange(first, first + len(values))
    low, high = np.quantile(values, [0.1, 0.9], axis=1)
    return Series(steps, np.mean(values, axis=1), band=(low, high), band_name=BAND, markers=len(values) == 1)

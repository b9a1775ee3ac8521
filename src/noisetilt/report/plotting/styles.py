"""The colour, marker and line of each method, the same in every plot. Imports nothing of matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Nine colours on white. Any two, and black, are 30 or more apart in CIELAB for readers with normal vision, protanopia
# and deuteranopia, and 20 for tritanopia (simulated as Machado 2009 does).
PALETTE = ("#d12f1f", "#1016f4", "#eeb117", "#f974c2", "#b1b782", "#994b5b", "#9a79ff", "#651f65", "#5b009c")
BLACK = "#000000"
MARKERS = "os^DvPX<>p*h"
# matplotlib's dashes: lengths of strokes and gaps in line widths. Methods of one colour differ in them.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (9, 1),
    (4, 1.5),
    (1, 1.2),
    (6, 1.5, 1, 1.5),
    (6, 1.5, 1, 1.5, 1, 1.5),
)
# Row: dashes and marker; column: colour. A plot of the benchmark has each colour once or twice.
_METHODS: tuple[tuple[str, ...], ...] = (
    ("ntrk", "dps", "freedom", "mpgd", "ugd", "tfg", "lgd", "best-of-n", "svdd"),
    ("gper", "reno", "prno", "mpgr", "none", "gper-latent", "gper-both", "gper-w", "gper-rotation"),
    ("ntrk-best-of-n", "dps-best-of-n", "freedom-best-of-n", "fk", "rbf", "das", "psi", "ntrk-svdd", "ntrk-smc"),
    (
        *("ntrk-travel-best-of-n", "dsg", "langevin", "ntrk-mixture-best-of-n", "ntrk-long-best-of-n"),
        *("ntrk-black-box-svdd", "ntrk-black-box-best-of-n", "gper-ntrk", "ntrk-black-box-long-best-of-n"),
    ),
    (
        *("ntrk-eta-0.7", "ntrk-early", "ntrk-path", "ntrk-mixture-early", "ntrk-path-early"),
        *("twisted-shift", "ntrk-bump", "ntrk-mixture", "ntrk-black-box"),
    ),
    ("ntrk-12", "ntrk-path-best-of-n", "ntrk-late", "ugd-best-of-n", "cns", "ntrk-x0", "ntrk-x0-best-of-n"),
)
# The unguided results that the methods are compared with.
_BASE = ("base", "initial-noise", "base-eta-0.7")


class Style(NamedTuple):
    """How a method is drawn: a colour as "#rrggbb", a marker of matplotlib, and the dashes of its line."""

    colour: str
    marker: str
    dashes: tuple[float, ...]


def _style(row: int, column: int) -> Style:
    return Style(PALETTE[column], MARKERS[(column + 2 * row) % len(MARKERS)], DASHES[row])


STYLES = {name: _style(i, j) for i, row in enumerate(_METHODS) for j, name in enumerate(row)}
STYLES |= {name: Style(BLACK, "PXd"[i], DASHES[i]) for i, name in enumerate(_BASE)}


def styles_of(names: Iterable[str]) -> dict[str, Style]:
    """The style of each name of one plot.

    A method has its own style; "initial noise" is the same as "initial-noise". Other names have those styles that no
    name of the plot has, in order, first with colours that the plot does not have. With more names than styles they
    repeat.
    """
    names = list(dict.fromkeys(names))
    found = {name: STYLES[key] for name in names if (key := name.replace(" ", "-")) in STYLES}
    every = [_style(row, column) for row in range(len(DASHES)) for column in range(len(PALETTE))]
    colours = {style.colour for style in found.values()}
    free = sorted((style for style in every if style not in found.values()), key=lambda style: style.colour in colours)
    others = [name for name in names if name not in found]
    found |= {name: (free or every)[i % len(free or every)] for i, name in enumerate(others)}
    return {name: found[name] for name in names}

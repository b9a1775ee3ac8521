"""Every plot of the package, its benchmark and its recipes. Needs matplotlib, the extra `plot`.

A function `draw_…` returns a matplotlib figure; `save_figure` and `figure_bytes` make a PNG of it. Each method has the
same colour, marker and dashes in every plot (`styles_of`).
"""

from .bars import Bands, draw_bands, draw_histograms
from .figures import figure_bytes, has_matplotlib, require_matplotlib, save_figure
from .images import draw_images
from .panels import Panel, Series, curve, draw_panels
from .styles import PALETTE, STYLES, Style, styles_of

__all__ = [
    "PALETTE",
    "STYLES",
    "Bands",
    "Panel",
    "Series",
    "Style",
    "curve",
    "draw_bands",
    "draw_histograms",
    "draw_images",
    "draw_panels",
    "figure_bytes",
    "has_matplotlib",
    "require_matplotlib",
    "save_figure",
    "styles_of",
]

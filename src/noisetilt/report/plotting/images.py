"""Plots of small images in rows, with a text above each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .figures import FONT_SIZE, new_figure, own_settings, wrapped

SIDE, TEXT = 2.2, 0.6


@own_settings
def draw_images(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> Any:
    """A matplotlib figure of rows of (text, image (H, W, 3) in [0, 1]).

    Raises:
        ImportError: if matplotlib is not installed.
    """
    columns = max(map(len, rows))
    figure = new_figure(SIDE * columns, (SIDE + TEXT) * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, (text, image) in zip(line, row, strict=False):
            axis.imshow(image, interpolation="nearest")
            axis.set_title("\n".join(wrapped(part, SIDE - 0.35, FONT_SIZE + 1, lines=2) for part in text.split("\n")))
    return figure

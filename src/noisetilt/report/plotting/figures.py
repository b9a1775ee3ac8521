"""matplotlib figures: made without the user's own settings, with texts broken to fit, and written as PNG.

matplotlib is the extra `plot`. It is imported here and in the other modules of this package when something is drawn.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..._messages import missing_extra
from ...runs import write_bytes
from ..text import break_lines, spelt

DPI = 130
FONT_SIZE, SMALL, HEADING = 9.0, 8.0, 11.0
_SETTINGS = {
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "axes.titlesize": FONT_SIZE + 1,
    "figure.titlesize": HEADING,
    "legend.fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "text.parse_math": False,  # a name may have a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Drawing = TypeVar("Drawing", bound=Callable[..., Any])


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Hides matplotlib's notices of a slow first start and of a home folder that cannot be written."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def has_matplotlib() -> bool:
    """Whether matplotlib is installed."""
    try:
        with _without_notices():
            import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def require_matplotlib(feature: str) -> None:
    """Raises an ImportError that names the feature and the extra if matplotlib is not installed."""
    if not has_matplotlib():
        raise ImportError(missing_extra("plot", feature))


def own_settings(draw: Drawing) -> Drawing:
    """Decorator: a function draws with this package's settings; the user's matplotlibrc has no effect.

    Raises:
        ImportError: if matplotlib is not installed.
    """

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        require_matplotlib("a plot")
        with _without_notices():
            import matplotlib.style

            with matplotlib.style.context(["default", _SETTINGS]):
                return draw(*args, **kwargs)

    return drawn  # type: ignore[return-value]


def new_figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches, without pyplot and its window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI, layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    return figure


def band_handle(colour: str = "black", alpha: float = 0.15) -> Any:
    """The sign of a shaded band, or of bars of a colour, in a legend."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, alpha=alpha, linewidth=0)


@own_settings
def figure_bytes(figure: Any) -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def save_figure(figure: Any, file: Path) -> None:
    """Writes a figure as PNG, as a whole or not at all."""
    write_bytes(file, figure_bytes(figure))


def text_width(text: str, size: float) -> float:
    """The width of a line of text in inches."""
    return _renderer().get_text_width_height_descent(text, _font(size), False)[0] / DPI


@functools.cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


@functools.cache
def _font(size: float) -> Any:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family="DejaVu Sans", size=size)


@functools.cache
def _font_has(character: str) -> bool:
    from matplotlib.font_manager import findfont, get_font

    return ord(character) in get_font(findfont(_font(FONT_SIZE))).get_charmap()


def wrapped(text: str, inches: float, size: float = FONT_SIZE, lines: int = 3) -> str:
    """A text in at most so many lines of a width; words that are wider are broken, and the rest ends in "…". Characters
    that the font lacks are spelt."""
    return "\n".join(break_lines(spelt(text, _font_has), lambda line: text_width(line, size) <= inches, lines))

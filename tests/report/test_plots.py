"""Every plot, of any number of methods with any names: no text is cut off and no text lies on another."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from matplotlib.text import Text

from noisetilt.report.plotting import (
    Bands,
    Panel,
    Series,
    curve,
    draw_bands,
    draw_histograms,
    draw_images,
    draw_panels,
    figure_bytes,
)
from noisetilt.report.plotting.axes import decades, tick_labels
from noisetilt.report.plotting.figures import own_settings, text_width, wrapped

NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), min_size=1, max_size=80)
LONG = st.sampled_from(["0.5*style:3d + 0.5*alignment", "x" * 120, "a word " * 20, "_hidden", "$a$ $b", "W" * 40])
METHODS = st.lists(NAMES | LONG | st.sampled_from(["base", "ntrk", "dps"]), min_size=1, max_size=30, unique=True)
# Rounded, as no result has an exponent of three digits, whose labels are too wide.
NUMBERS = (st.floats(-1e4, 1e4) | st.floats(-1e-3, 1e-3)).map(lambda x: round(x, 12)) | st.sampled_from(
    [0.0, 1e9, -1e9, 1e-9]
)
FEW = settings(max_examples=8, deadline=None)


def texts_of(figure):
    """The texts that are drawn, with their boxes in pixels."""
    own_settings(figure.draw_without_rendering)()
    axes = [axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)]
    ticks = {label for axis in axes for label in (*axis.get_majorticklabels(), *axis.get_minorticklabels())}
    # matplotlib keeps ticks that are out of view and does not draw them.
    drawn = {label for axis in axes for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
    hidden = {
        text
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
    }
    texts = [text for text in figure.findobj(Text) if text not in hidden and (text in drawn or text not in ticks)]
    renderer = figure.canvas.get_renderer()
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_visible() and t.get_text()]


def assert_legible(figure):
    """No text leaves the figure, and no two texts overlap by more than a pixel."""
    boxes, (width, height) = texts_of(figure), figure.canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{text!r} is cut off"
    for (text, a), (other, b) in itertools.combinations(boxes, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or down <= 1, f"{text!r} overlaps {other!r}"
    assert all(axes.get_window_extent().width > 80 and axes.get_window_extent().height > 80 for axes in figure.axes)


def test_the_check_finds_what_it_looks_for():
    figure = draw_panels([Panel("x", "y", {"ntrk": Series([0, 1], [0, 1])})])
    figure.text(0.99, 0.5, "a text that is cut off")
    with pytest.raises(AssertionError, match="cut off"):
        assert_legible(figure)
    figure = draw_panels([Panel("x", "y", {"ntrk": Series([0, 1], [0, 1])})])
    figure.text(0.5, 0.5, "one"), figure.text(0.5, 0.5, "two")
    with pytest.raises(AssertionError, match="overlaps"):
        assert_legible(figure)


@FEW
@given(METHODS, st.integers(1, 3), NAMES | LONG, NAMES | LONG, NAMES | LONG | st.just(""), st.data())
def test_panels_of_methods(names, count, xlabel, ylabel, heading, data):
    points = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4)
    panels = []
    for _ in range(count):
        series = {}
        for name in names:
            x, y = zip(*data.draw(points), strict=True)
            series[name] = Series(x, y, connected=len(name) % 2 == 0, circled=0)
        guides = data.draw(st.sampled_from([{}, {"the optimum": ([0, 1], [0, 1])}, {"": ([0, 1], [1, 1])}]))
        panels.append(Panel(xlabel, ylabel, series, data.draw(st.sampled_from(["", "a title", "t" * 90])), guides))
    assert_legible(draw_panels(panels, heading))


def test_a_long_title_fits_beside_a_long_label_and_wide_ticks():
    panel = Panel("x", "y" * 120, {"ntrk": Series([0.0], [3.979758e-05])}, "t" * 90)
    assert_legible(draw_panels([panel, panel, panel], columns=2))


@FEW
@given(METHODS, st.integers(1, 64), st.integers(1, 30), st.floats(1e-3, 1e6))
def test_reward_curves_of_runs(names, images, steps, scale):
    random = np.random.default_rng(images)
    series = {name: curve(scale * random.normal(size=(steps, images)), first=0) for name in names}
    assert_legible(draw_panels([Panel("step", "reward", series), Panel("step", "held-out reward", series)]))


@FEW
@given(st.lists(NUMBERS, min_size=1, max_size=3), st.lists(NAMES | LONG, min_size=1, max_size=3, unique=True))
@example([0.00018243124038950923, 4.6239619471829954e-05], ["0"])
def test_logarithmic_panels(numbers, names):
    x = np.abs(numbers) + 1e-6
    series = {name: Series(x, np.array(numbers) * (i + 1)) for i, name in enumerate(names)}
    assert_legible(draw_panels([Panel("x", "y", series, scales=("log", "symlog"))]))


@FEW
@given(
    st.dictionaries(NAMES | LONG, st.lists(NUMBERS | st.just(np.nan), min_size=1, max_size=60), min_size=1, max_size=4)
)
def test_histograms(values):
    values = {name: np.array([0.5, *numbers]) for name, numbers in values.items()}
    assert_legible(draw_histograms(values, "rows"))


@FEW
@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=60), st.floats(0, 0.99), st.floats(1.01, 3), NAMES | LONG)
def test_bands(ratio, low, high, title):
    ratio = np.array(ratio)
    bands = Bands(ratio, np.full(len(ratio), low), np.full(len(ratio), high))
    assert_legible(draw_bands({title: bands, "half-octaves of spatial frequency": bands}, title, title))
    assert_legible(draw_bands({title: bands}, title, title))


def test_the_legend_says_what_is_shaded():
    values = np.arange(12.0).reshape(3, 4)
    panel = Panel("step", "reward", {"base": curve(values), "ntrk": curve(values + 1)})
    (legend,) = draw_panels([panel]).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "base",
        "ntrk",
        "shaded: the middle 80 % of the images",
    ]
    assert len(draw_panels([Panel("step", "reward", {"base": curve(values)})]).legends) == 1
    assert not draw_panels([Panel("step", "reward", {"base": curve(values[:, :1])})]).legends
    bands = Bands(np.ones(3), np.full(3, 0.5), np.full(3, 2.0))
    figure = draw_bands({"bands": bands}, "0 of 1 rejected", "interval of white noise")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "interval of white noise",
        "band inside",
        "band outside",
    ]
    assert figure.get_suptitle() == "0 of 1 rejected"


@FEW
@given(st.lists(st.lists(NAMES | LONG, min_size=1, max_size=5), min_size=1, max_size=4))
def test_images(rows):
    assert_legible(draw_images([[(f"{text}\np = 0.01", np.zeros((4, 4, 3))) for text in row] for row in rows]))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=7, unique=True))
def test_tick_labels_are_true_and_differ(values):
    texts = tick_labels(values)
    gap = min((b - a for a, b in itertools.pairwise(sorted(values))), default=0.0)
    if gap > 1e-9 * max(map(abs, values)):
        assert len(set(texts)) == len(values)
    for text, value in zip(texts, values, strict=True):
        assert float(text.replace("−", "-")) == pytest.approx(value, rel=1e-9, abs=0.03 * (gap or abs(value)))


@given(st.floats(-12, 8), st.floats(0.05, 12))
def test_decades_are_inside_the_axis_and_few(power, size):
    found = decades(10**power, 10 ** (power + size))
    assert len(found) <= 7 and all(10**power <= v <= 10 ** (power + size) * (1 + 1e-12) for v in found)


@given(st.text(st.characters(max_codepoint=0x24F), max_size=200), st.floats(0.6, 4), st.integers(1, 4))
def test_wrapped_texts_are_narrow_and_complete(text, inches, most):
    lines = wrapped(text, inches, 9.0, most).split("\n")
    assert len(lines) <= most and all(text_width(line, 9.0) <= inches for line in lines)
    if not lines[-1].endswith("…"):
        shown = "".join(c if c.isprintable() else " " for c in text)
        assert "".join(lines).replace(" ", "") == "".join(shown.split())


def test_histograms_are_in_lines_of_three_with_whole_numbers_of_rows():
    numbers = np.array([0.0, 1.0, 1.0])
    figure = draw_histograms({f"reward {i}": numbers for i in range(4)}, "rows")
    places = {(axes.get_subplotspec().rowspan.start, axes.get_subplotspec().colspan.start) for axes in figure.axes}
    assert places == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert all(tick == int(tick) for axes in figure.axes for tick in axes.get_yticks())


def test_characters_that_the_font_lacks_are_spelt():
    assert wrapped("concept:🐯", 4.0) == "concept:tiger face" and wrapped("🐯🐯 é", 4.0) == "tiger face tiger face é"
    panel = Panel("猫", "concept:🐯", {"🐯": Series([0, 1], [0, 1]), "ntrk": Series([0, 1], [0, 1])}, "🐯")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure_bytes(draw_panels([panel], "🐯"))

"""The charts: values at the right places, round numbers at the axis, and nothing of a visitor unescaped."""

import re

import numpy as np
import pytest

from noisetilt.studio.curves import HEIGHT, LEFT, RIGHT, WIDTH, draw_curves, ticks


def points(svg, kind="line"):
    return [
        [tuple(map(float, pair.split(","))) for pair in text.split()]
        for text in re.findall(rf'class="nt-{kind} nt-\w+" points="([^"]*)"', svg)
    ]


def test_the_mean_and_the_range_are_drawn():
    values = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]])
    chart = draw_curves({"Base": values, "Guided": values + 1}, "target", "step", steps=5, base="Base")
    base, guided = points(chart)
    assert len(base) == 3 and base[0][0] == LEFT and base[2][0] == pytest.approx((LEFT + WIDTH - RIGHT) / 2)
    assert base[0][1] > base[1][1] > base[2][1] and all(g[1] < b[1] for b, g in zip(base, guided, strict=True))
    assert all(0 <= y <= HEIGHT for line in points(chart, "band") for _, y in line)
    assert "Base: 1.00 to 5.00; Guided: 2.00 to 6.00" in chart and 'nt-line nt-base"' in chart


def test_one_value_and_no_value():
    assert len(points(draw_curves({"a": np.ones((1, 1))}, "t", "step", steps=1))[0]) == 1
    assert draw_curves({"a": np.empty((0, 0))}, "t", "step", steps=3) == ""


def test_labels_tell_large_values_apart_and_fit():
    chart = draw_curves({"a": 1e6 + np.array([[0.5], [1.5]])}, "t", "step", steps=2)
    found = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end">(\d+\.?\d*)<', chart)
    labels = [label for _, label in found[:-1]]
    assert len(set(labels)) == len(labels) >= 3 and all(1e6 <= float(label) <= 1e6 + 2 for label in labels)
    assert all(float(x) >= 6 * len(label) for x, label in found[:-1])


def test_one_step_has_no_second_label():
    chart = draw_curves({"a": np.ones((1, 1))}, "t", "step", steps=1)
    assert ">1</text>" in chart and ">2</text>" not in re.sub(r'<text[^>]*text-anchor="end">[^<]*</text>', "", chart)
    assert f'y="{HEIGHT - 14}" text-anchor="end"' not in chart


@pytest.mark.parametrize("low, high", [(-5.1, 7.3), (0, 1), (0.21, 0.23), (-1000, 3), (1e-6, 3e-6)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 11 and all(low <= tick <= high for tick in found)
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_names_are_escaped():
    chart = draw_curves({"<b>": np.ones((2, 1)), "c": np.ones((2, 1))}, "<script>", "step", steps=2)
    assert "<b>" not in chart and "<script>" not in chart and "&lt;script&gt;" in chart

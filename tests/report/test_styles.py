"""Methods differ in every plot: by colours that colour-blind readers tell apart, or by marker and dashes."""

import ast
import itertools
from pathlib import Path

import pytest
from colour_vision import VISIONS, distance, lab
from hypothesis import given
from hypothesis import strategies as st

from noisetilt.bench import exact_suite, one_step, paper_plan
from noisetilt.methods import METHODS
from noisetilt.report.plotting import PALETTE, STYLES, styles_of
from noisetilt.report.plotting.styles import BLACK

ROOT = Path(__file__).resolve().parents[2]
PLOTS = {
    "paper, 25 calls": ["base", *paper_plan.SINGLE_TRAJECTORY],
    "paper, 500 calls": ["base", *paper_plan.SEARCHES],
    "paper, tuning": ["base", *paper_plan.METHODS_OF_SUITE],
    "one-step": ["initial noise", *one_step.SETTINGS],
    "exact": list(dict.fromkeys(entry.name for entry in exact_suite.make_entries())),
    "generate": ["base", *METHODS],
}


def test_the_simulation_of_colour_vision():
    """CIELAB of red as published; red and green of one lightness are alike for readers with deuteranopia."""
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert lab("#ffffff", "deuteranopia") == pytest.approx([100, 0, 0], abs=0.1)
    assert distance("#c05020", "#708000") > 50 > 20 > distance("#c05020", "#708000", "deuteranopia")


@pytest.mark.parametrize(
    "vision, least", [("normal", 30), ("protanopia", 30), ("deuteranopia", 30), ("tritanopia", 20)]
)
def test_colours_differ_for_every_reader(vision, least):
    assert set(VISIONS) == {"normal", "protanopia", "deuteranopia", "tritanopia"}
    for a, b in itertools.combinations([BLACK, *PALETTE], 2):
        assert distance(a, b, vision) >= least, (a, b)


@pytest.mark.parametrize("colour", PALETTE)
def test_colours_differ_from_the_paper(colour):
    assert lab(colour)[0] < 78


@pytest.mark.parametrize("plot", PLOTS)
def test_methods_of_one_plot_differ(plot):
    styles = styles_of(PLOTS[plot])
    for (name, a), (other, b) in itertools.combinations(styles.items(), 2):
        assert a.colour != b.colour or (a.marker != b.marker and a.dashes != b.dashes), (name, other)


@pytest.mark.parametrize("plot", PLOTS)
def test_every_method_of_the_benchmark_has_a_fixed_style(plot):
    for name in PLOTS[plot]:
        assert name.replace(" ", "-") in STYLES
        assert styles_of([name, "another"])[name] == styles_of(["x", "ntrk", name])[name]


@given(st.lists(st.sampled_from(["ntrk", "dps", "base", *(f"mine {i}" for i in range(30))]), min_size=1, unique=True))
def test_unknown_names_have_styles_that_no_other_name_has(names):
    styles = styles_of(names)
    assert list(styles) == names and len(set(styles.values())) == len(names)
    assert all(styles[name] == STYLES[name] for name in names if name in STYLES)


def test_matplotlib_is_imported_in_one_package_only():
    importing = set()
    for folder in ("src", "recipes", "examples", "integrations"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if any(name.split(".")[0] == "matplotlib" for name in names):
                    importing.add(file.parent.relative_to(ROOT).as_posix())
    assert importing == {"src/noisetilt/report/plotting"}

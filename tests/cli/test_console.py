"""What is printed fits the terminal and its encoding, and is coloured only where that is wanted."""

import io
import sys
from pathlib import PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisetilt._progress import progress_bar
from noisetilt.cli import console
from noisetilt.report import file_stem, table
from noisetilt.rewards.catalogue import split_terms


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "environment, stream, coloured",
    [
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"NO_COLOR": ""}, Terminal(), True),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, Terminal(), False),
        ({"TERM": "dumb"}, Terminal(), False),
    ],
)
def test_colours(environment, stream, coloured, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    assert console.use_colour(stream) == coloured
    assert console.painted("text", "red", stream) == ("\x1b[1;31mtext\x1b[0m" if coloured else "text")


def test_the_width_is_that_of_columns_or_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert console.line_width(io.StringIO()) == 40 and console.line_width(Terminal()) == 40
    assert all(len(line) <= 40 for line in console.filled("a few words " * 20, "  ").splitlines())
    for wrong in ("", "wide", "0", "-3"):
        monkeypatch.setenv("COLUMNS", wrong)
        assert console.line_width(io.StringIO()) is None


@pytest.mark.parametrize("columns", [40, 60])
def test_a_wide_table_has_a_block_per_row(columns):
    header = ["", "style:3d", "held-out style:3d", "NFE", "seconds"]
    rows = [["base", -2.307, -3.114, 25.0, 8.1], ["guided", 7.19, None, 25.0, 20.5]]
    wide, narrow = table(header, rows), table(header, rows, 40)
    assert table(header, rows, 200) == wide and max(map(len, wide.splitlines())) > 40
    assert max(map(len, narrow.splitlines())) <= 40
    for word in ("base", "guided", "style:3d: -2.307", "held-out style:3d: –", "seconds: 20.500"):
        assert word in narrow


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_encoding_can_print_every_text(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    console.allow_all_characters(stream)
    stream.write("Ψ-Sampler – ρ ≥ 0.1, x̂_0 … café ─ 猫")
    stream.flush()
    text = raw.getvalue().decode(encoding)
    if encoding == "ascii":
        assert text == "Psi-Sampler - rho >= 0.1, x_0 ... cafe - ?"
    if encoding == "utf-8":
        assert text == "Ψ-Sampler – ρ ≥ 0.1, x̂_0 … café ─ 猫"


@given(st.text())
def test_ascii_can_print_any_text(text):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    console.allow_all_characters(stream)
    stream.write(text)
    stream.flush()


@pytest.mark.parametrize("columns", [40, 80])
def test_the_progress_bar_fits_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(100, "step", columns=console.given_columns()) as bar:
        bar.set_postfix_str("guided reward +7.190 held-out +4.309")
        bar.update(50)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert any("50%" in line for line in lines) and max(map(len, lines)) <= columns


def test_progress_is_a_few_lines_in_a_file(capsys):
    with progress_bar(50, "step") as bar:
        for step in range(50):
            bar.set_postfix_str(f"reward {step}", refresh=False)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"step {step} of 50: reward {step - 1}" for step in range(5, 51, 5)]
    with progress_bar(3, "row", initial=1) as bar:
        bar.update(2)
        bar.update(0)
    assert capsys.readouterr().err == "row 3 of 3\n"


@given(st.text() | st.sampled_from(["con", "NUL", "aux.h", "lpt1", "a:b\\c/d", "..", " ", "COM1 ", "é?*<>|"]))
def test_file_names_are_valid_on_windows(prompt):
    name = f"{file_stem(prompt)}-0-base.png"
    path = PureWindowsPath(name)
    assert path.name == name and not path.drive and not set(name) & set('<>:"/\\|?*') and name.isascii()
    assert path.stem.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}


def test_a_windows_path_in_a_reward():
    ((weight, name),) = split_terms(r"0.5*aesthetic@C:\models\Aesthetic-v1")
    assert (weight, name) == (0.5, r"aesthetic@C:\models\Aesthetic-v1")


def test_streams_without_an_encoding_are_left_alone():
    console.allow_all_characters(io.StringIO(), sys.__stdout__)

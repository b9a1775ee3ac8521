"""Random options, settings, specifications and files: each is accepted, or refused with one sentence."""

import argparse
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noisetilt import METHODS, rewards
from noisetilt.batch import read_table
from noisetilt.batch.settings import Settings, cell_value, with_cells
from noisetilt.batch.table import COLUMNS
from noisetilt.cli.arguments import parse_option
from noisetilt.cli.audit import read_tensor
from noisetilt.report import file_stem

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, 1, -1, 0.5, 10**9, math.nan, math.inf]))
VALUES = st.one_of(NUMBERS, st.text(), st.none(), st.booleans(), st.lists(st.integers(), max_size=2))
OPTIONS = [(name, option) for name, method in METHODS.items() for option in method.options()]
TERMS = ["redness", "brightness", "colour:#ff0000", "colour:", "jpeg", "rednes", "1", "-2", "1e9", "nan", "inf"]
SPECS = st.lists(st.sampled_from([*TERMS, "+", "-", "*", " ", "@", ":", "(", "/"]), max_size=8).map("".join)


def one_sentence(error):
    text = str(error)
    assert text and "\n" not in text and len(text) < 2000
    assert "Traceback" not in text and not text.startswith(("KeyError", "TypeError"))


@QUICK
@given(st.sampled_from(OPTIONS), VALUES)
def test_options_of_methods(option, value):
    method, name = option
    try:
        changed = METHODS[method].replace(**{name: value})
    except ValueError as error:
        one_sentence(error)
        assert name in str(error)
    else:
        kept = changed.options()[name]
        assert kept == value and (not isinstance(value, float) or not math.isnan(value))


@QUICK
@given(st.text())
def test_options_of_the_command_line(text):
    try:
        name, _ = parse_option(text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        one_sentence(error)
    else:
        assert "=" in text and name == text.partition("=")[0].strip()


@QUICK
@given(st.sampled_from(COLUMNS), VALUES)
def test_cells_of_tables(name, value):
    try:
        cell_value(name, value)
        row = with_cells(Settings("cat"), {name: value})
        json.dumps(row.as_json(), allow_nan=False)
    except ValueError as error:
        one_sentence(error)


@QUICK
@given(SPECS)
def test_specifications_of_rewards(spec):
    try:
        reward = rewards.load(spec)
    except ValueError as error:
        one_sentence(error)
    else:
        assert callable(reward) and any(term in spec for term in TERMS[:3])


@QUICK
@given(st.text(max_size=400))
def test_names_of_files(prompt):
    stem = file_stem(prompt)
    assert 0 < len(stem) <= 60 and set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@QUICK
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_tables(suffix, data, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(b"prompt,seed\n" + data if suffix == ".csv" else data)
    try:
        rows = read_table(tmp_path / f"x{suffix}", {})
    except ValueError as error:
        one_sentence(error)
    else:
        assert all(row.settings is not None or row.problem for row in rows)


@QUICK
@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".png"])
@given(data=st.binary(max_size=300), magic=st.booleans())
def test_tensors(suffix, data, magic, tmp_path):
    starts = {
        ".npy": b"\x93NUMPY\x01\x00",
        ".png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        ".safetensors": b"\x08" + bytes(7),
    }
    (tmp_path / f"x{suffix}").write_bytes(starts[suffix] * magic + data)
    with pytest.raises(ValueError) as error:
        read_tensor(tmp_path / f"x{suffix}")
    one_sentence(error.value)
    assert f"x{suffix}" in str(error.value)

"""What all commands share: help with examples, exit statuses and suggestions for wrong names."""

import argparse
import re
import shlex
import sys
from pathlib import Path

import pytest

from noisetilt._messages import PACKAGES, missing_extra
from noisetilt.cli import main
from noisetilt.cli.arguments import build_parser

PARSER = build_parser()
COMMANDS = next(a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)).choices


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_two_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    examples = re.findall(r"^  noisetilt (.*)$", capsys.readouterr().out, re.M)
    assert ended.value.code == 0 and len(examples) == 2
    for example in examples:
        assert PARSER.parse_args(shlex.split(example)).command in COMMANDS


@pytest.mark.parametrize(
    "arguments, nearest",
    [
        (["generate", "cat", "--reward", "redness", "--method", "ntkr"], "'ntrk'"),
        (["generate", "cat", "--reward", "rednes"], "'redness'"),
        (["generate", "cat", "--reward", "redness", "--model", "emoji46"], "'emoji64'"),
        (["optimize", "cat", "--reward", "redness", "--method", "gperr"], "'gper'"),
        (["methods", "best-of"], "'best-of-n'"),
        (["plan", "FLUX.1-dv"], "'FLUX.1-dev'"),
        (["bench", "--suite", "exacts"], "'exact'"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(arguments, nearest, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"did you mean {nearest}?" in error


def test_a_missing_extra_is_installed_from_the_checkout():
    assert (
        missing_extra("plot", "a plot")
        == 'a plot needs matplotlib; run pip install ".[plot]" in the noisetilt checkout'
    )
    tomllib = pytest.importorskip("tomllib")
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    extras = tomllib.loads(file.read_text())["project"]["optional-dependencies"]
    for extra, package in PACKAGES.items():
        assert any(line.startswith(package) for line in extras[extra])


def test_without_diffusers_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["plan", "SD-1.5"]) == 2
    assert 'pip install ".[diffusers]"' in capsys.readouterr().err

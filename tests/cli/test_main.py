"""What all commands share: help with examples, exit statuses and suggestions for wrong names."""

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from noisetilt._messages import PACKAGES, missing_extra
from noisetilt.cli import main
from noisetilt.cli.arguments import build_parser

PARSER = build_parser()
COMMANDS = next(a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)).choices


def run(capsys, *arguments):
    """The exit status, output and errors of a command."""
    try:
        status = main(list(arguments))
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


def example_commands(text):
    """The commands of a help's examples, each in one line."""
    return re.findall(r"^  noisetilt (.*)$", text.replace(" \\\n   ", ""), re.M)


@pytest.mark.parametrize("columns", ["40", "60", "200"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse_and_fits_the_terminal(command, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    status, text, _ = run(capsys, command, "--help")
    assert status == 0 and len(example_commands(text)) >= 2
    for example in example_commands(text):
        assert PARSER.parse_args(shlex.split(example)).command in COMMANDS
    assert max(map(len, text.splitlines())) <= int(columns)


@pytest.mark.parametrize("columns", ["40", "60"])
def test_the_first_help_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    status, text, _ = run(capsys)
    assert status == 0 and text == run(capsys, "--help")[1] and len(example_commands(text)) == 2
    assert max(map(len, text.splitlines())) <= int(columns)


def test_colours_of_help(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run(capsys, "plan", "--help")[1] and "\x1b[" in run(capsys, "pln")[2]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run(capsys, "plan", "--help")[1] + run(capsys, "pln")[2]
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[" not in run(capsys, "plan", "--help")[1]  # not a terminal


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["generat"], "command 'generat' is unknown (did you mean 'generate'?)"),
        (["--versoin"], "did you mean '--version'?"),
        (["generate", "cat", "--rewrd", "redness"], "option --rewrd is unknown (did you mean '--reward'?)"),
        (["generate", "cat", "-reward", "redness"], "did you mean '--reward'?"),
        (["generate", "cat", "--reward", "redness", "--model", "-fox"], "write --model=-fox"),
        (["generate", "cat", "--reward", "redness", "--offload", "modle"], "did you mean 'model'?"),
        (["generate", "cat", "--reward", "redness", "--gradient-at", "xt"], "did you mean 'x_t'?"),
        (["plan", "SDXL", "--resoluton", "512"], "did you mean '--resolution'?"),
        (["generate"], "the following arguments are required: prompt, --reward"),
        (["generate", "cat", "--reward", "redness", "--rho", "0.1"], "methods have an option rho; write --set rho=0.1"),
        (["optimize", "cat", "--best-of=1e6"], "methods have an option best_of; write --set best_of=1e6"),
        (["batch", "a.csv", "--particles"], "methods have an option particles; write --set particles=VALUE"),
        (["bench", "--rho", "0.1"], "option --rho is unknown"),
    ],
)
def test_a_wrong_argument_is_answered_in_two_lines(arguments, words, capsys):
    status, text, error = run(capsys, *arguments)
    assert status == 2 and text == "" and words in error and len(error.splitlines()) == 2
    assert re.search(r"^See `noisetilt.* --help`\.$", error.splitlines()[1])


def test_options_may_be_shortened_and_values_may_be_negative():
    parsed = PARSER.parse_args(["generate", "cat", "--rew=-redness", "--heldout", "none", "--guid", "-1"])
    assert (parsed.reward, parsed.guidance, parsed.heldout) == ("-redness", -1.0, "none")


@pytest.mark.parametrize(
    "reward", ["-redness", "- redness", "-1*style:3d", "-.5*redness", "-1e-1*a.py:r", "-1*redness - 2*brightness"]
)
@pytest.mark.parametrize("command", ["generate", "optimize", "invert"])
def test_a_reward_may_begin_with_a_negative_weight(command, reward):
    more = ["--prompt", "cat"] if command == "invert" else []
    assert PARSER.parse_args([command, "cat", *more, "--reward", reward, "--seed", "3"]).reward == reward
    assert PARSER.parse_args([command, "cat", *more, "--rew", reward]).reward == reward


@pytest.mark.parametrize(
    "arguments, nearest",
    [
        (["generate", "cat", "--reward", "redness", "--method", "ntkr"], "'ntrk'"),
        (["generate", "cat", "--reward", "rednes"], "'redness'"),
        (["generate", "cat", "--reward", "redness", "--model", "emoji182"], "'emoji128'"),
        (["optimize", "cat", "--reward", "redness", "--method", "gperr"], "'gper'"),
        (["methods", "best-of"], "'best-of-n'"),
        (["plan", "FLUX.1-dv"], "'FLUX.1-dev'"),
        (["plan", "flux"], "'FLUX.1-dev'"),
        (["bench", "--suite", "exacts"], "'exact'"),
        (["bench", "--suite", "exact", "--methods", "nrtk"], "'ntrk'"),
        (["bench", "--suite", "paper", "--methods", "svd"], "'svdd'"),
        (["bench", "--suite", "paper", "--methods", "dps", "--targets", "rednes"], "'redness'"),
        (["bench", "--suite", "one-step", "--methods", "gperr"], "'gper'"),
        (["generate", "cat", "--reward", "greeness"], "'greenness'"),
        (["generate", "cat", "--reward", "style:notto"], "'style:noto'"),
        (["generate", "cat", "--reward", "noto"], "'style:noto'"),
        (["generate", "cat", "--reward", "teapot"], "'concept:teapot'"),
        (["generate", "cat", "--reward", "Rednes"], "'redness'"),
        (["generate", "cat", "--reward", "redness", "--heldout", "brightnes"], "'brightness'"),
        (["generate", "cat", "--reward", "redness", "--set", "roh=0.1"], "'rho'"),
        (["generate", "cat", "--reward", "redness", "--set", "whitened=mixtur"], "'mixture'"),
        (["optimize", "cat", "--reward", "redness", "--set", "optimiser=adamm"], "'adam'"),
        (["plan", "SDXL", "--dtype", "bfloat"], "'bfloat16'"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(arguments, nearest, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"did you mean {nearest}?" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["invert", "a.png", "--prompt", "cat", "dog"], "repeat the option: --prompt dog"),
        (["invert", "a.png", "--prompt", "red cat", "--steps", "2", "red dog"], "'red dog' is left over; put quotes"),
        (["methods", "ntrk", "dps"], "'dps' is one too many"),
    ],
)
def test_an_argument_that_is_left_over_is_named(arguments, message, capsys):
    status, _, error = run(capsys, *arguments)
    assert status == 2 and message in error


def test_an_output_that_nothing_reads_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        command = [sys.executable, "-m", "noisetilt", "methods"]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == ""


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


def test_every_extra_that_a_message_names_has_a_package():
    source = Path(missing_extra.__code__.co_filename).parent
    named = {
        call.args[0].value
        for file in source.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "missing_extra"
    }
    assert {"table", "opentelemetry"} <= named <= PACKAGES.keys()


def test_without_diffusers_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["plan", "SD-1.5"]) == 2
    assert 'pip install ".[diffusers]"' in capsys.readouterr().err


def test_a_closed_output_is_no_error(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # as Python has them for `>&-` and `2>&-`
    assert main(["methods"]) == 0
    assert main(["generate", "cat face", "--reward", "redness", "--n", "0"]) == 2


def test_the_included_models_need_no_plan(capsys):
    assert main(["plan", "emoji128"]) == 2
    assert "the model emoji128 needs no GPU, and plan is for pipelines; give one" in capsys.readouterr().err


def test_a_warning_that_no_user_can_act_on_is_not_shown(monkeypatch, capsys):
    def warned(args):
        warnings.warn("The `local_dir_use_symlinks` argument is deprecated and ignored", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    monkeypatch.setattr("noisetilt.cli.list.main", warned)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert main(["methods"]) == 0
    assert "local_dir_use_symlinks" not in capsys.readouterr().err + str([str(w.message) for w in shown])


@pytest.mark.parametrize("command", ["generate", "optimize", "invert"])
@pytest.mark.parametrize("option, message", [("--seed", "seed = -1"), ("--out", "has a run already")])
def test_wrong_numbers_and_folders_are_refused_before_anything_heavy_is_imported(
    command, option, message, tmp_path, monkeypatch, capsys
):
    (tmp_path / "run.json").write_text('{"command": "generate", "complete": true}')
    monkeypatch.setitem(sys.modules["noisetilt.cli.main"].MODULES, command, "missing")
    value = "-1" if option == "--seed" else str(tmp_path)
    arguments = ["cat.png", "--prompt", "cat"] if command == "invert" else ["cat", "--reward", "redness"]
    assert main([command, *arguments, option, value]) == 2 and message in capsys.readouterr().err


def test_the_early_checks_import_no_network():
    done = subprocess.run(
        [sys.executable, "-c", "import noisetilt.cli, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False False\n"

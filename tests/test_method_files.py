"""Methods from a Python file: "FILE.py:NAME"."""

import json
import os

import pytest
import torch

from noisetilt import METHODS, Method, sample
from noisetilt._python_files import imported_files
from noisetilt.cli.main import main
from noisetilt.inversion.invert import inversion_method
from noisetilt.methods import find_method
from noisetilt.models.exact import GaussianModel
from noisetilt.rewards import Reward
from noisetilt.rewards.catalogue import reward_files

PROPOSAL = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scale import unit


@dataclass(frozen=True)
class Blend:
    omega: float = 0.05
    needs_gradient: ClassVar[bool] = True

    def __call__(self, step, noise):
        return step.mean + step.std * ((1 - self.omega) * noise + self.omega * unit(step.gradient))
"""
SCALE = """
def unit(gradient):
    return gradient / gradient.flatten(1).square().mean(1).sqrt().clamp(min=1e-12).view(-1, 1, 1, 1)
"""
MINE = """
from blend import Blend
from noisetilt import METHODS, Method

MINE = Method(proposal=Blend(), summary="a blend of noise and gradient")
SEARCH = MINE.replace(selection=METHODS["svdd"].selection)
PART = Blend()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a method's file, and two modules that it imports, one through the other."""
    for name, text in (("mine", MINE), ("blend", PROPOSAL), ("scale", SCALE)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_method_of_a_file_samples_as_the_object_does(folder):
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8))
    mean = Reward("mean", lambda images, prompts: images.mean((1, 2, 3)))
    named = sample(model, [""] * 2, mean, "mine.py:MINE", 4).images
    found = find_method(f"{folder}/mine.py:MINE")
    assert isinstance(found, Method) and torch.equal(sample(model, [""] * 2, mean, found, 4).images, named)
    assert not torch.equal(sample(model, [""] * 2, mean, found.replace(omega=0.5), 4).images, named)
    with pytest.raises(ValueError, match="omega = 'much' must be a number"):
        found.replace(omega="much")


def test_a_file_is_read_again_after_a_change_of_it_or_of_what_it_imports(folder):
    first = find_method("mine.py:MINE")
    assert find_method("mine.py:MINE") is first
    for name, text in (("mine", MINE.replace("Blend(), s", "Blend(0.5), s")), ("blend", PROPOSAL.replace("05", "7"))):
        (folder / f"{name}.py").write_text(text)
        os.utime(folder / f"{name}.py", ns=(0, 0))  # also where the clock of the disk is coarse
        again = find_method("mine.py:MINE")
        assert again is not first and find_method("mine.py:MINE") is again
    assert again.proposal.omega == 0.5 and type(again.proposal)().omega == 0.7


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.py:MINE", r"'none\.py:MINE' needs the file none\.py, which does not exist"),
        ("mine.py:MINEE", r"mine\.py has no method 'MINEE' \(did you mean 'MINE'\?\); its methods are: MINE, SEARCH"),
        ("mine.py:", r"mine\.py has no method ''; its methods are: MINE, SEARCH"),
        ("mine.py:Blend", r"is a class, expected an object of the class Method; write MINE = Method\(proposal=Blend\("),
        ("mine.py:PART", r"is of the type Blend, expected an object of the class Method"),
        ("mine.py", r"'mine\.py' is a file; give also the name of a Method in it: mine\.py:NAME"),
        ("bad.py:MINE", r"bad\.py cannot be executed: ZeroDivisionError: .* \(bad\.py, line 2\); mend the file"),
        ("exits.py:MINE", r"exits\.py cannot be executed: SystemExit"),
        ("syntax.py:MINE", r"syntax\.py cannot be executed: SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(folder, name, said):
    (folder / "bad.py").write_text("x = 0\ny = 1 / x\n")
    (folder / "exits.py").write_text("raise SystemExit(3)\n")
    (folder / "syntax.py").write_text("MINE = (\n")
    with pytest.raises(ValueError, match=said):
        find_method(name)


def test_a_file_s_name_gives_it_no_properties_of_a_named_method(folder):
    """GPER has another rate when it inverts."""
    (folder / "gper-mine.py").write_text("from noisetilt import METHODS\nMINE = METHODS['gper'].replace(rate=0.5)\n")
    assert inversion_method("gper-mine.py:MINE").options()["rate"] == 0.5
    assert inversion_method("gper").options()["rate"] != METHODS["gper"].options()["rate"]


def test_the_imports_of_a_file_are_those_of_its_folder(tmp_path):
    package = tmp_path / "parts"
    package.mkdir()
    (tmp_path / "a.py").write_text("import torch, b\nfrom parts import tilt\n\n\ndef f():\n    import parts.late\n")
    (tmp_path / "b.py").write_text("import a\n")  # and back
    (package / "__init__.py").write_text("")
    (package / "tilt.py").write_text("from .deep import x\nfrom . import other\n")
    for name in ("deep", "other", "late", "unused"):
        (package / f"{name}.py").write_text("x = 1\n")
    (tmp_path / "unused.py").write_text("(")
    found = {file.relative_to(tmp_path).as_posix() for file in imported_files(tmp_path / "a.py")}
    inside = {f"parts/{name}.py" for name in ("__init__", "tilt", "deep", "other", "late")}
    assert found == {"a.py", "b.py", *inside}


def test_the_modules_that_a_reward_imports_count_as_its_files(folder):
    (folder / "red.py").write_text("import scale\n\n\ndef red(images):\n    return images[:, 0].mean((1, 2))\n")
    assert {file.name for file in reward_files("0.5*red.py:red + redness")} == {"red.py", "scale.py"}


def test_generate_takes_it_and_does_not_continue_with_another_one(folder, capsys):
    arguments = ["generate", "red heart", "--reward", "redness", "--method", "mine.py:MINE", "--steps", "2", "--n", "2"]
    assert main([*arguments, "--out", "run", "--set", "omega=0.3"]) == 0
    record = json.loads((folder / "run/run.json").read_text())
    assert set(record["checksums"]) == {"mine.py", "blend.py", "scale.py"}
    assert "mine.py:MINE" in json.dumps(record)
    (folder / "scale.py").write_text(SCALE + "# changed\n")
    assert main([*arguments, "--out", "run", "--set", "omega=0.3", "--resume"]) == 2
    assert "scale.py has changed since the run" in " ".join(capsys.readouterr().err.split())


def test_methods_describes_it(folder, capsys):
    assert main(["methods", "mine.py:MINE"]) == 0
    assert "Blend(omega=0.05)" in capsys.readouterr().out

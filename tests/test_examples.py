"""Every example runs as it is, on tiny networks."""

import importlib
import re
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RUN = {
    "own_reward": ("png", 32),
    "sdxl_aesthetic": ("png", 32),
    "flux_pickscore": ("png", 32),
    "wan_video": ("gif", 32),
    "inverse_problem": ("png", 64),
}


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Imports an example, whose temporary folders are made where pytest removes them."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return importlib.import_module


@pytest.mark.parametrize("name", RUN)
def test_runs(name, example, tmp_path, capsys):
    """It ends, shows figures, evaluates the network once a step, and writes its pictures side by side."""
    example(name).main(["--out", str(tmp_path)])
    text, (ending, width) = capsys.readouterr().out, RUN[name]
    assert "nan" not in text and re.search(r"reward [+-]\d|distance of the measurements \d", text)
    assert all(count == "4" for count in re.findall(r"(\d+) evaluations", text))
    picture = Image.open(tmp_path / f"{name}.{ending}")
    assert picture.size == (width, 16)
    assert getattr(picture, "n_frames", 1) == (5 if name == "wan_video" else 1)


def test_wan_follows_videoreward(example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES.parent / "tests" / "rewards"), *sys.path])
    importlib.import_module("tiny_towers").videoreward(tmp_path)
    example("wan_video").main(["--out", str(tmp_path), "--videoreward", str(tmp_path)])
    assert re.search(r"ntrk +reward [+-]\d.*held-out [+-]\d", capsys.readouterr().out)


def test_every_example_is_run():
    """But for the ones that are only for real models, and what they share."""
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {*RUN, "common", "ascent_sd_turbo"}

"""Settings in a PNG are data: they are validated, and nothing in them is executed or loaded."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from noisetilt.cli import main
from noisetilt.cli.generate import GenerateJob
from noisetilt.studio.files import restore

NAMES = ["style:3d", "redness"]
GOOD = {
    "prompt": "cat face",
    "reward": "style:3d + 50*redness",
    "method": "ntrk",
    "options": {"rho": 0.015},
    "steps": 4,
    "n": 1,
    "seed": 7,
    "model": "emoji128",
    "studio": {"strength": 0.5, "n": 3, "seed": 5},
}


def png(folder, settings, text=None):
    info, file = PngInfo(), folder / "a.png"
    if settings is not None or text is not None:
        info.add_text("noisetilt", json.dumps(settings) if text is None else text)
    Image.new("RGB", (4, 4)).save(file, pnginfo=info)
    return file


def read(file):
    return restore(file, NAMES, GenerateJob(prompt="", reward="", guidance=3.0, dtype="float32"), "emoji128-turbo")


def test_good_settings(tmp_path):
    fields, notes = read(png(tmp_path, GOOD))
    assert notes == []
    assert fields == {
        "tab": "generate",
        "prompt": "cat face",
        "sliders": {"style:3d": 1.0, "redness": 0.5},
        "n": 3,
        "seed": 5,
        "steps": 4,
        "method": "ntrk",
        "strength": 0.5,
    }


def test_a_png_of_the_command_line_is_restored(tmp_path):
    arguments = ["generate", "cat face", "--model", "emoji128", "--reward", "style:3d", "--method", "ntrk"]
    assert (
        main([*arguments, "--set", "rho=0.01", "--steps", "2", "--n", "1", "--seed", "9", "--out", str(tmp_path)]) == 0
    )
    fields, notes = read(tmp_path / "cat-face-9-guided.png")
    assert fields["seed"] == 9 and fields["steps"] == 2 and 0 < fields["strength"] < 0.5
    assert notes == []


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"prompt": 3}, "no prompt"),
        ({"prompt": "a" * 501}, "no prompt"),
        ({"reward": "evil.py:run"}, "no slider"),
        ({"reward": "9*style:3d"}, "ends at"),
        ({"reward": ["style:3d"]}, "no reward"),
        ({"reward": "style:3d ("}, "cannot read"),
        ({"method": "magic"}, "does not offer"),
        ({"method": ["ntrk"]}, "does not offer"),
        ({"options": "rho"}, "no options"),
        ({"steps": 10**9}, "from 1 to 200"),
        ({"steps": "4"}, "whole number"),
        ({"studio": {"n": -1}}, "from 1 to 16"),
        ({"steps": 10**400}, "from 1 to 200"),
        ({"studio": None, "seed": 10**400}, "the seed"),
        ({"studio": None, "seed": 1e400}, "the seed"),
        ({"iterations": True, "method": "gper"}, "iterations"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, changes, word):
    with pytest.raises(ValueError, match=word):
        read(png(tmp_path, {**GOOD, **changes}))


@pytest.mark.parametrize(
    "text, word",
    [
        (None, "carries no settings"),
        ("{", "damaged"),
        ("[1]", "damaged"),
        ("[" * 50000, "damaged"),
        ("x" * 200_000, "carries no settings"),
    ],
)
def test_damaged_settings_are_refused(tmp_path, text, word):
    with pytest.raises(ValueError, match=word):
        read(png(tmp_path, None, text))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\nbroken", b"\x80\x04\x95pickle"])
def test_a_file_that_is_no_png_is_refused(tmp_path, data):
    file = tmp_path / "a.png"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="not a PNG"):
        read(file)


def test_what_the_page_has_no_field_for_is_said(tmp_path):
    changed = {**GOOD, "options": {"rho": 0.4, "schedule": "linear"}, "model": "other", "studio": "?"}
    fields, notes = read(png(tmp_path, changed))
    assert fields["strength"] == 1 and fields["seed"] == 7 and fields["n"] == 1
    assert "rho = 0.4, schedule = 'linear'" in notes[0] and "'other'" in notes[1]


def test_whole_numbers_that_no_float_can_be(tmp_path):
    fields, _ = read(png(tmp_path, {**GOOD, "options": {"rho": 10**400}, "studio": {"strength": 10**400}}))
    assert fields["strength"] == 1


def test_other_settings_of_the_run_are_named(tmp_path):
    own = {"eta": 1.0, "gradient_at": "x_t", "guidance": 3.0, "dtype": "float32", "heldout": None, "lora": []}
    assert read(png(tmp_path, {**GOOD, **own, "height": None}))[1] == []
    changed = {"eta": 0.5, "gradient_at": "x0", "guidance": 2.0, "dtype": "float16", "heldout": "redness"}
    changed |= {"height": 64, "width": 32, "frames": 5, "lora": ["a"]}
    _, notes = read(png(tmp_path, {**GOOD, **changed}))
    assert len(notes) == len(changed) and "It was made with eta = 0.5; this page has 1.0." in notes
    assert "It was made with heldout = redness; this page has the default." in notes
    ascent = {**GOOD, "method": "gper", "options": {"rate": 0.02}, "iterations": 3, "model": "emoji128-turbo"}
    assert read(png(tmp_path, {**ascent, "patience": 10, "guidance": 1.0, "dtype": "float32"}))[1] == []
    assert read(png(tmp_path, {**ascent, "patience": 10, "guidance": None, "dtype": None}))[1] == []
    _, notes = read(png(tmp_path, {**ascent, "patience": 3, "guidance": 2.0}))
    assert [note.split()[4] for note in notes] == ["patience", "guidance"]


def test_pngs_of_optimize_are_restored(tmp_path):
    arguments = ["optimize", "cat face", "--reward", "redness", "--iterations", "1", "--n", "1", "--set", "rate=0.02"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert read(tmp_path / "cat-face-0-guided.png").notes == []
    fields, [note] = read(tmp_path / "cat-face-0-base.png")
    assert fields["tab"] == "optimise" and fields["sliders"]["redness"] == 0.01 and "without guidance" in note
    assert not {"method", "strength", "iterations", "steps"} & set(fields)


def test_base_keeps_method_and_strength(tmp_path):
    fields, notes = read(png(tmp_path, {**GOOD, "method": "base", "options": {}}))
    assert "method" not in fields and "strength" not in fields and "without guidance" in notes[0]


def test_an_image_of_too_many_pixels_is_refused_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)  # twice as many are refused
    with pytest.raises(ValueError, match="too many pixels"):
        read(png(tmp_path, GOOD))

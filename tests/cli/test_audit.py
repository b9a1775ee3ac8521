"""`noisetilt audit` reads the documented files, rejects what is not white noise, and plots its bands."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from noisetilt.cli import main
from noisetilt.cli.audit import rejecting_tests
from noisetilt.noise import audit


def white(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_noise_passes_and_colour_does_not(tmp_path, capsys):
    x = white(3, 3, 32, 32)
    np.save(tmp_path / "white.npy", x.numpy())
    np.save(tmp_path / "coloured.npy", (x + x.roll(1, -1)).numpy())
    assert main(["audit", str(tmp_path / "white.npy"), "--batch"]) == 0
    assert "0 of 3 rejected" in capsys.readouterr().out
    assert main(["audit", str(tmp_path / "coloured.npy"), "--batch", "--standardise"]) == 0
    assert "3 of 3 rejected" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(1024,), (1024, 1), (1024, 1, 1)])
def test_a_sequence_may_have_axes_of_one_position(shape, tmp_path, capsys):
    np.save(tmp_path / "x.npy", white(*shape).numpy())
    assert main(["audit", str(tmp_path / "x.npy")]) == 0
    assert "0 of 1 rejected" in capsys.readouterr().out and (tmp_path / "x.audit.png").exists()


def test_an_array_without_a_batch_or_a_vector_is_refused(tmp_path, capsys):
    np.save(tmp_path / "x.npy", white(1024).numpy())
    save_file({"number": torch.tensor(1.0)}, tmp_path / "number.safetensors")
    for option in ([], ["--standardise"]):
        assert main(["audit", str(tmp_path / "x.npy"), "--batch", *option]) == 2
        assert "shape (1024,), expected a batch of vectors; leave out --batch" in capsys.readouterr().err
        assert main(["audit", str(tmp_path / "number.safetensors"), *option]) == 2
        assert "shape (), expected a vector" in capsys.readouterr().err


def test_names_a_tensor(tmp_path, capsys):
    file = tmp_path / "two.safetensors"
    save_file({"a": white(3, 32, 32), "b": torch.ones(3, 32, 32)}, file)
    assert main(["audit", str(file)]) == 2
    assert "expected one of a, b" in capsys.readouterr().err
    assert main(["audit", str(file), "--tensor", "b"]) == 0
    assert "1 of 1 rejected" in capsys.readouterr().out


def test_reads_images(tmp_path, capsys):
    shade = (np.arange(64)[:, None] * 2 + np.arange(64)).astype(np.uint8)
    Image.fromarray(np.stack([shade] * 3, 2)).save(tmp_path / "ramp.png")
    assert main(["audit", str(tmp_path / "ramp.png")]) == 0
    assert "1 of 1 rejected" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_paints_the_offending_band_red(tmp_path):
    wave = torch.cos(2 * np.pi * 8 * torch.arange(64) / 64)
    np.save(tmp_path / "wave.npy", (white(3, 64, 64) + wave).numpy())
    assert main(["audit", str(tmp_path / "wave.npy"), "--out", str(tmp_path / "plots" / "out.png")]) == 0
    picture = np.asarray(Image.open(tmp_path / "plots" / "out.png").convert("RGB")).astype(int)
    assert ((picture - [214, 39, 40]).__abs__().sum(2) < 30).sum() > 200


def test_refuses_other_files(tmp_path, capsys):
    (tmp_path / "x.txt").write_text("1")
    assert main(["audit", str(tmp_path / "x.txt")]) == 2
    assert "expected one of .npy" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "missing.npy")]) == 2


def test_refuses_a_plot_that_is_a_folder_and_a_constant_vector(tmp_path, capsys):
    np.save(tmp_path / "constant.npy", np.ones((2, 64), np.float32))
    np.save(tmp_path / "white.npy", white(1024).numpy())
    for out in ("", str(tmp_path)):
        assert main(["audit", str(tmp_path / "constant.npy"), "--out", out]) == 2
        assert "is a folder, expected a file for the plot" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "white.npy"), "--out", str(tmp_path / "white.npy" / "b.png")]) == 2
    assert capsys.readouterr().err.rstrip().endswith("white.npy: file exists; choose another name")
    assert main(["audit", str(tmp_path / "constant.npy"), "--standardise"]) == 2
    assert "has a vector whose numbers are all equal" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--tensor", "b"], "tensor = 'b' is for .safetensors files and the file is x.npy"),
        (["--out", "bands.jpg"], "out = bands.jpg must be a PNG file, such as bands.png"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments, word, tmp_path, capsys):
    np.save(tmp_path / "x.npy", white(3, 32, 32).numpy())
    assert main(["audit", str(tmp_path / "x.npy"), *arguments]) == 2
    assert word in capsys.readouterr().err


def test_the_plot_does_not_replace_the_file(tmp_path, capsys):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "x.png")
    before = (tmp_path / "x.png").read_bytes()
    (tmp_path / "link.png").symlink_to("x.png")
    for out in ("x.png", "link.png"):
        assert main(["audit", str(tmp_path / "x.png"), "--out", str(tmp_path / out)]) == 2
        assert "is the file that is tested, which the plot would replace" in capsys.readouterr().err
    assert (tmp_path / "x.png").read_bytes() == before


def test_the_rejecting_tests_are_named():
    result = audit(torch.cat([white(1, 3, 32, 32), 1.2 * white(1, 3, 32, 32)]))
    names = rejecting_tests(result, 0.01)
    assert names and min(result.tests, key=lambda name: result.tests[name].min()) == names[0]
    assert rejecting_tests(audit(white(3, 3, 32, 32)), 0.01) == []

"""Flags whose effect on images is tested elsewhere: each reaches the function that it is for."""

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt import load
from noisetilt.cli import batch, bench, generate, invert, main, optimize


class Stop(ValueError):
    """Ends a command where the flag has arrived."""


def stop_in(monkeypatch, module, name, taken):
    """Replaces a function of a module by one that records its arguments and ends the command."""

    def stub(*args, **kwargs):
        taken.append((args, kwargs))
        raise Stop("stopped")

    monkeypatch.setattr(module, name, stub)


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("diffusers")
    return {name: load(name) for name in ("emoji128", "emoji128-turbo")}


@pytest.mark.parametrize("flags, expected", [
    (["--gradient-at", "x0"], {"gradient_at": "x0"}), (["--eta", "0.5"], {"eta": 0.5}),
    (["--chunk", "3"], {"chunk": 3}), ([], {"gradient_at": "x_t", "eta": 1.0, "chunk": 8}),
])  # fmt: skip
def test_generate(flags, expected, models, tmp_path, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(generate, "load_job_model", lambda job: models[job.model])
    stop_in(monkeypatch, generate, "sample", taken)
    arguments = ["cat face", "--reward", "redness", "--heldout", "none", "--steps", "2", "--n", "1"]
    assert main(["generate", *arguments, *flags, "--out", str(tmp_path)]) == 2
    assert "stopped" in capsys.readouterr().err
    assert {name: taken[0][1][name] for name in expected} == expected


@pytest.mark.parametrize("flags, expected", [
    (["--patience", "7"], {"patience": 7}), (["--patience", "0"], {"patience": 0}), ([], {"patience": 10}),
    (["--gradient-at", "x0"], {"gradient_at": "x0"}), (["--chunk", "3"], {"chunk": 3}),
])  # fmt: skip
def test_optimize(flags, expected, models, tmp_path, monkeypatch):
    """The base variant has no iteration, and no patience."""
    taken, real = [], optimize.optimize
    monkeypatch.setattr(optimize, "load_job_model", lambda job: models[job.model])

    def second_stops(*args, **kwargs):
        taken.append(kwargs)
        if len(taken) == 2:
            raise Stop("stopped")
        return real(*args, **kwargs)

    monkeypatch.setattr(optimize, "optimize", second_stops)
    arguments = ["cat face", "--reward", "style:3d", "--iterations", "1", "--n", "1"]
    assert main(["optimize", *arguments, *flags, "--out", str(tmp_path)]) == 2
    assert {name: taken[1][name] for name in expected} == expected and taken[0]["patience"] == 0


@pytest.mark.parametrize("flags, expected", [
    (["--layout", "0.5"], {"layout": 0.5, "keep": 1.0}), (["--keep", "2"], {"keep": 2.0, "layout": 0.0}),
    (["--edit-iterations", "3"], {"iterations": 3}), ([], {"iterations": 20, "keep": 1.0, "layout": 0.0}),
])  # fmt: skip
def test_invert(flags, expected, models, tmp_path, monkeypatch):
    taken = []

    class Found:
        def edit(self, text, reward, **options):
            taken.append(options)
            raise Stop("stopped")

    monkeypatch.setattr(invert, "load_job_model", lambda job: models[job.model])
    monkeypatch.setattr(invert, "invert", lambda *args, **kwargs: Found())
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photo.png")
    arguments = [str(tmp_path / "photo.png"), "--prompt", "cat face", "--edit", "house", *flags]
    assert main(["invert", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert {name: taken[0][name] for name in expected} == expected


@pytest.mark.parametrize("flags, expected", [
    (["--fail-fast"], {"fail_fast": True}), (["--retries", "5"], {"retries": 5}), (["--threads", "3"], {"threads": 3}),
    (["--eta", "0.5"], {"eta": 0.5}), (["--gradient-at", "x0"], {"gradient_at": "x0"}),
    (["--chunk", "3"], {"chunk": 3}), (["--n", "3", "--seed", "4"], {"n": 3, "seed": 4}),
    (["--heldout", "none"], {"heldout": False}),
    ([], {"fail_fast": False, "retries": 2, "threads": None, "eta": 1.0, "gradient_at": "x_t", "chunk": None}),
])  # fmt: skip
def test_batch(flags, expected, tmp_path, monkeypatch):
    taken = []
    stop_in(monkeypatch, batch, "run_batch", taken)
    assert main(["batch", "prompts.txt", *flags, "--out", str(tmp_path)]) == 2
    assert {name: taken[0][1][name] for name in expected} == expected


@pytest.mark.parametrize("flags, measure, images, strength", [
    ([], True, None, None), (["--report"], False, None, None), (["--images", "5"], True, 5, None),
    (["--strength", "rho=0.1,2"], True, None, ("rho", (0.1, 2))), (["--strength", "none"], True, None, (None, ())),
])  # fmt: skip
def test_bench(flags, measure, images, strength, tmp_path, monkeypatch):
    taken = []
    stop_in(monkeypatch, bench, "bench", taken)
    assert main(["bench", "--suite", "paper", *flags, "--out", str(tmp_path)]) == 2
    assert taken[0][0] == ("paper", tmp_path, False, None, None, measure, images, strength)


def test_models_lists_the_words_of_prompts(capsys):
    assert main(["models", "--words"]) == 0
    words = capsys.readouterr().out.split()
    assert {"cat", "face", "house", "3d"} <= set(words) and "emoji128-turbo" not in words and len(words) > 500


def test_the_level_of_the_audit_decides_what_is_rejected(tmp_path, capsys):
    from noisetilt.noise import audit

    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "x.npy", x.numpy())
    p = audit(x).p_value.item()
    assert 0 < p < 0.99
    for level, rejected in ((p / 2, 0), ((1 + p) / 2, 1)):
        assert main(["audit", str(tmp_path / "x.npy"), "--batch", "--level", str(level)]) == 0
        assert f"{rejected} of 1 rejected as white Gaussian noise at level {level:g}" in capsys.readouterr().out


@pytest.mark.parametrize("module, arguments", [
    (generate, ["generate", "cat face"]), (optimize, ["optimize", "cat face"]),
    (invert, ["invert", "photo.png", "--prompt", "cat face", "--edit", "house"]),
])  # fmt: skip
def test_the_files_of_rewards_have_checksums(module, arguments, tmp_path, monkeypatch):
    taken = []
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.png")
    (tmp_path / "calm.py").write_text("def calm(images):\n    return images.mean((1, 2, 3))\n")
    stop_in(monkeypatch, module, "warn_of_memory", taken)
    assert main([*arguments, "--reward", "calm.py:calm", "--out", "out"]) == 2
    assert list(taken[0][0][0].checksums) == ["calm.py"]

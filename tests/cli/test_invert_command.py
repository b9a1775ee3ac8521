import contextlib
import dataclasses
import hashlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import noisetilt
from noisetilt.cli import invert, main
from noisetilt.cli.invert import InvertJob
from noisetilt.cli.progress import claim_run

SHORT = ["--iterations", "2", "--batch", "1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, colour in enumerate(("red", "gold", "teal")):
        image = Image.new("RGB", (90 + 10 * number, 70), "white")
        image.paste(colour, (20, 10, 70, 60))
        image.save(folder / f"{colour}.png")
    return [str(folder / f"{colour}.png") for colour in ("red", "gold", "teal")]


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    edits = ["--edit", "house", "--edit", "cat face 3d", "--reward", "redness", "--edit-iterations", "1"]
    assert main(["invert", *photos[:2], "--prompt", "cat face", *edits, *SHORT, "--seed", "4", "--out", str(out)]) == 0
    return out


def test_the_files_of_a_run(finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["command"] == "invert" and record["complete"] and len(record["images"]) == 2
    for number, (row, stem) in enumerate(zip(record["images"], ("red", "gold"), strict=True)):
        assert row["seed"] == 4 + number and row["nfe"] == 3 and len(row["curve"]) == 3
        assert row["distance"] == min(row["curve"]) and row["psnr"] == pytest.approx(-10 * np.log10(row["distance"]))
        assert list(row["files"]) == ["target", "found", "edit-1", "edit-2", "noise"]
        for name in list(row["files"].values())[:4]:
            assert name.startswith(f"{stem}-{number}-") and Image.open(finished / name).size == (128, 128)
        assert load_file(finished / f"{stem}-{number}-noise.safetensors")["noise"].shape == (16, 16, 16)
        assert [edit["prompt"] for edit in row["edits"]] == ["house", "cat face 3d"]
        values = {
            kind: json.loads(Image.open(finished / row["files"][kind]).text["noisetilt"])["reward_value"]
            for kind in ("target", "found", "edit-1", "edit-2")
        }
        assert list(values.values()) == [None, row["reward_value"], *(edit["reward_value"] for edit in row["edits"])]
        pixels = np.asarray(Image.open(finished / row["files"]["edit-1"])) / 255
        redness = pixels[..., 0].mean() - pixels[..., 1:].mean()
        assert row["edits"][0]["reward_value"] == pytest.approx(redness, abs=5e-3)
    assert (finished / "grid.png").stat().st_size > 1000


def test_other_edits_are_made_of_the_noise_of_an_earlier_run(finished, photos, tmp_path, capsys):
    noise = [f"--noise={finished / f'{stem}-{i}-noise.safetensors'}" for i, stem in enumerate(("red", "gold"))]
    options = ["--reward", "redness", "--edit-iterations", "1", *SHORT[2:], "--seed", "4"]
    command = ["invert", *photos[:2], "--prompt", "cat face", *noise, "--edit", "house", *options]
    assert main([*command, "--out", str(tmp_path / "o")]) == 0
    before, now = (json.loads((folder / "run.json").read_text()) for folder in (finished, tmp_path / "o"))
    for row, again in zip(before["images"], now["images"], strict=True):
        assert again["curve"] == [pytest.approx(row["distance"])] and again["edits"][0]["prompt"] == "house"
        assert again["edits"][0]["reward_value"] == pytest.approx(row["edits"][0]["reward_value"], abs=1e-5)
    assert main([*command, "--resume", "--out", str(tmp_path / "o")]) == 0
    assert main([*command, "--overwrite", "--out", str(finished)]) == 2
    assert "is an input and a file of the run" in " ".join(capsys.readouterr().err.split())
    assert main([*command[:5], *noise[:1], "--out", str(tmp_path / "p")]) == 2
    assert "--noise is given 1 time for 2 photographs" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    save_file({"noise": torch.zeros(3, 8, 8)}, other)
    assert main(["invert", photos[0], "--prompt", "cat face", f"--noise={other}", "--out", str(tmp_path / "p")]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{other}: noise has the shape (3, 8, 8), expected (1, 16, 16, 16)" in error


@pytest.mark.parametrize("reward", [None, "redness"])
def test_the_figures_have_significant_digits_and_a_row_per_edit(reward, tmp_path, capsys):
    job = InvertJob(photos=[Path("a/cat.png")], prompt=["cat face"], edit=["dog face"], reward=reward, out=tmp_path)
    value, edited = (None, None) if reward is None else (0.0123456, -0.25)
    row = {"photo": "a/cat.png", "prompt": "cat face", "distance": 0.000123456, "psnr": 39.123, "p_value": 2.1e-57}
    row |= {"reward_value": value, "edits": [{"prompt": "dog face", "reward_value": edited}], "files": job.files(0)}
    invert._print_summary(job, [row])
    output = capsys.readouterr().out
    lines, text = [line.split() for line in output.splitlines()], " ".join(output.split())
    assert ["cat.png", "cat", "face", "0.000123", "39.1", "2.1e-57"] in lines
    assert "A p-value below 0.01 says that the noise found is not white Gaussian noise" in text
    values = {"found": [] if value is None else ["0.0123"], "edit-1": [] if edited is None else ["-0.25"]}
    assert ["cat.png", "edit:", "dog", "face", "cat-0-edit-1.png", *values["edit-1"]] in lines
    assert (["cat.png", "found", "cat-0-found.png", *values["found"]] in lines) == (reward is not None)
    assert f"Open {tmp_path / 'grid.png'}: the targets, the found images and the edits, in rows." in text


def test_the_table_fits_the_terminal(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert main(["invert", photos[0], "--prompt", "cat face", "--iterations", "0", "--out", str(tmp_path / "o")]) == 0
    table = capsys.readouterr().out.split("\n\n")[0]
    assert "  distance: " in table and max(map(len, table.splitlines())) <= 50


def test_it_is_what_the_function_gives(finished, photos):
    model = noisetilt.load("emoji128-turbo")
    found = noisetilt.invert(model, photos[:2], "cat face", iterations=2, seeds=[4, 5])
    record = json.loads((finished / "run.json").read_text())
    assert [row["distance"] for row in record["images"]] == pytest.approx(found.distances.tolist(), rel=1e-3)
    stored = np.asarray(Image.open(finished / "gold-1-found.png")).astype(int)
    made = (found.images[1] * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(stored - made).max() <= 2
    assert torch.allclose(load_file(finished / "gold-1-noise.safetensors")["noise"], found.noise[1], atol=1e-3)


def digests(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.glob("*-*.png")}


def test_a_run_is_continued_without_making_finished_images_again(photos, tmp_path, monkeypatch, capsys):
    arguments = ["invert", *photos, "--prompt", "cat face", "--edit", "house", *SHORT]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    real, calls = invert.invert, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(invert, "invert", interrupted)
    out = ["--out", str(tmp_path / "parts")]
    assert main([*arguments, *out]) == 130
    assert "interrupted; 2 of 3 photographs are in" in capsys.readouterr().err
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert not record["complete"] and len(record["images"]) == 2
    assert main([*arguments, *out]) == 2 and "--resume" in capsys.readouterr().err
    assert main([*arguments, *out, "--resume", "--seed", "7"]) == 2 and "another seed" in capsys.readouterr().err
    assert main([*arguments, *out, "--resume"]) == 0 and len(calls) == 4
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    (tmp_path / "parts" / "gold-1-noise.safetensors").unlink()
    assert main([*arguments, *out, "--resume"]) == 0 and len(calls) == 5
    assert (tmp_path / "parts" / "gold-1-noise.safetensors").is_file()
    assert main([*arguments, *out, "--overwrite"]) == 0 and len(calls) == 8


def test_a_run_whose_record_was_lost_is_continued(photos, tmp_path, monkeypatch, capsys):
    arguments = ["invert", photos[0], "--prompt", "cat face", "--iterations", "0", "--out", str(tmp_path)]
    assert main(arguments) == 0
    before = digests(tmp_path)
    (tmp_path / "run.json").unlink()
    monkeypatch.setattr(invert, "invert", None)  # nothing is made again
    assert main(arguments) == 2 and "has a run already; give --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--seed", "7"]) == 2 and "other settings" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0 and digests(tmp_path) == before
    arguments[1] = str(tmp_path / "red-0-found.png")
    assert main([*arguments, "--overwrite"]) == 2 and "is an input and a file of the run" in capsys.readouterr().err
    assert digests(tmp_path) == before and (tmp_path / "run.json").exists()


def test_the_files_of_an_exact_inversion_are_json_without_infinity(photos, tmp_path, monkeypatch, capsys):
    real = invert.invert

    def exact(*args, **kwargs):
        found = real(*args, **kwargs)
        return dataclasses.replace(found, images=found.targets)

    monkeypatch.setattr(invert, "invert", exact)
    assert main(["invert", photos[0], "--prompt", "cat face", "--iterations", "0", "--out", str(tmp_path)]) == 0
    for file in ("run.json", "progress.jsonl"):
        assert "Infinity" not in (tmp_path / file).read_text()
    assert json.loads((tmp_path / "run.json").read_text())["images"][0]["psnr"] is None
    assert "nan" not in capsys.readouterr().out


def test_an_interrupt_in_the_last_batch_leaves_a_complete_run(photos, tmp_path, monkeypatch):
    real, calls = invert.invert, []

    def signalled(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(invert, "invert", signalled)
    arguments = ["invert", *photos[:2], "--prompt", "cat face", "--iterations", "0", "--batch", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["complete"]


def test_photographs_are_read_batch_by_batch_and_may_be_deleted_after_theirs(photos, tmp_path, monkeypatch):
    copies = [tmp_path / f"{number}.png" for number in range(3)]
    for copy, photo in zip(copies, photos, strict=True):
        Image.open(photo).save(copy)
    real_invert, real_read, read = invert.invert, invert.read_photo, []

    def reading(photo, size):
        if size != (8, 8):  # that is the check of the arguments
            read.append(photo.name)
        return real_read(photo, size)

    def deleting(*args, **kwargs):
        assert read == [copy.name for copy in copies[: len(read)]]
        copies[len(read) - 1].unlink()
        return real_invert(*args, **kwargs)

    monkeypatch.setattr(invert, "read_photo", reading)
    monkeypatch.setattr(invert, "invert", deleting)
    arguments = ["invert", *map(str, copies), "--prompt", "cat face", "--iterations", "0", "--batch", "1"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["complete"] and len(record["settings"]["sha256"]) == 3 == len(read)


def test_a_photograph_that_changes_during_the_run_is_not_taken_for_the_first_one(photos, tmp_path, monkeypatch, capsys):
    copies = [tmp_path / f"{number}.png" for number in range(2)]
    for copy in copies:
        Image.open(photos[0]).save(copy)
    real = invert.invert

    def changing(*args, **kwargs):
        Image.open(photos[1]).save(copies[1])
        return real(*args, **kwargs)

    monkeypatch.setattr(invert, "invert", changing)
    arguments = ["invert", *map(str, copies), "--prompt", "cat face", "--iterations", "0", "--batch", "1"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "1.png has changed since the run began" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["images"]) == 1


def test_a_continued_run_reads_its_finished_batches_once_and_its_bar_reaches_the_end(photos, tmp_path, monkeypatch):
    edits = ["--edit", "house", "--edit", "dog face", "--reward", "redness", "--edit-iterations", "1"]
    arguments = ["invert", *photos[:2], "--prompt", "cat face", *edits, *SHORT, "--gradient-at", "x0"]
    real, read, bars = invert.read_progress, [], []

    class Bar(contextlib.nullcontext):
        def __init__(self, total, unit, columns):
            self.total, self.count, self.texts = total, 0, []
            super().__init__(self)
            bars.append(self)

        def update(self, count=1):
            self.count += count

        def set_postfix_str(self, text, refresh=True):
            self.texts.append(text)

    monkeypatch.setattr(invert, "progress_bar", Bar)
    monkeypatch.setattr(invert, "read_progress", lambda *arguments: (read.append(1), real(*arguments))[1])
    for resume in ([], ["--resume"]):
        assert main([*arguments, "--out", str(tmp_path), *resume]) == 0
    assert len(read) == 2 and [(bar.count, bar.total) for bar in bars] == [(14, 14)] * 2
    assert sum(text.startswith("edit ") for text in bars[0].texts) == 8 and not bars[1].texts
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["gradient_at"] == "x0"


@pytest.mark.parametrize("line", ["{", "{}", "[]"])
def test_a_damaged_line_of_the_finished_batches_is_named(line, photos, tmp_path, capsys):
    arguments = ["invert", photos[0], "--prompt", "cat face", "--iterations", "0", "--out", str(tmp_path)]
    assert main(arguments) == 0
    (tmp_path / "progress.jsonl").write_text(line + "\n")
    assert main([*arguments, "--resume"]) == 2
    assert "progress.jsonl, line 1 is damaged; remove the line" in capsys.readouterr().err


def test_one_prompt_may_be_given_for_several_photographs_in_turn(photos, tmp_path):
    same = ["--prompt", "cat face", "--prompt", "cat face"]
    assert main(["invert", *photos[:2], *same, "--iterations", "0", "--out", str(tmp_path)]) == 0


def test_another_photograph_of_the_same_name_is_not_continued(photos, tmp_path, capsys):
    mine = tmp_path / "a.png"
    Image.open(photos[0]).save(mine)
    arguments = ["invert", str(mine), "--prompt", "cat face", "--iterations", "0", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    Image.open(photos[1]).save(mine)
    assert main([*arguments, "--resume"]) == 2 and "another sha256" in capsys.readouterr().err


def test_the_first_interrupt_finishes_the_batch(photos, tmp_path, monkeypatch):
    real = invert.invert

    def signalled(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(invert, "invert", signalled)
    arguments = ["invert", *photos, "--prompt", "cat face", "--iterations", "0", "--batch", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 130
    assert len(json.loads((tmp_path / "run.json").read_text())["images"]) == 1


WRONG = [
    (["missing.png"], ["--prompt", "cat face"], "there is no file missing.png"),
    ([__file__], ["--prompt", "cat face"], "cannot be read as an image"),
    (None, ["--prompt", "cat", "--prompt", "dog", "--prompt", "fox"], "3 prompts for 2 photographs"),
    (None, ["--prompt", "qqzz"], "qqzz"),
    (None, ["--prompt", "cat face", "--edit", "qqzz"], "qqzz"),
    (None, ["--prompt", "cat face", "--method", "gprr"], "gper"),
    (None, ["--prompt", "cat face", "--method", "ntrk"], "not a noise ascent"),
    (None, ["--prompt", "cat face", "--method", "hypernoise"], "method 'hypernoise' is unknown"),
    (None, ["--prompt", "cat face", "--distance", "lpips"], "distance = 'lpips'"),
    (None, ["--prompt", "cat face", "--iterations", "-1"], "iterations = -1"),
    (None, ["--prompt", "cat face", "--steps", "0"], "steps = 0"),
    (None, ["--prompt", "cat face", "--keep", "-1"], "keep = -1"),
    (None, ["--prompt", "cat face", "--set", "iterations=3"], "--iterations"),
    (None, ["--prompt", "cat face", "--reward", "rednes"], "redness"),
    (None, ["--prompt", "cat face", "--edit", "house", "--reward", "jpeg"], "no gradient"),
]


@pytest.mark.parametrize(("files", "arguments", "message"), WRONG, ids=lambda value: str(value)[-30:])
def test_wrong_input_is_refused_in_one_sentence(files, arguments, message, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["invert", *(files or photos[:2]), *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0 and not out.exists()


@pytest.mark.parametrize("options", [["--layout", "inf"], ["--keep", "inf"], ["--keep", "nan"]])
def test_weights_that_are_not_finite_are_refused(options, photos, tmp_path, capsys):
    assert main(["invert", photos[0], "--prompt", "cat face", *options, "--out", str(tmp_path / "o")]) == 2
    assert "must be a finite number, 0 or more" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_a_photograph_that_the_run_would_replace_is_refused(tmp_path):
    photos = [tmp_path / "a.png", tmp_path / "a-0-found.png"]
    job = InvertJob(photos=photos, prompt=["cat face"], out=tmp_path)
    with pytest.raises(ValueError, match=r"a-0-found.png is an input and a file of the run"):
        claim_run(job, "invert", job.photos).__enter__()
    with claim_run(dataclasses.replace(job, photos=photos[:1]), "invert", photos[:1]) as continued:
        assert not continued

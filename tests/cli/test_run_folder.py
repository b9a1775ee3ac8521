"""`generate` and `optimize` keep what is done: refusal to replace a run, resumption, signals."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from noisetilt.cli import generate, iterates, main, optimize
from noisetilt.cli.comparison import ImageBatch, Variant, print_summary, write_start
from noisetilt.cli.generate import GenerateJob
from noisetilt.cli.job_model import with_checksums
from noisetilt.cli.progress import claim_run, settings_digest, start_progress
from noisetilt.runs import Terminated, claim_folder, finished_parts, says_what_is_kept, write_bytes

COMMANDS = {
    "generate": ["generate", "cat face", "--reward", "redness", "--steps", "2", "--n", "2", "--batch", "1"],
    "prompts": [
        "generate",
        "cat face",
        "cat face 3d",
        "--reward",
        "redness",
        "--steps",
        "2",
        "--n",
        "1",
        "--batch",
        "1",
    ],
    "optimize": ["optimize", "cat face", "--reward", "redness", "--iterations", "1", "--n", "2", "--batch", "1"],
}
# The command with several prompts takes the same path as with one.
EACH = [pytest.param(name, marks=pytest.mark.long if name == "prompts" else ()) for name in COMMANDS]
MODULES = {"generate": (generate, "sample"), "prompts": (generate, "sample"), "optimize": (optimize, "optimize")}


def digests(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.glob("cat-face*.png")}


def drawings(out):
    return [(out / name).read_bytes() for name in ("strip.png", "animation.webp") if (out / name).exists()]


@pytest.mark.parametrize("command", EACH)
def test_a_run_is_continued_without_making_finished_images_again(command, tmp_path, monkeypatch, capsys):
    arguments = COMMANDS[command]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    module, function = MODULES[command]
    real, calls = getattr(module, function), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, interrupted)
    out = ["--out", str(tmp_path / "parts")]
    assert main([*arguments, *out]) == 130
    kept = f"interrupted; 3 of 4 images are in {tmp_path / 'parts'}; the same command with --resume continues\n"
    assert capsys.readouterr().err.endswith(kept)
    assert not json.loads((tmp_path / "parts" / "run.json").read_text())["complete"]
    assert len(digests(tmp_path / "parts")) == 3
    assert main([*arguments, *out]) == 2 and "--resume" in capsys.readouterr().err
    assert main([*arguments, *out, "--resume", "--seed", "7"]) == 2 and "another seed" in capsys.readouterr().err
    assert len(calls) == 4
    assert main([*arguments, *out, "--resume"]) == 0 and len(calls) == 5
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    assert drawings(tmp_path / "parts") == drawings(tmp_path / "whole")
    whole, parts = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "parts"))
    assert parts["complete"] and parts["images"] == whole["images"]
    for variant in ("base", "guided"):
        assert {**parts[variant], "seconds": 0} == {**whole[variant], "seconds": 0}
    assert main([*arguments, *out, "--overwrite"]) == 0 and len(calls) == 9


@pytest.mark.parametrize("command", ["generate", "optimize"])
def test_the_iterates_are_stored_while_they_are_needed(command, tmp_path, monkeypatch):
    """Of the images that are drawn, in 8 bits, until the run is complete; then a deleted image needs none of them."""
    arguments = [*COMMANDS[command], *(["--animate"] if command == "generate" else []), "--n", "3", "--out"]
    monkeypatch.setattr(iterates, "MAX_IMAGES", 2)
    module, function = MODULES[command]
    real, calls = getattr(module, function), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, interrupted)
    assert main([*arguments, str(tmp_path)]) == 130
    stored = {file.name: load_file(file) for file in (tmp_path / "iterates").iterdir()}
    variants = ["guided"] if command == "optimize" else ["base", "guided"]
    assert sorted(stored) == [f"{variant}-{first}.safetensors" for variant in variants for first in (0, 1)]
    assert {frame.dtype for frames in stored.values() for frame in frames.values()} == {torch.uint8}
    assert main([*arguments, str(tmp_path), "--resume"]) == 0 and len(calls) == 7
    before = drawings(tmp_path)
    assert len(before) == len(variants) % 2 + 1 and not (tmp_path / "iterates").exists()
    (tmp_path / "cat-face-1-guided.png").unlink()
    assert main([*arguments, str(tmp_path), "--resume"]) == 0 and len(calls) == 8
    assert drawings(tmp_path) == before and not (tmp_path / "iterates").exists()


class Bar:
    """A progress bar that counts."""

    def __init__(self, total, unit, columns=None):
        self.total, self.count = total, 0
        Bar.last = self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, count=1):
        self.count += count

    def set_postfix_str(self, text, refresh=True):
        pass


@pytest.mark.parametrize(
    "command, extra",
    [("generate", []), ("optimize", []), ("optimize", ["--iterations", "3", "--patience", "1", "--set", "rate=9"])],
)
def test_the_progress_bar_reaches_its_end(command, extra, tmp_path, monkeypatch):
    """Also with finished batches, and with images that stop early."""
    arguments = [*COMMANDS[command], *extra, "--n", "1", "--out", str(tmp_path)]
    module, _ = MODULES[command]
    monkeypatch.setattr(module, "progress_bar", Bar)
    for resume in ([], ["--resume"]):
        assert main([*arguments, *resume]) == 0
        assert Bar.last.count == Bar.last.total > 1


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, "1 of 6 rows is in out/a; the same command with --resume continues"),
        ({"resume": True}, "1 of 6 rows is in out/a; the same command continues"),
        (
            {"overwrite": True},
            "1 of 6 rows is in out/a; the same command with --resume instead of --overwrite continues",
        ),
    ],
)
def test_an_interrupt_says_what_is_kept(options, expected, monkeypatch, capsys):
    def interrupted(args):
        with says_what_is_kept(lambda: finished_parts(1, 6, "row", Path("out/a"), **options)):
            raise Terminated

    options = {"resume": False, "overwrite": False, **options}
    monkeypatch.setattr("noisetilt.cli.list.main", interrupted)
    assert main(["methods"]) == 143 and capsys.readouterr().err == f"\nnoisetilt: interrupted; {expected}\n"
    assert finished_parts(0, 1, "row", Path("out"), **options) == "no row is finished"


@pytest.mark.parametrize(
    "command, name", [("generate", "grid.png"), ("generate", "cat-face-1-base.png"), ("optimize", "strip.png")]
)
def test_a_file_that_is_of_no_run_is_not_replaced(command, name, tmp_path, monkeypatch, capsys):
    """This is noticed before the model is loaded."""
    monkeypatch.setattr(MODULES[command][0], "load_job_model", lambda job: pytest.fail("loaded"))
    (tmp_path / name).write_text("mine")
    (tmp_path / "other.png").write_text("mine")
    for resume in ([], ["--resume"]):
        assert main([*COMMANDS[command], "--out", str(tmp_path), *resume]) == 2
        assert f"{tmp_path} has {name}, which is no file of a run and would be replaced" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "other.png"])
    (tmp_path / name).unlink()
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        main([*COMMANDS[command], "--out", str(tmp_path)])


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_which_nothing_is_finished_is_started_afresh(resume, tmp_path):
    """Also with other settings and another content of a file, as after a reward that failed."""
    job = GenerateJob(prompt="cat face", reward="redness", out=tmp_path, batch=8, chunk=8, checksums={"a.py": "1"})
    (tmp_path / "iterates").mkdir()
    write_start(job, "generate")
    again = replace(job, n=2, checksums={"a.py": "2"}, resume=resume)
    with claim_run(again, "generate") as continued:
        assert not continued and not (tmp_path / "run.json").exists() and not (tmp_path / "iterates").exists()
        start_progress(again, continued)
        write_start(again, "generate")
        assert json.loads((tmp_path / "run.json").read_text())["requested"]["n"] == 2
    (tmp_path / "progress.jsonl").write_text(json.dumps({"variant": "base"}) + "\n")
    with pytest.raises(ValueError, match="has a run already"), claim_run(job, "generate"):
        pytest.fail("claimed")


def run_and_exit(arguments):
    sys.exit(main(arguments))


@pytest.mark.long
def test_signals_leave_a_valid_record(tmp_path):
    arguments = [*COMMANDS["generate"][:-4], "--n", "300", "--batch", "1", "--out"]
    sent = {"first": [signal.SIGINT], "second": [signal.SIGINT] * 2, "term": [signal.SIGTERM]}
    context = multiprocessing.get_context("forkserver")  # the processes share one import of torch
    context.set_forkserver_preload(["noisetilt.cli.generate", "diffusers", "matplotlib.pyplot"])
    processes = {
        name: context.Process(target=run_and_exit, args=([*arguments, str(tmp_path / name)],), daemon=True)
        for name in sent
    }
    for process in processes.values():
        process.start()
    for name, process in processes.items():
        deadline = time.monotonic() + 600
        while len(digests(tmp_path / name)) < 2 and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        for number in sent[name]:
            os.kill(process.pid, number)
            time.sleep(0.02)
    for name, process in processes.items():
        process.join(timeout=300)
        assert process.exitcode == (143 if name == "term" else 130)
        run = json.loads((tmp_path / name / "run.json").read_text())
        assert not run["complete"] and run["base"]["count"] == len(run["images"]) > 0
        assert {image["file"] for image in run["images"]} <= set(digests(tmp_path / name))


def test_a_new_run_keeps_no_file_of_the_run_that_it_replaces(tmp_path):
    short = ["--reward", "redness", "--steps", "2", "--n", "2", "--animate", "--out", str(tmp_path)]
    (tmp_path / "mine.txt").write_text("")
    assert main(["generate", "house", *short]) == 0
    before = {file.name for file in tmp_path.iterdir()}
    assert main(["generate", "cat face", *short, "--overwrite", "--steps", "1"]) == 0
    after = {file.name for file in tmp_path.iterdir()}
    assert after == {name.replace("house", "cat-face") for name in before}
    assert Image.open(tmp_path / "animation.webp").n_frames == 1


def test_a_record_cannot_name_files_of_other_folders(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other.png"
    out.mkdir()
    other.write_text("")
    (out / "run.json").write_text(json.dumps({"images": [{"file": "../other.png"}, {"files": {"a": str(other)}}, 3]}))
    with claim_folder(out, overwrite=True):
        assert other.exists() and not (out / "run.json").exists()


@pytest.mark.parametrize("command", EACH)
def test_a_run_whose_record_was_lost_is_continued(command, tmp_path, monkeypatch, capsys):
    arguments = [*COMMANDS[command], "--out", str(tmp_path)]
    assert main(arguments) == 0
    before, (module, function) = digests(tmp_path), MODULES[command]
    record, progress = ((tmp_path / name).read_text() for name in ("run.json", "progress.jsonl"))
    (tmp_path / "run.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(module, function, None)  # nothing is made again
        assert main(arguments) == 2 and "has a run already; give --resume" in capsys.readouterr().err
        assert main([*arguments, "--resume", "--seed", "7"]) == 2 and "other settings" in capsys.readouterr().err
        assert not (tmp_path / "run.json").exists() and (tmp_path / "progress.jsonl").read_text() == progress
        assert main([*arguments, "--resume"]) == 0
    assert digests(tmp_path) == before
    assert json.loads((tmp_path / "run.json").read_text())["images"] == json.loads(record)["images"]
    (tmp_path / "run.json").unlink()
    assert main([*arguments, "--overwrite"]) == 0 and digests(tmp_path) == before
    assert (tmp_path / "progress.jsonl").read_text().count("\n") == 4


@pytest.mark.parametrize("command", ["generate", "optimize"])
@pytest.mark.parametrize("name", ["rows.jsonl", "progress.jsonl"])
def test_finished_parts_of_something_else_are_kept(name, command, tmp_path, capsys):
    (tmp_path / name).write_text('{"step": 1}\n')
    arguments = [*COMMANDS[command], "--out", str(tmp_path)]
    assert main(arguments) == 2 and "has a run already" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 2
    assert main([*arguments, "--overwrite"]) == (2 if name == "progress.jsonl" else 0)
    assert (tmp_path / name).read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("command", ["generate", "optimize"])
def test_an_interrupt_in_the_last_batch_leaves_a_complete_run(command, tmp_path, monkeypatch):
    module, function = MODULES[command]
    real, calls = getattr(module, function), []

    def signalled(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, signalled)
    assert main([*COMMANDS[command], "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["complete"]


def test_names_of_many_bytes_are_written(tmp_path):
    write_bytes(tmp_path / ("漢" * 80 + ".txt"), b"1")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"1"]
    with pytest.raises(
        OSError, match=r"cannot write .*missing/a.txt: no such file or directory; make its folder first"
    ):
        write_bytes(tmp_path / "missing" / "a.txt", b"1")


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_name_that_no_folder_can_have_is_refused(name, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*COMMANDS["generate"], "--out", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith("; choose another name") and str(tmp_path) in error


def test_an_empty_output_folder_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main([*COMMANDS["generate"], "--out", ""])
    assert ended.value.code == 2 and "output folder is empty" in capsys.readouterr().err


def test_only_what_a_killed_process_left_is_deleted(tmp_path):
    left = [tmp_path / ".run.json.12.partial", tmp_path / "images" / "00001" / ".x.png.7.partial"]
    kept = [
        tmp_path / ".notes.partial",
        tmp_path / "mine" / ".x.png.7.partial",
        tmp_path / "images" / "other" / ".x.png.7.partial",
    ]
    for file in (*left, *kept, tmp_path / "images" / "other" / ".lock"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    with claim_folder(tmp_path):
        assert not any(file.exists() for file in left) and all(file.exists() for file in kept)


def test_a_run_is_not_continued_with_another_content_of_a_file(tmp_path):
    """That of a reward or of a LoRA; runs of earlier versions, which have no checksums, are continued."""
    out, file, lora = tmp_path / "out", tmp_path / "calm.py", tmp_path / "style.safetensors"
    out.mkdir()
    job = GenerateJob(prompt="cat face", reward=f"2*{file}:calm", lora=[f"{tmp_path}=0.5"], out=out)
    file.write_text("")
    lora.write_text("")
    before = with_checksums(job)
    assert set(before.checksums) == {str(file), str(lora)}
    for changed in (file, lora):
        changed.write_text("changed")
        now = with_checksums(job)
        write_start(before, "generate")
        start_progress(before, True)
        with pytest.raises(ValueError, match=f"{changed} has changed since the run in .* began; restore it, or"):
            start_progress(now, True)
        (out / "run.json").unlink()
        (out / "progress.jsonl").write_text(json.dumps({"digest": settings_digest(before)}) + "\n")
        start_progress(before, True)
        with pytest.raises(ValueError, match="batches of other settings or files"):
            start_progress(now, True)
        (out / "progress.jsonl").write_text(json.dumps({"digest": settings_digest(job)}) + "\n")
        start_progress(now, True)
        changed.write_text("")


@pytest.mark.parametrize("name", ["a-0-found.png", "progress.jsonl", "iterates/lora.safetensors"])
def test_an_input_that_the_run_would_write_is_refused(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with (
        pytest.raises(ValueError, match="is an input and a file of the run"),
        claim_folder(tmp_path, resume=True, inputs=[tmp_path / name], outputs=["a-0-found.png"]),
    ):
        pytest.fail("claimed")


def test_prompts_never_share_files():
    prompts = ["red heart", "red-heart", "red heart prompt1", "cat face"]
    job = GenerateJob(prompt=prompts, reward="redness")
    names = [job.stem(prompt) for prompt in prompts]
    assert len(set(names)) == 4 and names[1:] == ["red-heart-prompt2", "red-heart-prompt1", "cat-face"]


def test_an_infinite_eta_is_valid_json_and_continued(tmp_path):
    """Also a run of an earlier version, whose run.json has the number that JSON lacks."""
    job = GenerateJob(prompt="cat face", reward="redness", eta=float("inf"), out=tmp_path)
    write_start(job, "generate")
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["requested"]["eta"] == "inf"
    start_progress(job, True)
    (tmp_path / "run.json").write_text(text.replace('"inf"', "Infinity"))
    start_progress(job, True)
    with pytest.raises(ValueError, match=r'another eta \("inf" instead of 1.0\); give the same, another --out'):
        start_progress(GenerateJob(prompt="cat face", reward="redness", out=tmp_path), True)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "iterates").touch()
    images, part = iterates.IterateImages(0, {0: [torch.rand(3, 8, 8)]}), ImageBatch(0, ["cat face"], [0])
    with pytest.raises(OSError, match=r"cannot write .*iterates: file exists; choose another name"):
        iterates.write_iterates(tmp_path, Variant("base", None), part, images)


def test_the_drawings_that_were_made_are_named(tmp_path, capsys):
    job = GenerateJob(prompt="cat face", reward="redness", out=tmp_path)
    (tmp_path / "strip.png").touch()
    variants = [Variant(name, None, rewards=[0.0, 1.0], heldout=[None] * 2) for name in ("base", "guided")]
    print_summary(job, variants, "none", ["strip.png", "rewards.png"])
    assert "The images, strip.png and run.json are in the same folder." in " ".join(capsys.readouterr().out.split())

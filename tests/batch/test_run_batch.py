"""Batches in one process: results, records, bad rows, resumption, and one writer per folder."""

import csv
import datetime
import decimal
import hashlib
import json
import linecache
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_batch import Blend, Flaky, TinyModel, away_for_dogs, nan_for_dogs, raises_for_dogs, redness

from noisetilt import METHODS, Method, load, sample
from noisetilt.batch import run_batch
from noisetilt.batch.on_ray import RayWorker, _text
from noisetilt.batch.settings import Settings
from noisetilt.batch.summary import Statistics, group_lines, message_lines
from noisetilt.batch.table import read_table
from noisetilt.batch.worker import Worker, WorkerOptions, is_away
from noisetilt.cli import batch as batch_command
from noisetilt.cli import main
from noisetilt.cli.batch import print_summary
from noisetilt.cli.generate import GenerateJob
from noisetilt.methods import find_method
from noisetilt.rewards import Reward
from noisetilt.runs import Interrupts, Terminated
from noisetilt.studio.files import restore

# Of pixel values in [0, 1], between images of emoji128 that share a network call and images that do not.
TOLERANCE = 0.03
PROMPTS = ["cat", "dog", "red fox", "fox", "cat"]


def batch(table, out, reward=redness, **arguments):
    arguments = {"model": TinyModel(), "steps": 2, "heldout": False, "report": False, **arguments}
    return run_batch(table, out, reward=reward, **arguments)


def records(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def digests(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.glob("images/*/*.png")}


def test_a_row_is_what_sample_makes(tmp_path):
    summary = batch(PROMPTS, tmp_path, seed=3)
    assert summary.complete and summary.done == 5 and summary.failed == 0
    for i, record in enumerate(records(tmp_path)):
        expected = sample(TinyModel(), [PROMPTS[i]], redness, "ntrk", 2, [3 + i])
        assert record["reward"] == float(expected.rewards[0]) and record["settings"]["seed"] == 3 + i
        pixels = torch.tensor(list(Image.open(tmp_path / record["file"]).get_flattened_data()))
        levels = (expected.images[0] * 255).round().permute(1, 2, 0).reshape(-1, 3)
        assert torch.equal(pixels, levels.to(pixels))
        assert record["sha256"] == hashlib.sha256((tmp_path / record["file"]).read_bytes()).hexdigest()
    assert json.loads((tmp_path / "run.json").read_text())["complete"]


def test_a_method_object_is_used_and_its_options_may_be_columns(tmp_path):
    method = Method(proposal=Blend(0.3), summary="mine")
    batch(["cat", {"prompt": "dog", "omega": 0.5}], tmp_path, method=method, steps=4)
    for record, omega in zip(records(tmp_path), (0.3, 0.5), strict=True):
        settings = record["settings"]
        expected = sample(
            TinyModel(), [settings["prompt"]], redness, method.replace(omega=omega), 4, [settings["seed"]]
        )
        assert record["reward"] == float(expected.rewards[0])
        assert settings["method"] == "Method(proposal=Blend(omega=0.3))"
    with pytest.raises(ValueError, match=r"column 'omegga' is unknown .did you mean 'omega'"):
        batch([{"prompt": "dog", "omegga": 0.5}], tmp_path / "b", method=method)


def test_a_named_method_given_as_an_object_has_its_name(tmp_path):
    batch(["cat"], tmp_path, method=METHODS["ntrk"])
    assert records(tmp_path)[0]["settings"]["method"] == "ntrk"


@pytest.mark.parametrize("method", [3, Blend(), Blend, None])
def test_what_is_no_method_is_refused_before_a_folder_is_made(method, tmp_path):
    with pytest.raises(ValueError, match=r"is no method; give a name of METHODS, or Method\(proposal="):
        batch(["cat"], tmp_path / "run", method=method)
    assert not (tmp_path / "run").exists()


def test_a_batch_is_not_continued_with_another_method_object(tmp_path):
    batch(["cat"], tmp_path, method=Method(proposal=Blend(0.3)))
    with pytest.raises(ValueError, match="has other settings than in the run"):
        batch(["cat", "dog"], tmp_path, method=Method(proposal=Blend(0.4)), resume=True)
    assert batch(["cat", "dog"], tmp_path, method=Method(proposal=Blend(0.3)), resume=True).done == 2


def test_a_worker_of_ray_makes_what_a_worker_here_makes_with_a_method_object(tmp_path):
    """The rows go to it as JSON, and the method beside them."""
    method = Method(proposal=Blend(0.3))
    defaults = {"method": method, "reward": "red", "model": "tiny", "steps": 4}
    rows = read_table(["cat", {"prompt": "dog", "omega": 0.5}], defaults)
    given = {"models": {"tiny": TinyModel()}, "rewards": {"red": redness}, "heldout": False}
    options = WorkerOptions(**given, methods={rows[0].made().method_name: method})
    there = [outcome for row in rows for outcome in RayWorker(options).make(_text([row]))]
    here = [outcome for row in rows for outcome in Worker(options)([row])]
    assert [o.error for o in there] == ["", ""]
    assert [o.results["reward"] for o in there] == [o.results["reward"] for o in here]
    assert [o.image for o in there] == [o.image for o in here]


OWN_METHOD = """
import tiny_batch
from noisetilt import Method


class Blend(tiny_batch.Blend):
    pass


MINE = Method(proposal=Blend(0.3))
"""


@pytest.mark.parametrize("by_name", [True, False])
def test_a_batch_is_not_continued_with_a_method_whose_code_changed(by_name, tmp_path):
    file, out = tmp_path / "mine.py", tmp_path / "run"
    for number, text in enumerate((OWN_METHOD, OWN_METHOD, OWN_METHOD.replace("pass", "scale = 2"))):
        file.write_text(text)
        name = f"{file}:MINE"
        given = {"method": name if by_name else find_method(name), "resume": number > 0}
        if number < 2:
            assert batch(["cat", "dog"][: number + 1], out, **given).done == number + 1
            continue
        linecache.clearcache()  # in another process it is empty
        with pytest.raises(ValueError, match=r"(mine\.py|the class Blend) has changed since the run"):
            batch(["cat", "dog", "fox"], out, **given)


def test_the_command_takes_a_method_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_METHOD)
    (tmp_path / "table.csv").write_text("prompt,omega\nred heart,0.2\ncat face,\n")
    options = ["--reward", "redness", "--steps", "3", "--out", "run", "--heldout", "none"]
    assert main(["batch", "table.csv", "--method", "mine.py:MINE", *options]) == 0
    found = [record["settings"] for record in records(tmp_path / "run")]
    assert [s["method"] for s in found] == ["mine.py:MINE"] * 2 and [s["options"] for s in found] == [
        {"omega": 0.2},
        {},
    ]
    assert main(["batch", "table.csv", "--method", "mine.py:MIN", *options]) == 2
    assert "mine.py has no method 'MIN'" in " ".join(capsys.readouterr().err.split())


def test_columns_override_settings(tmp_path):
    rows = [
        {"prompt": "cat", "seed": 9, "rho": 0.2, "note": "a"},
        {"prompt": "dog", "method": "best-of-n", "options": "particles=2", "steps": "3", "note": "b"},
        {"prompt": "fox", "n": 3, "reward": None},
    ]
    batch(rows, tmp_path, options={"rho": 0.1}, keep=["note"])
    found = [record["settings"] for record in records(tmp_path)]
    assert found[0]["seed"] == 9 and found[0]["options"] == {"rho": 0.2}
    assert found[1]["method"] == "best-of-n" and found[1]["options"] == {"particles": 2} and found[1]["steps"] == 3
    assert [s["seed"] for s in found[2:]] == [2, 3, 4] and found[2]["options"] == {"rho": 0.1}
    assert [r.get("columns") for r in records(tmp_path)] == [{"note": "a"}, {"note": "b"}, {}, {}, {}][:2] + [None] * 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt", "parquet"])
def test_every_kind_of_file_gives_the_same_images(suffix, tmp_path):
    table = tmp_path / f"prompts.{suffix}"
    if suffix == "csv":
        with table.open("w", newline="") as stream:
            csv.writer(stream).writerows([["prompt"], *([p] for p in PROMPTS)])
    elif suffix == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        pq.write_table(pyarrow.table({"prompt": PROMPTS}), table)
    else:
        lines = PROMPTS if suffix == "txt" else [json.dumps({"prompt": p}) for p in PROMPTS]
        table.write_text("\n".join(lines))
    batch(table, tmp_path / "file")
    batch(PROMPTS, tmp_path / "list")
    assert len(digests(tmp_path / "file")) == 5 and digests(tmp_path / "file") == digests(tmp_path / "list")


@pytest.mark.parametrize("reward, word", [(nan_for_dogs, "not finite"), (raises_for_dogs, "the server is away")])
@pytest.mark.parametrize("chunk", [None, 8])
def test_a_bad_row_does_not_stop_the_others(reward, word, chunk, tmp_path):
    summary = batch([*PROMPTS, "zebra", {"prompt": "cat", "steps": "many"}], tmp_path, reward, chunk=chunk)
    assert (summary.done, summary.failed, summary.complete) == (4, 3, False)
    failed = {r["index"]: r["error"] for r in records(tmp_path) if r["status"] == "failed"}
    assert word in failed[1] and "zebra" in failed[5] and "steps = 'many'" in failed[6]
    assert sum(summary.errors.values()) == 3
    named = {row for message in summary.errors for row in summary.first_rows[message]}
    assert named == {1, 5, 6} and summary.first_rows == json.loads((tmp_path / "run.json").read_text())["first_rows"]
    mended = Reward(reward.__name__, redness)
    batch(["cat", "fox", "red fox", "fox", "cat", "cat", "cat"], tmp_path, mended, resume=True, chunk=chunk)
    done = [r["index"] for r in records(tmp_path) if r["status"] == "done"]
    assert sorted(done) == list(range(7))


def heldout_with_problems(images, prompts):
    if "dog" in prompts[0]:
        raise ValueError("the word 'dog' is unknown")
    return redness(images, prompts) * (float("nan") if "red" in prompts[0] else 1.0)


def test_a_held_out_reward_without_a_value_is_never_null_in_silence(tmp_path, monkeypatch):
    """A row for which it is not defined is done with a warning; one whose value is not finite fails."""
    monkeypatch.setattr("noisetilt.batch.worker.load_named_heldout", lambda name: heldout_with_problems)
    summary = batch(PROMPTS, tmp_path, heldout="brightness")
    assert (summary.done, summary.failed) == (4, 1)
    assert summary.warnings == {"no value of the held-out reward 'brightness': the word 'dog' is unknown": 1}
    assert summary.errors == {"the held-out reward 'brightness' is nan; it must be a finite number": 1}
    found = {record["index"]: record for record in records(tmp_path)}
    assert found[1]["heldout"] is None and "'brightness'" in found[1]["warning"] and found[2]["status"] == "failed"
    assert all(found[i]["heldout"] is not None and "warning" not in found[i] for i in (0, 3, 4))


def test_a_held_out_mean_of_fewer_rows_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("noisetilt.batch.worker.load_named_heldout", lambda name: heldout_with_problems)
    rows = [{"prompt": prompt, "reward": "redness"} for prompt in ("cat", "dog", "fox")]
    summary = batch(rows, tmp_path, None, heldout="brightness", report=True)
    assert summary.heldout_rows == summary.groups[0]["heldout_rows"] == 2 and summary.groups[0]["rows"] == 3
    print_summary(summary)
    printed = capsys.readouterr().out.splitlines()[0]
    assert printed.endswith(f"held-out {summary.heldout_mean:+.3f} (2 rows)")
    (line,) = group_lines(summary.groups)
    assert line.endswith(f"held-out brightness {summary.heldout_mean:+.3f} (2 rows)")
    assert "<th>held-out reward (2 rows)</th>" in (tmp_path / "report.html").read_text()


def test_a_sum_whose_terms_leave_no_held_out_reward_is_sampled_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("noisetilt.batch.worker.load_reward", lambda name, heldout=False: redness)
    # What starts the workers loads no weights.
    monkeypatch.setattr("noisetilt.rewards.catalogue.load_hub", lambda *arguments: pytest.fail("loaded"))
    summary = batch(PROMPTS, tmp_path, "style:3d + pickscore + imagereward + clipscore", heldout=True)
    [(warning, count)] = summary.warnings.items()
    assert (summary.done, summary.failed, summary.warned, count) == (
        5,
        0,
        5,
        5,
    ) and "no held-out reward for 'pickscore'" in warning
    assert all(record["heldout"] is None for record in records(tmp_path))


def test_an_unknown_held_out_reward_is_named_before_the_run(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'redness'"):
        batch(PROMPTS, tmp_path, heldout="rednes")
    for name, word in (("count:cat:many", "has the number 'many'"), ("classifier:red_fox", "has no model or no label")):
        with pytest.raises(ValueError, match=word):
            batch(PROMPTS, tmp_path, name)


def test_a_run_is_continued_with_its_own_held_out_reward(tmp_path):
    batch(["cat"], tmp_path, heldout="brightness")
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["heldout"] == "brightness"
    for other in ("redness", False, True):
        with pytest.raises(ValueError, match=f"heldout = {other} and the run in .* has brightness"):
            batch(["cat", "dog"], tmp_path, heldout=other, resume=True)
    assert batch(["cat", "dog"], tmp_path, heldout="brightness", resume=True).done == 2


def test_a_named_held_out_reward_is_the_held_out_network(tmp_path):
    images, worker = torch.rand(1, 3, 128, 128), Worker(WorkerOptions(heldout="style:3d"))
    name, heldout = worker.heldout(Settings("cat", reward="style:3d"))
    _, default = Worker(WorkerOptions()).heldout(Settings("cat", reward="style:3d"))
    assert name == "style:3d" and torch.equal(heldout(images, ["cat"]), default(images, ["cat"]))
    assert not torch.equal(heldout(images, ["cat"]), worker.reward("style:3d")(images, ["cat"]))
    function = Reward("brightness", redness)  # has only its name from the catalogue
    assert batch(["cat"], tmp_path, function, heldout="brightness").reward_mean != records(tmp_path)[0]["heldout"]
    rows = [{"prompt": "cat", "reward": name} for name in ("no such reward", "redness")]
    with pytest.raises(ValueError, match="is the optimised reward 'redness' itself"):
        batch(rows, tmp_path / "other", None, heldout="redness")
    assert not (tmp_path / "other").exists()


def test_a_run_whose_held_out_network_was_the_optimised_one_is_not_continued(tmp_path):
    batch(["cat"], tmp_path, heldout="style:3d")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["heldout"] == "style:3d (second network)"
    record["settings"]["heldout"] = "style:3d"  # as earlier versions wrote
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"second network.* and the run in .* has style:3d"):
        batch(["cat", "dog"], tmp_path, heldout="style:3d", resume=True)


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"model": "nope"}, "model 'nope' is unknown"),
        ({"model_options": {"dtype": "foo"}}, "dtype = 'foo' is unknown"),
        ({"model_options": {"height": 64}}, "height = 64 and width = None must be given together"),
        ({"model_options": {"offload": "model"}, "device": "cpu"}, "needs a GPU"),
        ({"model_options": {"lora": ["nope.safetensors"]}}, "there is no LoRA 'nope.safetensors'"),
        ({"model_options": {"lora": "nope.safetensors"}}, "there is no LoRA 'nope.safetensors'"),
        ({"model": "emoji128-turbo", "model_options": {"frames": 4}}, "frames is for diffusers pipelines"),
        ({"model_options": {"dtyp": "float32"}}, r"model option 'dtyp' is unknown \(did you mean 'dtype'"),
    ],
)
def test_what_is_wrong_for_the_whole_run_is_refused_before_its_folder_is_made(arguments, word, tmp_path):
    with pytest.raises(ValueError, match=word):
        batch(["cat", "dog"], tmp_path / "run", "redness", **{"model": "emoji128", **arguments})
    assert not (tmp_path / "run").exists()


def test_a_wrong_model_of_a_row_is_the_error_of_the_row(tmp_path):
    summary = batch(["cat", {"prompt": "dog", "model": "nope"}], tmp_path)
    assert (summary.done, summary.failed) == (1, 1) and "model 'nope' is unknown" in next(iter(summary.errors))


def test_a_run_without_a_finished_row_is_continued_with_other_settings(tmp_path):
    assert batch(["zebra"], tmp_path, chunk=2, heldout="brightness").failed == 1
    assert batch(["zebra", "cat"], tmp_path, chunk=1, heldout="saturation", resume=True).done == 1
    with pytest.raises(ValueError, match=r"chunk = 2 and the run in .* has 1"):
        batch(["zebra", "cat"], tmp_path, chunk=2, heldout="saturation", resume=True)


def test_a_kept_column_is_not_an_option(tmp_path):
    rows = [{"prompt": "cat", "width": 640, "rho": 0.5}]
    assert batch(rows, tmp_path, keep=["width", "rho"]).complete
    (record,) = records(tmp_path)
    assert record["columns"] == {"width": 640, "rho": 0.5} and record["settings"]["options"] == {}
    for name in ("prompt", "seed", "n", "options"):
        with pytest.raises(ValueError, match=f"keep = '{name}' is a setting of rows"):
            batch([{"prompt": "cat", name: "cat"}], tmp_path / "other", keep=[name])


def test_infinity_is_valid_json_and_read_again(tmp_path):
    rows = [{"prompt": "cat", "note": float("inf")}, {"prompt": "cat", "eta": "inf"}]
    assert batch(rows, tmp_path / "run", method="base", eta=float("inf"), keep=["note"]).complete
    lines = [*(tmp_path / "run" / "rows.jsonl").read_text().splitlines(), (tmp_path / "run" / "run.json").read_text()]
    first, second, run = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert first["settings"]["eta"] == run["settings"]["eta"] == first["columns"]["note"] == "inf"
    text = Image.open(tmp_path / "run" / first["file"]).text["noisetilt"]
    assert json.loads(text, parse_constant=pytest.fail)["eta"] == "inf"
    assert (
        Settings(**first["settings"]).eta == float("inf")
        and Settings(**second["settings"]).digest() == second["digest"]
    )
    again = batch([first["settings"]], tmp_path / "again", reward=None)
    assert again.complete and records(tmp_path / "again")[0]["sha256"] == first["sha256"]


def exits(images, prompts):
    raise SystemExit("as a script does")


def test_a_reward_that_exits_is_an_error_of_its_row(tmp_path):
    summary = batch(["cat"], tmp_path, exits)
    assert summary.errors == {"the reward 'exits' fails: SystemExit: as a script does; remove its exit": 1}


def test_threads_of_the_caller_stay_as_they_are(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    batch(["cat"], tmp_path, threads=torch.get_num_threads() + 1)
    assert given == [torch.get_num_threads() + 1, torch.get_num_threads()]


def test_a_file_in_place_of_the_images_is_named(tmp_path):
    (tmp_path / "images").touch()
    with pytest.raises(OSError, match=r"cannot write .*images.*: (file exists|not a directory)"):
        batch(["cat"], tmp_path)


@pytest.mark.parametrize(
    "options", [{"rho": np.float32(0.5)}, {"rho": decimal.Decimal("0.5")}, {"rho": torch.tensor(0.5)}]
)
def test_numbers_of_any_kind_are_those_of_python(options, tmp_path):
    numbers = {"seed": np.int64(3), "eta": np.float32(1), "n": np.int64(1)}
    rows = [{"prompt": "cat", **options}, {"prompt": "cat", "options": options}]
    assert batch(rows, tmp_path / "row", **numbers, steps=np.int64(2)).complete
    found = records(tmp_path / "row")
    assert [record["settings"]["options"] for record in found] == [{"rho": 0.5}] * 2
    assert [record["settings"]["seed"] for record in found] == [3, 4]
    if isinstance(options["rho"], np.generic):
        assert batch(["cat"], tmp_path / "run", options=options).complete


def test_kept_columns_of_any_kind_are_recorded(tmp_path):
    day = datetime.date(2020, 1, 31)
    missing = {"number": float("nan"), "steps": np.float32("nan"), "rho": float("nan")}  # as pandas has them
    rows = [{"prompt": "cat", "when": day, "number": np.int64(4), "tags": ("a", day)}, {"prompt": "dog", "when": None}]
    rows[1] |= missing
    assert batch(rows, tmp_path, keep=["when", "number", "tags"]).complete
    first, second = (record["columns"] for record in records(tmp_path))
    assert first == {"when": "2020-01-31", "number": 4, "tags": ["a", "2020-01-31"]}
    assert second == {"when": None, "number": None}


def test_dates_of_a_parquet_file_are_kept(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = tmp_path / "prompts.parquet"
    pq.write_table(pyarrow.table({"prompt": ["cat"], "day": [datetime.date(2020, 1, 31)]}), table)
    batch(table, tmp_path / "run", keep=["day"])
    assert records(tmp_path / "run")[0]["columns"] == {"day": "2020-01-31"}


def test_a_wrong_row_has_as_many_numbers_as_images(tmp_path):
    """So that the rows after it keep their numbers and seeds when it is corrected."""
    wrong = batch([{"prompt": "cat", "rho": "abc", "n": 3}, "dog"], tmp_path)
    assert (wrong.rows, wrong.done, wrong.failed) == (4, 1, 3)
    assert batch([{"prompt": "cat", "rho": "0.1", "n": 3}, "dog"], tmp_path, resume=True).complete
    done = {record["index"]: record["settings"] for record in records(tmp_path) if record["status"] == "done"}
    assert done[3]["prompt"] == "dog" and [done[i]["seed"] for i in range(4)] == [0, 1, 2, 3]


def test_a_row_whose_last_seed_is_too_large_is_wrong(tmp_path):
    summary = batch([{"prompt": "cat", "seed": 2**63 - 1, "n": 2}, "dog"], tmp_path)
    assert (summary.rows, summary.done, summary.failed) == (3, 1, 2)
    assert sorted(record["index"] for record in records(tmp_path)) == [0, 1, 2]


def test_whole_numbers_may_be_written_as_pandas_does(tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,steps,seed\ncat,2.0,\ndog,,7.0\nfox,2.5,1\n")
    summary = batch(tmp_path / "prompts.csv", tmp_path / "run")
    assert summary.errors == {"steps = '2.5' must be a whole number, such as 25": 1} and summary.done == 2


class InterruptsAfterFirst:
    """A sink that sends signals, by default Ctrl-C, to this process once, after the first row."""

    def __init__(self, *signals):
        self.signals = signals or (signal.SIGINT,)

    def start(self, run):
        self.sent = self.received = False

    def row(self, record, statistics):
        if not self.sent:
            self.sent = True
            for number in self.signals:
                signal.raise_signal(number)
            self.received = True

    def finish(self, run):
        return


@pytest.mark.parametrize("chunk, kept", [(None, 1), (4, 4)])
def test_ctrl_c_keeps_all_images_of_a_finished_group(chunk, kept, tmp_path):
    with pytest.raises(KeyboardInterrupt, match=f"{kept} of 10 rows .* the same command with --resume continues"):
        batch(["cat"] * 10, tmp_path, chunk=chunk, sinks=[InterruptsAfterFirst()])
    assert [record["index"] for record in records(tmp_path)] == list(range(kept))


def test_ctrl_c_in_the_last_row_leaves_a_complete_run(tmp_path):
    try:
        assert batch(["cat", {"prompt": "dog", "n": 2}], tmp_path, chunk=4, sinks=[InterruptsAfterFirst()]).complete
    except KeyboardInterrupt:  # which would end all tests
        pytest.fail("the batch was complete")


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_signals_end_the_wait_of_a_sink(signals, tmp_path):
    """As that of a tracker for its server."""
    sink = InterruptsAfterFirst(*signals)
    with pytest.raises(KeyboardInterrupt):
        batch(["cat"], tmp_path, sinks=[sink])
    assert not sink.received and json.loads((tmp_path / "run.json").read_text())["complete"]


def test_ctrl_c_after_sigterm_does_not_replace_it():
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt) as raised, interrupts.deferred():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
    assert raised.type is Terminated


def test_errors_that_may_pass_are_tried_again(tmp_path):
    assert batch(["cat", "dog"], tmp_path / "a", Flaky()).complete
    assert [r["attempts"] for r in records(tmp_path / "a")] == [2, 2]
    assert batch(["cat", "dog"], tmp_path / "b", Flaky(), retries=0).failed == 2


@pytest.mark.parametrize("rows, chunk", [(1, None), (1, 4), (3, 4)])
@pytest.mark.parametrize("retries", [0, 1, 7])
def test_attempts_after_an_error_of_a_connection_wait_longer_each_time(retries, rows, chunk, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("noisetilt.batch.worker._free_memory", lambda: None)  # takes longer than an attempt
    monkeypatch.setattr("noisetilt.batch.worker.PAUSE", 1.0)
    monkeypatch.setattr("noisetilt.batch.worker.sleep", waits.append)
    assert batch(["dog"] * rows, tmp_path, away_for_dogs, retries=retries, chunk=chunk).failed == rows
    first = 1 if rows == 1 else 2  # the attempt of a group is followed at once by one of each row
    one = [min(2.0 ** (attempt - 1), 30.0) for attempt in range(first, retries + 1)]
    assert waits == one * rows


@pytest.mark.parametrize("reward", [nan_for_dogs, raises_for_dogs])
def test_only_errors_of_connections_wait(reward, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("noisetilt.batch.worker.PAUSE", 1.0)
    monkeypatch.setattr("noisetilt.batch.worker.sleep", waits.append)
    assert batch(["dog", "cat"], tmp_path, reward, retries=3).failed == 1 and waits == []


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_signals_end_the_pause_before_an_attempt(signals, tmp_path, monkeypatch):
    monkeypatch.setattr("noisetilt.batch.worker.PAUSE", 1.0)
    monkeypatch.setattr(
        "noisetilt.batch.worker.sleep", lambda seconds: [signal.raise_signal(number) for number in signals]
    )
    with pytest.raises(KeyboardInterrupt):
        batch(["cat", "dog"], tmp_path, away_for_dogs)
    assert [record["index"] for record in records(tmp_path)] == [0]


class ConnectError(Exception):
    """As that of httpx, which is no OSError."""


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (urllib.error.URLError("no host"), True),
        (ConnectError(), True),
        (RuntimeError(), False),
        (FileNotFoundError(), False),
        (torch.OutOfMemoryError(), False),
    ],
)
def test_errors_of_servers_are_known(error, away):
    assert is_away(error) == away


class OutOfMemory:
    """Runs out of memory at every evaluation, while it holds a tensor; `alive` has how many such tensors of earlier
    evaluations still exist. The error has another one as its context, as that of a library may have."""

    name = "out-of-memory"

    def __init__(self):
        self.held, self.alive = [], []

    def __call__(self, images, prompts):
        self.alive.append(sum(held() is not None for held in self.held))
        activations = torch.zeros(8)
        self.held.append(weakref.ref(activations))
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError:
            raise MemoryError("the GPU has too little memory")  # noqa: B904


@pytest.mark.parametrize("rows, attempts", [(1, 3), (3, 7)])
def test_a_failed_attempt_is_freed_before_the_next_one(rows, attempts, tmp_path, monkeypatch):
    """Also where a group falls back to single rows."""
    freed = []
    monkeypatch.setattr("noisetilt.batch.worker._free_memory", lambda: freed.append(1))
    reward = OutOfMemory()
    summary = batch(PROMPTS[:1] * rows, tmp_path, reward, chunk=8)
    assert summary.errors == {"MemoryError: the GPU has too little memory": rows}
    assert reward.alive == [0] * attempts and len(freed) == attempts


class ByName(TinyModel):
    """A model as `load` returns it, which takes a guidance and has no more than one other beside it in memory."""

    loaded = ()

    def __init__(self, name, **options):
        super().__init__()
        self.loaded.append((name, weakref.ref(self)))
        alive = {other for other, reference in self.loaded if reference() is not None}
        if alive == {"first", "second"}:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.set_guidance(options["guidance"])

    def set_guidance(self, guidance):
        if guidance == 9.0:
            raise ValueError("guidance = 9.0 is refused")
        self.guidance = guidance

    def decode(self, x_0):
        return super().decode(x_0) * (0.5 if self.guidance is None else self.guidance)


def test_rows_with_another_guidance_share_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr("noisetilt.batch.worker.load_model", ByName)
    monkeypatch.setattr(ByName, "loaded", [])
    scales = [None, 0.25, 1.0, 9.0, 0.25, None]
    rows = [{"prompt": "cat", "guidance": scale, "seed": 1} for scale in scales]
    summary = batch(rows, tmp_path, model="emoji128", method="base")
    assert summary.errors == {"guidance = 9.0 is refused": 1} and len(ByName.loaded) == 1
    found = [record.get("reward") for record in records(tmp_path)]
    assert found[0] == found[5] and found[1] == found[4] and found[3] is None
    assert found[1] * 2 == pytest.approx(found[0]) == pytest.approx(found[2] / 2)


def test_a_model_for_which_there_is_no_memory_is_loaded_without_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("noisetilt.batch.run.check_load", lambda *arguments, **options: None)
    monkeypatch.setattr("noisetilt.batch.worker.load_model", ByName)
    monkeypatch.setattr(ByName, "loaded", [])
    rows = [{"prompt": "cat", "model": model} for model in ("first", "first", "second", "second", "first")]
    assert batch(rows, tmp_path, method="base").complete
    assert [name for name, _ in ByName.loaded] == ["first", "second", "second", "first", "first"]


@pytest.mark.parametrize("name, refused", [("emoji128", None), ("emoji128-turbo", 2.0)])
def test_a_loaded_model_takes_a_guidance_as_load_does(name, refused):
    pytest.importorskip("diffusers")
    model = load(name)
    own = model.guidance
    if refused is None:
        model.set_guidance(5.0)
        expected = sample(load(name, guidance=5.0), ["cat face"], None, "base", 1, [0]).images
        assert torch.equal(sample(model, ["cat face"], None, "base", 1, [0]).images, expected)
    else:
        for take in (model.set_guidance, lambda scale: load(name, guidance=scale)):
            with pytest.raises(ValueError, match=r"guidance = 2\.0 is not supported by emoji128-turbo"):
                take(refused)
    model.set_guidance(None)
    assert model.guidance == own


@pytest.mark.parametrize("models, device", [(["emoji128", "some/pipeline"], "cuda"), (["emoji128"], "cpu")])
def test_the_device_is_that_of_the_models_of_all_rows(models, device, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr("noisetilt.batch.run.default_device", lambda: "cuda")
    monkeypatch.setattr("noisetilt.batch.run.check_device", used.append)
    monkeypatch.setattr("noisetilt.batch.run.check_load", lambda *arguments, **options: None)
    monkeypatch.setattr("noisetilt.batch.run._Run.__call__", lambda *arguments: None)
    batch([{"prompt": "cat", "model": model} for model in models], tmp_path, model="emoji128-turbo")
    assert used == [device]


def test_fail_fast_stops_at_the_first_failure(tmp_path):
    with pytest.raises(ValueError, match="row 1 failed"):
        batch(PROMPTS, tmp_path, nan_for_dogs, fail_fast=True)
    assert [r["status"] for r in records(tmp_path)] == ["done", "failed"]


def test_a_run_is_not_replaced_by_accident(tmp_path):
    batch(["cat"], tmp_path)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match="--resume"):
        batch(["dog"], tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        batch(["dog"], tmp_path, resume=True)
    with pytest.raises(ValueError, match="chunk = 4"):
        batch(["cat"], tmp_path, resume=True, chunk=4)
    assert digests(tmp_path) == before and len(records(tmp_path)) == 1
    assert batch(["cat", "dog"], tmp_path, resume=True).done == 2
    assert len(records(tmp_path)) == 2
    (tmp_path / "images" / "00000" / "mine.png").write_bytes(b"")
    batch(["dog"], tmp_path, overwrite=True)
    assert sorted(file.name for file in tmp_path.rglob("*.png") if "images" in file.parts) == [
        "0000000-dog.png",
        "mine.png",
    ]
    assert len(records(tmp_path)) == 1


def test_a_report_that_is_of_no_run_is_not_replaced(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"has report.html, which is no file of a run and would be replaced"):
        batch(PROMPTS, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert batch(PROMPTS, tmp_path, overwrite=True).done == 5


def test_a_run_whose_record_was_lost_is_continued_from_its_rows(tmp_path):
    batch(PROMPTS, tmp_path)
    before, expected = digests(tmp_path), (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is not the record of a run; delete this file and give --resume"):
        batch(PROMPTS, tmp_path, resume=True)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="has a run already; give --resume"):
        batch(PROMPTS, tmp_path)
    with pytest.raises(ValueError, match="row 0 has other settings"):
        batch(["dog", *PROMPTS[1:]], tmp_path, resume=True)
    assert digests(tmp_path) == before and not (tmp_path / "run.json").exists()
    assert batch(PROMPTS, tmp_path, resume=True).done == 5
    assert digests(tmp_path) == before and (tmp_path / "rows.jsonl").read_text() == expected
    (tmp_path / "run.json").unlink()
    assert batch(["dog"], tmp_path, overwrite=True).done == 1 and set(digests(tmp_path)) == {"0000000-dog.png"}


@pytest.mark.parametrize("text", ['{"method": "ntrk", "seed": 1}\n{"method"', '\xff\n{"index": 0}\n'])
def test_rows_that_are_not_of_a_batch_are_kept(text, tmp_path):
    """Those of a benchmark, which has no run.json."""
    (tmp_path / "rows.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="has a run already"):
        batch(["cat"], tmp_path)
    for option in ("resume", "overwrite"):
        with pytest.raises(ValueError, match=r"rows.jsonl, line 1 is not "):
            batch(["cat"], tmp_path, **{option: True})
    assert (tmp_path / "rows.jsonl").read_bytes() == text.encode("latin-1")
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != ".lock") == ["rows.jsonl"]


def test_a_damaged_record_deletes_nothing(tmp_path):
    batch(PROMPTS, tmp_path)
    run, before, lines = (
        (tmp_path / "run.json").read_text(),
        digests(tmp_path),
        (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True),
    )
    (tmp_path / "rows.jsonl").write_text("".join([*lines[:3], "{}\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"rows.jsonl, line 4 is not a record of a row; remove the line"):
        batch(PROMPTS, tmp_path, overwrite=True)
    assert digests(tmp_path) == before and (tmp_path / "run.json").read_text() == run


def test_a_run_is_not_continued_with_another_content_of_a_reward_file(tmp_path):
    file, out = tmp_path / "calm.py", tmp_path / "out"
    file.write_text("def calm(images):\n    return images.mean((1, 2, 3))\n")
    rows = [{"prompt": "cat", "reward": f"{file}:calm"}, {"prompt": "dog", "reward": "calm ("}]
    assert batch(rows, out, None).done == 1
    with file.open("a") as stream:
        stream.write("# changed\n")
    with pytest.raises(ValueError, match=r"calm.py has changed since the run in .* began; restore it, or"):
        batch(rows, out, None, resume=True)
    record = json.loads((out / "run.json").read_text())
    assert list(record.pop("checksums")) == [str(file)]
    (out / "run.json").write_text(json.dumps(record))  # as an earlier version wrote it
    assert batch(rows, out, None, resume=True).done == 1


def test_a_table_that_would_be_replaced_is_refused(tmp_path):
    table = tmp_path / "progress.jsonl"
    table.write_text('{"prompt": "cat"}\n')
    with pytest.raises(ValueError, match=r"progress.jsonl is an input and a file of the run in"):
        batch(table, tmp_path, overwrite=True)
    assert table.exists()


def test_a_report_names_the_held_out_reward(tmp_path, monkeypatch):
    monkeypatch.setattr("noisetilt.batch.worker.has_heldout", lambda name: True)
    monkeypatch.setattr("noisetilt.batch.worker.load_reward", lambda name, heldout=False: redness)
    batch(["cat", "dog"], tmp_path, "style:3d", heldout=True, report=True)
    name = records(tmp_path)[0]["heldout_reward"]
    page = (tmp_path / "report.html").read_text()
    assert name and f"heldout {name}" in page and "heldout True" not in page


def test_a_report_is_that_of_the_run_also_if_no_row_is_done(tmp_path):
    """Also in a folder whose name is not in UTF-8."""
    tmp_path /= os.fsdecode(b"caf\xe9")
    files = [tmp_path / name for name in ("report.html", "histograms.png")]
    assert batch(["dog"], tmp_path, raises_for_dogs, retries=0, report=True).done == 0
    assert "the server is away" in files[0].read_text() and "<table>" not in files[0].read_text()
    files[1].write_text("")
    batch(["cat"], tmp_path, overwrite=True)
    assert not any(file.exists() for file in files)


def test_the_report_reads_the_records_once_and_shows_the_highest_and_lowest_rewards(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("noisetilt.batch.ledger._check_record", read.append)
    batch(["cat"] * 30, tmp_path, report=True)
    assert len(read) == 30
    files = [record["file"] for record in sorted(records(tmp_path), key=lambda record: record["reward"])]
    shown = re.findall('<img src="(.*?)"', (tmp_path / "report.html").read_text())
    assert shown == [*files[:-13:-1], *files[:12]]


def test_a_row_that_was_made_twice_counts_once(tmp_path):
    """Its image was lost, and the run was continued."""
    batch(PROMPTS, tmp_path)
    (tmp_path / records(tmp_path)[1]["file"]).unlink()
    assert batch(PROMPTS, tmp_path, resume=True).done == batch(PROMPTS, tmp_path, resume=True, report=True).done == 5
    assert len(records(tmp_path)) == 6 and (tmp_path / "report.html").read_text().count("<img src=") == 10


def test_half_written_rows_do_not_count(tmp_path):
    batch(PROMPTS, tmp_path)
    expected = digests(tmp_path)
    rows = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(rows[:-40])
    damaged = tmp_path / records_file(rows, 1)
    damaged.write_bytes(damaged.read_bytes()[:50])
    (damaged.parent / ".x.png.1.partial").write_bytes(b"half")
    assert batch(PROMPTS, tmp_path, resume=True).complete
    assert digests(tmp_path) == expected and not list(tmp_path.rglob("*.partial"))
    assert sorted(r["index"] for r in records(tmp_path)) == [0, 1, 1, 2, 3, 4]


def records_file(rows, number):
    return json.loads(rows.splitlines()[number])["file"]


@pytest.mark.parametrize("chunk", [1, 4])
def test_pixels_do_not_depend_on_what_was_done_before(chunk, tmp_path):
    """A group that was interrupted is sampled again with the same neighbours."""
    batch(PROMPTS, tmp_path / "whole", chunk=chunk)
    batch(PROMPTS, tmp_path / "parts", chunk=chunk)
    lines = (tmp_path / "parts" / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "parts" / "rows.jsonl").write_text("".join(lines[:2]))
    batch(PROMPTS, tmp_path / "parts", chunk=chunk, resume=True)
    assert digests(tmp_path / "whole") == digests(tmp_path / "parts")


def test_rows_of_the_included_model_do_not_depend_on_their_neighbours(tmp_path):
    """Their pixels are equal when each is sampled alone, and nearly so when they share a network call."""
    pytest.importorskip("diffusers")
    rows = [{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(["cat face", "red heart", "house"], 5)]
    arguments = {"model": load("emoji128"), "method": "base", "steps": 2, "threads": torch.get_num_threads()}
    batch(rows, tmp_path / "forwards", **arguments)
    batch(rows[::-1], tmp_path / "backwards", **arguments)
    batch(rows, tmp_path / "together", chunk=3, **arguments)
    forwards, backwards, together = (pixels_by_prompt(tmp_path / n) for n in ("forwards", "backwards", "together"))
    for prompt, image in forwards.items():
        assert torch.equal(image, backwards[prompt])
        assert (image - together[prompt]).abs().max() <= TOLERANCE * 255


def pixels_by_prompt(out):
    return {
        record["settings"]["prompt"]: torch.tensor(list(Image.open(out / record["file"]).get_flattened_data()))
        for record in records(out)
    }


def run_long_batch(out):
    torch.set_num_threads(1)
    batch_command.run_batch = lambda **values: batch(["cat"] * 2000, out, model=TinyModel(0.05), steps=1)
    sys.exit(main(["batch", "prompts.txt", "--out", str(out)]))


def wait_for(file, process):
    deadline = time.monotonic() + 600
    while not (file.exists() and file.stat().st_size) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_signals_keep_what_is_done_and_two_writers_are_refused(tmp_path):
    sent = [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM], [signal.SIGKILL]]
    outs = [tmp_path / str(number) for number in range(len(sent))]
    context = multiprocessing.get_context("forkserver")  # the processes share one import of torch
    context.set_forkserver_preload(["noisetilt.cli.batch", "tiny_batch"])
    processes = [context.Process(target=run_long_batch, args=(out,), daemon=True) for out in outs]
    for process in processes:
        process.start()
    for process, out, numbers in zip(processes, outs, sent, strict=True):
        wait_for(out / "rows.jsonl", process)
        if out is outs[0]:
            with pytest.raises(ValueError, match="another process writes"):
                batch(["cat"], out, resume=True)
        for number in numbers:
            os.kill(process.pid, number)
            time.sleep(0.02)
    for process, out, status in zip(processes, outs, (130, 130, 143, -signal.SIGKILL), strict=True):
        process.join(timeout=300)
        assert process.exitcode == status
        done = [r["index"] for r in records(out)]
        assert 0 < len(done) < 2000 and done == list(range(len(done)))
        assert not json.loads((out / "run.json").read_text())["complete"]
        assert len(digests(out)) in (len(done), len(done) + 1)


def test_a_full_disk_names_the_file(tmp_path):
    """A small file system, which root can mount, takes a few rows and no more; then the run continues elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        with pytest.raises(OSError, match=r"cannot write .*disk/.*no space left"):
            batch(["cat"] * 60, disk / "run")
        done = [r for r in records(disk / "run") if r["status"] == "done"]
        assert 3 < len(done) < 60
        for record in done:
            Image.open(disk / "run" / record["file"]).load()
        assert not [f for f in (disk / "run").rglob("*.png") if f.stat().st_size == 0]
        assert not json.loads((disk / "run" / "run.json").read_text())["complete"]
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        assert batch(["cat"] * 60, disk / "run", resume=True).complete
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file"):
        batch(["cat"], tmp_path / "file")


def test_the_command(tmp_path, capsys):
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,seed\ncat face,3\nqqqq,4\n")
    arguments = ["batch", str(table), "--reward", "redness", "--method", "base", "--steps", "1", "--model", "emoji128"]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--log", "json"]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 rows done" in printed.out and "qqqq" in printed.out
    events = [json.loads(line) for line in printed.err.splitlines() if line.startswith("{")]
    assert [e["event"] for e in events] == ["start", "row", "row", "finish"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 500
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("chunk", [None, 8])
def test_options_eta_and_the_place_of_the_gradient_reach_sample(chunk, tmp_path):
    """Five steps, of which three are guided; rows of other settings share no network call."""
    rows = [
        {"prompt": "cat", "rho": 0.5},
        {"prompt": "cat", "method": "dps", "gradient_at": "x0", "scale": 0.3},
        {"prompt": "cat", "eta": 0.3},
        {"prompt": "cat", "rho": 0.2},
        {"prompt": "cat", "rho": 0.5},
    ]
    assert batch(rows, tmp_path, steps=5, chunk=chunk).complete
    found = {record["index"]: record["reward"] for record in records(tmp_path)}
    for seed, row in enumerate(rows):
        options = {name: value for name, value in row.items() if name in ("rho", "scale")}
        how = {name: value for name, value in row.items() if name in ("eta", "gradient_at")}
        method = METHODS[row.get("method", "ntrk")]
        one, default = (
            sample(TinyModel(), ["cat"], redness, m, 5, [seed], **h)
            for m, h in ((method.replace(**options), how), (method, {}))
        )
        assert found[seed] == pytest.approx(float(one.rewards[0]), abs=1e-5)
        assert abs(found[seed] - float(default.rewards[0])) > 1e-4


@pytest.mark.parametrize(
    "changed", [{"steps": 3}, {"eta": 0.5}, {"options": {"rho": 0.2}}, {"guidance": 2.0}, {"gradient_at": "x0"}]
)
def test_a_run_is_not_continued_with_other_settings(changed, tmp_path, monkeypatch):
    monkeypatch.setattr("noisetilt.batch.worker.load_model", ByName)
    monkeypatch.setattr(ByName, "loaded", [])
    assert batch(["cat"], tmp_path, model="emoji128").complete
    with pytest.raises(ValueError, match="row 0 has other settings"):
        batch(["cat"], tmp_path, model="emoji128", resume=True, **changed)
    assert batch(["cat"], tmp_path, model="emoji128", resume=True).complete and len(records(tmp_path)) == 1


def test_the_chunk_counts_particles():
    of_four = Settings("cat", method="best-of-n", options={"particles": 4})
    assert WorkerOptions(chunk=8).together(of_four) == 2 and WorkerOptions(chunk=2).together(of_four) == 1
    assert WorkerOptions(chunk=8).together(Settings("cat")) == 8 and WorkerOptions().together(Settings("cat")) == 1


def test_the_last_two_models_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("noisetilt.batch.run.check_load", lambda *arguments, **options: None)
    monkeypatch.setattr("noisetilt.batch.worker.load_model", ByName)
    monkeypatch.setattr(ByName, "loaded", [])
    alive = []

    class Counts:
        def start(self, run):
            return

        def row(self, record, statistics):
            alive.append([name for name, model in ByName.loaded if model() is not None])

        def finish(self, run):
            return

    rows = [{"prompt": "cat", "model": name} for name in ("a", "b", "c", "b", "a")]
    assert batch(rows, tmp_path, method="base", sinks=[Counts()]).complete
    assert [name for name, _ in ByName.loaded] == ["a", "b", "c", "a"]
    assert alive == [["a"], ["a", "b"], ["b", "c"], ["b", "c"], ["b", "a"]]


def test_the_last_rewards_stay_in_memory(monkeypatch):
    loaded = []
    monkeypatch.setattr("noisetilt.batch.worker.load_reward", lambda name, heldout=False: loaded.append(name))
    worker = Worker(WorkerOptions())
    for name in [*"abcdefgh", "a", "i", "a", "b"]:
        worker.reward(name)
    assert loaded == [*"abcdefgh", "i", "b"]
    worker._drop_others(Settings("cat", reward="a"))  # after a lack of memory
    for name in "ab":
        worker.reward(name)
    assert loaded[10:] == ["b"]


def test_the_held_out_reward_has_the_name_of_what_is_evaluated(monkeypatch):
    monkeypatch.setattr("noisetilt.rewards.catalogue.load_hub", lambda name, *_: Reward(name, redness))
    name, heldout = Worker(WorkerOptions()).heldout(Settings("cat", reward="style:3d + 2*pickscore"))
    assert name == "style:3d + 2*imagereward" == heldout.name


def test_the_text_of_an_image_restores_in_the_studio(tmp_path):
    batch(["cat"], tmp_path, options={"rho": 0.02}, heldout=True)
    (record,) = records(tmp_path)
    file, page = tmp_path / record["file"], GenerateJob(prompt="", reward="", model="TinyModel")
    restored = restore(file, ["redness"], page, "")
    assert restored.fields["sliders"] == {"redness": pytest.approx(0.01)} and restored.fields["steps"] == 2
    assert restored.notes == []
    text = json.loads(Image.open(file).text["noisetilt"])
    assert text["reward_value"] == record["reward"] and text["heldout_value"] is None
    batch(["cat"], tmp_path / "other", options={"rho": 0.02}, heldout="brightness")
    (record,) = records(tmp_path / "other")
    (note,) = restore(tmp_path / "other" / record["file"], ["redness"], page, "").notes
    assert "heldout = brightness" in note and record["heldout_reward"] == "brightness"


def test_rows_of_several_rewards_are_not_averaged_together(tmp_path, capsys, monkeypatch):
    drawn = []
    for name, double in (("has_matplotlib", lambda: True), ("save_figure", lambda figure, file: None)):
        monkeypatch.setattr(f"noisetilt.batch.summary.{name}", double)
    monkeypatch.setattr("noisetilt.batch.summary.draw_histograms", lambda values, label: drawn.extend(values))
    rows = [{"prompt": "cat", "reward": name} for name in ("brightness", "redness", "redness")]
    summary = batch(rows, tmp_path, None, heldout="saturation", report=True)
    values = [record["reward"] for record in records(tmp_path)]
    assert summary.reward_mean is None and summary.heldout_mean is None
    expected = [("redness", 2, sum(values[1:]) / 2), ("brightness", 1, values[0])]
    assert [(group["reward"], group["rows"], group["reward_mean"]) for group in summary.groups] == expected
    assert {group["heldout_reward"] for group in summary.groups} == {"saturation"}
    print_summary(summary)
    printed, report = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert f"redness: 2 rows, reward {expected[0][2]:+.3f}, held-out saturation +" in printed
    assert "<h2>brightness, held-out saturation</h2>" in report and report.count("Highest rewards") == 2
    assert drawn[0] == "reward (redness, held-out saturation)" and len(drawn) == 5
    assert batch(rows[1:], tmp_path / "one", None).reward_mean is not None


def test_the_seconds_are_those_of_all_calls(tmp_path):
    batch(["cat"], tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"seconds": 1000.0}))
    assert 1000 < batch(["cat", "dog"], tmp_path, resume=True).seconds < 2000


def test_messages_name_their_first_rows():
    statistics = Statistics()
    for row in range(9):
        place = {"line": 6} if row == 4 else {}
        statistics.add({"status": "failed", "index": row, "error": "away" if row != 4 else "unknown", **place})
    first = statistics.first_rows, statistics.first_lines
    assert message_lines(statistics.errors, *first, statistics.failed + 2) == [
        "8 × away (rows 0, 1, 2, 3, 5, …)",
        "1 × unknown (row 4; line 6)",
        "2 × other messages, which rows.jsonl has",
    ]


def test_errors_name_the_line_of_the_table(tmp_path, capsys):
    table = tmp_path / "prompts.csv"
    table.write_text('prompt,seed\n\n"cat\n dog",1\ndog,x\nfox,2\n')
    rows = read_table(table, {})
    assert [(row.index, row.line) for row in rows] == [(0, 3), (1, 5), (2, 6)]
    assert [row.line for row in read_table([{"prompt": "cat"}], {})] == [None]
    (tmp_path / "prompts.txt").write_text("cat\n\ndog\n")
    assert [row.line for row in read_table(tmp_path / "prompts.txt", {})] == [1, 3]
    summary = batch(table, tmp_path / "run", report=True)
    print_summary(summary)
    assert "1 × seed = 'x' must be a whole number, such as 25 (row 1; line 5)" in capsys.readouterr().out
    report = (tmp_path / "run" / "report.html").read_text()
    assert "(row 1; line 5)" in report and "<h1>noisetilt batch: run</h1>" in report
    with pytest.raises(ValueError, match=r"row 1, line 5 of the table, failed: seed = 'x'"):
        batch(table, tmp_path / "fast", fail_fast=True)


def test_a_table_may_be_separated_by_tabs(tmp_path):
    (tmp_path / "a.tsv").write_text("prompt\tseed\ncat, red\t7\n")
    (row,) = read_table(tmp_path / "a.tsv", {})
    assert row.made().prompt == "cat, red" and row.made().seed == 7
    (tmp_path / "a.csv").write_text("prompt\tseed\ncat\t7\n")
    with pytest.raises(ValueError, match=r"separates its columns by '\\t'; save it with commas, or with tabs as .tsv"):
        read_table(tmp_path / "a.csv", {})


def test_a_row_without_the_reward_that_it_needs_says_how_to_give_one(tmp_path):
    rows = [{"prompt": "cat", "reward": "redness"}, {"prompt": "dog"}, {"prompt": "fox", "method": "base"}]
    summary = batch(rows, tmp_path, None)
    (message,) = summary.errors
    assert (summary.done, summary.failed) == (2, 1) and summary.first_rows[message] == [1]
    assert message.startswith("the row has no reward, which its method ntrk needs; fill its column reward, or give")

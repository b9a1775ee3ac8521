"""What the pool of Ray actors does when there is no room, or when a row kills its worker; on a test double of Ray."""

import json

import pytest
import torch
from fake_ray import Killed, install
from tiny_batch import TinyModel, away_for_dogs, raises_for_dogs, redness

from noisetilt.batch import run_batch

PROMPTS = ["cat", "fox", "red fox", "red", "fox", "cat"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def batch(table, out, reward=redness, **arguments):
    arguments = {"model": TinyModel, "steps": 1, "heldout": False, "report": False, "engine": "ray", **arguments}
    return run_batch(table, out, reward=reward, **arguments)


def records(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


class Deadly:
    """A reward that kills the worker of some prompts, at the first `times` evaluations of them."""

    name = "deadly"

    def __init__(self, times=1000):
        self.left = times

    def __call__(self, images, prompts):
        if any("dog" in prompt for prompt in prompts) and self.left:
            self.left -= 1
            raise Killed
        return redness(images, prompts)


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_workers_without_room_are_not_waited_for(workers, tmp_path, monkeypatch):
    cluster = install(monkeypatch, {"CPU": 2})
    assert batch(PROMPTS, tmp_path, workers=workers).complete
    assert len(cluster.actors) == (workers or 2) and all(actor.dead for actor in cluster.actors)


def test_a_cluster_without_room_is_waited_for_with_a_message(tmp_path, monkeypatch, capsys):
    cluster = install(monkeypatch, {"CPU": 2})
    cluster.free = [{"CPU": 0}]
    with pytest.raises(AssertionError, match="waits for ever"):
        batch(PROMPTS, tmp_path)
    assert capsys.readouterr().err.count("no room for a worker") == 1


def test_a_run_of_one_process_is_continued_on_ray(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 64})
    batch(PROMPTS[:1], tmp_path, engine="process")
    used = json.loads((tmp_path / "run.json").read_text())["settings"]["threads"]
    assert used == torch.get_num_threads()
    with pytest.raises(ValueError, match=f"threads = {used + 1} and the run in .* has {used}; give the same"):
        batch(PROMPTS, tmp_path, resume=True, threads=used + 1)
    assert batch(PROMPTS, tmp_path, resume=True, threads=used).complete


@pytest.mark.parametrize("started", [False, True])
def test_ray_that_a_batch_started_ends_with_it(started, tmp_path, monkeypatch):
    cluster = install(monkeypatch, {"CPU": 2})
    cluster.connected = not started
    with pytest.raises(ValueError, match="threads = 3 and no machine"):
        batch(PROMPTS, tmp_path, threads=3)
    assert batch(PROMPTS, tmp_path).complete
    assert cluster.connected != started


def test_another_address_than_that_of_the_ray_in_use_is_refused(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 2})
    with pytest.raises(ValueError, match="address = 'other:1' and this process is connected to the Ray at 'here:6379'"):
        batch(PROMPTS, tmp_path, address="other:1")
    assert batch(PROMPTS, tmp_path, address="here:6379").complete


@pytest.mark.parametrize("device", ["cuda", None])
def test_a_cluster_without_gpu(device, tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 2})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # on the machine that starts the batch
    monkeypatch.setattr("noisetilt.batch.run.is_pipeline", lambda name: True)
    if device is None:
        assert batch(PROMPTS, tmp_path).complete
        assert json.loads((tmp_path / "run.json").read_text())["settings"]["device"] == "cpu"
        return
    with pytest.raises(ValueError, match="device = 'cuda' needs a GPU and the Ray cluster has none; use --device cpu"):
        batch(PROMPTS, tmp_path, device=device)
    assert not (tmp_path / "run.json").exists()


def test_a_cluster_with_gpus_makes_pipelines_on_them(tmp_path, monkeypatch):
    """Also where the machine that starts the batch has none, and the table alone names the pipeline."""
    cluster = install(monkeypatch, {"CPU": 4}, {"CPU": 4, "GPU": 2})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("noisetilt.batch.run.is_pipeline", lambda name: name == "some/pipeline")
    batch(["cat", "fox", {"prompt": "red", "model": "some/pipeline"}], tmp_path, retries=0)
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["device"] == "cuda"
    assert len(cluster.actors) == 2 and all(actor.resources == {"CPU": 0, "GPU": 1} for actor in cluster.actors)


def test_one_gpu_of_several_is_refused(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 2, "GPU": 2})
    with pytest.raises(ValueError, match="device = 'cuda:1' names one GPU, and Ray gives each worker its own; use"):
        batch(PROMPTS, tmp_path, device="cuda:1")


def test_more_threads_than_any_machine_has_are_refused(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 2}, {"CPU": 3})
    with pytest.raises(ValueError, match="threads = 4 and no machine of the Ray cluster has more than 3 cores"):
        batch(PROMPTS, tmp_path, threads=4)


@pytest.mark.parametrize("workers, held", [(1, 8), (2, 2), (2, 8)])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_row_that_kills_its_worker_fails_and_the_others_are_made(place, workers, held, tmp_path, monkeypatch):
    cluster = install(monkeypatch, {"CPU": 2})
    table = [*PROMPTS[:place], "dog", *PROMPTS[place:]]
    summary = batch(table, tmp_path, Deadly(), workers=workers, batch=held)
    assert (summary.done, summary.failed) == (6, 1)
    found = records(tmp_path)
    assert sorted(record["index"] for record in found) == list(range(7))
    (failed,) = (record for record in found if record["status"] == "failed")
    assert failed["index"] == place and failed["attempts"] == 3
    assert failed["error"] == "the worker died: worker exit type: SYSTEM_ERROR"
    assert len(cluster.actors) <= workers + 3
    assert (batch(table, tmp_path, Deadly(), workers=workers, resume=True).done, len(records(tmp_path))) == (6, 8)


def test_many_such_rows_do_not_end_the_batch(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 2})
    summary = batch(["dog", "cat"] * 8, tmp_path, Deadly(), workers=2)
    assert (summary.done, summary.failed) == (8, 8)


@pytest.mark.parametrize("times, failed", [(2, 0), (3, 1)])
def test_a_row_is_repeated_as_often_as_after_an_error(times, failed, tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 1})
    assert batch(["dog", "cat"], tmp_path, Deadly(times), retries=2).failed == failed


def test_the_neighbours_of_such_a_row_are_made_alone(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 1})
    summary = batch(["cat", "dog", "fox", "red"], tmp_path, Deadly(), chunk=4)
    assert (summary.done, summary.failed) == (3, 1)
    assert {record["index"] for record in records(tmp_path) if record["status"] == "failed"} == {1}


def test_workers_that_die_while_they_start_end_the_batch(tmp_path, monkeypatch):
    cluster = install(monkeypatch, {"CPU": 2}, dies_at_start=lambda number: True)
    with pytest.raises(ChildProcessError, match="5 workers of Ray in turn died while they started"):
        batch(PROMPTS, tmp_path)
    assert len(cluster.actors) < 10


def test_a_machine_whose_workers_die_at_the_start_does_not_end_the_batch(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 2}, dies_at_start=lambda number: number % 2 == 1)
    assert batch(PROMPTS * 4, tmp_path, workers=2, batch=1).complete


def test_fail_fast_keeps_the_images_of_the_group(tmp_path, monkeypatch):
    install(monkeypatch, {"CPU": 1})
    with pytest.raises(ValueError, match="row 1 failed"):
        batch(["cat", "dog", "fox", "red", "cat", "cat"], tmp_path, raises_for_dogs, chunk=4, fail_fast=True, retries=0)
    assert [(r["index"], r["status"]) for r in records(tmp_path)] == [
        (0, "done"), (1, "failed"), (2, "done"), (3, "done"),
    ]  # fmt: skip


@pytest.mark.parametrize("option", ["workers", "batch", "address"])
def test_options_of_ray_without_it_are_refused(option, tmp_path):
    with pytest.raises(ValueError, match="workers, batch and address are for the engine ray"):
        batch(["cat"], tmp_path, engine="process", **{option: "auto" if option == "address" else 2})


def test_workers_wait_before_they_try_again(tmp_path, monkeypatch):
    install(monkeypatch)
    waits = []
    monkeypatch.setattr("noisetilt.batch.worker.PAUSE", 1.0)
    monkeypatch.setattr("noisetilt.batch.worker.sleep", waits.append)
    assert batch(["dog", "cat"], tmp_path, away_for_dogs, retries=3).failed == 1 and waits == [1, 2, 4]

"""Batches on Ray: the same images as in one process, also when workers are killed."""

import hashlib
import json
import os
import random
import signal
import threading
import time

import pytest
from tiny_batch import Blend, TinyModel, raises_for_dogs, redness

from noisetilt import Method
from noisetilt.batch import run_batch

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
PROMPTS = ["cat", "dog", "red fox", "fox"] * 4
KILLS = 3
ARGUMENTS = {"steps": 1, "heldout": False, "report": False, "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def stop_ray():
    yield
    ray.shutdown()


def digests(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.glob("images/*/*.png")}


def records(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def slow_model():
    return TinyModel(0.3)


def kill_workers(out, killed):
    """Kills all actors at once, at random moments after the first rows."""
    chance = random.Random(0)
    while len(killed) < KILLS:
        time.sleep(chance.uniform(0.1, 2))
        if not (out / "rows.jsonl").exists():
            continue
        actors = [p for p in psutil.process_iter(["cmdline"]) if "ray::RayWorker" in " ".join(p.info["cmdline"] or [])]
        for actor in actors:
            actor.kill()
            killed.append(actor.pid)


def test_workers_of_ray_have_the_method_that_is_given(tmp_path):
    rows = [{"prompt": "cat"}, {"prompt": "dog", "omega": 0.5}]
    given = {"reward": redness, "model": TinyModel, "method": Method(proposal=Blend(0.3)), **ARGUMENTS, "steps": 4}
    run_batch(rows, tmp_path / "one", **given)
    run_batch(rows, tmp_path / "ray", **given, engine="ray", workers=1)
    assert len(digests(tmp_path / "one")) == 2 and digests(tmp_path / "one") == digests(tmp_path / "ray")


def test_ray_makes_the_same_images_and_records_failures(tmp_path):
    run_batch(PROMPTS, tmp_path / "one", reward=raises_for_dogs, model=TinyModel, **ARGUMENTS)
    summary = run_batch(
        PROMPTS,
        tmp_path / "ray",
        reward=raises_for_dogs,
        model=TinyModel,
        engine="ray",
        workers=2,
        batch=3,
        **ARGUMENTS,
    )
    assert (summary.done, summary.failed) == (12, 4)
    assert digests(tmp_path / "ray") == digests(tmp_path / "one") and len(digests(tmp_path / "one")) == 12
    failed = [record for record in records(tmp_path / "ray") if record["status"] == "failed"]
    assert [r["attempts"] for r in failed] == [3] * 4 and "the server is away" in failed[0]["error"]


def test_killed_workers_lose_no_row(tmp_path):
    killed = []
    thread = threading.Thread(target=kill_workers, args=(tmp_path, killed), daemon=True)
    thread.start()
    summary = run_batch(
        PROMPTS, tmp_path, reward=redness, model=slow_model, engine="ray", workers=2, batch=2, **ARGUMENTS
    )
    assert killed and summary.complete
    assert sorted(record["index"] for record in records(tmp_path)) == list(range(16))


def kills_for_dogs(images, prompts):
    if any("dog" in prompt for prompt in prompts):
        os.kill(os.getpid(), signal.SIGKILL)
    return redness(images, prompts)


def test_a_row_that_kills_its_worker_fails_and_more_workers_than_room_are_not_waited_for(tmp_path):
    """test_ray_pool.py has more cases, on a test double."""
    ray.shutdown()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    arguments = {"model": TinyModel, "engine": "ray", **ARGUMENTS}
    with pytest.raises(ValueError, match="threads = 2 and no machine of the Ray cluster has more than 1 cores"):
        run_batch(PROMPTS, tmp_path, reward=redness, **{**arguments, "threads": 2})
    with pytest.raises(ValueError, match="device = 'cuda' needs a GPU and the Ray cluster has none"):
        run_batch(PROMPTS, tmp_path, reward=redness, device="cuda", **arguments)
    table = ["dog", *["cat", "fox"] * 4]
    summary = run_batch(table, tmp_path, reward=kills_for_dogs, workers=3, retries=1, **arguments)
    assert (summary.done, summary.failed) == (8, 1)
    (failed,) = (record for record in records(tmp_path) if record["status"] == "failed")
    assert failed["index"] == 0 and failed["attempts"] == 2 and failed["error"].startswith("the worker died: ")


def test_an_address_without_a_cluster_is_named(tmp_path):
    ray.shutdown()
    with pytest.raises(ValueError, match=r"no Ray at the address '127.0.0.1:1'"):
        run_batch(["cat"], tmp_path, reward=redness, model=TinyModel, engine="ray", address="127.0.0.1:1", **ARGUMENTS)

"""The recipe that kills batches: the options of its reference run, and the processes that it may kill."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes" / "batch"


@pytest.fixture
def kill(monkeypatch):
    """The module; its name is free again afterwards."""
    monkeypatch.syspath_prepend(str(RECIPES))
    module = importlib.import_module("kill")
    monkeypatch.delitem(sys.modules, "kill")
    return module


def test_the_reference_of_ray_has_one_process_with_the_threads_of_a_worker(kill):
    words = ["--method", "base", "--address", "auto", "--workers=2", "--batch", "4", "--steps", "2"]
    assert kill.reference_options("ray", words) == ["--method", "base", "--steps", "2", "--threads", "1"]
    assert kill.reference_options("ray", ["--threads=2"]) == ["--threads=2"]
    assert kill.reference_options("process", ["--steps", "2"]) == ["--steps", "2"]


def test_only_workers_that_descend_from_the_batch_are_killed(kill):
    pytest.importorskip("psutil")
    with subprocess.Popen(["ray::RayWorker", "60"], executable="/bin/sleep") as worker:
        try:
            assert [process.pid for process in kill.ray_workers(os.getpid())] == [worker.pid]
            assert kill.ray_workers(worker.pid) == []
        finally:
            worker.kill()

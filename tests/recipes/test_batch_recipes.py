"""The recipe that kills batches: the options of its reference run, and the processes that it may kill."""

import importlib
import os
import subprocess
import sys
import threading
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


def test_the_timer_of_the_soak_ends_with_the_batch(kill, monkeypatch, tmp_path):
    """Python would wait for the timer, and the timer would then stop whatever runs in the process."""
    monkeypatch.setitem(sys.modules, "kill", kill)
    soak = importlib.import_module("soak")
    monkeypatch.delitem(sys.modules, "soak")
    timers = []

    def fail(*_, **__):
        timers.extend(thread for thread in threading.enumerate() if isinstance(thread, threading.Timer))
        raise RuntimeError("the batch ends")

    monkeypatch.setattr(soak, "run_batch", fail)
    monkeypatch.setattr(soak.torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(sys, "argv", ["soak.py", str(tmp_path)])
    with pytest.raises(RuntimeError, match="the batch ends"):
        soak.main()
    (timer,) = timers
    timer.join(5)
    alive = timer.is_alive()
    timer.cancel()
    assert timer.daemon and not alive


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

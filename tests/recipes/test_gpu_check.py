"""The GPU check's own machinery, and its checks of one tiny pipeline on the CPU."""

import collections
import functools
import importlib.util
import json
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import noisetilt

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "recipes/pipelines/gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(gpu_check, tmp_path):
    made = gpu_check.Run("cpu", 1e9, tmp_path / "found.json")
    made.state["bandwidth"] = 1e10
    return made


def failing(gpu_check):
    def function(run):
        raise gpu_check.Failure({"value": 2.0})

    return function


def test_every_check_is_written_and_none_stops_the_next(gpu_check, run, capsys):
    run.check("first", failing(gpu_check))
    assert [result["status"] for result in json.loads(run.out.read_text())["checks"]] == ["FAILED"]
    run.check("second", lambda run: 1 / 0)
    run.check("third", lambda run: {"value": 3})
    found = json.loads(run.out.read_text())["checks"]
    assert [result["status"] for result in found] == ["FAILED", "ERROR", "ok"]
    assert found[0]["value"] == 2.0 and "ZeroDivisionError" in found[1]["error"] and found[2]["value"] == 3
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="alarms are of Unix")
def test_the_time_budget_ends_the_check_that_runs_and_skips_the_rest(gpu_check, run):
    run.deadline = time.perf_counter() + 0.2
    gpu_check.end_at_deadline(run)
    run.check("long", lambda run: time.sleep(30))
    run.check("next", lambda run: {})
    assert [result["status"] for result in run.results] == ["not run", "not run"]
    assert run.results[0]["seconds"] < 10


def test_a_wait_for_the_gpu_is_counted_at_its_place_in_noisetilt(gpu_check):
    code = "import warnings\ndef step():\n    warnings.warn('called a synchronizing CUDA operation')\n"
    inside, outside = {}, {}
    exec(compile(code, f"{gpu_check.SOURCE}/sampling/engine.py", "exec"), inside)
    exec(compile(code, "/elsewhere/pipeline.py", "exec"), outside)
    places = collections.Counter()
    with gpu_check.recorded_syncs(places):
        inside["step"]()
        inside["step"]()
        outside["step"]()
        warnings.warn("another warning", stacklevel=1)
    assert places == {"sampling/engine.py:step": 2, "(pipeline.py:step)": 1}


def test_traffic_counts_what_operations_read_and_write(gpu_check):
    x = torch.zeros(100)
    with gpu_check.Traffic() as traffic:
        x.view(10, 10) + 1
    assert traffic.operations == 1 and traffic.bytes == 2 * 400


def test_whitening_is_timed_against_its_traffic(gpu_check, run, monkeypatch):
    monkeypatch.setitem(gpu_check.EVENTS, 4096, (4, 32, 32))
    found = gpu_check.whitening_time(run, 4096)
    assert found["ms"] > 0 and found["operations"] > 100
    assert found["traffic_bound_ms"] > 10 * found["one_pass_bound_ms"]


def test_checks_of_a_tiny_pipeline(gpu_check, run, monkeypatch):
    assert len(gpu_check.families()) >= 10
    found = gpu_check.equality(run, "sd", torch.bfloat16)
    assert found["difference"] < 0.005
    raised = gpu_check.raises_reward(run, "sd", torch.bfloat16)
    assert raised["ntrk"] > raised["base"]
    stochastic = functools.partial(noisetilt.align, eta=0.5)
    monkeypatch.setattr(
        noisetilt, "align", lambda pipe, reward, method, eta: stochastic(pipe, reward, method), raising=False
    )
    with pytest.raises(gpu_check.Failure):
        gpu_check.equality(run, "sd", torch.bfloat16)

"""What watches a batch: the table, JSON logs, and trackers through their own libraries, each where it is installed."""

import io
import json
import urllib.request

import pytest
from tiny_batch import TinyModel, nan_for_dogs

from noisetilt.batch import run_batch
from noisetilt.batch.sinks import JsonLog, LiveTable, OpenTelemetry, Prometheus, tracker

PROMPTS = ["cat", "dog", "fox"]


def run(out, *sinks):
    arguments = {"model": TinyModel(), "steps": 1, "heldout": False, "report": False}
    return run_batch(PROMPTS, out, reward=nan_for_dogs, sinks=sinks, **arguments)


def test_the_json_log_has_an_object_per_event(tmp_path):
    stream = io.StringIO()
    run(tmp_path, JsonLog(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["start", "row", "row", "row", "finish"]
    assert [event["status"] for event in events[1:4]] == ["done", "failed", "done"]
    assert events[3]["done"] == 2 and events[3]["failed"] == 1 and "not finite" in events[2]["error"]


def test_the_table_shows_what_was_done(tmp_path):
    console = pytest.importorskip("rich.console")
    sink = LiveTable()
    stream = io.StringIO()
    sink.live.console = console.Console(file=stream, width=100)
    run(tmp_path, sink)
    shown = stream.getvalue()
    assert "2 of 3" in shown and all(name in shown for name in ("rows/s", "time left", "reward", "held-out", "failed"))


def test_prometheus_serves_the_counters_while_the_run_lasts(tmp_path):
    pytest.importorskip("prometheus_client")

    class Reader:
        text = ""

        def start(self, run):
            return

        def row(self, record, statistics):
            with urllib.request.urlopen(f"http://127.0.0.1:{sink.server.server_port}/metrics", timeout=30) as answer:
                self.text = answer.read().decode()

        def finish(self, run):
            return

    sink, reader = Prometheus(0), Reader()
    run(tmp_path, sink, reader)
    assert 'noisetilt_rows_total{status="done"} 2.0' in reader.text and "noisetilt_rows_expected 3.0" in reader.text
    assert 'noisetilt_rows_total{status="failed"} 1.0' in reader.text


def test_opentelemetry_collects_the_metrics(tmp_path):
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()

    class Last:
        def start(self, run):
            return

        def row(self, record, statistics):
            metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
            self.points = {metric.name: metric.data.data_points for metric in metrics}

        def finish(self, run):
            return

    last = Last()
    run(tmp_path, OpenTelemetry(tmp_path, reader), last)
    counts = {point.attributes["status"]: point.value for point in last.points["noisetilt.rows"]}
    assert counts == {"done": 2, "failed": 1}
    assert last.points["noisetilt.row.duration"][0].count == 2


def test_tensorboard_has_the_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tracker("tensorboard", tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("row/reward")) == 2 and events.Scalars("run/done")[-1].value == 2


def test_weights_and_biases_writes_an_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path, tracker("wandb", tmp_path))
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 500


def test_mlflow_has_the_metrics_and_settings(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run(tmp_path, tracker("mlflow", tmp_path))
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("noisetilt").experiment_id])
    assert found.data.metrics["run/done"] == 2 and found.data.params["method"] == "ntrk"
    assert found.info.status == "FAILED"

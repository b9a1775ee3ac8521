"""What watches a batch: the table, JSON logs, and trackers through their own libraries, each where it is installed."""

import io
import json
import socket
import sys
import urllib.request
from unittest.mock import MagicMock, call

import pytest
from tiny_batch import TinyModel, nan_for_dogs, redness

from noisetilt.batch import run_batch
from noisetilt.batch.sinks import JsonLog, LiveTable, OpenTelemetry, Prometheus, tracker

PROMPTS = ["cat", "dog", "fox"]


def run(out, *sinks, reward=nan_for_dogs, report=False, resume=False):
    arguments = {"model": TinyModel(), "steps": 1, "heldout": False, "report": report, "resume": resume}
    return run_batch(PROMPTS, out, reward=reward, sinks=sinks, **arguments)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def live_table():
    """A live table that writes to a string instead of the standard error."""
    console = pytest.importorskip("rich.console")
    sink = LiveTable()
    sink.live.console = console.Console(file=io.StringIO(), width=100)
    return sink


def test_the_json_log_has_an_object_per_event(tmp_path):
    stream = io.StringIO()
    run(tmp_path, JsonLog(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["start", "row", "row", "row", "finish"]
    assert [event["status"] for event in events[1:4]] == ["done", "failed", "done"]
    assert events[3]["done"] == 2 and events[3]["failed"] == 1 and "not finite" in events[2]["error"]


def test_the_table_shows_what_was_done(tmp_path):
    sink = live_table()
    run(tmp_path, sink)
    shown = sink.live.console.file.getvalue()
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

    sink, reader = Prometheus(free_port()), Reader()
    run(tmp_path, sink, reader)
    assert 'noisetilt_rows_total{status="done"} 2.0' in reader.text and "noisetilt_rows_expected 3.0" in reader.text
    assert 'noisetilt_rows_total{status="failed"} 1.0' in reader.text


class Recorder:
    """The events that a sink receives; those in `fails` raise."""

    def __init__(self, *fails, error=OSError):
        self.events, self.fails, self.error = [], fails, error

    def note(self, event):
        self.events.append(event)
        if event in self.fails:
            raise self.error(f"{event} failed")

    def start(self, run):
        self.note("start")

    def row(self, record, statistics):
        self.note("row")

    def finish(self, run):
        self.complete = run["complete"]
        self.note("finish")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_sink_that_fails_at_the_start_refuses_the_run(number, tmp_path):
    """Those that were started are finished."""
    sinks = [Recorder(*(["start"] if i == number else [])) for i in range(3)]
    with pytest.raises(OSError, match="start failed"):
        run(tmp_path, *sinks, reward=redness, report=True)
    for i, sink in enumerate(sinks):
        assert sink.events == (["start", "finish"] if i < number else ["start"] if i == number else [])
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("fails", [("row",), ("finish",), ("row", "finish")])
def test_a_sink_that_fails_does_not_stop_the_run(fails, number, tmp_path):
    """It gets no more rows, is finished once, and is named once; the others and the results are as without it."""
    sinks = [Recorder(*(fails if i == number else ())) for i in range(3)]
    with pytest.warns(UserWarning) as warned:
        summary = run(tmp_path, *sinks, reward=redness, report=True)
    (message,) = [text for text in map(str, (warning.message for warning in warned)) if "Recorder" in text]
    assert f"{fails[0]} failed" in message
    assert summary.complete and summary.done == len(PROMPTS) and (tmp_path / "report.html").exists()
    for i, sink in enumerate(sinks):
        rows = 1 if i == number and "row" in fails else len(PROMPTS)
        assert sink.events == ["start", *["row"] * rows, "finish"] and sink.complete


def test_a_sink_may_interrupt_the_run(tmp_path):
    sink = Recorder("row", error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, sink, reward=redness)
    assert sink.events == ["start", "row", "finish"]


def test_a_port_that_is_taken_leaves_no_live_table_and_no_run(tmp_path):
    pytest.importorskip("prometheus_client")
    table = live_table()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot serve at the port {port}: .*; give --prometheus another one"):
            run(tmp_path, table, Prometheus(port))
    assert not table.live.is_started
    assert run(tmp_path, reward=redness).complete


@pytest.mark.parametrize("port", [0, -5, 99999])
def test_ports_that_do_not_exist_are_refused(port):
    with pytest.raises(ValueError, match=f"prometheus = {port} must be a port, from 1 to 65535"):
        Prometheus(port)


@pytest.mark.parametrize(
    "module, package, sink",
    [
        ("rich", "rich", LiveTable),
        ("opentelemetry", "opentelemetry-sdk", lambda: OpenTelemetry("out")),
        ("prometheus_client", "prometheus-client", lambda: Prometheus(9123)),
        ("torch.utils.tensorboard", "tensorboard", lambda: tracker("tensorboard", "out")),
        ("wandb", "wandb", lambda: tracker("wandb", "out")),
        ("mlflow", "mlflow", lambda: tracker("mlflow", "out")),
    ],
)
def test_a_missing_package_is_named(module, package, sink, monkeypatch):
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"needs {package}; run pip install"):
        sink()


def test_trackers_of_a_continued_run_go_on(tmp_path, monkeypatch):
    """On test doubles of their libraries: two rows are done, and the one that failed is tried again."""
    http = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
    sdk = [f"opentelemetry.sdk.{name}" for name in ("metrics", "metrics.export", "resources")]
    modules = {name: MagicMock() for name in ("prometheus_client", "torch.utils.tensorboard", "mlflow", http, *sdk)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["prometheus_client"].start_http_server.return_value = (MagicMock(), None)
    run(tmp_path)
    trackers = [tracker(name, tmp_path) for name in ("tensorboard", "mlflow", "opentelemetry")]
    run(tmp_path, Prometheus(9100), *trackers, resume=True)
    counted = modules["prometheus_client"].Counter.return_value.labels
    assert counted.mock_calls == [call("done"), call().inc(2), call("failed"), call().inc()]
    meter = modules["opentelemetry.sdk.metrics"].MeterProvider.return_value.get_meter.return_value
    added = meter.create_counter.return_value.add
    assert added.mock_calls == [call(2, {"status": "done"}), call(1, {"status": "failed"})]
    writer = modules["torch.utils.tensorboard"].SummaryWriter.return_value
    assert {scalar.args[2] for scalar in writer.add_scalar.mock_calls} == {4}
    assert [metrics.kwargs for metrics in modules["mlflow"].log_metrics.mock_calls] == [{"step": 4}]


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


def test_a_run_that_is_refused_adds_nothing_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path)
    with pytest.raises(ValueError, match="has a run already"):
        run(tmp_path, tracker("tensorboard", tmp_path))
    assert not (tmp_path / "tensorboard").exists()


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

"""What watches a batch: a progress line, JSON logs, and optional trackers through their own libraries."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm.auto import tqdm

from .._messages import missing_extra, unknown_name
from .._progress import progress_bar
from ..runs import to_json

Record = Mapping[str, Any]
REFRESH_SECONDS = 0.5


class Sink(Protocol):
    """Receives what happens in a run.

    An exception in `start` ends the run. After one in `row` or `finish` the run goes on: there is one warning, and the
    sink gets no more rows.
    """

    def start(self, run: Record) -> None:
        """Called once, with the content of run.json."""

    def row(self, record: Record, statistics: Record) -> None:
        """Called after each row, with its record and the statistics of all rows so far."""

    def finish(self, run: Record) -> None:
        """Called once after `start`, with the final content of run.json, even if the run or a sink failed."""


class ProgressBar:
    """A live line on the standard error: rows done, rate, time left, mean reward and failures. In a file or a pipe a
    line per tenth of the rows and per minute, without rate and time left."""

    def start(self, run: Record) -> None:
        self.bar = progress_bar(run["rows"], "row", run["done"])

    def row(self, record: Record, statistics: Record) -> None:
        mean = statistics["reward_mean"]
        self.bar.set_postfix_str(f"reward {_signed(mean)}, failed {statistics['failed']}", refresh=False)
        self.bar.update()

    def finish(self, run: Record) -> None:
        self.bar.close()


class LiveTable:
    """A live table on the standard error: rows done, rate, time left, mean rewards and failures (extra `table`)."""

    def __init__(self) -> None:
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            raise ImportError(missing_extra("table", "--log table")) from None
        self.live = Live(console=Console(stderr=True), auto_refresh=False)

    def start(self, run: Record) -> None:
        self.rows, self.before = run["rows"], run["done"] + run["failed"]
        self.begin = self.shown = time.monotonic()
        self.live.start()
        self._show(run)

    def row(self, record: Record, statistics: Record) -> None:
        if time.monotonic() - self.shown >= REFRESH_SECONDS:
            self._show(statistics)

    def finish(self, run: Record) -> None:
        self._show(run)
        self.live.stop()

    def _show(self, statistics: Record) -> None:
        self.shown = time.monotonic()
        self.live.update(self._table(statistics), refresh=True)

    def _table(self, statistics: Record) -> Any:
        from rich.table import Table

        finished = statistics["done"] + statistics["failed"]
        rate = (finished - self.before) / max(self.shown - self.begin, 1e-9)
        left = (self.rows - finished) / rate if rate > 0 else None
        cells = {
            "done": f"{statistics['done']} of {self.rows}",
            "rows/s": f"{rate:.2f}",
            "time left": "–" if left is None else tqdm.format_interval(left),
            "reward": _signed(statistics["reward_mean"]),
            "held-out": _signed(statistics["heldout_mean"]),
            "failed": str(statistics["failed"]),
        }
        table = Table()
        for name in cells:
            table.add_column(name, justify="right")
        table.add_row(*cells.values())
        return table


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


class JsonLog:
    """One JSON object per event and line: start, row and finish.

    Args:
        stream: where to; the standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    def start(self, run: Record) -> None:
        self._write("start", {k: run[k] for k in ("rows", "done", "engine", "settings")})

    def row(self, record: Record, statistics: Record) -> None:
        fields = ("index", "status", "reward", "heldout", "seconds", "attempts", "error", "warning", "file")
        self._write("row", {**{k: record[k] for k in fields if k in record}, **statistics})

    def finish(self, run: Record) -> None:
        self._write("finish", {k: run[k] for k in ("complete", "done", "failed", "seconds")})

    def _write(self, event: str, values: Record) -> None:
        line = to_json({"time": time.time(), "event": event, **values})
        print(line, file=self.stream or sys.stderr, flush=True)


class Prometheus:
    """Serves the counters of the run for Prometheus at http://127.0.0.1:PORT/metrics (extra `prometheus`).

    Args:
        port: from 1 to 65535.
    Raises:
        ValueError: if there is no such port.
        OSError: in `start`, if the port cannot be used.
    """

    def __init__(self, port: int) -> None:
        if not 1 <= port <= 65535:
            raise ValueError(f"prometheus = {port} must be a port, from 1 to 65535, such as 9100")
        try:
            import prometheus_client
        except ImportError:
            raise ImportError(missing_extra("prometheus", "--prometheus")) from None
        self.client, self.port = prometheus_client, port

    def start(self, run: Record) -> None:
        registry = self.client.CollectorRegistry()
        self.rows = self.client.Counter("noisetilt_rows", "rows by status", ["status"], registry=registry)
        self.total = self.client.Gauge("noisetilt_rows_expected", "rows of the batch", registry=registry)
        self.reward = self.client.Gauge("noisetilt_reward_mean", "mean reward of the rows done", registry=registry)
        self.seconds = self.client.Histogram("noisetilt_row_seconds", "seconds per row", registry=registry)
        self.total.set(run["rows"])
        self.rows.labels("done").inc(run["done"])
        try:
            self.server, self.thread = self.client.start_http_server(self.port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OSError(f"cannot serve at the port {self.port}: {reason}; give --prometheus another one") from None

    def row(self, record: Record, statistics: Record) -> None:
        self.rows.labels(record["status"]).inc()
        self.reward.set(_gauge(statistics["reward_mean"]))
        if "seconds" in record:
            self.seconds.observe(record["seconds"])

    def finish(self, run: Record) -> None:
        self.server.shutdown()
        self.server.server_close()


class TensorBoard:
    """Scalars for TensorBoard in the folder `tensorboard` of the run (extra `tensorboard`)."""

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(missing_extra("tensorboard", "--track tensorboard")) from None
        self.make_writer, self.folder = SummaryWriter, out / "tensorboard"

    def start(self, run: Record) -> None:
        self.writer, self.number = self.make_writer(str(self.folder)), run["records"]
        self.writer.add_text("settings", to_json(run["settings"]))

    def row(self, record: Record, statistics: Record) -> None:
        self.number += 1
        for name, value in _scalars(record, statistics).items():
            self.writer.add_scalar(name, value, self.number)

    def finish(self, run: Record) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in the project `noisetilt` (extra `wandb`); its environment variables apply."""

    def __init__(self, out: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise ImportError(missing_extra("wandb", "--track wandb")) from None
        self.wandb, self.out = wandb, out

    def start(self, run: Record) -> None:
        self.session = self.wandb.init(project="noisetilt", dir=str(self.out), config=dict(run["settings"]))

    def row(self, record: Record, statistics: Record) -> None:
        self.session.log(_scalars(record, statistics))

    def finish(self, run: Record) -> None:
        self.session.finish(exit_code=0 if run["complete"] else 1)


class MLflow:
    """A run of MLflow (extra `mlflow`); MLFLOW_TRACKING_URI applies, else the folder `mlflow` of the run."""

    def __init__(self, out: Path) -> None:
        try:
            import mlflow
        except ImportError:
            raise ImportError(missing_extra("mlflow", "--track mlflow")) from None
        self.mlflow, self.out, self.number = mlflow, out, 0

    def start(self, run: Record) -> None:
        import os

        if "MLFLOW_TRACKING_URI" not in os.environ:
            self.mlflow.set_tracking_uri(f"sqlite:///{(self.out / 'mlflow.db').resolve()}")
        self.mlflow.set_experiment("noisetilt")
        self.mlflow.start_run()
        self.mlflow.log_params({name: str(value)[:250] for name, value in run["settings"].items()})
        self.number = run["records"]

    def row(self, record: Record, statistics: Record) -> None:
        self.number += 1
        self.mlflow.log_metrics(_scalars(record, statistics), step=self.number)

    def finish(self, run: Record) -> None:
        self.mlflow.end_run("FINISHED" if run["complete"] else "FAILED")


class OpenTelemetry:
    """Metrics for OpenTelemetry (extra `opentelemetry`). They are exported by OTLP; its environment variables apply,
    such as OTEL_EXPORTER_OTLP_ENDPOINT.

    Args:
        out: the folder of the run, which names it.
        reader: of the metrics; the exporter by default.
    """

    def __init__(self, out: Path, reader: Any = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
        except ImportError:
            raise ImportError(missing_extra("opentelemetry", "--track opentelemetry")) from None
        reader = reader or PeriodicExportingMetricReader(OTLPMetricExporter())
        resource = Resource.create({"service.name": "noisetilt", "noisetilt.run": str(out)})
        self.provider = MeterProvider([reader], resource)

    def start(self, run: Record) -> None:
        meter = self.provider.get_meter("noisetilt.batch")
        self.rows = meter.create_counter("noisetilt.rows", "row", "rows by status")
        self.seconds = meter.create_histogram("noisetilt.row.duration", "s", "seconds per row")
        self.reward = meter.create_gauge("noisetilt.reward.mean", description="mean reward of the rows done")
        expected = meter.create_gauge("noisetilt.rows.expected", "row", "rows of the batch")
        expected.set(run["rows"])
        self.rows.add(run["done"], {"status": "done"})

    def row(self, record: Record, statistics: Record) -> None:
        self.rows.add(1, {"status": record["status"]})
        if "seconds" in record:
            self.seconds.record(record["seconds"])
        self.reward.set(_gauge(statistics["reward_mean"]))

    def finish(self, run: Record) -> None:
        self.provider.shutdown()


LOGS: dict[str, Callable[[], Sink]] = {"bar": ProgressBar, "table": LiveTable, "json": JsonLog}
TRACKERS: dict[str, Callable[[Path], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "opentelemetry": OpenTelemetry,
}


def tracker(name: str, out: Path) -> Sink:
    """The tracker of a name in TRACKERS.

    Raises:
        ValueError: if there is no tracker of this name.
        ImportError: if its library is not installed.
    """
    if name not in TRACKERS:
        raise ValueError(unknown_name("tracker", name, TRACKERS))
    return TRACKERS[name](out)


def _gauge(mean: float | None) -> float:
    """A mean for a gauge, which would keep an earlier value where there is none any more."""
    return math.nan if mean is None else mean


def _scalars(record: Record, statistics: Record) -> dict[str, float]:
    """Numbers of a row and of the rows so far, under the names that trackers show."""
    row = {f"row/{k}": record[k] for k in ("reward", "heldout", "seconds") if record.get(k) is not None}
    run = {f"run/{k}": v for k, v in statistics.items() if v is not None}
    return {**row, **run}

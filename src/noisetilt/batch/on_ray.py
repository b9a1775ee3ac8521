"""The engine "ray": Ray Data with a pool of actors that each hold a worker."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from .._messages import missing_extra
from .settings import Settings
from .table import Row
from .worker import Groups, Outcome, Worker, WorkerOptions, error_sentence

# A small limit makes Ray pass on each result when it is there, instead of at the end of a block.
RESULT_BYTES = 1
MAX_FRUITLESS = 5
# Seconds that Ray may take to start; its own limit of 30 is too little on a busy machine.
START_SECONDS = 180


class RayWorker:
    """A worker as an actor of Ray Data: a batch is one group of rows as JSON."""

    def __init__(self, options: WorkerOptions) -> None:
        self.worker = Worker(options)

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for text in batch["rows"]:
            for outcome in self.worker([_row(values) for values in json.loads(str(text))]):
                record = {"index": outcome.index, "results": dict(outcome.results), "error": outcome.error}
                yield {"record": [json.dumps(record)], "image": [outcome.image]}


def _row(values: Mapping[str, Any]) -> Row:
    return Row(values["index"], Settings(**values["settings"]))


def _text(rows: Any) -> str:
    return json.dumps([{"index": row.index, "settings": row.settings.as_json()} for row in rows])


def start_ray(address: str | None, workers: int | None, cpus: int) -> bool:
    """Connects to Ray, or starts it on this machine; returns whether it was started.

    Raises:
        ImportError: if Ray is not installed.
        ChildProcessError: if Ray does not start.
        ValueError: if there is no Ray at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError(missing_extra("ray", "the engine ray")) from None
    # Among its warnings is that progress bars are off.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # More workers than cores may be asked for, and Ray starts no actor without free cores.
        local = max(os.cpu_count() or 1, (workers or 1) * cpus + 1)
        os.environ.setdefault("RAY_raylet_start_wait_time_s", str(START_SECONDS))
        try:
            ray.init(num_cpus=local, include_dashboard=False, **options)
        except Exception as error:
            ray.shutdown()
            raise ChildProcessError(f"Ray did not start on this machine: {error_sentence(error)}; try again") from None
        return True
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no Ray at the address {address!r}: {reason}; start one with `ray start`") from None
    return True


def run_on_ray(
    groups: Groups, options: WorkerOptions, workers: int | None = None, batch: int = 8, cpus: int = 1
) -> Iterator[Outcome]:
    """The outcomes of all rows, in the order in which they finish.

    Ray Data holds back the workers while results wait to be read. What a worker that died had not passed on is given
    to new workers, after the rows of the others.

    Args:
        groups: rows that are sampled in one call.
        options: of the workers.
        workers: the largest number of actors; None: as many as the cluster has room for.
        batch: groups that a worker is given at once; a worker that dies repeats at most these.
        cpus: cores per worker, on machines without GPU.

    Raises:
        ChildProcessError: if the workers died several times before any row was finished.
    """
    import ray

    waiting, fruitless = {row.index for rows in groups for row in rows}, 0
    while waiting:
        before, reason = len(waiting), "no row was finished"
        left = [rows for rows in groups if any(row.index in waiting for row in rows)]
        try:
            for outcome in _one_pass(left, options, workers, batch, cpus):
                waiting.discard(outcome.index)
                yield outcome
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
        fruitless = 0 if len(waiting) < before else fruitless + 1
        if fruitless >= MAX_FRUITLESS:
            raise ChildProcessError(f"the workers of Ray died {fruitless} times without finishing a row: {reason}")


def _one_pass(groups: Groups, options: WorkerOptions, workers: int | None, batch: int, cpus: int) -> Iterator[Outcome]:
    """The outcomes of the rows whose workers did not die."""
    import pyarrow as pa
    import ray

    gpu = options.device.startswith("cuda")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = RESULT_BYTES
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = MAX_FRUITLESS
    blocks = [
        pa.table({"rows": [_text(rows) for rows in groups[first : first + batch]]})
        for first in range(0, len(groups), batch)
    ]
    room = ray.cluster_resources().get("GPU" if gpu else "CPU", 1) / (1 if gpu else cpus)
    largest = max(1, min(workers or math.floor(room), len(blocks)))
    results = ray.data.from_arrow(blocks).map_batches(
        RayWorker,
        fn_constructor_args=(options,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1 if workers is None else largest, max_size=largest),
        # Restarts by Ray can wait for ever when an actor dies while it starts.
        max_restarts=0,
        **({"num_gpus": 1} if gpu else {"num_cpus": cpus}),
    )
    for values in results.iter_rows():
        record = json.loads(values["record"])
        yield Outcome(record["index"], record["results"], values["image"], record["error"])

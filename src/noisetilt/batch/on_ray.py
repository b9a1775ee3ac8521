"""The engine "ray": actors of Ray that each hold a worker.

Ray Data's pool of actors is not used: when all of its actors have died it waits for ever, with `max_restarts=0` because
it counts dead actors, and with restarts if an actor dies while it starts (Ray 2.60).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._messages import missing_extra
from .settings import Settings
from .table import Row
from .worker import Groups, Outcome, Worker, WorkerOptions, error_sentence

MAX_FRUITLESS = 5
# Seconds that Ray may take to start; its own limit of 30 is too little on a busy machine.
START_SECONDS = 180
WAITING = "noisetilt: the Ray cluster has had no room for a worker so far; waiting until its other work ends"


class RayWorker:
    """A worker as an actor of Ray."""

    def __init__(self, options: WorkerOptions) -> None:
        self.worker = Worker(options)

    def ready(self) -> None:
        """Returns once the actor has started."""

    def make(self, rows: str) -> list[Outcome]:
        """The outcomes of a group of rows as JSON."""
        return list(self.worker([_row(values, self.worker.options) for values in json.loads(rows)]))


def _row(values: Mapping[str, Any], options: WorkerOptions) -> Row:
    settings = values["settings"]
    method = options.methods.get(settings["method"], settings["method"])
    return Row(values["index"], Settings(**{**settings, "method": method}))


def _text(rows: Any) -> str:
    return json.dumps([{"index": row.index, "settings": row.settings.as_json()} for row in rows])


def start_ray(address: str | None, workers: int | None, cpus: int) -> bool:
    """Connects to Ray, or starts it on this machine; returns False if this process was connected already.

    Raises:
        ImportError: if Ray is not installed.
        ChildProcessError: if Ray does not start.
        ValueError: if there is no Ray at the address, or this process is connected to another one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ImportError(missing_extra("ray", "the engine ray")) from None
    if ray.is_initialized():
        _check_address(address, ray)
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # More workers than cores may be asked for, and Ray starts no actor without free cores.
        local = max(os.cpu_count() or 1, (workers or 1) * cpus + 1)
        os.environ.setdefault("RAY_raylet_start_wait_time_s", str(START_SECONDS))
        try:
            # "local": without an address Ray joins a cluster that it finds on this machine, and refuses num_cpus.
            ray.init(address="local", num_cpus=local, include_dashboard=False, **options)
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


def _check_address(address: str | None, ray: Any) -> None:
    """Raises a ValueError if an address is not that of the Ray to which this process is connected."""
    if address in (None, "auto"):
        return
    connected = ray.get_runtime_context().gcs_address
    if address != connected:
        raise ValueError(
            f"address = {address!r} and this process is connected to the Ray at {connected!r}; leave the address out, "
            "or call ray.shutdown() first"
        )


@contextlib.contextmanager
def connected_ray(address: str | None, workers: int | None, cpus: int) -> Iterator[None]:
    """A context with Ray, which ends at its end what `start_ray` started or connected to.

    Raises:
        ImportError, ChildProcessError, ValueError: as `start_ray`.
    """
    started = start_ray(address, workers, cpus)
    try:
        yield
    finally:
        if started:
            import ray

            ray.shutdown()


def cluster_has_gpu() -> bool:
    """Whether a machine of the cluster has a GPU; the one that starts the batch may have none."""
    import ray

    return any(resources.get("GPU", 0) >= 1 for resources in _machines(ray))


def _machines(ray: Any) -> list[dict[str, float]]:
    """What each machine of the cluster has: CPU, GPU, …"""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_room(device: str, cpus: int) -> None:
    """Raises a ValueError if no machine of the cluster has room for one worker, for which Ray would wait for ever.

    Args:
        device: of the workers.
        cpus: cores per worker, on machines without GPU.
    """
    import ray

    if _needs_gpu(device):
        if not cluster_has_gpu():
            raise ValueError(f"device = {device!r} needs a GPU and the Ray cluster has none; use --device cpu")
        return
    most = int(max((resources.get("CPU", 0) for resources in _machines(ray)), default=0))
    if cpus > most:
        raise ValueError(
            f"threads = {cpus} and no machine of the Ray cluster has more than {most} cores; give at most "
            f"--threads {most or 1}"
        )


def _needs_gpu(device: str) -> bool:
    return device.startswith("cuda")


def run_on_ray(
    groups: Groups, options: WorkerOptions, workers: int | None = None, batch: int = 8, cpus: int = 1
) -> Iterator[Outcome]:
    """The outcomes of all rows, in the order in which they finish.

    A worker gets new groups only when its results have been read, so results do not pile up. The groups of a worker
    that died are given to the others, after their own, and a new worker takes its place. A row during which
    `options.retries` + 1 workers died has an error.

    Args:
        groups: rows that are sampled in one call.
        options: of the workers.
        workers: the largest number of actors; None: as many as the cluster has room for.
        batch: groups that a worker has at once; a worker that dies repeats at most these.
        cpus: cores per worker, on machines without GPU.

    Raises:
        ChildProcessError: if several workers in turn died while they started.
    """
    import ray

    gpu = _needs_gpu(options.device)
    room = ray.cluster_resources().get("GPU" if gpu else "CPU", 0) / (1 if gpu else cpus)
    pool = _Pool(options, {"num_gpus": 1} if gpu else {"num_cpus": cpus}, batch)
    waiting, fruitless = deque(groups), 0
    deaths: Counter[tuple[int, ...]] = Counter()
    try:
        for _ in range(max(1, min(workers or math.floor(room), len(groups)))):
            pool.start()
        # Workers for which there is no room have no group, and are not waited for.
        while waiting or pool.has_groups():
            pool.give(waiting)
            actor, outcomes, reason = pool.next()
            if reason is None:
                fruitless = 0
                yield from outcomes
                continue
            finished, lost = pool.bury(actor)
            yield from finished
            if lost:
                # The others were only waiting behind the first one; they must not die with it again.
                waiting.extend(lost[1:])
                yield from _retry(lost[0], deaths, options.retries, reason, waiting)
            else:
                fruitless += 1
                if fruitless >= MAX_FRUITLESS:
                    raise ChildProcessError(f"{fruitless} workers of Ray in turn died while they started: {reason}")
            if waiting:
                pool.start()
    finally:
        pool.stop()


def _retry(
    group: Sequence[Row],
    deaths: Counter[tuple[int, ...]],
    retries: int,
    reason: str,
    waiting: deque[Sequence[Row]],
) -> Iterator[Outcome]:
    """Puts a group during which a worker died into the queue again; after too many deaths its rows, each alone, and
    then yields the error of the row.

    Args:
        group: the rows.
        deaths: of each group so far.
        retries: how often a group is repeated.
        reason: why the worker died.
        waiting: the queue.
    """
    key = tuple(row.index for row in group)
    deaths[key] += 1
    if deaths[key] <= retries:
        waiting.append(group)
    elif len(group) > 1:
        waiting.extend([row] for row in group)
        deaths.update({(index,): retries for index in key})
    else:
        yield Outcome(key[0], {"attempts": deaths[key]}, error=f"the worker died: {reason}")


class _Pool:
    """Actors, and the groups that each of them has."""

    def __init__(self, options: WorkerOptions, resources: dict[str, float], batch: int) -> None:
        import ray

        self.ray, self.batch = ray, batch
        # A new actor is better than one that Ray restarts, which can wait for ever if it dies while it starts.
        self.actor = ray.remote(RayWorker).options(max_restarts=0, max_task_retries=0, **resources)
        self.options = ray.put(options)
        self.started: list[Any] = []
        self.waited = False
        # Task → (actor, group); the group of an actor's start is None. An actor does its tasks in this order.
        self.tasks: dict[Any, tuple[Any, Sequence[Row] | None]] = {}

    def start(self) -> None:
        """Starts an actor, which gets groups once it is ready."""
        actor = self.actor.remote(self.options)
        self.tasks[actor.ready.remote()] = (actor, None)

    def has_groups(self) -> bool:
        """Whether an actor has a group."""
        return any(group is not None for _, group in self.tasks.values())

    def give(self, waiting: deque[Sequence[Row]]) -> None:
        """Gives the started actors groups, evenly, as many as each may have."""
        held = {actor: 0 for actor in self.started}
        for actor, group in self.tasks.values():
            if group is not None:
                held[actor] += 1
        while waiting and held and min(held.values()) < self.batch:
            actor = min(held, key=held.__getitem__)
            group = waiting.popleft()
            self.tasks[actor.make.remote(_text(group))] = (actor, group)
            held[actor] += 1

    def next(self) -> tuple[Any, list[Outcome], str | None]:
        """Waits for a task: its actor, the outcomes, and why the actor died, or None."""
        task = self._wait()
        actor, group = self.tasks[task]
        try:
            outcomes = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return actor, [], str(error).strip().splitlines()[-1].partition(" Some common causes")[0]
        del self.tasks[task]
        if group is None:
            self.started.append(actor)
        return actor, outcomes or [], None

    def _wait(self) -> Any:
        """The first task that is done. Says so, once, if there is no room on the cluster for any actor."""
        limit = None if self.started or self.waited else START_SECONDS
        ready = self.ray.wait(list(self.tasks), num_returns=1, timeout=limit)[0]
        if not ready:
            self.waited = True
            print(WAITING, file=sys.stderr)
            ready = self.ray.wait(list(self.tasks), num_returns=1)[0]
        return ready[0]

    def bury(self, actor: Any) -> tuple[list[Outcome], list[Sequence[Row]]]:
        """Forgets an actor that died; returns the outcomes that it had finished, and the groups that it had not, the
        one that it was making first."""
        finished: list[Outcome] = []
        lost: list[Sequence[Row]] = []
        for task in [task for task, (owner, _) in self.tasks.items() if owner == actor]:
            group, outcomes = self.tasks.pop(task)[1], self._finished(task)
            if outcomes is not None:
                finished += outcomes
            elif group is not None:
                lost.append(group)
        self.started = [other for other in self.started if other != actor]
        self.ray.kill(actor)
        return finished, lost

    def _finished(self, task: Any) -> list[Outcome] | None:
        """The outcomes of a task of an actor that died, if it was done before."""
        if not self.ray.wait([task], num_returns=1, timeout=0)[0]:
            return None
        try:
            return self.ray.get(task) or []
        except self.ray.exceptions.RayError:
            return None

    def stop(self) -> None:
        """Ends all actors."""
        for actor in {owner for owner, _ in self.tasks.values()} | set(self.started):
            self.ray.kill(actor)

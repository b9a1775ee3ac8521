"""`run_batch`: makes the images of a table of prompts."""

from __future__ import annotations

import contextlib
import functools
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .._files import changed_file
from .._messages import unknown_name
from ..integrations.load import check_load, default_device, is_pipeline, local_checksums
from ..method_identity import class_checksums, describe_method
from ..methods import Method, find_method
from ..models import check_device
from ..rewards.catalogue import check_named_heldout, check_names, named_heldout
from ..rewards.reward import RewardFunction, reward_name
from ..runs import (
    BATCH_REPORT,
    ROWS,
    Interrupts,
    claim_folder,
    finished_parts,
    read_record,
    says_what_is_kept,
    write_json,
)
from ..sampling import check_reward
from .in_process import run_in_process
from .ledger import BatchLedger, check_records
from .on_ray import check_room, cluster_has_gpu, connected_ray, run_on_ray
from .settings import Settings, json_value
from .sinks import Sink
from .summary import Statistics, write_report
from .table import Row, Table, read_table
from .worker import Groups, Outcome, WorkerOptions, error_sentence

ENGINES = ("process", "ray")
MODEL_OPTIONS = ("dtype", "offload", "height", "width", "frames", "lora", "checkpointing")
RECORD_SECONDS, MAX_MESSAGES = 5.0, 20


@dataclass(frozen=True)
class Summary:
    """The result of `run_batch`.

    Attributes:
        out: the folder of the run.
        rows, done, failed: number of rows, and of those that are finished and that failed.
        complete: whether every row is finished.
        reward_mean, heldout_mean: means over the finished rows, or None; None too if they have several rewards or
            held-out rewards.
        heldout_rows: number of the rows that heldout_mean is of: those for which the held-out reward is defined.
        groups: reward, heldout_reward, rows, reward_mean, heldout_mean and heldout_rows of the rows with the same
            rewards.
        seconds: wall-clock time of this call and of those that it continues.
        errors: message → number of the rows that failed with it; the 20 most frequent ones.
        warned: number of the rows that are done with a warning.
        warnings: message → number of the rows that are done with it, such as those without a held-out reward; the 20
            most frequent ones.
        first_rows: message of an error or a warning → the numbers of the first rows with it, from 0, five at most.
        first_lines: message → the lines of the table's file, from 1, in which these rows begin; empty without a file.
    """

    out: Path
    rows: int
    done: int
    failed: int
    complete: bool
    reward_mean: float | None
    heldout_mean: float | None
    heldout_rows: int
    groups: Sequence[Mapping[str, Any]]
    seconds: float
    errors: Mapping[str, int]
    warned: int
    warnings: Mapping[str, int]
    first_rows: Mapping[str, Sequence[int]]
    first_lines: Mapping[str, Sequence[int]]


def run_batch(
    table: Table,
    out: str | Path,
    *,
    reward: str | RewardFunction | None = None,
    method: str | Method = "ntrk",
    model: Any = "emoji128",
    steps: int | None = None,
    guidance: float | None = None,
    eta: float = 1.0,
    gradient_at: str = "x_t",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    n: int = 1,
    engine: str = "process",
    workers: int | None = None,
    batch: int | None = None,
    chunk: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    address: str | None = None,
    retries: int = 2,
    heldout: bool | str = True,
    fail_fast: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    keep: Sequence[str] = (),
    sinks: Sequence[Sink] = (),
    report: bool = True,
) -> Summary:
    """Make an image for every row of a table of prompts. Finished rows are kept, whatever happens.

        from noisetilt.batch import run_batch

        run_batch(["cat face", {"prompt": "red heart", "seed": 7}], "runs/fox", reward="redness")

    The folder has images/, rows.jsonl (a record per row), run.json and report.html. The same row gives the same image
    whatever the engine, `batch` and `workers` are: the noise depends on the seed alone, and on a CPU with the default
    `chunk` and the same `threads` the pixels are equal too.

    Args:
        table: a file (.csv, .tsv, .jsonl, .parquet, or .txt with a prompt per line), or prompts and dictionaries. A
            column overrides the argument of its name for its row; other columns are options of the row's method.
        out: folder of the run.
        reward: name or weighted sum as `rewards.load` takes it, or a reward function.
        method: a name in METHODS, the name of one in a Python file ("file.py:NAME"), or a Method. The records have
            the call that makes a Method. Workers of Ray must be able to import the classes of its parts.
        model: what `load` takes, a model, or a function without arguments that returns a model.
        steps, guidance: None means the model's own.
        eta: stochasticity of the reverse kernel.
        gradient_at: "x_t" or "x0", as in `sample`.
        options: options of the method.
        seed: of the first image; the following ones have the next numbers.
        n: images per row.
        engine: "process", or "ray": a pool of Ray actors, one per GPU, or per `threads` cores.
        workers: the largest number of actors; None: as many as there is room for.
        batch: groups of rows that a Ray actor is given at once; None: 8.
        chunk: rows per network call; None: 8 on a GPU, and one image per call on a CPU and for pipelines. With another
            value, pixels depend on which rows are neighbours, within rounding errors.
        threads: of each worker; None: torch's own number in this process, 1 on Ray.
        device: torch device of the workers. By default the GPU if there is one, of this machine or of the Ray cluster,
            and a row's model is a pipeline; otherwise the CPU. A worker of Ray has a GPU of its own: "cuda".
        model_options: further arguments of `load` for models by name, such as {"dtype": "bfloat16"}.
        address: of a Ray cluster, such as "auto"; None uses the Ray to which this process is connected, or starts it on
            this machine until the call ends.
        retries: how often a row is tried again after an error that may pass; after an error of a
            connection with pauses of 1, 2, 4, … up to 30 seconds.
        heldout: whether to evaluate the held-out version of the reward on each image; a name: this reward instead,
            by its second network if it is learned. A row whose held-out reward is not defined is done, and its record
            has a warning.
        fail_fast: whether to stop at the first row that fails.
        overwrite: whether to replace a run in the folder.
        resume: whether to continue a run in the folder. Rows that failed are tried again.
        keep: further columns of the table, which are copied to the records.
        sinks: what watches the run.
        report: whether to write report.html at the end.

    Returns:
        Summary.

    Raises:
        ValueError: if an argument or the table is wrong, or the folder has a run and neither `overwrite` nor `resume`.
        OSError: if a file cannot be written; finished rows are kept.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; finished rows are kept.
    """
    if engine not in ENGINES:
        raise ValueError(unknown_name("engine", engine, ENGINES))
    for name, value, least in (
        ("batch", batch, 1),
        ("workers", workers, 1),
        ("chunk", chunk, 1),
        ("retries", retries, 0),
    ):
        _check_whole(name, value, least)
    _check_whole("threads", threads, 1)
    if engine != "ray" and any(value is not None for value in (workers, batch, address)):
        raise ValueError(
            f"workers, batch and address are for the engine ray and the engine is {engine}; leave them out"
        )
    if engine == "ray" and str(device).startswith("cuda:"):
        raise ValueError(f"device = {device!r} names one GPU, and Ray gives each worker its own; use 'cuda'")
    for name in model_options or {}:
        if name not in MODEL_OPTIONS:
            raise ValueError(unknown_name("model option", name, MODEL_OPTIONS))
    find_method(method)
    models, rewards = {}, {}
    methods = {} if isinstance(method, str) else {describe_method(method): method}
    if not isinstance(model, (str, Path)):
        name = str(getattr(model, "__name__", type(model).__name__))
        models[name], model = model, name
    if reward is not None and not isinstance(reward, str):
        if not callable(reward):
            raise ValueError(f"reward is {reward!r}, expected a name or a function of images and prompts")
        rewards[reward_name(reward)] = reward
        reward = reward_name(reward)
    elif reward is not None:
        check_names(reward)  # the networks of the hub are loaded by the workers
    if isinstance(heldout, str):
        check_names(heldout)
    elif not isinstance(heldout, bool):
        raise ValueError(f"heldout is {heldout!r}, expected True, False or the name of a reward")
    defaults = {
        "reward": reward,
        "method": method,
        "options": dict(options or {}),
        "model": str(model),
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "eta": eta,
        "gradient_at": gradient_at,
    }
    rows = read_table(table, {**defaults, "n": n}, keep)
    _check_rewards(rows)
    rows = _with_rewards(rows)
    _check_heldout(rows, heldout, rewards)
    threads = 1 if threads is None and engine == "ray" else threads
    with contextlib.ExitStack() as ending:
        ending.callback(torch.set_num_threads, torch.get_num_threads())  # which a worker in this process changes
        if engine == "ray":
            ending.enter_context(connected_ray(address, workers, threads or 1))
        device = device or _default_device(rows, engine)
        if engine == "ray":  # the machines of a cluster have other devices than this one
            check_room(device, threads or 1)
        else:
            check_device(device)
        given = {name: value for name, value in (model_options or {}).items() if value not in (None, [], False)}
        worker_options = WorkerOptions(device, threads, chunk, retries, heldout, given, models, rewards, methods)
        _check_models(rows, worker_options, model, engine)
        run_groups: Callable[[Groups, WorkerOptions], Iterator[Outcome]] = run_in_process
        if engine == "ray":
            run_groups = functools.partial(run_on_ray, workers=workers, batch=batch or 8, cpus=threads or 1)
        out = Path(out)
        run = _Run(out, rows, worker_options, run_groups, fail_fast, list(sinks), report, resume, overwrite)
        used = torch.get_num_threads() if threads is None else threads
        held = named_heldout(heldout) if isinstance(heldout, str) else heldout
        fixed = {"chunk": chunk, "threads": used, "device": device, "model_options": given, "heldout": held}
        files = local_checksums(_rewards_by_name(rows, worker_options), given.get("lora", []), _methods_by_name(rows))
        settings = json_value({**defaults, "method": Settings("-", method=method).method_name, "n": n, **fixed})
        classes = {} if isinstance(method, str) else class_checksums(method)
        description = {"engine": engine, "settings": settings, "checksums": {**files, **classes}}
        inputs = [*([Path(table)] if isinstance(table, (str, Path)) else []), *map(Path, files)]
        claim = claim_folder(
            out,
            overwrite=overwrite,
            resume=resume,
            command="batch",
            finished=ROWS,
            inputs=inputs,
            outputs=BATCH_REPORT,
            check=check_records,
        )
        with claim as continued:
            return run(description, continued)


def _check_rewards(rows: Sequence[Row]) -> None:
    """Raises a ValueError if all methods need a reward and no row has one."""
    methods: dict[tuple[str, str], Settings] = {}
    for settings in (row.settings for row in rows if row.settings is not None):
        if settings.reward is not None:
            return
        methods.setdefault((settings.method_name, str(settings.options)), settings)
    if methods and all(map(_needs_reward, methods.values())):
        name = next(iter(methods.values())).method_name
        raise ValueError(
            f"the method {name} needs a reward and neither `reward` (--reward) nor a column reward gives one; give a "
            "reward, such as redness, or the method base"
        )


def _with_rewards(rows: Sequence[Row]) -> list[Row]:
    """The rows, of which those are wrong that have no reward and a method that needs one."""
    needs: dict[tuple[str, str], bool] = {}
    found = []
    for row in rows:
        settings = row.settings
        if settings is not None and settings.reward is None:
            key = settings.method_name, str(settings.options)
            if key not in needs:
                needs[key] = _needs_reward(settings)
            if needs[key]:
                problem = (
                    f"the row has no reward, which its method {settings.method_name} needs; fill its column reward, or "
                    "give --reward for all rows, or the method base"
                )
                kept = {**row.kept, "row": {"prompt": settings.prompt}}
                row = replace(row, settings=None, problem=problem, kept=kept)
        found.append(row)
    return found


def _needs_reward(settings: Settings) -> bool:
    try:
        check_reward(find_method(settings.method).replace(**settings.options), None)
    except ValueError:
        return True
    return False


def _check_models(rows: Sequence[Row], options: WorkerOptions, own: Any, engine: str) -> None:
    """Raises an error for options of models with which no row can be made, or if the run's own model is wrong. A wrong
    model of a row is the error of the row.

    Args:
        rows: of the table.
        options: of the workers.
        own: the model of the run.
        engine: of the run; the files of Ray's workers may be on other machines.
    """
    names = dict.fromkeys(row.settings.model for row in rows if row.settings is not None)
    errors: dict[str, Exception] = {}
    for name in [name for name in names if name not in options.models]:
        try:
            check_load(name, device=options.device, local=engine != "ray", **options.model_options)
        except (ValueError, ImportError, OSError) as error:
            errors[name] = error
    if own in errors:
        raise errors[own]
    if errors and len(errors) == len(names):
        raise next(iter(errors.values()))


def _check_heldout(rows: Sequence[Row], heldout: bool | str, functions: Mapping[str, Any]) -> None:
    """Raises a ValueError if the named held-out reward is the reward of a row, unless that is given as a function."""
    if isinstance(heldout, str):
        for reward in dict.fromkeys(row.settings.reward for row in rows if row.settings is not None):
            if reward is not None and reward not in functions:
                check_named_heldout(heldout, reward)


def _rewards_by_name(rows: Sequence[Row], options: WorkerOptions) -> set[str]:
    """The rewards of all rows, and the held-out one, without those that are given as functions."""
    names = {row.settings.reward for row in rows if row.settings is not None and row.settings.reward is not None}
    return (names | ({options.heldout} if isinstance(options.heldout, str) else set())) - set(options.rewards)


def _methods_by_name(rows: Sequence[Row]) -> set[str]:
    """The names of the methods of the rows."""
    return {row.settings.method for row in rows if row.settings is not None and isinstance(row.settings.method, str)}


def _default_device(rows: Sequence[Row], engine: str) -> str:
    """The GPU, if there is one and a row's model is a pipeline; otherwise the CPU."""
    if not any(map(is_pipeline, {row.settings.model for row in rows if row.settings})):
        return "cpu"
    if engine == "ray":
        return "cuda" if cluster_has_gpu() else "cpu"
    return default_device()


def _check_whole(name: str, value: Any, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"{name} = {value!r} must be a whole number, {least} or more")


@dataclass
class _Run:
    """One call of `run_batch`, after its arguments were checked."""

    out: Path
    rows: list[Row]
    options: WorkerOptions
    run_groups: Callable[[Groups, WorkerOptions], Iterator[Outcome]]
    fail_fast: bool
    sinks: list[Sink]
    report: bool
    resume: bool
    overwrite: bool
    statistics: Statistics = field(default_factory=Statistics)
    written: float = 0.0
    failure: str = ""
    lost: set[int] = field(default_factory=set)
    earlier: float = 0.0

    def __call__(self, description: Mapping[str, Any], continued: bool) -> Summary:
        self.started, self.description = time.perf_counter(), description
        self.ledger = BatchLedger(self.out, fresh=not continued)
        if continued:
            before = read_record(self.out) or {}
            if self.ledger.has_finished:  # otherwise there is nothing yet to which the new rows have to fit
                self._check_settings(before)
            self.earlier = before.get("seconds", 0.0)
        missing = [row for row in self.rows if not self.ledger.is_done(row)]
        for record in self.ledger.finished(len(self.rows)):
            self.statistics.add(record)
        groups = self._groups({row.index for row in missing})
        self.record = self._record(False)
        with contextlib.ExitStack() as started:
            for sink in self.sinks:
                sink.start(self.record)
                started.callback(self._finish_sink, sink)
            write_json(self.out / "run.json", self.record)
            with Interrupts("row") as interrupts, says_what_is_kept(self._kept):
                try:
                    self._make(missing, groups, interrupts)
                finally:
                    with interrupts.deferred():
                        self._finish()
        return self._summary()

    def _kept(self) -> str:
        how = {"resume": self.resume, "overwrite": self.overwrite}
        return finished_parts(self.statistics.done, len(self.rows), "row", self.out, **how)

    def _check_settings(self, before: Mapping[str, Any]) -> None:
        """Raises a ValueError if what the pixels and the held-out rewards depend on is another than in the run that is
        continued."""
        for name in ("chunk", "threads", "device", "model_options", "heldout"):
            new = self.description["settings"][name]
            old = before.get("settings", {}).get(name, new)
            unknown = name == "threads" and old is None  # in runs of earlier versions
            if old != new and not unknown:
                raise ValueError(
                    f"{name} = {new} and the run in {self.out} has {old}; give the same to --resume, or another --out"
                )
        file = changed_file(before.get("checksums", {}), self.description["checksums"])
        if file is not None:
            raise ValueError(
                f"{file} has changed since the run in {self.out} began; restore it, or choose another --out, or "
                "--overwrite"
            )

    def _groups(self, missing: set[int]) -> list[list[Row]]:
        """Rows that are sampled in one call: neighbours with the same settings.

        They are those of the whole table, so that a run that was continued has the same ones; groups that are
        finished are left out.
        """
        groups: list[list[Row]] = []
        size = 0
        key: tuple[str, ...] = ()
        for row in self.rows:
            if row.settings is None:
                size = 0
                continue
            if 0 < len(groups[-1] if groups else ()) < size and key == row.settings.group():
                groups[-1].append(row)
            else:
                groups.append([row])
                size, key = self.options.together(row.settings), row.settings.group()
        return [group for group in groups if any(row.index in missing for row in group)]

    def _make(self, missing: Sequence[Row], groups: Groups, interrupts: Interrupts) -> None:
        by_index = {row.index: row for row in missing if row.settings is not None}
        last = {group[-1].index for group in groups}
        for row in missing:
            if row.settings is None:
                self._add(row, Outcome(row.index, {"attempts": 0}, error=row.problem), interrupts)
                self._check_failure()
        outcomes = self.run_groups(groups, self.options) if groups else iter(())
        for outcome in outcomes:
            if outcome.index in by_index:  # a group also has neighbours that are finished already
                self._add(by_index.pop(outcome.index), outcome, interrupts)
            if outcome.index in last:  # the other images of the group are finished too
                self._check_failure()
                if by_index:
                    interrupts.check()
        self._check_failure()

    def _add(self, row: Row, outcome: Outcome, interrupts: Interrupts) -> None:
        with interrupts.deferred():
            record = self.ledger.add(row, outcome)
            self.statistics.add(record)
        if time.perf_counter() - self.written > RECORD_SECONDS:
            write_json(self.out / "run.json", self._record(False))
            self.written = time.perf_counter()
        for sink in [sink for sink in self.sinks if id(sink) not in self.lost]:
            try:
                sink.row(record, self.statistics.as_json())  # may wait for a server; must not hold signals back
            except Exception as error:
                self._lose(sink, error)
        if outcome.error and not self.failure:
            self.failure = f"{row.name} failed: {outcome.error}"

    def _finish_sink(self, sink: Sink) -> None:
        """Finishes a sink, also one that failed, so that it frees what it holds, such as a port."""
        try:
            sink.finish(self.record)
        except Exception as error:
            self._lose(sink, error)

    def _lose(self, sink: Sink, error: Exception) -> None:
        """Gives a sink that failed no more rows, and says so once."""
        if id(sink) not in self.lost:
            self.lost.add(id(sink))
            name = type(sink).__name__
            warnings.warn(f"{name} failed and gets no more rows: {error_sentence(error)}", stacklevel=2)

    def _check_failure(self) -> None:
        """Raises a ValueError if a row failed and the run stops at the first such row."""
        if self.failure and self.fail_fast:
            raise ValueError(self.failure)

    def _finish(self) -> None:
        """Writes the final record and the report."""
        self.record = self._record(self.statistics.done == len(self.rows))
        write_json(self.out / "run.json", self.record)
        if self.report:
            write_report(self.out, self.record, self.ledger.finished(len(self.rows)))

    def _record(self, complete: bool) -> dict[str, Any]:
        errors = dict(self.statistics.errors.most_common(MAX_MESSAGES))
        warnings = dict(self.statistics.warnings.most_common(MAX_MESSAGES))
        return {
            "command": "batch",
            "complete": complete,
            **self.description,
            "rows": len(self.rows),
            "records": self.ledger.count,
            **self.statistics.as_json(),
            "groups": self.statistics.groups(),
            "warned": self.statistics.warned,
            "errors": errors,
            "warnings": warnings,
            "first_rows": {message: self.statistics.first_rows[message] for message in (*errors, *warnings)},
            "first_lines": {message: self.statistics.first_lines[message] for message in (*errors, *warnings)},
            "seconds": round(self.earlier + time.perf_counter() - self.started, 3),
            "versions": {"noisetilt": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "processor": platform.processor() or platform.machine(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def _summary(self) -> Summary:
        names = [f.name for f in fields(Summary) if f.name != "out"]
        return Summary(self.out, **{name: self.record[name] for name in names})

"""The folder of a run: one writer at a time, and no run replaces another by accident."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .._files import json_object
from .atomic import _write_error, make_folder, remove_partial

LOCK, RECORD = ".lock", "run.json"
# Files with a line for each finished part of a run: of batches and benchmarks, and of the other commands.
ROWS, PROGRESS = "rows.jsonl", "progress.jsonl"
# Files of a run that its record does not name.
OTHERS = ("grid.png", "strip.png", "rewards.png", "animation.webp", PROGRESS)
BATCH_REPORT = ("report.html", "histograms.png")
# Folders of images: of iterates until a run is complete, and of a batch, in parts.
ITERATES, IMAGES = "iterates", "images"


@contextlib.contextmanager
def claim_folder(
    folder: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    finished: str = PROGRESS,
    inputs: Sequence[Path] = (),
    outputs: Sequence[str] = (),
    check: Callable[[Path], None] = lambda folder: None,
) -> Iterator[bool]:
    """Makes a folder and holds its lock, which ends with the process.

    A folder has a run if it has the record run.json, or finished parts of a run whose record was lost. A run of which
    no part is finished is replaced without being asked.

    Args:
        folder: of the run; created if missing.
        overwrite: whether a run in it, or a file that the command would write, may be replaced; the run's record
            run.json and the files that this names are deleted.
        resume: whether a run in it is continued.
        command: the command that may continue the run: a folder with a run of another command is refused.
        finished: the name of the command's file of finished parts, ROWS or PROGRESS. This function does not delete it
            where the record is lost.
        inputs: files that the command reads, which may not be files of a run that is replaced, or of this one.
        outputs: names of files in the folder that the command writes.
        check: called with the folder before a run in it is replaced; what it raises leaves the run as it is.

    Yields:
        Whether a run is continued.

    Raises:
        ValueError: if both options are given, another process writes to the folder, the folder has a run, or a file
            that the command would write, and no option is given, or an input would be deleted or written over.
        OSError: if the folder cannot be written to.
    """
    files: dict[str, Any] = {"command": command, "finished": finished, "inputs": inputs, "outputs": outputs}
    check_folder(folder, overwrite=overwrite, resume=resume, **files)  # before the folder is made
    with locked(folder):
        record, parts = check_folder(folder, overwrite=overwrite, resume=resume, **files)
        if overwrite:
            check(folder)
        for place in (folder, folder / ITERATES, *(folder / IMAGES).glob("*")):
            if place == folder or not (place / LOCK).exists():  # otherwise it has a run of its own
                remove_partial(place)
        begun = record is not None and not _has_results(record, parts)
        if record is not None and overwrite:
            _remove_run(folder, record)
        elif begun:
            (folder / RECORD).unlink()
            shutil.rmtree(folder / ITERATES, ignore_errors=True)
        yield resume and not begun and (record is not None or finished in parts)


def check_folder(
    folder: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    finished: str = PROGRESS,
    inputs: Sequence[Path] = (),
    outputs: Sequence[str] = (),
) -> tuple[dict[str, Any] | None, list[str]]:
    """Checks that `claim_folder` would not refuse a folder, and writes nothing; the arguments are the same.

    Returns:
        The record of the run in the folder, or None, and the names of the files of its finished parts.

    Raises:
        ValueError, OSError: as `claim_folder`, unless another process writes to the folder.
    """
    if overwrite and resume:
        raise ValueError("overwrite and resume exclude each other; give one of them")
    _check_is_folder(folder)
    record, parts = read_record(folder), [name for name in (ROWS, PROGRESS) if _has_content(folder / name)]
    if _has_results(record, parts):
        if not (overwrite or resume):
            raise ValueError(
                f"{folder} has a run already; give --resume to continue it, --overwrite to replace it, or another --out"
            )
        before = (record or {}).get("command", command)
        if resume and before != command:
            raise ValueError(f"{folder} has a run of {before!r}, expected one of {command!r}; choose another --out")
        if resume and record is None and finished not in parts:
            raise ValueError(
                f"{folder} has {parts[0]} and no {finished}, which {command!r} writes; choose another --out"
            )
    _check_inputs(folder, inputs, [*_names((record if overwrite else None) or {}), *outputs, finished])
    if record is None and not parts and not overwrite and folder.exists():
        own = sorted({*outputs}.intersection(os.listdir(folder)))
        if own:
            raise ValueError(
                f"{folder} has {own[0]}, which is no file of a run and would be replaced; choose another --out, or "
                "give --overwrite"
            )
    return record, parts


def _has_results(record: Mapping[str, Any] | None, parts: Sequence[str]) -> bool:
    """Whether a folder with a record, or None, and with these files of finished parts has results of a run."""
    if record is None or parts:
        return bool(parts)
    begun = "command" in record and record.get("complete") is False
    return not begun or bool(record.get("images")) or bool(record.get("done"))


def _check_is_folder(folder: Path) -> None:
    """Raises an OSError if a folder cannot be made because a file is in its place, or its name is too long."""
    try:
        above = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    except OSError as error:
        raise _write_error(folder, error) from None
    if above.exists() and not above.is_dir():
        kind = errno.EEXIST if above == folder else errno.ENOTDIR
        raise _write_error(folder, OSError(kind, os.strerror(kind)))


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and holds its lock, which ends with the process.

    Raises:
        ValueError: if another process holds it.
        OSError: if the folder cannot be written to.
    """
    make_folder(folder)
    try:
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process writes to {folder}; wait for it, or choose another folder") from None
    except OSError as error:
        raise _write_error(folder, error) from None
    try:
        yield
    finally:
        lock.release()


def _check_inputs(folder: Path, inputs: Sequence[Path], names: Sequence[str]) -> None:
    """Raises a ValueError if an input is one of the files of a run, or in the folder of its iterates.

    Args:
        folder: of the run.
        inputs: files that the command reads.
        names: of the files of the run, and of the one that it replaces.
    """
    if not inputs:
        return
    own, iterates = {(folder / name).resolve() for name in names}, (folder / ITERATES).resolve()
    for file in inputs:
        if file.resolve() in own or iterates in file.resolve().parents:
            raise ValueError(
                f"{file} is an input and a file of the run in {folder}, which would be replaced; copy it elsewhere, or "
                "choose another --out"
            )


def _remove_run(folder: Path, record: dict[str, Any]) -> None:
    """Deletes a run's record and the files in the folder that it names, so that none is taken for the new run's."""
    for name in _names(record):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / ITERATES, ignore_errors=True)


def _names(record: dict[str, Any]) -> list[str]:
    """The names of the files in a run's folder: those in its record, and those that every run may have."""
    images = record.get("images")
    rows = [row for row in images if isinstance(row, dict)] if isinstance(images, list) else []
    names = [row.get("file") for row in rows]
    for row in rows:
        files = row.get("files")
        names += list(files.values()) if isinstance(files, dict) else []
    own = [name for name in names if isinstance(name, str) and Path(name).name == name]
    return [*own, *OTHERS, *(BATCH_REPORT if record.get("command") == "batch" else ()), RECORD]


def read_record(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's run.json, or None if it has none.

    Raises:
        ValueError: if the file is not the record of a run.
    """
    file = folder / RECORD
    if not file.exists():
        return None
    try:
        return json_object(file)
    except ValueError:
        raise ValueError(
            f"{file} is not the record of a run; delete this file and give --resume, or choose another --out"
        ) from None

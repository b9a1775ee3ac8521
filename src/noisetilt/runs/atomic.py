"""Files that are written as a whole or not at all, also when the process is killed or the disk is full."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

SUFFIX = ".partial"
# The name under which `write_bytes` writes: .NAME.PID.partial.
LEFT = re.compile(rf"\..*\.\d+{re.escape(SUFFIX)}", re.DOTALL)


def _write_error(file: Path, error: OSError) -> OSError:
    """The error for a file that could not be written, with its name; keeps the error number."""
    of_name = error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    hint = "choose another name" if of_name else "check the free space and permissions there"
    hint = "make its folder first" if error.errno == errno.ENOENT else hint
    failure = OSError(f"cannot write {file}: {(error.strerror or str(error)).lower()}; {hint}")
    failure.errno = error.errno
    return failure


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, unless they exist.

    Raises:
        OSError: if it cannot be made; names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(folder, error) from None


def write_bytes(file: Path, data: bytes) -> None:
    """Writes a file as a whole: under another name first, which replaces the file when all bytes are on the disk.

    A reader sees the old content or the new one. After SIGKILL a file `.NAME.PID.partial` may remain, which
    `remove_partial` deletes.

    Raises:
        OSError: if the file cannot be written; names the file. The old content is kept.
    """
    temporary = file.with_name(f".{file.name[:40]}.{os.getpid()}{SUFFIX}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError):
            raise _write_error(file, error) from None
        raise


def write_text(file: Path, text: str) -> None:
    """Writes a text as a whole, in UTF-8; see `write_bytes`."""
    write_bytes(file, text.encode("utf-8"))


def write_json(file: Path, value: Any) -> None:
    """Writes a value as JSON, as `to_json` does, as a whole; see `write_bytes`."""
    write_text(file, to_json(value, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON, in the form of `finite_json`."""
    return json.dumps(finite_json(value), indent=indent, allow_nan=False)


def finite_json(value: Any) -> Any:
    """A value with the texts "inf", "-inf" and "nan", which float() reads, in place of numbers that JSON does not have,
    such as eta = inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {name: finite_json(item) for name, item in value.items()}
    return [finite_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def append_line(file: Path, line: str) -> None:
    """Appends a line to a file. A line that does not fit on the disk is removed again, as is an incomplete last line,
    which a killed process left.

    Raises:
        OSError: if the line cannot be written; names the file.
    """
    try:
        with file.open("a+b", buffering=0) as stream:
            end = _remove_incomplete_line(stream)
            try:
                _write_all(stream.fileno(), (line + "\n").encode("utf-8"))
                os.fsync(stream.fileno())
            except BaseException:
                stream.truncate(end)
                raise
    except OSError as error:
        raise _write_error(file, error) from None


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _remove_incomplete_line(stream: FileIO) -> int:
    """Removes the last line of an open file unless it is complete; returns the size of the file."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(end - 1, 0))
    if stream.read(1) in (b"", b"\n"):
        return end
    stream.seek(0)
    return stream.truncate(stream.readall().rfind(b"\n") + 1)


def read_lines(file: Path) -> Iterator[str]:
    """The complete lines of a file that `append_line` wrote, read one by one. The file is not changed.

    Raises:
        ValueError: if a line is not in UTF-8; names it.
    """
    if not file.exists():
        return
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.endswith(b"\n"):  # otherwise another process is writing it, or was killed
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError:
                    raise ValueError(f"{file}, line {number} is not in UTF-8; remove the line") from None
                yield text.rstrip("\r\n")


def remove_partial(folder: Path) -> None:
    """Deletes what killed processes left in a folder of files that they were writing; only for its one writer. Other
    files, and those of folders in it, are kept."""
    for file in folder.glob(f".*{SUFFIX}"):
        if LEFT.fullmatch(file.name):
            _remove(file)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # the error that made the file useless is reported, not this one
        return

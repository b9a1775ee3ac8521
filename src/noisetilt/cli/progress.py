"""The finished batches of `generate` and `optimize` on disk, from which an interrupted run continues."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from .._files import changed_file
from .._messages import one_line
from ..runs import (
    PROGRESS,
    append_line,
    check_folder,
    claim_folder,
    finished_parts,
    finite_json,
    read_lines,
    read_record,
    says_what_is_kept,
    to_json,
)
from .comparison import ImageBatch, Variant, image_name, requested

FIELDS = ("variant", "first", "rewards", "heldout", "curve", "nfe", "seconds")


def claim_run(job: Any, command: str, inputs: Sequence[Path] = ()) -> contextlib.AbstractContextManager[bool]:
    """`claim_folder` for the folder of a job.

    Args:
        job: of the run.
        command: its command.
        inputs: files that it reads, besides those of its checksums.
    """
    return claim_folder(job.out, **_folder_arguments(job, command, inputs))


def check_run(job: Any, command: str, inputs: Sequence[Path] = ()) -> None:
    """Raises what `claim_run` raises for a folder that the job may not write to, before a model is loaded."""
    check_folder(job.out, **_folder_arguments(job, command, inputs))


def _folder_arguments(job: Any, command: str, inputs: Sequence[Path]) -> dict[str, Any]:
    files = {"inputs": [*inputs, *map(Path, job.checksums)], "outputs": job.outputs()}
    return {"overwrite": job.overwrite, "resume": job.resume, "command": command, **files}


def explained_interrupts(
    job: Any, count: Callable[[], int], total: int, part: str = "image"
) -> contextlib.AbstractContextManager[None]:
    """A context in which an interrupt says how many parts of a job's run are finished, and how it continues.

    Args:
        job: of the run.
        count: () → the number of finished parts.
        total: the number of all parts.
        part: what one of them is.
    """
    how = {"resume": job.resume, "overwrite": job.overwrite}
    return says_what_is_kept(lambda: finished_parts(count(), total, part, job.out, **how))


def settings_digest(job: Any) -> str:
    """A checksum of the settings and files that the images of a job depend on. Each finished batch has it, so that a
    run can be continued whose run.json was lost."""
    return _digest({**requested(job), **({"checksums": job.checksums} if job.checksums else {})})


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def start_progress(job: Any, continued: bool) -> Path:
    """The file of a job's finished batches, which is deleted unless a run is continued.

    Raises:
        ValueError: if the run that is continued has other settings, or none that are known, or was made with another
            content of a reward's or a LoRA's file, or if a file that is to be deleted is not one of finished batches.
    """
    file, record = Path(job.out) / PROGRESS, read_record(Path(job.out))
    if not continued:
        if not all("variant" in line or "photos" in line for line in _lines(file)):
            raise ValueError(f"{file} is not the file of a run's finished batches; choose another --out")
        file.unlink(missing_ok=True)
    elif record is not None:
        _check_same(job, record)
    # Runs of earlier versions have no checksums of files.
    elif any(line.get("digest") not in (settings_digest(job), _digest(requested(job))) for line in _lines(file)):
        raise ValueError(
            f"{file} has batches of other settings or files than those given, and run.json, which would name them, is "
            "missing; choose another --out, or --overwrite"
        )
    return file


def _check_same(job: Any, record: Mapping[str, Any]) -> None:
    """Raises a ValueError if a job has other settings or files than the record of the run that it continues."""
    # Runs of earlier versions have the numbers of which JSON has none.
    before, now = finite_json(record.get("requested", {})), finite_json(requested(job))
    changed = [
        f"{name} ({_short(before.get(name))} instead of {_short(now.get(name))})"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(
            f"{job.out} has a run with another {', '.join(changed)}; give the same, another --out, or --overwrite"
        )
    file = changed_file(record.get("checksums", {}), job.checksums)
    if file is not None:
        raise ValueError(
            f"{file} has changed since the run in {job.out} began; restore it, or choose another --out, or --overwrite"
        )


def _short(setting: Any) -> str:
    """A setting as JSON, with its middle left out if it is long."""
    text = json.dumps(setting, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:39]} … {text[-18:]}"


def _lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of finished batches.

    Raises:
        ValueError: if a line is damaged; names it.
    """
    lines = []
    for number, line in enumerate(read_lines(file), 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise _damaged(file, number)
        lines.append(value)
    return lines


def _damaged(file: Path, number: int) -> ValueError:
    return ValueError(f"{file}, line {number} is damaged; remove the line")


def read_progress(file: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of a file of finished batches, each of which has these fields.

    Raises:
        ValueError: if a line is damaged; names it.
    """
    lines = _lines(file)
    for number, line in enumerate(lines, 1):
        if not line.keys() >= set(fields):
            raise _damaged(file, number)
    return lines


class Progress:
    """The finished batches of a run, one line of progress.jsonl each.

    A line is written after all images of its batch, so that a batch that was interrupted is made again.

    Args:
        job: of the run; its settings must be those of the run that is continued.
        continued: whether the folder has a run that is continued.

    Raises:
        ValueError: as `start_progress`.
    """

    def __init__(self, job: Any, continued: bool) -> None:
        self.job, self.file, self.digest = job, start_progress(job, continued), settings_digest(job)
        self._finished = {(line["variant"], line["first"]): line for line in read_progress(self.file, FIELDS)}

    def restore(self, variant: Variant, batch: ImageBatch) -> bool:
        """Adds the results of a finished batch to the variant; False if the batch is not finished."""
        line = self._finished.get((variant.name, batch.first))
        indices = range(batch.first, batch.first + len(batch.seeds))
        files = [Path(self.job.out) / image_name(self.job, index, variant) for index in indices]
        if line is None or not all(file.is_file() for file in files):
            return False
        variant.keep([read_image(file) for file in files[: variant.missing]])
        variant.rewards += line["rewards"]
        variant.heldout += line["heldout"]
        if line["curve"] is not None:
            variant.curves.append(torch.from_numpy(np.array(line["curve"], np.float32)))
        variant.nfe = line["nfe"]
        variant.seconds += line["seconds"]
        return True

    def add(self, variant: Variant, batch: ImageBatch, seconds: float) -> None:
        """Writes the results of the batch that was added to the variant last, which took some seconds."""
        count = len(batch.seeds)
        line = {
            "digest": self.digest,
            "variant": variant.name,
            "first": batch.first,
            "rewards": variant.rewards[-count:],
            "heldout": variant.heldout[-count:],
            "curve": variant.curves[-1].tolist() if variant.curves else None,
            "nfe": variant.nfe,
            "seconds": seconds,
        }
        append_line(self.file, to_json(line))


def read_image(file: Path) -> Tensor:
    """The image (3, H, W) or the video (frame, 3, H, W) of a PNG file, in [0, 1].

    Raises:
        ValueError: if the file is damaged; names it.
    """
    try:
        with Image.open(file) as stored:
            frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(stored)]
    except Exception as error:  # Pillow's parsers raise errors of many types
        raise ValueError(f"{file} is damaged, or no image: {one_line(error)}; delete it to make it again") from None
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    return images[0] if len(images) == 1 else images

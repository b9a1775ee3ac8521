"""The finished batches of `generate` and `optimize` on disk, from which an interrupted run continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from .._messages import one_line
from ..runs import append_line, read_lines, read_record
from .comparison import ImageBatch, Variant, image_name, requested

FILE = "progress.jsonl"
FIELDS = ("variant", "first", "rewards", "heldout", "curve", "nfe", "seconds")


def refuse_other_settings(job: Any) -> None:
    """Raises a ValueError if the run in a job's folder has other settings."""
    before, now = (read_record(job.out) or {}).get("requested", {}), requested(job)
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed:
        raise ValueError(f"{job.out} has a run with another {', '.join(changed)}; choose another --out, or --overwrite")


def read_progress(file: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """These fields of each line of a file of finished batches.

    Raises:
        ValueError: if a line is damaged; names it.
    """
    lines = []
    for number, line in enumerate(read_lines(file), 1):
        try:
            value = json.loads(line)
            lines.append({name: value[name] for name in fields})
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{file}, line {number} is damaged; remove the line") from None
    return lines


class Progress:
    """The finished batches of a run, one line of progress.jsonl each.

    A line is written after all images of its batch, so that a batch that was interrupted is made again.

    Args:
        job: of the run; its settings must be those of the run that is continued.
        continued: whether the folder has a run that is continued.

    Raises:
        ValueError: if the run that is continued has other settings.
    """

    def __init__(self, job: Any, continued: bool) -> None:
        self.job, self.file = job, Path(job.out) / FILE
        if not continued:
            self.file.unlink(missing_ok=True)
            return
        refuse_other_settings(job)

    def _lines(self) -> list[dict[str, Any]]:
        return read_progress(self.file, FIELDS)

    def restore(self, variant: Variant, batch: ImageBatch) -> bool:
        """Adds the results of a finished batch to the variant; False if the batch is not finished."""
        for line in self._lines():
            if (line["variant"], line["first"]) != (variant.name, batch.first):
                continue
            indices = range(batch.first, batch.first + len(batch.seeds))
            files = [Path(self.job.out) / image_name(self.job, index, variant) for index in indices]
            if not all(file.is_file() for file in files):
                return False
            variant.images += [read_image(file) for file in files]
            variant.rewards += line["rewards"]
            variant.heldout += line["heldout"]
            if line["curve"] is not None:
                variant.curves.append(torch.tensor(line["curve"]))
            variant.nfe = line["nfe"]
            variant.seconds += line["seconds"]
            return True
        return False

    def add(self, variant: Variant, batch: ImageBatch, seconds: float) -> None:
        """Writes the results of the batch that was added to the variant last, which took some seconds."""
        count = len(batch.seeds)
        line = {
            "variant": variant.name,
            "first": batch.first,
            "rewards": variant.rewards[-count:],
            "heldout": variant.heldout[-count:],
            "curve": variant.curves[-1].tolist() if variant.curves else None,
            "nfe": variant.nfe,
            "seconds": seconds,
        }
        append_line(self.file, json.dumps(line))


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

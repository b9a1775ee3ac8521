"""Images of the iterates of a noise ascent: recorded while it runs, and drawn as a strip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..report import grid
from ..runs import write_bytes
from ..sampling import AscentReport
from .comparison import Variant, thumbnails

MAX_FRAMES, STRIP_COLUMNS, MAX_IMAGES = 24, 8, 8
Frames = dict[int, list[torch.Tensor]]


@dataclass
class IterateImages:
    """Images (3, H, W) in [0, 1] of some iterates, by the number of the iterate; only of the first images of a run."""

    iterations: int
    frames: Frames = field(default_factory=dict)

    def recorded_numbers(self) -> set[int]:
        """At most MAX_FRAMES iterates from 0 to the last, evenly spaced."""
        count = min(MAX_FRAMES, self.iterations + 1)
        return {round(i * self.iterations / max(count - 1, 1)) for i in range(count)}

    def record(self, report: AscentReport) -> None:
        """Keeps the images of a report if its iterate is recorded."""
        if report.number in self.recorded_numbers():
            frame = self.frames.setdefault(report.number, [])
            frame += thumbnails(list(report.images[: MAX_IMAGES - len(frame)].cpu()))

    def close(self) -> None:
        """Repeats the last frame for the iterates that an early stop left out."""
        last = self.frames[max(self.frames)]
        for number in self.recorded_numbers() - set(self.frames):
            self.frames[number] = list(last)


def merged_frames(batches: Sequence[IterateImages]) -> Frames:
    """The frames of all batches, at most MAX_IMAGES images each."""
    numbers = sorted(batches[0].frames)
    return {number: [p for batch in batches for p in batch.frames[number]][:MAX_IMAGES] for number in numbers}


def draw_strip(frames: Frames) -> Image.Image:
    """One row per image, from the initial noise to the last iterate."""
    numbers = sorted(frames)
    count = min(STRIP_COLUMNS, len(numbers))
    picked = [numbers[round(i * (len(numbers) - 1) / max(count - 1, 1))] for i in range(count)]
    label = "iterations " + ", ".join(map(str, picked))
    rows = [("" if i else label, [frames[n][i] for n in picked]) for i in range(len(frames[picked[0]]))]
    return grid(rows, per_line=count)


def _iterates_file(out: Path, variant: Variant, seeds: Sequence[int]) -> Path:
    return out / "iterates" / f"{variant.name}-{seeds[0]}.safetensors"


def write_iterates(out: Path, variant: Variant, seeds: Sequence[int], images: IterateImages) -> None:
    """Writes the iterates of a batch, so that a run that is continued can draw them."""
    file = _iterates_file(out, variant, seeds)
    file.parent.mkdir(parents=True, exist_ok=True)
    frames = {str(number): torch.stack(frame).contiguous() for number, frame in images.frames.items()}
    write_bytes(file, save(frames, metadata={"iterations": str(images.iterations)}))


def read_iterates(out: Path, variant: Variant, seeds: Sequence[int]) -> IterateImages | None:
    """The iterates of a finished batch, or None if its file is missing or damaged."""
    try:
        with safe_open(_iterates_file(out, variant, seeds), framework="pt") as stored:
            frames = {int(number): list(stored.get_tensor(number)) for number in stored.keys()}  # noqa: SIM118
            return IterateImages(int(stored.metadata()["iterations"]), frames)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None

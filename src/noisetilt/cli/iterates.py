"""Images of the iterates of a noise ascent: recorded while it runs, and drawn as a strip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from ..report import grid
from ..sampling import AscentReport
from .comparison import thumbnails

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

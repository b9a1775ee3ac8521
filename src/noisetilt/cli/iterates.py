"""Images of the iterates of a noise ascent, or of the steps of a sampler: recorded while it runs, and drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..report import grid, save_animation
from ..runs import ITERATES, make_folder, write_bytes
from .comparison import ImageBatch, Variant, comparison_grid, scale_of, thumbnails

MAX_FRAMES, STRIP_COLUMNS, MAX_IMAGES = 24, 8, 8
Frames = dict[int, list[torch.Tensor]]


@dataclass
class IterateImages:
    """Images (3, H, W) in [0, 1] of some iterates, by the number of the iterate; only of the first images of a run.

    Args:
        last, first: the numbers of the last and of the first iterate.
        frames: number → images.
    """

    last: int
    frames: Frames = field(default_factory=dict)
    first: int = 0

    def recorded_numbers(self) -> set[int]:
        """At most MAX_FRAMES iterates from the first to the last, evenly spaced."""
        count = min(MAX_FRAMES, self.last - self.first + 1)
        return {self.first + round(i * (self.last - self.first) / max(count - 1, 1)) for i in range(count)}

    def record(self, number: int, images: Callable[[], torch.Tensor]) -> None:
        """Keeps the images (image, 3, H, W) of an iterate if it is among the recorded ones."""
        if number in self.recorded_numbers():
            frame = self.frames.setdefault(number, [])
            frame += thumbnails(list(images()[: MAX_IMAGES - len(frame)].cpu()))

    def record_end(self, number: int, images: torch.Tensor) -> None:
        """Keeps the images (image, 3, H, W) of the iterate at which an ascent ended, which may have stopped early."""
        if number not in self.frames:
            self.frames[number] = thumbnails(list(images[:MAX_IMAGES].cpu()))

    def at(self, number: int) -> list[torch.Tensor]:
        """The images of an iterate, or the last images before it."""
        return self.frames[max(recorded for recorded in self.frames if recorded <= number)]


def are_drawn(batch: ImageBatch) -> bool:
    """Whether the iterates of a batch are drawn: it has some of the first MAX_IMAGES images of the run."""
    return batch.first < MAX_IMAGES


def merged_frames(batches: Sequence[IterateImages]) -> Frames:
    """The frames of all batches up to the last iterate of any, at most MAX_IMAGES images each.

    A batch that stopped earlier than another stays on its last iterate.
    """
    numbers = sorted(max((batch.frames for batch in batches), key=max))
    return {number: [image for batch in batches for image in batch.at(number)][:MAX_IMAGES] for number in numbers}


def draw_strip(frames: Frames) -> Image.Image:
    """One row per image, from the initial noise to the last iterate."""
    numbers = sorted(frames)
    count = min(STRIP_COLUMNS, len(numbers))
    picked = [numbers[round(i * (len(numbers) - 1) / max(count - 1, 1))] for i in range(count)]
    rows = [("", [frames[n][i] for n in picked]) for i in range(len(frames[picked[0]]))]
    captions = [f"iteration {number}" for number in picked]
    return grid(rows, scale=scale_of(rows[0][1][0]), per_line=count, captions=captions)


def write_animation(rows: Sequence[tuple[str, Sequence[IterateImages]]], out: Path, unit: str) -> None:
    """Writes animation.webp, in which a row per method moves from its first to its last iterate.

    Args:
        rows: method → its batches. A row with fewer iterates stays on its last.
        out: the folder.
        unit: what an iterate is called: "step" or "iteration".
    """
    merged = [(method, merged_frames(batches)) for method, batches in rows]
    sheets = []
    for i in range(max(len(frames) for _, frames in merged)):
        parts = []
        for method, frames in merged:
            number = sorted(frames)[min(i, len(frames) - 1)]
            parts.append((f"{method}, {unit} {number}", frames[number]))
        sheets.append(comparison_grid(parts))
    save_animation(sheets, out / "animation.webp")


def _iterates_file(out: Path, variant: Variant, batch: ImageBatch) -> Path:
    return out / ITERATES / f"{variant.name}-{batch.first}.safetensors"


def write_iterates(out: Path, variant: Variant, batch: ImageBatch, images: IterateImages) -> None:
    """Writes the iterates of a batch in 8 bits, so that a run that is continued can draw them."""
    file = _iterates_file(out, variant, batch)
    make_folder(file.parent)
    frames = {
        str(number): (torch.stack(frame).float().clamp(0, 1) * 255).round().to(torch.uint8)
        for number, frame in images.frames.items()
    }
    write_bytes(file, save(frames, metadata={"last": str(images.last), "first": str(images.first)}))


def read_iterates(out: Path, variant: Variant, batch: ImageBatch) -> IterateImages | None:
    """The iterates of a finished batch, or None if its file is missing or damaged."""
    try:
        with safe_open(_iterates_file(out, variant, batch), framework="pt") as stored:
            frames = {int(number): list(stored.get_tensor(number) / 255) for number in stored.keys()}  # noqa: SIM118
            metadata = stored.metadata()
            return IterateImages(int(metadata["last"]), frames, int(metadata["first"]))
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None


def remove_iterates(out: Path) -> None:
    """Deletes the iterates of a run that is complete and drawn."""
    shutil.rmtree(out / ITERATES, ignore_errors=True)


def has_final_drawings(out: Path, names: Sequence[str]) -> bool:
    """Whether the files drawn from the iterates are those of a complete run, of which `remove_iterates` was called."""
    return all((out / name).is_file() for name in names) and not (out / ITERATES).exists()

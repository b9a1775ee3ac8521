"""What a run shows: rows of images with their rewards, filled in while it runs."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from ..cli.comparison import Variant, thumbnails
from ..methods import Method
from ..report import to_image
from .gauge import Gauge

State = Literal["waiting", "running", "done", "cancelled", "failed"]


def encode_thumbnail(image: Tensor) -> bytes:
    """An image (3, H, W) or the middle frame of a video, at most 256 pixels wide, as WebP."""
    stream = io.BytesIO()
    to_image(thumbnails([image])[0]).save(stream, "WEBP", quality=85, method=2)
    return stream.getvalue()


@dataclass
class Row:
    """The images of one method.

    Args:
        variant: the method with its results, as the files have them.
        title: above the images.
        seeds: one per image.
        steps: number of steps or iterations.
        has_heldout: whether there is a held-out reward.

    Attributes:
        frames: the thumbnails of each image, one for each step so far.
        target, heldout: (steps, image), NaN where not yet computed.
        done: number of steps of the images that are computed now.
        best: of noise ascent, the number of each image's best iterate, once it is known.
    """

    variant: Variant
    title: str
    seeds: list[int]
    steps: int
    has_heldout: bool
    frames: list[list[bytes]] = field(init=False)
    target: np.ndarray = field(init=False)
    heldout: np.ndarray = field(init=False)
    done: int = 0
    best: list[int] | None = None

    def __post_init__(self) -> None:
        self.frames = [[] for _ in self.seeds]
        self.target = np.full((self.steps, len(self.seeds)), np.nan)
        self.heldout = self.target.copy()

    @property
    def method(self) -> Method:
        """The method with its options."""
        return self.variant.method

    def record(self, number: int, first: int, images: Tensor, target: Tensor | None, heldout: Tensor | None) -> None:
        """Adds a step (from 0) of the images from `first` on."""
        columns = slice(first, first + len(images))
        if number < self.steps:
            if target is not None:
                self.target[number, columns] = target.float().cpu().numpy()
            if heldout is not None:
                self.heldout[number, columns] = heldout.float().cpu().numpy()
        # After the rewards: the page is drawn while this runs, and shows those of the last image.
        for index, image in enumerate(images.cpu(), first):
            self.frames[index].append(encode_thumbnail(image))
        self.done = min(number + 1, self.steps)

    def curve(self, which: Literal["target", "heldout"]) -> np.ndarray:
        """(steps so far, image) of the images that have begun; empty if there is no such reward."""
        values = self.target if which == "target" else self.heldout
        begun = ~np.isnan(values[:1]).all(0)
        values = values[:, begun]
        return values[: int((~np.isnan(values)).all(1).sum())] if values.size else np.empty((0, 0))


@dataclass
class View:
    """What a run shows now.

    Attributes:
        state: of the run.
        message: one sentence: what it waits for, or why it failed.
        warnings: sentences that say why nothing was guided.
        reward, heldout_name: the target reward, and the held-out reward or "none".
        rows: the methods so far.
        gauge: whether the run starts to be hacked.
        files: of a finished run.
        command, code: of a finished run, what repeats it.
    """

    state: State = "waiting"
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    reward: str = ""
    heldout_name: str = "none"
    rows: list[Row] = field(default_factory=list)
    gauge: Gauge | None = None
    files: list[str] = field(default_factory=list)
    command: str = ""
    code: str = ""

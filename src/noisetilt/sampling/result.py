"""The result of `sample`, and what it reports to a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .notebook_view import figures_html
from .saved_images import save_images
from .short_repr import ShortRepr
from .trace import Trace


@dataclass(frozen=True, repr=False)
class StepReport(ShortRepr):
    """The argument of `sample`'s callback after each step.

    Attributes:
        number: of the step, from 1 to `steps`.
        steps: number of reverse steps.
        t: time at the start of the step.
        rewards: (image,), r(x̂_0) of each image's best particle, or None.
        images: a function that returns x̂_0 of each image's best particle, decoded: (image, 3, H, W) in [0, 1]. It
            decodes when it is called, which takes a pass through the decoder of a latent model.
    """

    number: int
    steps: int
    t: float
    rewards: Tensor | None
    images: Callable[[], Tensor]


@dataclass(repr=False)
class Result(ShortRepr):
    """The result of `sample`.

    Attributes:
        images: (image, 3, H, W) in [0, 1].
        rewards: (image,), of the final images, or None without a reward.
        trace: the history of all steps.
        heldout: (image,), held-out rewards of the final images, or None without a held-out reward.
        prompts, seeds: one per image; empty if they are not known.
    """

    images: Tensor
    rewards: Tensor | None
    trace: Trace
    heldout: Tensor | None = None
    prompts: list[str] = field(default_factory=list, repr=False)
    seeds: list[int] = field(default_factory=list, repr=False)

    def save(self, folder: str | Path) -> None:
        """Write image-0.png, image-1.png, …, each with its prompt and seed, and the rewards (result.json).

        Each file is written as a whole or not at all; one of the same name is replaced.

        Raises:
            FloatingPointError: if an image is not finite; nothing is written.
            OSError: if a file cannot be written; names the file.
        """
        figures = {
            "rewards": None if self.rewards is None else self.rewards.tolist(),
            "heldout": None if self.heldout is None else self.heldout.tolist(),
            "nfe": self.trace.nfe,
            "seconds": self.trace.seconds,
        }
        save_images(folder, self.images, self.prompts, self.seeds, figures)

    def _repr_html_(self) -> str:
        """Images with their rewards, which a notebook shows."""
        summary = f"{self.trace.nfe:.4g} network calls per image, {self.trace.seconds:.1f} s"
        return figures_html(self.images, {"reward": self.rewards, "held-out": self.heldout}, summary)

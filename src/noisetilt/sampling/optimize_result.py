"""Results of `optimize`, and what it reports to a callback."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .notebook_view import figures_html
from .saved_images import save_images
from .short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class AscentReport(ShortRepr):
    """The argument of `optimize`'s callback, one per iterate.

    Attributes:
        number: of the iterate, from 0 to `iterations`.
        iterations: number of the last iterate.
        images: (image, 3, H, W) in [0, 1].
        noise: (image, *event), of unit variance.
        rewards: (image,).
        heldout: (image,) held-out rewards, or None without a held-out reward.
        active: (image,) bool, which images are still being optimised.
    """

    number: int
    iterations: int
    images: Tensor
    noise: Tensor
    rewards: Tensor
    heldout: Tensor | None
    active: Tensor


@dataclass(repr=False)
class AscentTrace(ShortRepr):
    """The history of `optimize`. Images that stopped early repeat their last values.

    Attributes:
        rewards, heldout: (iterations + 1, image), of each iterate; heldout is empty without a held-out reward.
        gradient_norm: (iterations, image), ‖∇r‖ before penalty, clipping and projection.
        nfe: (image,), network calls.
        seconds: (iterations + 1,), wall-clock time from the call to each iterate, without held-out evaluation.
    """

    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    heldout: Tensor = field(default_factory=lambda: torch.empty(0))
    gradient_norm: Tensor = field(default_factory=lambda: torch.empty(0))
    nfe: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: list[float] = field(default_factory=list)


@dataclass(repr=False)
class OptimizeResult(ShortRepr):
    """The best iterate of each image, returned by `optimize`.

    Attributes:
        images: (image, 3, H, W) in [0, 1].
        noise: (image, *event), of unit variance.
        rewards: (image,).
        heldout: (image,) held-out rewards, or None without a held-out reward.
        iterations: (image,) int64, number of the iterate, from 0.
        trace: the history of all iterates.
        prompts, seeds: one per image; empty if they are not known.
    """

    images: Tensor
    noise: Tensor
    rewards: Tensor
    heldout: Tensor | None
    iterations: Tensor
    trace: AscentTrace
    prompts: list[str] = field(default_factory=list, repr=False)
    seeds: list[int] = field(default_factory=list, repr=False)

    def save(self, folder: str | Path) -> None:
        """Write image-0.png, image-1.png, …, each with its prompt and seed, the noise (noise.safetensors) and the
        rewards (result.json).

        Each file is written as a whole or not at all; one of the same name is replaced.

        Raises:
            FloatingPointError: if an image is not finite; nothing is written.
            OSError: if a file cannot be written; names the file.
        """
        figures = {
            "rewards": self.rewards.tolist(),
            "heldout": None if self.heldout is None else self.heldout.tolist(),
            "iterations": self.iterations.tolist(),
            "nfe": self.trace.nfe.tolist(),
            "seconds": self.trace.seconds[-1] if self.trace.seconds else None,
        }
        save_images(folder, self.images, self.prompts, self.seeds, figures, self.noise)

    def _repr_html_(self) -> str:
        """Images with their rewards, which a notebook shows."""
        values = {"reward": self.rewards, "held-out": self.heldout, "iterate": self.iterations}
        seconds = f"{self.trace.seconds[-1]:.1f} s" if self.trace.seconds else ""
        return figures_html(self.images, values, seconds)

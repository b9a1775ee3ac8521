"""Random numbers that depend only on an image's seed and a particle's number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The user's default dtype and device would give other numbers.
PLACE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def _generator(seed: int, stream: int) -> torch.Generator:
    entropy = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator("cpu").manual_seed(int(entropy >> 1))


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises a ValueError for a seed that is no whole number ≥ 0."""
    for seed in seeds:
        try:
            whole = int(seed) == seed and seed >= 0 and not isinstance(seed, bool)
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise ValueError(f"seed {seed!r} must be a whole number, 0 or more")


class PerImageRNG:
    """One independent stream of Gaussian noise per image and particle, and one of uniform numbers per image.

    Numbers are drawn on the CPU in float32, so that a seed gives the same noise on every device, in any batch and with
    any number of particles. There are 2³² streams, so that two of n are equal with a probability of about n²/2³³.

    Args:
        seeds: one whole number ≥ 0 per image.
        particles: particles per image.
        shape: shape of one event.
    """

    def __init__(self, seeds: Sequence[int], particles: int, shape: Sequence[int]) -> None:
        check_seeds(seeds)
        self.shape = tuple(shape)
        self._uniform = [_generator(int(seed), 0) for seed in seeds]
        self._normal = [[_generator(int(seed), 1 + p) for p in range(particles)] for seed in seeds]

    def normal(self, images: Sequence[int] | None = None) -> Tensor:
        """The next standard Gaussian noise, (image, particle, *event) float32 on the CPU.

        With `images` (indices), for these images only; the streams of the others do not advance.
        """
        rows = self._normal if images is None else [self._normal[i] for i in images]
        out = torch.empty(len(rows), len(self._normal[0]), *self.shape, **PLACE)
        for image, row in enumerate(rows):
            for particle, generator in enumerate(row):
                out[image, particle].normal_(generator=generator)
        return out

    def normal_of(self, rows: Sequence[int]) -> Tensor:
        """The next standard Gaussian noise (row, *event) of some particles: row image · particles + particle."""
        particles = len(self._normal[0])
        out = torch.empty(len(rows), *self.shape, **PLACE)
        for values, row in zip(out, rows, strict=True):
            values.normal_(generator=self._normal[row // particles][row % particles])
        return out

    def uniform(self) -> Tensor:
        """The next uniform numbers in [0, 1), (image, particle) float32 on the CPU."""
        particles = len(self._normal[0])
        return torch.stack([torch.rand(particles, generator=generator, **PLACE) for generator in self._uniform])

"""Time grids that a method walks more than once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from .gaussian import Path
from .kernel import noise_fraction


@dataclass(frozen=True)
class TimeTravel:
    """Steps in a window are taken again and again, with re-noising in between: FreeDoM's time travel (Yu et al. 2023,
    arXiv 2303.09833), universal guidance's recurrence (Bansal et al. 2023), first used by RePaint.

    Args:
        repeats: how often each step in the window is taken, 1 or more; 1 is the plain grid.
        after, before: the window, in the share of noise σ/(α + σ) at the step's start. FreeDoM travels in the middle
            of sampling, where contents are decided.
    """

    repeats: int = 1
    after: float = 0.0
    before: float = 1.0

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats = {self.repeats} must be 1 or more")

    def expand(self, path: Path, grid: Sequence[float]) -> list[float]:
        """The grid with each step t → s of the window as t → s → t → s …; nothing is repeated where α_t = 0, from
        which nothing can be re-noised, nor the last step's end."""
        times = [grid[0]]
        for t, s in itertools.pairwise(grid):
            inside = self.after < noise_fraction(path, t) < self.before and path.alpha(t) > 0 and path.sigma(s) > 0
            times += [s, t] * ((self.repeats if inside else 1) - 1) + [s]
        return times

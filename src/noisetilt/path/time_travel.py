"""Time grids that repeat steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from .._options import check_option, check_types
from .gaussian import Path
from .kernel import has_signal, is_noisier, noise_fraction


@dataclass(frozen=True)
class TimeTravel:
    """Repeat the steps in a window of the grid, with re-noising in between: FreeDoM's time travel (Yu et al. 2023,
    arXiv 2303.09833) and universal guidance's recurrence (Bansal et al. 2023); introduced by RePaint.

    Args:
        repeats: how many times each step in the window is taken, 1 or more; 1 leaves the grid unchanged.
        after, before: the window, in the noise fraction σ/(α + σ) at the start of a step. FreeDoM repeats the middle
            of sampling, which determines the content.
    """

    repeats: int = 1
    after: float = 0.0
    before: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        if self.repeats < 1:
            raise ValueError(f"repeats = {self.repeats} must be 1 or more")
        check_option(self, "after", self.after)
        check_option(self, "before", self.before)

    def expand(self, path: Path, grid: Sequence[float]) -> list[float]:
        """The grid with each step t → s of the window as t → s → t → s ….

        Steps from pure noise (`has_signal`) are not repeated, because re-noising would leave nothing of them. Steps to
        σ_s = 0 are not repeated, because they complete the image: re-noising from there would replace all of x_t's
        noise, where other steps keep a part of it. Steps of the grid to a noisier time are taken once.
        """
        times = [grid[0]]
        for t, s in itertools.pairwise(grid):
            inside = self.after < noise_fraction(path, t) < self.before and has_signal(path, t) and path.sigma(s) > 0
            inside = inside and not is_noisier(path, s, t)
            times += [s, t] * ((self.repeats if inside else 1) - 1) + [s]
        return times

"""Search: selection by the reward of x̂_0 at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._options import check_types
from ..noise.deterministic import cumulative_sum
from .candidates import Candidates
from .independent import check_particles


@dataclass(frozen=True)
class Search:
    """SVDD: at every step all particles continue from one candidate, by default the best (Li et al. 2024, arXiv
    2408.08252).

    A candidate x_s is scored by r(x̂_0(x_s)). The next step needs the same x̂_0, so K candidates cost K network calls
    per step. Step 1 selects among K initial noises.

    Args:
        particles: candidates K per step, 1 or more; the paper uses 20.
        temperature: τ. 0 selects the best, as in the paper's experiments. A value > 0 draws the candidate from which
            all particles continue with probability ∝ exp(r/τ), as the paper's algorithm does, so that the returned
            image is about a draw from p(x) exp(r/τ).
    """

    particles: int = 20
    temperature: float = 0.0
    needs_rewards: ClassVar[bool] = True
    correct: ClassVar[bool] = False
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        check_particles(self.particles)
        if not self.temperature >= 0:
            raise ValueError(f"temperature = {self.temperature} must be 0 (select the best) or more")

    @property
    def continues_from_best(self) -> bool:
        """Whether all particles continue from the best candidate, so that no other needs a gradient."""
        return self.temperature == 0

    def choose(self, candidates: Candidates, state: Any) -> tuple[Tensor, None]:
        rewards = candidates.rewards
        if self.temperature == 0:
            return rewards.argmax(dim=1, keepdim=True).expand_as(rewards), None
        cumulative = cumulative_sum(torch.softmax(rewards / self.temperature, dim=1))
        drawn = torch.searchsorted(cumulative, candidates.uniform[:, :1].to(cumulative).contiguous())
        return drawn.clamp(max=self.particles - 1).expand_as(rewards), None

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)

"""Sequential Monte Carlo over the particles of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..path.tempering import temper
from .candidates import Candidates
from .independent import check_particles


class Weights(NamedTuple):
    """log_weights since the last resampling and the potential λ r/τ they already hold, both (image, particle)."""

    log_weights: Tensor
    potential: Tensor


def systematic(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Ancestors (image, particle) drawn in proportion to the weights with one random number an image (Kitagawa 1996):
    particle i is chosen within one of K·w_i times."""
    particles = log_weights.shape[1]
    cumulative = torch.softmax(log_weights.double(), dim=1).cumsum(dim=1)
    comb = (torch.arange(particles, device=uniform.device) + uniform[:, :1].double()) / particles
    return torch.searchsorted(cumulative, comb.to(cumulative).contiguous()).clamp(max=particles - 1)


@dataclass(frozen=True)
class SMC:
    """Particles weighted by exp(λ r(x̂_0)/τ) and resampled: FK steering, DAS and Ψ-Sampler's second stage.

    A weight grows by exp(λ_s r_s/τ − λ_t r_t/τ) a step (FK's difference potential) and by the density of the base
    kernel over the proposal's, so that with any proposal of full support the particles approach p(x) exp(r(x)/τ) as
    their number grows (Singhal et al. 2025, arXiv 2501.06848; Kim et al. 2025, arXiv 2501.05803).

    Args:
        particles: of one image, 1 or more; FK steering uses 4, DAS 16.
        temperature: τ > 0; FK writes λ = 1/τ = 10.
        tempering: γ of λ, see `tempering.temper`; None is λ = 1.
        ess: resample an image when its effective number of particles falls below this share; 1 is always.
        interval: look only every so many steps; FK uses 20 of 100.
        correct: whether weights hold the density ratio. Without it a proposal is taken for the base kernel, as noise
            tilting may be, whose noise is typical.
        tilted_start: whether the initial noise was drawn from its reward-tilted law already, as Ψ-Sampler's is, so that
            the first reward is no news.
    """

    particles: int = 4
    temperature: float = 1.0
    tempering: float | None = None
    ess: float = 0.5
    interval: int = 1
    correct: bool = True
    tilted_start: bool = False
    needs_rewards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_particles(self.particles)
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be positive; less is more reward")
        if not 0 <= self.ess <= 1:
            raise ValueError(f"ess = {self.ess} must be a share of the particles, between 0 (never) and 1 (always)")
        if self.interval < 1:
            raise ValueError(f"interval = {self.interval} must be 1 step or more")

    def choose(self, candidates: Candidates, state: Weights | None) -> tuple[Tensor | None, Weights]:
        strength = temper(self.tempering, candidates.number, candidates.steps) / self.temperature
        potential = strength * candidates.rewards
        if state is None:
            start = potential if self.tilted_start else torch.zeros_like(potential)
            state = Weights(torch.zeros_like(potential), start)
        log_weights = state.log_weights + potential - state.potential
        if self.correct:
            log_weights = log_weights + candidates.log_ratio
        if candidates.number % self.interval:
            return None, Weights(log_weights, potential)
        few = self._effective(log_weights) < self.ess * self.particles
        stay = torch.arange(self.particles, device=potential.device).expand_as(log_weights)
        drawn = torch.where(few[:, None], systematic(log_weights, candidates.uniform.to(potential)), stay)
        return drawn, Weights(torch.where(few[:, None], 0.0, log_weights), potential.gather(1, drawn))

    @staticmethod
    def _effective(log_weights: Tensor) -> Tensor:
        """(Σw)²/Σw², (image,)."""
        return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)

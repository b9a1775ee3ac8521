"""Sequential Monte Carlo (SMC) over the particles of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .._options import check_types
from ..noise.deterministic import cumulative_sum
from ..noise.float64 import as_float64
from ..path.tempering import check_tempering, temper
from .candidates import Candidates
from .independent import check_particles


class Weights(NamedTuple):
    """log_weights since the last resampling, and the last potential λ r/τ, both (image, particle)."""

    log_weights: Tensor
    potential: Tensor


def systematic_resampling(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Ancestors (image, particle) drawn in proportion to the weights, with one random number per image (Kitagawa 1996).

    Particle i is drawn K·w_i times, rounded up or down.
    """
    particles = log_weights.shape[1]
    cumulative = cumulative_sum(torch.softmax(as_float64(log_weights), dim=1))
    points = (torch.arange(particles, device=cumulative.device) + as_float64(uniform[:, :1]).to(cumulative)) / particles
    ancestors = torch.searchsorted(cumulative, points.contiguous()).clamp(max=particles - 1)
    return ancestors.to(log_weights.device)


@dataclass(frozen=True)
class SMC:
    """Particles weighted by exp(λ r(x̂_0)/τ) and resampled: FK steering, DAS and Ψ-Sampler's second stage.

    At each step a weight is multiplied by exp(λ_s r_s/τ − λ_t r_t/τ) (FK's difference potential) and by the density
    ratio of the base kernel to the proposal. With the base kernel and proposals that shift its mean, the particles
    converge to p(x) exp(r(x)/τ) as their number grows (Singhal et al. 2025, arXiv 2501.06848; Kim et al. 2025,
    arXiv 2501.05803).

    Args:
        particles: particles per image, 1 or more; FK steering uses 4, DAS 16.
        temperature: τ > 0; FK writes λ = 1/τ = 10.
        tempering: γ of λ, see `tempering.temper`; None gives λ = 1.
        ess: resample an image when its effective sample size is below this fraction of `particles`, in [0, 1]; 0 is
            never, 1 always.
        interval: resample at most every `interval` steps; FK uses 20 of 100.
        correct: whether weights include the density ratio. It is known for mean shifts. False treats the proposal as
            the base kernel; the proposals that tilt or turn the noise (`NoiseTilt` and its variants,
            `SphericalGaussian`) need it and are refused with True.
        tilted_start: whether the initial noise is a draw from its reward-tilted distribution, as Ψ-Sampler's is, so
            that the first weights are exp((λ − 1) r/τ), which is 1 without tempering.
    """

    particles: int = 4
    temperature: float = 1.0
    tempering: float | None = None
    ess: float = 0.5
    interval: int = 1
    correct: bool = True
    tilted_start: bool = False
    needs_rewards: ClassVar[bool] = True
    # Without noise the copies of a resampled particle would stay equal.
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_types(self)
        check_particles(self.particles)
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be positive, such as 1.0")
        check_tempering(self.tempering)
        if not 0 <= self.ess <= 1:
            raise ValueError(
                f"ess = {self.ess} must be a fraction of the particles between 0 (never resample) and 1 (always)"
            )
        if self.interval < 1:
            raise ValueError(f"interval = {self.interval} must be 1 or more steps")

    def choose(self, candidates: Candidates, state: Weights | None) -> tuple[Tensor | None, Weights]:
        strength = temper(self.tempering, candidates.number, candidates.steps) / self.temperature
        potential = strength * candidates.rewards
        if state is None:
            # The start is a draw from the prior times exp(r/τ), without tempering.
            start = candidates.rewards / self.temperature if self.tilted_start else torch.zeros_like(potential)
            state = Weights(torch.zeros_like(potential), start)
        log_weights = state.log_weights + potential - state.potential
        if self.correct:
            log_weights = log_weights + candidates.log_ratio
        if candidates.number % self.interval:
            return None, Weights(log_weights, potential)
        low_ess = self._effective_size(log_weights) < self.ess * self.particles
        identity = torch.arange(self.particles, device=potential.device).expand_as(log_weights)
        ancestors = torch.where(
            low_ess[:, None], systematic_resampling(log_weights, candidates.uniform.to(potential)), identity
        )
        return ancestors, Weights(torch.where(low_ess[:, None], 0.0, log_weights), potential.gather(1, ancestors))

    @staticmethod
    def _effective_size(log_weights: Tensor) -> Tensor:
        """The effective sample size (Σw)²/Σw², (image,)."""
        return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()

    def winner(self, rewards: Tensor) -> Tensor:
        return rewards.argmax(dim=1)

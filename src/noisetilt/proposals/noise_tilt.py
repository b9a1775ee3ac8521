"""The noise-tilted reverse kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .._options import check_option, check_types
from ..noise import shuffled, whiten
from ..noise.whitening import to_unit_rms
from ..path import noise_fraction
from ..path.strength import ReverseProcess, gain_of_best
from .step import Step

Schedule = Literal["constant", "bump", "early", "late"]
SCHEDULES = {
    "constant": lambda u: 1.0,
    "bump": lambda u: 4 * u * (1 - u),
    "early": lambda u: u**2,
    "late": lambda u: (1 - u) ** 2,
}


@dataclass(frozen=True)
class NoiseTilt:
    """NTRK: x_s = mean + std · ε̃, ε̃ = sqrt(ρ_t) W(∇_{x_t} r(x̂_0)) + sqrt(1 − ρ_t) ε (arXiv 2606.18066).

    Mean and std are those of the pretrained kernel; W turns the gradient g = ∇_{x_t} r(x̂_0) into white Gaussian noise.
    At α_t = 0, x_t does not depend on x_0, the gradient is zero, and the step is unguided.

    whitened = "mixture" (ours) uses ε̃ = W(sqrt(ρ_t) sqrt(N) g/‖g‖ + sqrt(1 − ρ_t) ε): it requires the whole injected
    noise to be typical. W of a smooth gradient adds a nearly constant pattern at every step, which accumulates in x_0
    without any gain. In the mixture, fresh noise takes its place, and W only limits the tilt of one step.

    whitened = "path" (ours) also limits the sum of all tilts, which accumulate if the gradient keeps its direction.
    With S the accumulated noise in the mean, q its variance (`AccumulatedNoise`) and m the mixture above,
    Z = W((S + std m)/sqrt(q + std²)) and ε̃ = W((sqrt(q + std²) Z − S)/std). It costs a second W.

    Args:
        rho: ρ ∈ [0, 1], the maximum fraction of the noise variance that the gradient gets. With the default,
            images of emoji128 keep their details in 25 steps; larger events need less for the same gain.
        schedule: ρ_t as a function of u = σ_t/(α_t + σ_t): "constant" ρ, "bump" 4u(1 − u)·ρ, "early" u²·ρ,
            or "late" (1 − u)²·ρ.
        alpha: level of W in (0, 1), see `noise.whiten`.
        best_of: strength of the whole path instead of rho: a tilt as strong as selecting the best of K ≥ 1 samples,
            from which ρ follows for any event, grid and path (see `path.strength`). The gain is at most this for
            linear rewards: with whitened = "mixture" 65 to 80 % of it for smooth ones, with "gradient" 5 %
            (docs/strength.md).
        whitened: the input of W: "gradient", "mixture" or "path".
    """

    rho: float = 0.015
    schedule: Schedule = "constant"
    alpha: float = 1e-4
    best_of: float | None = None
    whitened: Literal["gradient", "mixture", "path"] = "gradient"
    needs_gradient: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True
    # W also depends on the noise.
    known_density: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho = {self.rho} must be between 0 (no tilt) and 1 (whitened gradient alone)")
        check_option(self, "alpha", self.alpha)
        if self.best_of is not None:
            gain_of_best(self.best_of)

    @property
    def needs_accumulated_noise(self) -> bool:
        return self.whitened == "path"

    def rho_for(self, process: ReverseProcess | None, size: int) -> float:
        """ρ for a process and events of `size` numbers.

        Raises:
            ValueError: if best_of is set and the process is unknown or has too few steps.
        """
        if self.best_of is None:
            return self.rho
        if process is None:
            raise ValueError(f"best_of = {self.best_of:g} needs the whole time grid, which is unknown here; use rho")
        return process.rho(self.best_of, size, SCHEDULES[self.schedule])

    def rho_at(self, step: Step) -> float:
        """ρ_t of a step; 0 where α_t = 0."""
        if step.path.alpha(step.t) == 0:
            return 0.0
        rho = self.rho_for(step.process, math.prod(step.x_t.shape[1:]))
        return rho * SCHEDULES[self.schedule](noise_fraction(step.path, step.t))

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        rho = self.rho_at(step)
        if rho == 0 or step.std == 0:
            return step.mean + step.std * noise
        has_gradient = (step.gradient.flatten(1) != 0).any(1).view(-1, *[1] * (noise.ndim - 1))
        return step.mean + step.std * torch.where(has_gradient, self._tilted_noise(step, noise, rho), noise)

    def _tilted_noise(self, step: Step, noise: Tensor, rho: float) -> Tensor:
        """ε̃ from the gradient and ε."""
        # W needs noise that is independent of ε; the permuted ε is nearly so.
        dither = shuffled(noise)
        if self.whitened == "gradient":
            return math.sqrt(rho) * self._whiten(step.gradient, dither) + math.sqrt(1 - rho) * noise
        mixture = math.sqrt(rho) * to_unit_rms(step.gradient) + math.sqrt(1 - rho) * noise
        if self.whitened == "path":
            total = self._whiten(step.accumulated.total_with(mixture, step.std), shuffled(noise, 1))
            mixture = step.accumulated.step_noise(total, step.std)
        return self._whiten(mixture, dither)

    def _whiten(self, x: Tensor, dither: Tensor) -> Tensor:
        return whiten(x, alpha=self.alpha, noise=dither)


@dataclass(frozen=True)
class ManifoldTilt(NoiseTilt):
    """NTRK with the gradient ∇_{x̂_0} r(x̂_0), which is not propagated through the network (ours).

    The gradient is that of MPGD (He et al. 2024, arXiv 2311.16424), which saves the network's backward pass and its
    memory. By default the accumulated noise is whitened. On emoji128 with `style:3d`, the probability of the right
    concept at equal high rewards is 8 points [−1, 18] higher than with `NoiseTilt`; for other rewards the two differ
    less (docs/results.md).

    Args:
        rho: ρ ∈ [0, 1], the maximum fraction of the noise variance that the gradient gets.
        schedule: ρ_t as a function of the noise fraction: "constant", "bump", "early" or "late" (see `NoiseTilt`).
        alpha: level of W in (0, 1), see `noise.whiten`.
        best_of: strength of the whole path instead of rho: that of selecting the best of K ≥ 1 samples.
        whitened: the input of W: "gradient", "mixture" or "path".
    """

    whitened: Literal["gradient", "mixture", "path"] = "path"
    gradient_at: ClassVar[str] = "x0"

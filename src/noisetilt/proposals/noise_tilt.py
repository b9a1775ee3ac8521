"""The noise-tilted reverse kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..noise import shuffled, whiten
from ..noise.whitening import to_unit_rms
from ..path import noise_fraction
from ..path.strength import ReverseProcess, gain_of_best
from .step import Step

Schedule = Literal["constant", "bump", "early"]
SCHEDULES = {
    "constant": lambda u: 1.0,
    "bump": lambda u: 4 * u * (1 - u),
    "early": lambda u: u**2,
}
WHITENED = ("gradient", "mixture", "path")


@dataclass(frozen=True)
class NoiseTilt:
    """NTRK: x_s = mean + std · ε̃, ε̃ = sqrt(ρ_t) W(∇_{x_t} r(x̂_0)) + sqrt(1 − ρ_t) ε (arXiv 2606.18066).

    Mean and std stay those of the pretrained kernel; W whitens the gradient until it is indistinguishable from
    Gaussian noise. Where α_t = 0 nothing of x_0 is in x_t, the gradient is zero, and the step is plain noise.

    Whitening the mixture instead (ours) is ε̃ = W(sqrt(ρ_t) sqrt(N) g/‖g‖ + sqrt(1 − ρ_t) ε): what injected noise must
    be is typical as a whole. W of a smooth gradient fills all it does not point along with the same pattern at every
    step, which adds up in x_0 and gains nothing; in a mixture fresh noise fills it, and W only bounds how far one step
    may go.

    Whitening the path (ours) also bounds how far all steps together may go, for tilts that hardly turn add up: with S
    the noise injected so far as it stands in the mean, of variance q (`AccumulatedNoise`), and m the mixture above,
    Z = W((S + std m)/sqrt(q + std²)) and ε̃ = W((sqrt(q + std²) Z − S)/std). It costs a second W.

    Args:
        rho: ρ ∈ [0, 1], the greatest share of the noise's variance that the gradient takes. The default keeps
            emoji64's pictures whole; larger events need less for the same gain.
        schedule: how ρ_t follows u = σ_t/(α_t + σ_t): "constant" ρ; "bump" 4u(1 − u)·ρ; "early" u²·ρ.
        alpha: 1 − confidence of W's sets.
        best_of: strength of the whole path instead of rho: a tilt that is as much in x_0 as the best of K ≥ 1 pictures
            has, from which ρ follows for any event, grid and path (see `path.strength`). With whitened="mixture"
            that is the gain for any linear reward; the whitened gradient has less, as it points less along it.
        whitened: what W is applied to, "gradient", "mixture" or "path".
    """

    rho: float = 0.05
    schedule: Schedule = "constant"
    alpha: float = 1e-4
    best_of: float | None = None
    whitened: Literal["gradient", "mixture", "path"] = "gradient"
    needs_gradient: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho = {self.rho} must lie between 0 (plain noise) and 1 (whitened gradient alone)")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule = {self.schedule!r} is unknown; give one of {', '.join(SCHEDULES)}")
        if self.whitened not in WHITENED:
            raise ValueError(f"whitened = {self.whitened!r} is unknown; give one of {', '.join(WHITENED)}")
        if self.best_of is not None:
            gain_of_best(self.best_of)

    @property
    def needs_accumulated_noise(self) -> bool:
        return self.whitened == "path"

    def rho_on(self, process: ReverseProcess | None, numbers: int) -> float:
        """ρ on a process, for events of so many numbers.

        Raises:
            ValueError: if best_of is asked for and the process is unknown, or too short.
        """
        if self.best_of is None:
            return self.rho
        if process is None:
            raise ValueError(f"best_of = {self.best_of:g} needs all times ahead, unknown here; give rho instead")
        return process.rho(self.best_of, numbers, SCHEDULES[self.schedule])

    def rho_at(self, step: Step) -> float:
        """ρ_t of a step, 0 where there is no gradient."""
        if step.path.alpha(step.t) == 0:
            return 0.0
        rho = self.rho_on(step.process, math.prod(step.x_t.shape[1:]))
        return rho * SCHEDULES[self.schedule](noise_fraction(step.path, step.t))

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        rho = self.rho_at(step)
        if rho == 0 or step.std == 0:
            return step.mean + step.std * noise
        steered = (step.gradient.flatten(1) != 0).any(1).view(-1, *[1] * (noise.ndim - 1))
        return step.mean + step.std * torch.where(steered, self._tilted(step, noise, rho), noise)

    def _tilted(self, step: Step, noise: Tensor, rho: float) -> Tensor:
        """ε̃ from the gradient and ε."""
        # W needs noise of its own; in another order the step's noise serves, as good as independent of itself.
        dither = shuffled(noise)
        if self.whitened == "gradient":
            return math.sqrt(rho) * self._white(step.gradient, dither) + math.sqrt(1 - rho) * noise
        mixture = math.sqrt(rho) * to_unit_rms(step.gradient) + math.sqrt(1 - rho) * noise
        if self.whitened == "path":
            whole = self._white(step.accumulated.total_with(mixture, step.std), shuffled(noise, 1))
            mixture = step.accumulated.noise_for(whole, step.std)
        return self._white(mixture, dither)

    def _white(self, x: Tensor, dither: Tensor) -> Tensor:
        return whiten(x, alpha=self.alpha, noise=dither)

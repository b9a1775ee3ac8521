"""Models with a posterior mean in closed form, which give ground truth without training.

Both have the interface that `sample` needs: `denoiser(prompts)`, `path`, `shape`, `decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..path import FlowPath, Path
from .denoiser import Denoiser


@dataclass
class GaussianModel:
    """x_0 ~ N(m, Σ) with Σ diagonal in the Fourier basis of the event's last axes.

    Args:
        mean: m, of the event's shape.
        power: eigenvalues of Σ > 0 on the full FFT grid, broadcastable to the event; symmetric under k → −k, so
            that Σ is real (as for every function of |k|).
        path: any Gaussian path.
        axes: number of trailing axes of the Fourier transform.
    """

    mean: Tensor
    power: Tensor
    path: Path = field(default_factory=FlowPath)
    axes: int = 2

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def _filter(self, x: Tensor, response: Tensor) -> Tensor:
        dims = tuple(range(-self.axes, 0))
        return torch.fft.ifftn(torch.fft.fftn(x, dim=dims) * response.to(x.device), dim=dims).real

    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0 = m + αΣ (α²Σ + σ²)⁻¹ (x_t − α m), the Wiener filter; prompts have no effect."""

        def network(x_t: Tensor, t: float, index: Tensor) -> Tensor:
            alpha, sigma = self.path.alpha(t), self.path.sigma(t)
            mean = self.mean.to(x_t)
            gain = alpha * self.power / (alpha**2 * self.power + sigma**2)
            return mean + self._filter(x_t - alpha * mean, gain.to(x_t.dtype))

        return Denoiser(self.path, network)

    def decode(self, x_0: Tensor) -> Tensor:
        """The identity: states are images."""
        return x_0

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, *event) exact samples of the prior."""
        white = torch.randn(count, *self.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + self._filter(white, self.power.sqrt())

    def whiten(self, x_0: Tensor) -> Tensor:
        """Σ^(−1/2)(x_0 − m): standard normal for samples of the prior."""
        return self._filter(x_0 - self.mean.to(x_0), self.power.rsqrt())

    def tilted_mean(self, direction: Tensor, temperature: float) -> Tensor:
        """m + Σa/β: mean of the prior tilted by exp(aᵀx/β), a = direction, β = temperature; its covariance is Σ."""
        return self.mean + self._filter(direction, self.power) / temperature


@dataclass
class MixtureModel:
    """x_0 ~ Σ_j p_j N(m_j, v_j I), a Gaussian mixture in any dimension.

    Args:
        means: (components, *event).
        variances: (components,), each v_j ≥ 0; 0 is a point mass.
        weights: (components,), p_j > 0; they need not sum to 1.
        path: any Gaussian path.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor
    path: Path = field(default_factory=FlowPath)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0 = Σ_j P(j | x_t) (m_j + α v_j (x_t − α m_j)/(α² v_j + σ²)); prompts have no effect."""

        def network(x_t: Tensor, t: float, index: Tensor) -> Tensor:
            alpha, sigma = self.path.alpha(t), self.path.sigma(t)
            flat = x_t.flatten(1)
            means, variances = self.means.flatten(1).to(flat), self.variances.to(flat)
            total = alpha**2 * variances + sigma**2
            offset = flat[:, None] - alpha * means
            log_p = self.weights.to(flat).log() - 0.5 * (offset.square().sum(-1) / total + flat.shape[1] * total.log())
            posterior = torch.softmax(log_p, dim=1)
            centres = means + (alpha * variances / total)[:, None] * offset
            return (posterior[:, None] @ centres).reshape(x_t.shape)

        return Denoiser(self.path, network)

    def decode(self, x_0: Tensor) -> Tensor:
        """The identity: states are images."""
        return x_0

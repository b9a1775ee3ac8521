"""Metrics of sets of images by their features: distance, precision, recall and diversity; and roughness of images.

The features may be those of any network; `noisetilt.bench.judge.features` has those for emoji.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..noise.float64 import as_float64


def _checked(name: str, features: Tensor, least: int) -> Tensor:
    """The features in float64, if they are a finite (n, d) with n ≥ least."""
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"{name} was given features of shape {tuple(features.shape)}; expected (n, d) with n at least {least}: "
            "use more images"
        )
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} was given features that are not finite; leave out the images with NaN")
    return as_float64(features.detach())


def _same_width(name: str, a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{name} was given features of {a.shape[1]} and {b.shape[1]} columns; take both from one network"
        )


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,) of features (n, d), and a triangular R (min(n, d), d) with RᵀR = their covariance."""
    x = _checked("frechet_distance", features, 2)
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians with the features' means and covariances.

    |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), the FID's formula (Heusel et al. 2017, arXiv 1706.08500). The trace
    of the root is the sum of singular values of R_a R_bᵀ for Σ = RᵀR, so no matrix root is computed. The estimate
    is biased upwards for few images, less so if they are alike: compare only sets of equal size with many more rows
    than features, and smaller ones by `kernel_distance`.

    Args:
        a, b: features (n, d) and (m, d).

    Raises:
        ValueError: if a set has fewer than two rows, widths differ or values are not finite.
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    _same_width("frechet_distance", root_a, root_b)
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    apart = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(0.0, apart.item())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


@dataclass(frozen=True)
class KernelSample:
    """Features and their mean kernel value; reuse it when many sets are compared with the same one.

    Attributes:
        features: (n, d), float64.
        within: the mean kernel value of two different rows.
    """

    features: Tensor
    within: float

    @classmethod
    def of(cls, features: Tensor) -> KernelSample:
        """The sample of features (n, d), n ≥ 2.

        Raises:
            ValueError: if there are fewer than two rows or values are not finite.
        """
        x = _checked("kernel_distance", features, 2)
        values = _kernel(x, x)
        return cls(x, ((values.sum() - values.trace()) / (len(x) * (len(x) - 1))).item())


def kernel_distance(a: Tensor | KernelSample, b: Tensor | KernelSample) -> float:
    """Kernel distance (KID, Bińkowski et al. 2018, arXiv 1801.01401), for sets of any size.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel (x·y/d + 1)³: 0 on average for two
    samples of one distribution, whatever their sizes, so it may be negative. The Fréchet distance of sets that are not
    much larger than the number of features falls if images become alike; this one rises.

    Args:
        a, b: features (n, d) and (m, d), or samples of them.

    Raises:
        ValueError: if a set has fewer than two rows, widths differ or values are not finite.
    """
    a, b = (x if isinstance(x, KernelSample) else KernelSample.of(x) for x in (a, b))
    _same_width("kernel_distance", a.features, b.features)
    return a.within + b.within - 2 * _kernel(a.features, b.features).mean().item()


def _inside(points: Tensor, centres: Tensor, k: int) -> float:
    """Fraction of points inside a ball at a centre, whose radius is the distance to its k-th nearest other centre."""
    radius = torch.cdist(centres, centres).kthvalue(k + 1, dim=1).values
    return (torch.cdist(points, centres) <= radius).any(1).double().mean().item()


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    Precision (fidelity) is the fraction of fakes inside the neighbourhoods of real images, recall (diversity) the
    fraction of real images inside those of fakes. The radius of a neighbourhood is the distance to the k-th nearest
    neighbour in its own set.

    Args:
        real, fake: features (n, d) and (m, d).
        k: which nearest neighbour gives the radius; ≥ 1.

    Raises:
        ValueError: if a set has not more than k rows, k < 1, widths differ or values are not finite.
    """
    if k < 1:
        raise ValueError(f"precision_recall was given k = {k}; expected at least 1, 3 is usual")
    real, fake = _checked("precision_recall", real, k + 1), _checked("precision_recall", fake, k + 1)
    _same_width("precision_recall", real, fake)
    return _inside(fake, real, k), _inside(real, fake, k)


def vendi_score(features: Tensor) -> float:
    """The effective number of different images in a set (Friedman & Dieng 2023, arXiv 2210.02410).

    exp of the entropy of the eigenvalues of K/n, with K the cosines between features; from 1 (all alike) to n.

    Args:
        features: (n, d), n ≥ 1, no zero rows.

    Raises:
        ValueError: if there are no rows, a row is zero or values are not finite.
    """
    x = _checked("vendi_score", features, 1)
    if (x.norm(dim=1) == 0).any():
        raise ValueError("vendi_score was given a feature row of zeros, which has no direction; leave it out")
    eigenvalues = torch.linalg.svdvals(F.normalize(x, dim=1)).square() / len(x)
    return torch.special.entr(eigenvalues).sum().exp().item()


def total_variation(images: Tensor) -> Tensor:
    """Roughness: the mean absolute difference of horizontal neighbours plus that of vertical ones.

    Anisotropic total variation (Rudin, Osher & Fatemi 1992), per pixel and channel instead of summed.

    Args:
        images: (n, channels, height, width) with at least two rows and columns.

    Returns:
        (n,), ≥ 0; emoji have about 0.06, white noise of variance σ² has 4σ/√π.

    Raises:
        ValueError: if the images have another shape.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        raise ValueError(
            f"total_variation was given a shape {tuple(images.shape)}; expected (n, channels, height, width) of at "
            "least 2×2 pixels: add the batch axis with images[None]"
        )
    across, along = images.diff(dim=3).abs(), images.diff(dim=2).abs()
    return across.mean((1, 2, 3)) + along.mean((1, 2, 3))

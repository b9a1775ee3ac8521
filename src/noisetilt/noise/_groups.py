"""Groups of statistics that are nearly independent normal scores for white noise, and functions that correct them.

A group is a tensor (batch, n) of scores. Under white noise its sum of squares is about χ² with df degrees of freedom.
W moves a group whose sum is improbable to a probable value.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ._constants import constant

# A group is corrected when its sum of squares is outside the two-sided limits at TRIGGER_LEVEL, and is then moved to
# the limits at TARGET_LEVEL. The target is well inside, because many groups at the trigger together are improbable.
TRIGGER_LEVEL = 1e-4
TARGET_LEVEL = 0.1
# The largest of many values, powers or correlations is limited to its upper quantile at this level.
EXTREME_LEVEL = 1e-2
BANDS = 24
SMALLEST_GROUP = 8


def shrink_factors(scores: Tensor, df: int, level: float = TRIGGER_LEVEL, std: float = 1.0) -> Tensor:
    """Factors (batch, 1) that scale normal scores (batch, n) with df degrees of freedom to a probable norm.

    A norm that is too small (scores too even) is as improbable as one that is too large, and is increased. `std` is
    the standard deviation of the scores.
    """
    low, low_target, high_target, high = (std * radius for radius in chi_radii(df, level))
    radius = torch.linalg.vector_norm(scores, dim=1, keepdim=True)
    target = radius.masked_fill(radius > high, high_target).masked_fill(radius < low, low_target)
    return target / radius.clamp_min(1e-6 * std)


@constant
def chi_radii(df: int, level: float) -> tuple[float, float, float, float]:
    """Quantiles of the norm of df standard normal numbers: lower at `level`, lower at TARGET_LEVEL, upper at
    TARGET_LEVEL, upper at `level`.

    The lower ones are 0 for df = 1: a single number is never too small.
    """
    low, low_target = (1 - level, 1 - TARGET_LEVEL) if df > 1 else (1.0, 1.0)

    def radius(p: float) -> float:
        return math.sqrt(special.chdtri(df, p))

    return radius(low), radius(low_target), radius(TARGET_LEVEL), radius(level)


@constant
def normal_limit(count: float, level: float = EXTREME_LEVEL) -> float:
    """The value that the largest of `count` independent standard normals exceeds with probability `level`."""
    return float(-special.ndtri(level / count))


def energy_scores(energy: Tensor, df: Tensor | float) -> Tensor:
    """Centred normal scores (batch, n) of energies (batch, n) that are χ² with df degrees of freedom."""
    scores = energy_to_score(energy, df)
    return scores - scores.mean(1, keepdim=True)


def equalizing_gains(energy: Tensor, df: Tensor | float, level: float = TRIGGER_LEVEL) -> Tensor:
    """Gains for energies (batch, n), each χ² with df degrees of freedom, that make their spread probable."""
    if energy.shape[1] < 2:
        return torch.ones_like(energy)
    if isinstance(df, Tensor):
        scores = energy_to_score(energy, df)
        target = score_to_energy(shrink_to_mean(scores, level), df)
    else:
        # With one df, the score is a linear function of the cube root, so the cube root itself can be shrunk.
        target = df * shrink_to_mean((energy / df).pow(1 / 3), level, math.sqrt(2 / (9 * df))).clamp_min(0).pow(3)
    return target / energy.clamp_min(torch.finfo(energy.dtype).tiny)


def shrink_to_mean(scores: Tensor, level: float, std: float = 1.0) -> Tensor:
    """Scores (batch, n) of standard deviation `std`, scaled about their mean by `shrink_factors`."""
    mean = scores.mean(1, keepdim=True)
    return mean.lerp(scores, shrink_factors(scores - mean, scores.shape[1] - 1, level, std))


def energy_to_score(energy: Tensor, df: Tensor | float) -> Tensor:
    """The approximate normal score of a χ² with df degrees of freedom (Wilson & Hilferty 1931); always finite."""
    variance = 2 / (9 * df)
    return ((energy / df).pow(1 / 3) - (1 - variance)) / variance**0.5


def score_to_energy(score: Tensor, df: Tensor | float) -> Tensor:
    """The inverse of `energy_to_score`; scores below its range give energy 0."""
    variance = 2 / (9 * df)
    return df * (score * variance**0.5 + (1 - variance)).clamp_min(0).pow(3)


def moment_scores(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (batch, 1) of the third and fourth Hermite moments of x (batch, N) of RMS 1."""
    count, square = x.shape[1], x.square()
    third = (x * square).mean(1, keepdim=True) - 3 * x.mean(1, keepdim=True)
    fourth = square.square().mean(1, keepdim=True) - 6 * square.mean(1, keepdim=True) + 3
    return third * math.sqrt(count / 6), fourth * math.sqrt(count / 24)


def channel_mean_scores(x: Tensor) -> Tensor:
    """Scores (batch, channels) of the channel means of (batch, channel, *space), in standard errors."""
    flat = x.flatten(2)
    means = flat.mean(2)
    count = flat.shape[2]
    # The factor makes the variance about the sample mean unbiased, which matters where space has few positions.
    variance = (flat.square().mean(2) - means.square()).mean(1, keepdim=True) * (count / max(count - 1, 1))
    return means * (count / variance.clamp_min(1e-6)).sqrt()


def correlation_scores(covariance: Tensor, count: int) -> Tensor:
    """Scores (batch, pairs) of channel correlations, from covariances (batch, channel, channel)."""
    energy = covariance.diagonal(dim1=1, dim2=2)
    scale = (energy[:, :, None] * energy[:, None]).sqrt().clamp_min(1e-12)
    row, column = upper_triangle(covariance.shape[1], covariance.device)
    return (covariance / scale)[:, row, column] * math.sqrt(count)


@constant
def upper_triangle(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column indices of the entries above the diagonal of an n×n matrix."""
    row, column = torch.triu_indices(n, n, 1, device=device).unbind()
    return row, column


@constant
def spectral_bands(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Partitions of the half spectrum of (channel, *shape) into bands: radial half-octaves, and linear bands per axis.

    Each partition is (membership (frequencies, bands), 2 for a frequency that has a mirror image and 1 otherwise;
    degrees of freedom of each band per channel (bands,); band index of each frequency (frequencies,)). The frequency 0
    is in no band; its index is the number of bands.
    """
    bands = [radial_partition(shape, device, dtype)]
    if len(shape) > 1:
        axes = half_frequencies(shape)
        bands += [
            spectral_partition(np.floor(np.abs(f) * 2 * min(BANDS, n // 2 + 1) - 1e-9), axes, device, dtype)
            for f, n in zip(axes, shape, strict=True)
        ]
    return bands


@constant
def radial_partition(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The first partition of `spectral_bands`, into half-octaves of the radius."""
    axes = half_frequencies(shape)
    radius = np.sqrt(sum(f**2 for f in axes))
    return spectral_partition(np.floor(2 * np.log2(np.maximum(radius, 1e-9))), axes, device, dtype)


def half_frequencies(shape: tuple[int, ...]) -> list[np.ndarray]:
    """The frequencies of the half spectrum of `shape` along each axis, (frequencies,) each."""
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape[:-1]), np.fft.rfftfreq(shape[-1]), indexing="ij")
    return [axis.ravel() for axis in axes]


def spectral_partition(
    partition: np.ndarray, axes: list[np.ndarray], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """A partition (frequencies,) of the `half_frequencies` as `spectral_bands` has it."""
    mirrored = np.where((np.abs(axes[-1]) > 0) & (np.abs(axes[-1]) < 0.5), 2.0, 1.0)
    band = np.unique(np.where(np.any(axes, axis=0), partition, np.inf), return_inverse=True)[1].reshape(-1)
    member = (band[:, None] == np.arange(band.max())) * mirrored[:, None]
    member, index = torch.from_numpy(member).to(dtype).to(device), torch.from_numpy(band).to(device)
    return member, member.sum(0), index


@constant
def linear_bands(lines: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Edges (BANDS + 1,) of equal bands of `lines` spectral lines, and the band index of each line."""
    edge = np.append(0, np.cumsum([len(part) for part in np.array_split(np.arange(lines), BANDS)]))
    band = np.repeat(np.arange(BANDS), np.diff(edge))
    return torch.from_numpy(edge).to(device), torch.from_numpy(band).to(device)


@constant
def near_lags(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Flat indices (2, lags) in (channel, *space) of spatial lags up to 2 per axis (1-D: 8), and of −lag."""
    reach = 8 if len(shape) == 2 else 2
    steps = [range(-min(reach, (n - 1) // 2), min(reach, (n - 1) // 2) + 1) for n in shape[1:]]
    lags = [lag for lag in itertools.product(*steps) if lag > (0,) * len(lag)]
    positive = [int(np.ravel_multi_index(np.mod((0, *lag), shape), shape)) for lag in lags]
    negative = [int(np.ravel_multi_index(np.mod((0, *(-step for step in lag)), shape), shape)) for lag in lags]
    return torch.tensor([positive, negative], device=device, dtype=torch.long)


def unit_rms(x: Tensor) -> Tensor:
    """Each row scaled to RMS 1; a zero row stays zero. Squares of the values must not overflow or underflow."""
    return x / root_mean_square(x).clamp_min(torch.finfo(x.dtype).tiny)


def root_mean_square(x: Tensor) -> Tensor:
    """The RMS of each row, (batch, 1, …)."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True) / math.sqrt(math.prod(x.shape[1:]))

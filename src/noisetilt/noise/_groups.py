"""Groups of statistics that are nearly independent normal scores for white noise, and the room that a group leaves.

Every group is a tensor (batch, n) of scores whose sum of squares is about χ² with df degrees of freedom. W draws groups
towards where white noise has them, and dilutes what it cannot bring there.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ._checks import constant

# A group is touched where it exceeds what white noise exceeds with probability TOUCHED, and lands where white noise
# lies beyond with probability LANDED: inside, since many groups on the edge of the likely are together unlikely.
TOUCHED = 1e-4
LANDED = 0.1
# The largest of many values, powers or correlations is held below what it exceeds with this probability.
LARGEST = 1e-2
BANDS = 24
TILE = 16
SMALLEST_GROUP = 8
LONGEST_PRODUCT = 256
FEW_CHANNELS = 32


def multiplies(x: Tensor, count: int, limit: int) -> bool:
    """Whether a product with a matrix of `count` rows is the way to go: where it is small and x on a CPU, which is slow
    at short sums and transforms. Elsewhere products may be rounded to TF32."""
    return x.device.type == "cpu" and count <= limit


def to_spectrum(x: Tensor) -> Tensor:
    """The orthonormal half spectrum over all axes but the first of (batch, channel, *space)."""
    space = tuple(range(2, x.ndim))
    if not multiplies(x, x.shape[1], FEW_CHANNELS):
        return torch.fft.rfftn(x, dim=(1, *space), norm="ortho")
    return mixed_channels(torch.fft.rfftn(x, dim=space, norm="ortho"), channel_waves(x.shape[1], x.device, x.dtype)[0])


def to_field(spectrum: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The field (batch, *shape) of a half spectrum, real or complex."""
    space = tuple(range(2, spectrum.ndim))
    if not multiplies(spectrum, shape[0], FEW_CHANNELS):
        return torch.fft.irfftn(spectrum, s=shape, dim=(1, *space), norm="ortho")
    waves = channel_waves(shape[0], spectrum.device, spectrum.real.dtype)[1]
    return torch.fft.irfftn(mixed_channels(spectrum, waves), s=shape[1:], dim=space, norm="ortho")


def mixed_channels(x: Tensor, matrix: Tensor) -> Tensor:
    """The matrix (channel, channel) applied to (batch, channel, *space)."""
    return x if x.shape[1] == 1 else (matrix @ x.flatten(2).to(matrix.dtype)).view_as(x)


@constant
def channel_waves(channels: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The orthonormal discrete Fourier transform of this many numbers, a symmetric matrix, and its inverse."""
    waves = torch.fft.fft(torch.eye(channels, dtype=torch.float64), norm="ortho").to(dtype.to_complex()).to(device)
    return waves, waves.conj().resolve_conj()


def shrink(scores: Tensor, df: int, touched: float = TOUCHED, unit: float = 1.0) -> Tensor:
    """Factors (batch, 1) that bring normal scores (batch, n) of df degrees of freedom into a shell they likely lie in.

    Scores that are too small together, hence too even, are as untypical as those that are too large, and are spread.
    `unit` is what the scores have for a standard deviation.
    """
    low, low_landed, high_landed, high = (unit * radius for radius in chi_radii(df, touched))
    radius = torch.linalg.vector_norm(scores, dim=1, keepdim=True)
    landed = radius.masked_fill(radius > high, high_landed).masked_fill(radius < low, low_landed)
    return landed / radius.clamp_min(1e-6 * unit)


@constant
def chi_radii(df: int, touched: float) -> tuple[float, ...]:
    """Radii that df normal numbers fall short of, or exceed, with probability `touched` and LANDED.

    A single one is never too small.
    """
    low, low_landed = (1 - touched, 1 - LANDED) if df > 1 else (1.0, 1.0)
    return tuple(math.sqrt(special.chdtri(df, p)) for p in (low, low_landed, LANDED, touched))


@constant
def normal_limit(count: float, level: float = LARGEST) -> float:
    """What the largest of `count` independent standard normals exceeds with probability `level`."""
    return float(-special.ndtri(level / count))


def energy_scores(energy: Tensor, df: Tensor | float) -> Tensor:
    """Normal scores (batch, n), less their mean, of energies (batch, n) that are χ² with df degrees of freedom."""
    scores = energy_to_score(energy, df)
    return scores - scores.mean(1, keepdim=True)


def even_out(energy: Tensor, df: Tensor | float, touched: float = TOUCHED) -> Tensor:
    """Gains for energies (batch, n), each χ² with df degrees of freedom, that make them no more uneven than chance."""
    if energy.shape[1] < 2:
        return torch.ones_like(energy)
    if isinstance(df, Tensor):
        scores = energy_to_score(energy, df)
        wanted = score_to_energy(shrunk(scores, touched), df)
    else:
        # The score is linear in the cube root, and of one scale for all: no need to go further.
        wanted = df * shrunk((energy / df).pow(1 / 3), touched, math.sqrt(2 / (9 * df))).clamp_min(0).pow(3)
    return wanted / energy.clamp_min(torch.finfo(energy.dtype).tiny)


def shrunk(scores: Tensor, touched: float, unit: float = 1.0) -> Tensor:
    """Scores (batch, n) of standard deviation `unit`, drawn towards their mean as far as `shrink` says."""
    mean = scores.mean(1, keepdim=True)
    return mean.lerp(scores, shrink(scores - mean, scores.shape[1] - 1, touched, unit))


def energy_to_score(energy: Tensor, df: Tensor | float) -> Tensor:
    """The normal score of a χ² with df degrees of freedom (Wilson & Hilferty 1931), finite everywhere."""
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
    """Scores (batch, channels) of the channel means of (batch, channel, *space), measured against what is left."""
    flat = x.flatten(2)
    means = flat.mean(2)
    variance = (flat.square().mean(2) - means.square()).mean(1, keepdim=True)
    return means * (flat.shape[2] / variance.clamp_min(1e-6)).sqrt()


def correlation_scores(covariance: Tensor, count: int) -> Tensor:
    """Scores (batch, pairs) of the correlations in covariances (batch, channel, channel) of `count` numbers each."""
    energy = covariance.diagonal(dim1=1, dim2=2)
    scale = (energy[:, :, None] * energy[:, None]).sqrt().clamp_min(1e-12)
    row, column = upper_triangle(covariance.shape[1], covariance.device)
    return (covariance / scale)[:, row, column] * math.sqrt(count)


@constant
def upper_triangle(n: int, device: torch.device) -> tuple[Tensor, ...]:
    """Rows and columns of the entries above the diagonal."""
    return tuple(torch.triu_indices(n, n, 1, device=device).unbind())


def box_sizes(space: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Boxes whose energies are compared: runs along the last axis, small boxes, large ones and, in 2-D, tiny ones."""
    small = {1: 64, 2: 8}.get(len(space), 4)
    parts = 16 if len(space) == 1 else 4
    return [
        (*(1 for _ in space[:-1]), largest_divisor(space[-1], TILE)),
        tuple(largest_divisor(n, small) for n in space),
        tuple(n // largest_divisor(n, parts) for n in space),
        *([tuple(largest_divisor(n, 4) for n in space)] if len(space) == 2 else []),
    ]


def cut_rows(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(batch, channel, *space) with every axis of space but the last cut in two: (…, box, place, …, last)."""
    for axis, n in enumerate(size[:-1]):
        x = x.unflatten(2 + 2 * axis, (-1, n))
    return x


def spread(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Values of boxes (batch, channel, *boxes) in a shape that goes with the `cut_rows` of what the boxes are of."""
    values = values.repeat_interleave(size[-1], -1)
    for axis in range(len(size) - 1):
        values = values.unsqueeze(3 + 2 * axis)
    return values


def box_sums(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Sums over the boxes of this size, (batch, channel, *boxes), of (batch, channel, *space)."""
    if multiplies(x, x.shape[-1], LONGEST_PRODUCT):
        sums = x @ run_members(x.shape[-1], size[-1], x.device, x.dtype)
    else:
        sums = x.unflatten(-1, (-1, size[-1])).sum(-1)
    for axis, n in enumerate(size[:-1]):
        sums = sums.unflatten(2 + axis, (-1, n)).sum(3 + axis) if n > 1 else sums
    return sums


@constant
def run_members(count: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count, count / width): 1 where a number belongs to a run of `width` numbers."""
    return torch.eye(count // width, device=device, dtype=dtype).repeat_interleave(width, 0)


@constant
def cuts(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Ways to cut the half spectrum of (channel, *shape) into bands: by radius in half-octaves, and along each axis.

    Each is (membership (frequencies, bands) counting every frequency with its mirror image, numbers in a band and
    channel (bands,), band of each frequency (frequencies,)). The frequency 0 is in no band; its index is the last.
    """
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape[:-1]), np.fft.rfftfreq(shape[-1]), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in axes)).ravel()
    mirrored = np.where((np.abs(axes[-1]) > 0) & (np.abs(axes[-1]) < 0.5), 2.0, 1.0).ravel()
    ways = [np.floor(2 * np.log2(np.maximum(radius, 1e-9)))]
    if len(shape) > 1:
        ways += [
            np.floor(np.abs(f.ravel()) * 2 * min(BANDS, n // 2 + 1) - 1e-9) for f, n in zip(axes, shape, strict=True)
        ]
    found = []
    for way in ways:
        band = np.unique(np.where(radius > 0, way, np.inf), return_inverse=True)[1].reshape(-1)
        member = (band[:, None] == np.arange(band.max())) * mirrored[:, None]
        member, index = torch.from_numpy(member).to(dtype).to(device), torch.from_numpy(band).to(device)
        found.append((member, member.sum(0), index))
    return found


@constant
def linear_bands(lines: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Edges (BANDS + 1,) of equal bands of `lines` spectral lines, and the band of each line."""
    edge = np.append(0, np.cumsum([len(part) for part in np.array_split(np.arange(lines), BANDS)]))
    band = np.repeat(np.arange(BANDS), np.diff(edge))
    return torch.from_numpy(edge).to(device), torch.from_numpy(band).to(device)


@constant
def near_lags(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Flat indices (2, lags) in (channel, *space) of spatial lags up to two steps an axis (1-D: eight), and of −lag."""
    reach = 8 if len(shape) == 2 else 2
    steps = [range(-min(reach, (n - 1) // 2), min(reach, (n - 1) // 2) + 1) for n in shape[1:]]
    lags = [lag for lag in itertools.product(*steps) if lag > (0,) * len(lag)]
    there = [int(np.ravel_multi_index(np.mod((0, *lag), shape), shape)) for lag in lags]
    back = [int(np.ravel_multi_index(np.mod((0, *(-step for step in lag)), shape), shape)) for lag in lags]
    return torch.tensor([there, back], device=device, dtype=torch.long)


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that does not exceed limit."""
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)


def unit_rms(x: Tensor) -> Tensor:
    """Each row scaled to RMS 1; a zero row stays zero. For rows whose squares neither overflow nor vanish."""
    return x / root_mean_square(x).clamp_min(torch.finfo(x.dtype).tiny)


def root_mean_square(x: Tensor) -> Tensor:
    """The RMS of each row, with its axes kept."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True) / math.sqrt(math.prod(x.shape[1:]))

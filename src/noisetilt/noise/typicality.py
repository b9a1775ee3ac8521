"""Typicality: named tests of whether a vector can be told from white Gaussian noise, and one verdict over all of them.

Each test compares one statistic with its distribution under N(0, I), exact where it is known. The statistics are chosen
to overlap as little as possible, so the smallest of their p-values is corrected as that of independent ones.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from . import _nulls as nulls
from ._checks import check_batch
from .order_statistics import bounds

SMALLEST_EVENT = 256
ORDER_ALPHA = 1e-6
# The tests overlap a little: their smallest p-value behaves like that of fewer (recipes/noise/calibration.py).
INDEPENDENT = 0.92


@dataclass(frozen=True)
class Audit:
    """What `audit` found: p-values in [0, 1], uniform for white Gaussian noise, near 0 where it is ruled out.

    Attributes:
        tests: name of each test → its p-values (batch,), float64, not corrected for there being several.
        p_value: (batch,), float64, of the vector as a whole: the smallest of the above, corrected for their number.
    """

    tests: dict[str, Tensor]
    p_value: Tensor

    def rejected(self, level: float = 0.01) -> Tensor:
        """(batch,) bool: which vectors are told from white Gaussian noise at this level."""
        return self.p_value < level

    def __str__(self) -> str:
        """The table of p-values; for a batch, their median and how many vectors each test alone rejects at 1 %."""
        lines = [f"{'test':<26}{'p':>10}{'rejected at 1 %':>18}"]
        for name, p in [*self.tests.items(), ("overall", self.p_value)]:
            lines.append(f"{name:<26}{p.median().item():>10.2g}{int((p < 0.01).sum()):>10} of {len(p)}")
        return "\n".join(lines)


@torch.no_grad()
def audit(x: Tensor) -> Audit:
    """Test each vector of a batch for being a draw from N(0, I): values, spectrum, neighbours, channels and tiles.

    Args:
        x: (batch, *event), real floating point, 256 or more numbers per event. An event of three or more axes is read
            as (channel, *space), one of two axes as (height, width), one of one axis as a plain sequence.

    Returns:
        An `Audit` of float64 p-values on the CPU.

    Raises:
        ValueError: for an event of fewer than 256 numbers, an empty batch, NaN or infinity, or a tensor that is not
            real floating point.
    """
    check_batch(x, "x")
    count = math.prod(x.shape[1:])
    if count < SMALLEST_EVENT or x.shape[0] == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, expected at least one vector of {SMALLEST_EVENT} or more numbers, where the"
            " tests are calibrated; join several small vectors into one."
        )
    x = x.double()
    field = x if x.ndim > 3 else x[:, None]
    p = {**value_tests(x.flatten(1)), **sequence_spectrum_tests(x.flatten(1)), **field_spectrum_tests(field)}
    p |= {**channel_tests(field), **tile_tests(field)}
    if field.shape[1:-1].numel() == 1:  # the event is a sequence, its two spectra are one
        del p["field line"]
    # A statistic that is 0/0 comes of a constant vector, a channel or a tile of zeros: nothing that noise does.
    p = {name: np.minimum(np.nan_to_num(value, nan=0.0), 1.0) for name, value in p.items()}
    tests = {name: torch.from_numpy(value) for name, value in p.items()}
    return Audit(tests, torch.from_numpy(overall(p)))


def overall(tests: Mapping[str, np.ndarray]) -> np.ndarray:
    """(batch,) p-value of the smallest of the tests' p-values (batch,), corrected for their number (Šidák 1967)."""
    return nulls.sidak(np.stack(list(tests.values())).min(0), INDEPENDENT * len(tests))


def value_tests(x: Tensor) -> dict[str, np.ndarray]:
    """Moments and distribution of the values x (batch, N), wherever they stand."""
    count = x.shape[1]
    mean, centred = x.mean(1), x - x.mean(1, keepdim=True)
    square = centred.square()
    m2, m3, m4 = square.mean(1), (square * centred).mean(1), square.square().mean(1)
    peak = numpy(x.abs().amax(1))
    return {
        "mean": nulls.normal_two_sided(numpy(mean) * math.sqrt(count)),
        "energy": nulls.chi2_two_sided(numpy(m2) * count, count - 1),
        "skewness": nulls.skewness(numpy(m3 / m2**1.5), count),
        "kurtosis": nulls.kurtosis(numpy(m4 / m2**2), count),
        "values": nulls.anderson_darling(numpy(torch.special.ndtr(x))),
        "largest value": nulls.largest_of(2 * special.ndtr(-peak), count),
        "two-level order": two_level_order(x),
    }


def two_level_order(x: Tensor) -> np.ndarray:
    """p-values of the farthest two-level order statistic of x (batch, N)."""
    tail = 2 * special.ndtr(-farthest_order_statistic(x))
    return nulls.largest_of(tail, effective_order_statistics(x.shape[1]))


def farthest_order_statistic(x: Tensor) -> np.ndarray:
    """How far the farthest Z_{r,j} of x (batch, N) is from its median, in units in which it is about a normal number.

    The unit is its own bound at ORDER_ALPHA, on the side where it strays, divided by the normal bound at that level.
    """
    count = x.shape[1]
    width = near_divisor(count, 16)
    low, high = (b.numpy() for b in bounds(count // width, width, ORDER_ALPHA, torch.device("cpu"), torch.float64))
    middle = bounds(count // width, width, 1 - 1e-9, torch.device("cpu"), torch.float64)[0].numpy()
    rows = np.sort(numpy(x).reshape(len(x), -1, width), axis=2)
    off = np.sort(rows.transpose(0, 2, 1), axis=2).transpose(0, 2, 1) - middle
    farthest = np.where(off > 0, off / (high - middle), off / (low - middle)).max((1, 2))
    return -special.ndtri(ORDER_ALPHA / 2) * farthest


def effective_order_statistics(count: int) -> float:
    """How many independent normal numbers these statistics of `count` values are worth, where p is about 0.01 or less.

    Measured by recipes/noise/calibrate_order.py; where p is larger they are worth fewer, so that p is given too large.
    """
    return float(np.interp(math.log2(count), range(8, 20, 2), (165, 450, 900, 1150, 1450, 1850)))


def sequence_spectrum_tests(x: Tensor) -> dict[str, np.ndarray]:
    """The spectrum of the flattened vector x (batch, N): the share of 24 bands, and its highest line."""
    power = sequence_powers(x)
    return {
        "sequence bands": nulls.uneven_energies(*band_sums(power)),
        "sequence line": nulls.largest_of(np.exp(-numpy(power.amax(1))), power.shape[1]),
    }


def sequence_powers(x: Tensor) -> Tensor:
    """Powers of the lines of x (batch, N) that are neither constant nor alternating: Exp(1) each for noise."""
    spectrum = torch.fft.rfft(x, norm="ortho")[:, 1 : (x.shape[1] - 1) // 2 + 1]
    return spectrum.real.square() + spectrum.imag.square()


def sequence_bands(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Energies (batch, 24) of equal bands of the spectrum of x (batch, N), from low to high, and their expectations."""
    return band_sums(sequence_powers(x))


def band_sums(power: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`sequence_bands` from `sequence_powers`."""
    bands = power.tensor_split(24, dim=1)
    return 2 * numpy(torch.stack([band.sum(1) for band in bands], 1)), np.array([2 * band.shape[1] for band in bands])


def field_spectrum_tests(field: Tensor) -> dict[str, np.ndarray]:
    """Radial bands, lines, values and autocorrelation of the field (batch, channel, *space)."""
    shape = tuple(field.shape[1:])
    energy = half_energies(field)
    power = energy.flatten(1)[:, one_of_each_pair(shape, half=True).to(field.device)]
    correlation = torch.fft.irfftn(energy, s=shape, dim=tuple(range(1, field.ndim))).flatten(1)
    z = correlation / correlation[:, :1] * math.sqrt(correlation.shape[1] + 2)
    far = z[:, one_of_each_pair(shape, half=False).to(field.device)]
    near = near_lags(shape)
    return {
        "field bands": nulls.uneven_energies(*band_energies(energy, shape)),
        "field line": nulls.largest_of(np.exp(-numpy(power.amax(1))), power.shape[1]),
        "field powers": nulls.anderson_darling(-np.expm1(-numpy(power))),
        "near neighbours": nulls.chi2_two_sided(numpy(z[:, near].square().sum(1)), len(near)),
        "far neighbours": nulls.largest_of(2 * special.ndtr(-numpy(far.abs().amax(1))), far.shape[1]),
    }


def half_energies(field: Tensor) -> Tensor:
    """|DFT|² over channel and space of (batch, channel, *space), without the mirrored half of the last axis."""
    spectrum = torch.fft.rfftn(field, dim=tuple(range(1, field.ndim)), norm="ortho")
    return spectrum.real.square() + spectrum.imag.square()


@functools.lru_cache(maxsize=16)
def one_of_each_pair(shape: tuple[int, ...], half: bool) -> Tensor:
    """Flat indices of one of each pair k, −k (mod shape), leaving out those that are their own partner.

    half: into an array whose last axis ends at n//2, as a real transform leaves it.
    """
    index = np.arange(math.prod(shape)).reshape(shape)
    partner = index
    for axis in range(len(shape)):
        partner = np.roll(np.flip(partner, axis), 1, axis)
    chosen = index < partner
    if half:
        last = np.arange(shape[-1] // 2 + 1)
        chosen = chosen[..., last] | ((last > 0) & (2 * last < shape[-1]))
    return torch.from_numpy(np.flatnonzero(chosen))


def near_lags(shape: tuple[int, ...]) -> list[int]:
    """Flat indices of spatial lags of up to two steps per axis in (channel, *space), one of each pair ±lag."""
    reach = 8 if len(shape) == 2 else 2
    axes = [range(-min(reach, (n - 1) // 2), min(reach, (n - 1) // 2) + 1) for n in shape[1:]]
    lags = [lag for lag in itertools.product(*axes) if lag > tuple(0 for _ in lag)]
    return [int(np.ravel_multi_index(np.mod((0, *lag), shape), shape)) for lag in lags]


def radial_bands(field: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Energies (batch, bands) of half-octaves of spatial frequency, from low to high, and their expectations.

    Channels are taken together; the field is (batch, channel, *space).
    """
    return band_energies(half_energies(field), tuple(field.shape[1:]))


def band_energies(energy: Tensor, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`radial_bands` from `half_energies`, of a field of this shape (channel, *space)."""
    member = radial_members(shape[1:])
    return numpy(energy.sum(1).flatten(1) @ member.to(energy.device)), numpy(member.sum(0)) * shape[0]


@functools.lru_cache(maxsize=16)
def radial_members(space: tuple[int, ...]) -> Tensor:
    """(frequencies, bands): how often the halved spectrum's frequencies stand in each half-octave; 0 stands in none."""
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in space[:-1]), np.fft.rfftfreq(space[-1]), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in axes)).ravel()
    mirrored = np.where((axes[-1] > 0) & (axes[-1] < 0.5), 2.0, 1.0).ravel()
    octave = np.floor(2 * np.log2(np.maximum(radius, 1e-12)))
    _, band = np.unique(np.where(radius > 0, octave, octave[radius > 0].min()), return_inverse=True)
    return torch.from_numpy(np.eye(band.max() + 1)[band.reshape(-1)] * (mirrored * (radius > 0))[:, None])


def channel_tests(field: Tensor) -> dict[str, np.ndarray]:
    """Means, energies and correlations of the channels of the field; no tests for a single channel."""
    x = field.flatten(2)
    channels, count = x.shape[1:]
    if channels < 2 or count < 4 * channels:
        return {}
    means = x.mean(2)
    spread = (means - means.mean(1, keepdim=True)).square().sum(1) * count
    gram = x @ x.transpose(1, 2)
    energy = gram.diagonal(dim1=1, dim2=2)
    correlation = gram / (energy[:, :, None] * energy[:, None, :]).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    sphericity = -(count - (2 * channels + 5) / 6) * torch.linalg.slogdet(correlation).logabsdet
    return {
        "channel means": nulls.chi2_two_sided(numpy(spread), channels - 1),
        "channel energies": nulls.uneven_energies(numpy(energy), np.full(channels, float(count))),
        "channel correlation": nulls.chi2_two_sided(numpy(sphericity), channels * (channels - 1) / 2),
    }


def tile_tests(field: Tensor) -> dict[str, np.ndarray]:
    """Means and energies of small tiles of space, and energies of large ones; none where space cannot be cut evenly."""
    space = field.shape[2:]
    small = [near_divisor(n, {1: 64, 2: 8}.get(len(space), 4)) for n in space]
    large = [n // near_divisor(n, 16 if len(space) == 1 else 4) for n in space]
    square, tests = field.square(), {}
    if small != list(space) or len(field[0]) > 1:
        means = box_sums(field, small) / math.prod(small)
        spread = (means - means.mean(1, keepdim=True)).square().sum(1) * math.prod(small)
        tests["tile means"] = nulls.chi2_two_sided(numpy(spread), means.shape[1] - 1)
        tests["tile energies"] = uneven_scores(box_sums(square, small), math.prod(small))
    if large != list(space) or len(field[0]) > 1:
        tests["large-tile energies"] = uneven_scores(box_sums(square, large), math.prod(large))
    return tests


def uneven_scores(energy: Tensor, df: int) -> np.ndarray:
    """p-values of the variance of normal scores of energies (batch, M), each χ² with df degrees of freedom."""
    scores = nulls.chi2_scores(numpy(energy), df)
    return nulls.chi2_two_sided(scores.var(1) * scores.shape[1], scores.shape[1] - 1)


def box_sums(field: Tensor, sizes: list[int]) -> Tensor:
    """Sums (batch, boxes) over boxes of these sizes in the space of the field (batch, channel, *space)."""
    for axis, size in enumerate(sizes):
        field = field.unflatten(2 + axis, (-1, size)).sum(3 + axis)
    return field.flatten(1)


def near_divisor(n: int, wanted: int) -> int:
    """The largest divisor of n that does not exceed wanted."""
    return next(d for d in range(min(n, wanted), 0, -1) if n % d == 0)


def numpy(x: Tensor) -> np.ndarray:
    """A tensor as a NumPy array on the CPU."""
    return x.cpu().numpy()

"""The audit: named statistical tests of whether a vector is white Gaussian noise, and one overall p-value.

Each test compares one statistic with its distribution under N(0, I), exact where it is known. The statistics overlap as
little as possible, so that the smallest p-value can be corrected as that of independent tests.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from scipy import special
from torch import Tensor

from . import _nulls as nulls
from ._boxes import box_sums, largest_divisor
from ._checks import check_batch, without_autocast
from ._constants import releasable
from ._events import as_field
from ._groups import near_lags, radial_partition
from .float64 import as_float64
from .order_statistics import bounds

SMALLEST_EVENT = 256
# The audit tests so many numbers at a time, for which it takes 300 MiB.
CHUNK = 2**22
ORDER_ALPHA = 1e-6
# The tests are slightly dependent: the effective number of independent tests is this fraction of their number
# (measured by recipes/noise/calibration.py).
INDEPENDENT_FRACTION = 0.92


@dataclass(frozen=True, repr=False)
class Audit:
    """The result of `audit`: p-values in [0, 1], uniform for white Gaussian noise and near 0 for other vectors.

    Attributes:
        tests: name of each test → its p-values (batch,), float64, not corrected for multiple tests.
        p_value: (batch,), float64, overall: the smallest p-value, corrected for the number of tests.
    """

    tests: dict[str, Tensor]
    p_value: Tensor

    def rejected(self, level: float = 0.01) -> Tensor:
        """(batch,) bool: which vectors the audit rejects as white Gaussian noise at this level.

        Raises:
            ValueError: for a level outside (0, 1).
        """
        if not isinstance(level, Real) or not 0 < level < 1:
            raise ValueError(f"level is {level!r}, expected a probability between 0 and 1, such as 0.01 for 1 %")
        return self.p_value < level

    def __repr__(self) -> str:
        """A table with the median p-value of each test over the batch, and the number of vectors it rejects at 1 %."""
        lines = [f"{'test':<26}{'p':>10}{'rejected at 1 %':>18}"]
        for name, p in [*self.tests.items(), ("overall", self.p_value)]:
            lines.append(f"{name:<26}{p.median().item():>10.2g}{int((p < 0.01).sum()):>10} of {len(p)}")
        return "\n".join(lines)


@without_autocast
@torch.no_grad()
def audit(x: Tensor) -> Audit:
    """Test whether each vector of a batch is a draw from N(0, I): values, spectrum, neighbours, channels and tiles.

    Args:
        x: (batch, *event), real floating point, 256 or more numbers per event. An event of three or more axes is read
            as (channel, *space), one of two axes as (height, width), one of one axis, or whose space or rows are
            single positions, as a plain sequence.

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
            f"x has shape {tuple(x.shape)}, expected at least one vector of {SMALLEST_EVENT} or more numbers, for which"
            " the tests are calibrated; join several small vectors into one."
        )
    parts = [p_values(as_float64(part)) for part in row_chunks(x)]
    p = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tests = {name: torch.from_numpy(value) for name, value in p.items()}
    return Audit(tests, torch.from_numpy(overall(p)))


def row_chunks(x: Tensor) -> Sequence[Tensor]:
    """The rows of x (batch, *event) in parts of at most CHUNK numbers, or of one row."""
    return x.split(max(1, CHUNK // x.shape[1:].numel()))


def p_values(x: Tensor) -> dict[str, np.ndarray]:
    """The p-values (batch,) of all tests of x (batch, *event), float64, by name."""
    flat, field = x.flatten(1), as_field(x)
    p = {**value_tests(flat), **sequence_spectrum_tests(flat), **field_spectrum_tests(field)}
    p |= {**channel_tests(field), **tile_tests(field)}
    if field.shape[1:-1].numel() == 1:  # the event is a sequence, so both spectra are the same
        del p["field line"]
    # A statistic is 0/0 only for a constant vector, or a channel or tile of zeros, which noise never has.
    return {name: np.minimum(np.nan_to_num(value, nan=0.0), 1.0) for name, value in p.items()}


def overall(tests: Mapping[str, np.ndarray]) -> np.ndarray:
    """(batch,) p-value of the smallest of the tests' p-values (batch,), corrected for their number (Šidák 1967)."""
    return nulls.sidak(np.stack(list(tests.values())).min(0), INDEPENDENT_FRACTION * len(tests))


def value_tests(x: Tensor) -> dict[str, np.ndarray]:
    """Tests of the moments and the distribution of the values x (batch, N), regardless of position."""
    count = x.shape[1]
    mean, centred = x.mean(1), x - x.mean(1, keepdim=True)
    square = centred.square()
    m2, m3, m4 = square.mean(1), (square * centred).mean(1), square.square().mean(1)
    peak = to_numpy(x.abs().amax(1))
    return {
        "mean": nulls.normal_two_sided(to_numpy(mean) * math.sqrt(count)),
        "energy": nulls.chi2_two_sided(to_numpy(m2) * count, count - 1),
        "skewness": nulls.skewness(to_numpy(m3 / m2**1.5), count),
        "kurtosis": nulls.kurtosis(to_numpy(m4 / m2**2), count),
        "values": nulls.anderson_darling(to_numpy(torch.special.ndtr(x))),
        "largest value": nulls.largest_of(2 * special.ndtr(-peak), count),
        "two-level order": two_level_order_test(x),
    }


def two_level_order_test(x: Tensor) -> np.ndarray:
    """p-values of the most extreme two-level order statistic of x (batch, N)."""
    tail = 2 * special.ndtr(-extreme_order_statistic(x))
    return nulls.largest_of(tail, effective_order_statistics(x.shape[1]))


def extreme_order_statistic(x: Tensor) -> np.ndarray:
    """The largest deviation of a Z_{r,j} of x (batch, N) from its median, as an approximately normal score.

    Each deviation is divided by its own bound at ORDER_ALPHA on that side, and multiplied by the normal bound there.
    """
    count = x.shape[1]
    width = largest_divisor(count, 16)
    low, high = (b.numpy() for b in bounds(count // width, width, ORDER_ALPHA, torch.device("cpu"), torch.float64))
    middle = bounds(count // width, width, 1 - 1e-9, torch.device("cpu"), torch.float64)[0].numpy()
    rows = np.sort(to_numpy(x).reshape(len(x), -1, width), axis=2)
    deviation = np.sort(rows.transpose(0, 2, 1), axis=2).transpose(0, 2, 1) - middle
    largest = np.where(deviation > 0, deviation / (high - middle), deviation / (low - middle)).max((1, 2))
    return -special.ndtri(ORDER_ALPHA / 2) * largest


def effective_order_statistics(count: int) -> float:
    """The effective number of independent two-level order statistics of `count` values, for p of about 0.01 or less.

    Measured by recipes/noise/calibrate_order.py. For larger p the number is smaller, so the p-value is conservative.
    """
    return float(np.interp(math.log2(count), range(8, 20, 2), (165, 450, 900, 1150, 1450, 1850)))


def sequence_spectrum_tests(x: Tensor) -> dict[str, np.ndarray]:
    """Tests of the spectrum of the flattened vector x (batch, N): energies of 24 bands, and the highest line."""
    power = sequence_powers(x)
    return {
        "sequence bands": nulls.energy_spread(*band_sums(power)),
        "sequence line": nulls.largest_of(np.exp(-to_numpy(power.amax(1))), power.shape[1]),
    }


def sequence_powers(x: Tensor) -> Tensor:
    """Powers of x (batch, N) at all frequencies but 0 and N/2: independent Exp(1) for noise."""
    spectrum = torch.fft.rfft(x, norm="ortho")[:, 1 : (x.shape[1] - 1) // 2 + 1]
    return spectrum.real.square() + spectrum.imag.square()


def sequence_bands(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Energies (batch, 24) of equal bands of the spectrum of x (batch, N), from low to high, and their expectations."""
    return band_sums(sequence_powers(x))


def band_sums(power: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`sequence_bands` from `sequence_powers`."""
    bands = power.tensor_split(24, dim=1)
    energy = torch.stack([band.sum(1) for band in bands], 1)
    return 2 * to_numpy(energy), np.array([2 * band.shape[1] for band in bands])


def field_spectrum_tests(field: Tensor) -> dict[str, np.ndarray]:
    """Tests of the radial bands, lines, powers and autocorrelation of the field (batch, channel, *space)."""
    shape = tuple(field.shape[1:])
    energy = half_energies(field)
    power = energy.flatten(1)[:, one_of_each_pair(shape, half=True).to(field.device)]
    correlation = torch.fft.irfftn(energy, s=shape, dim=tuple(range(1, field.ndim))).flatten(1)
    z = correlation / correlation[:, :1] * math.sqrt(correlation.shape[1] + 2)
    far = z[:, one_of_each_pair(shape, half=False).to(field.device)]
    near = near_lags(shape, field.device)[0]
    tests = {
        "field line": nulls.largest_of(np.exp(-to_numpy(power.amax(1))), power.shape[1]),
        "field powers": nulls.anderson_darling(-np.expm1(-to_numpy(power))),
        "far neighbours": nulls.largest_of(2 * special.ndtr(-to_numpy(far.abs().amax(1))), far.shape[1]),
    }
    bands, expected = band_energies(energy, shape)
    if len(expected) > 1:
        tests["field bands"] = nulls.energy_spread(bands, expected)
    if len(near):
        tests["near neighbours"] = nulls.chi2_two_sided(to_numpy(z[:, near].square().sum(1)), len(near))
    return tests


def half_energies(field: Tensor) -> Tensor:
    """|DFT|² over channel and space of (batch, channel, *space), without the mirrored half of the last axis."""
    spectrum = torch.fft.rfftn(field, dim=tuple(range(1, field.ndim)), norm="ortho")
    return spectrum.real.square() + spectrum.imag.square()


@releasable
@functools.lru_cache(maxsize=16)
def one_of_each_pair(shape: tuple[int, ...], half: bool) -> Tensor:
    """Flat indices of one index of each pair k, −k (mod shape), without those with k = −k.

    With `half` they index an array whose last axis ends at n//2, as a real transform has.
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


def radial_bands(field: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Energies (batch, bands) of half-octaves of spatial frequency, from low to high, and their expectations.

    Channels are taken together; the field is (batch, channel, *space).
    """
    return band_energies(half_energies(field), tuple(field.shape[1:]))


def band_energies(energy: Tensor, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`radial_bands` from `half_energies`, of a field of this shape (channel, *space)."""
    member, expected, _ = radial_partition(shape[1:], energy.device, energy.dtype)
    return to_numpy(energy.sum(1).flatten(1) @ member), to_numpy(expected) * shape[0]


def channel_tests(field: Tensor) -> dict[str, np.ndarray]:
    """Tests of means, energies and correlations of the channels of the field; none for a single channel."""
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
        "channel means": nulls.chi2_two_sided(to_numpy(spread), channels - 1),
        "channel energies": nulls.energy_spread(to_numpy(energy), np.full(channels, float(count))),
        "channel correlation": nulls.chi2_two_sided(to_numpy(sphericity), channels * (channels - 1) / 2),
    }


def tile_tests(field: Tensor) -> dict[str, np.ndarray]:
    """Tests of means and energies of small tiles, and energies of large tiles; none if space has no even tiling."""
    space = field.shape[2:]
    small = tuple(largest_divisor(n, {1: 64, 2: 8}.get(len(space), 4)) for n in space)
    large = tuple(n // largest_divisor(n, 16 if len(space) == 1 else 4) for n in space)
    square, tests = field.square(), {}
    if small != tuple(space) or len(field[0]) > 1:
        means = box_sums(field, small).flatten(1) / math.prod(small)
        spread = (means - means.mean(1, keepdim=True)).square().sum(1) * math.prod(small)
        tests["tile means"] = nulls.chi2_two_sided(to_numpy(spread), means.shape[1] - 1)
        tests["tile energies"] = energy_spread_test(box_sums(square, small), math.prod(small))
    if large != tuple(space) or len(field[0]) > 1:
        tests["large-tile energies"] = energy_spread_test(box_sums(square, large), math.prod(large))
    return tests


def energy_spread_test(energy: Tensor, df: int) -> np.ndarray:
    """p-values of the variance of normal scores of energies (batch, …), each χ² with df degrees of freedom."""
    scores = nulls.chi2_scores(to_numpy(energy.flatten(1)), df)
    return nulls.chi2_two_sided(scores.var(1) * scores.shape[1], scores.shape[1] - 1)


def to_numpy(x: Tensor) -> np.ndarray:
    """A tensor as a NumPy array on the CPU."""
    return x.cpu().numpy()

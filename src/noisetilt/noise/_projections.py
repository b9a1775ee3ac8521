"""The projections that W composes. Each maps (batch, channel, *space) to the same shape and hardly changes noise.

Each takes `level`: a group of statistics is corrected when white noise exceeds it with less than this probability.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._boxes import TILE, box_sizes, box_sums, expand_boxes, largest_divisor, split_rows
from ._constants import constant
from ._fourier import to_field, to_spectrum
from ._groups import (
    EXTREME_LEVEL,
    SMALLEST_GROUP,
    TRIGGER_LEVEL,
    channel_mean_scores,
    correlation_scores,
    equalizing_gains,
    moment_scores,
    near_lags,
    normal_limit,
    shrink_factors,
    spectral_bands,
    unit_rms,
)
from .float64 import with_all_operations
from .order_statistics import clip_order_statistics

# Variance and kurtosis of the logarithm of an Exp(1) number.
LOG_POWER_VARIANCE = math.pi**2 / 6
LOG_POWER_KURTOSIS = 5.4
BINS = 4096
# Anderson–Darling statistic A²: P(A² > 7) = 3e-4, P(A² < 0.25) = 0.03.
AD_TRIGGER, AD_TARGET, AD_MINIMUM = 7.0, 1.0, 0.25


def whiten_field_spectrum(x: Tensor, level: float = TRIGGER_LEVEL, smooth: bool = True) -> Tensor:
    """Correct the powers over all axes: smooth shape, distribution, bands, spectral lines and autocorrelation."""
    shape, spectrum = x.shape[1:], to_spectrum(x)
    power = (spectrum.real.square() + spectrum.imag.square()).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    flat = flatten_log_power(power, shape, smooth, level)
    target = whiten_autocorrelation(equalize_bands(flat, shape, level), shape, level)
    return unit_rms(to_field(spectrum * (target / power).sqrt(), shape))


def whiten_flat_field_spectrum(x: Tensor, level: float = TRIGGER_LEVEL) -> Tensor:
    """`whiten_field_spectrum` for a spectrum whose smooth shape is removed already."""
    return whiten_field_spectrum(x, level, smooth=False)


def flatten_log_power(power: Tensor, shape: tuple[int, ...], smooth: bool, level: float) -> Tensor:
    """Powers (batch, *half of shape) with the smooth part of their log removed and the log variance of Exp(1)."""
    axes = tuple(range(1, power.ndim))
    log = power.log()
    log -= log.mean(axes, keepdim=True)
    if smooth:
        log = log - smooth_log_power(log, shape)
    variance = log.square().mean(axes, keepdim=True)
    score = (variance / LOG_POWER_VARIANCE - 1) * math.sqrt(math.prod(shape) / 2 / (LOG_POWER_KURTOSIS - 1))
    log = torch.where(score.abs() > normal_limit(1, level), log * (LOG_POWER_VARIANCE / variance).sqrt(), log)
    power = log.sub_(log.amax(axes, keepdim=True)).exp_()
    return power.div_(power.mean(axes, keepdim=True)).clamp_max_(math.log(math.prod(shape) / 2 / EXTREME_LEVEL))


def smooth_log_power(log: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The part of log powers (batch, *half of shape) whose cepstral coefficients are significant.

    The cepstrum is the Fourier transform of the log powers; a few of its coefficients describe a spectrum of any
    steepness (cepstral thresholding, Stoica & Sandgren 2006).
    """
    axes = tuple(range(1, log.ndim))
    cepstrum = to_field(log, shape)
    limit = 2 * normal_limit(math.prod(shape)) ** 2 * log.square().mean(axes, keepdim=True)
    return to_spectrum(torch.where(cepstrum.square() > limit, cepstrum, 0)).real


def equalize_bands(power: Tensor, shape: tuple[int, ...], level: float) -> Tensor:
    """Equalize the energies of bands of spatial frequency, summed over channels (see `spectral_bands`)."""
    total = power.sum(1).flatten(1)
    total_gain = torch.ones_like(total)
    for member, df, band in spectral_bands(tuple(shape[1:]), power.device, power.dtype):
        gain = equalizing_gains(total @ member, df * power.shape[1], level)
        gain = torch.nn.functional.pad(gain, (0, 1), value=1.0).index_select(1, band)
        total, total_gain = total * gain, total_gain * gain
    return power * total_gain.view(-1, 1, *power.shape[2:])


def whiten_autocorrelation(power: Tensor, shape: tuple[int, ...], level: float) -> Tensor:
    """Correct the autocorrelation, the transform of the powers: near lags as a group, far lags each by a limit.

    To subtract an excess e_l at lag l, the powers are multiplied by exp(−Σ_l e_l cos(k·l)), which is right to first
    order and keeps them positive.
    """
    count = math.prod(shape)
    near = near_lags(tuple(shape), power.device)
    correlation = to_field(power, shape).flatten(1)
    r = correlation.div_(correlation[:, :1].clone()).mul_(math.sqrt(count))
    limit = normal_limit(count)
    excess = r - r.clamp(-limit, limit)
    group = r[:, near[0]]
    if group.shape[1]:
        group = group * (1 - shrink_factors(group, group.shape[1], level))
        excess = excess.index_copy_(1, near[0], group).index_copy_(1, near[1], group)
    excess[:, 0] = 0
    change = -to_spectrum(excess.view(-1, *shape)).real
    return change.clamp_(-3, 3).exp_().mul_(power)


def whiten_channels(x: Tensor, level: float = TRIGGER_LEVEL) -> Tensor:
    """Correct means, energies and correlations of channels: √S' √S⁻¹ maps their covariance S to a probable S'.

    The means are tested at TRIGGER_LEVEL whatever the level.
    """
    scores = channel_mean_scores(x)
    flat = x.flatten(2)
    flat = unit_rms(flat - (flat.mean(2) * (1 - shrink_factors(scores, scores.shape[1])))[:, :, None])
    channels, count = flat.shape[1:]
    if channels < 2 or count < 4 * channels:
        return flat.view_as(x)
    covariance = flat @ flat.transpose(1, 2) / count
    energy = covariance.diagonal(dim1=1, dim2=2)
    uneven = shrink_factors((energy - 1) * math.sqrt(count / 2), channels - 1, level)
    correlation = correlation_scores(covariance, count)
    factor = shrink_factors(correlation, correlation.shape[1], level)
    scale = ((1 + uneven * (energy - 1)) / energy.clamp_min(1e-12)).sqrt()
    target = covariance * scale[:, :, None] * scale[:, None] * factor[:, :, None]
    target = target.diagonal_scatter(scale.square() * energy, dim1=1, dim2=2)
    transform = matrix_power(target, 0.5) @ matrix_power(covariance, -0.5)
    return (transform @ flat).view_as(x)


def matrix_power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive matrices (batch, n, n); eigenvalues are at least 1e-6, single precision's limit."""
    value, vector = (part.to(matrix.device) for part in torch.linalg.eigh(with_all_operations(matrix)))
    return (vector * value.clamp_min(1e-6).pow(exponent)[:, None]) @ vector.transpose(1, 2)


def whiten_tiles(x: Tensor, level: float = TRIGGER_LEVEL) -> Tensor:
    """Correct the energies of boxes of all sizes (see `box_sizes`), and the means of small boxes."""
    sizes = box_sizes(tuple(x.shape[2:]))
    return equalize_box_means(equalize_boxes(x, sizes, level), sizes[1], level)


def equalize_boxes(x: Tensor, sizes: list[tuple[int, ...]], level: float = TRIGGER_LEVEL) -> Tensor:
    """Equalize the energies of the boxes of each size in turn, in the space of (batch, channel, *space).

    All gains are constant on runs along the last axis, so only the energies of these runs are computed.
    """
    sizes = [size for size in sizes if math.prod(size) >= SMALLEST_GROUP]
    if not sizes:
        return x
    run = (*(1 for _ in sizes[0][1:]), math.gcd(*(size[-1] for size in sizes)))
    energy = box_sums(x.square(), run)
    total_gain = torch.ones_like(energy)
    for size in sizes:
        runs = (*size[:-1], size[-1] // run[-1])
        total = box_sums(energy, runs)
        gain = expand_boxes(equalizing_gains(total.flatten(1), math.prod(size), level).view_as(total), runs)
        energy, total_gain = (split_rows(v, runs).mul(gain).reshape(energy.shape) for v in (energy, total_gain))
    return x * expand_boxes(total_gain.sqrt(), run).view_as(x)


def equalize_box_means(x: Tensor, size: tuple[int, ...], level: float = TRIGGER_LEVEL) -> Tensor:
    """Correct the means of boxes of this size in the space of (batch, channel, *space)."""
    width = math.prod(size)
    means = box_sums(x, size) / width
    scores = means.flatten(1) * math.sqrt(width)
    if width < SMALLEST_GROUP or scores.shape[1] < SMALLEST_GROUP:
        return x
    scores = scores - scores.mean(1, keepdim=True)
    excess = (1 - shrink_factors(scores, scores.shape[1] - 1, level)) * scores / math.sqrt(width)
    return (split_rows(x, size) - expand_boxes(excess.view_as(means), size)).reshape(x.shape)


def whiten_values(x: Tensor, level: float = TRIGGER_LEVEL) -> Tensor:
    """Move the values towards normal quantiles of the same ranks where their distribution or moments are improbable.

    Ranks come from a histogram instead of a sort. Its bins are equal in the distribution function of Student's t with
    two degrees of freedom, which covers heavy tails. A² (Anderson & Darling 1952) decides how far the values move.
    """
    flat = unit_rms(x.flatten(1))
    count = flat.shape[1]
    bins = min(BINS, count // 8)
    place = flat.square().add_(2).rsqrt_().mul_(flat).add_(1).mul_(bins / 2)
    bin_ = place.long().clamp_max_(bins - 1)
    counts = flat.new_zeros(len(flat), bins).scatter_add_(1, bin_, torch.ones_like(flat[:, :1]).expand_as(flat))
    # Whole numbers, which CUDA also sums under torch.use_deterministic_algorithms.
    below = torch.nn.functional.pad(counts.long().cumsum(1).to(counts), (1, 0)) / count
    probability, weight = normal_bins(bins, x.device, x.dtype)
    a2 = count * ((below[:, 1:-1] - probability).square() @ weight)[:, None]
    low, high = below[:, :-1].gather(1, bin_), below[:, 1:].gather(1, bin_)
    rank = place.sub_(bin_).mul_(high.sub_(low)).add_(low)
    limit = normal_limit(2 * count)
    normal = rank.mul_(2).sub_(1).erfinv_().mul_(math.sqrt(2)).clamp_(-limit, limit)
    retained = retained_fraction(a2, *moment_scores(flat), level)
    return normal.lerp_(flat, retained).clamp_(-limit, limit).view_as(x)


def retained_fraction(a2: Tensor, third: Tensor, fourth: Tensor, level: float) -> Tensor:
    """The fraction (batch, 1) of the distance to exact normal quantiles that values retain, by A² and by moments."""
    retained = torch.where(a2 > AD_TRIGGER, (AD_TARGET / a2.clamp_min(AD_TRIGGER)).sqrt(), 1)
    retained = torch.minimum(
        retained, torch.minimum(shrink_factors(third, 1, level), shrink_factors(fourth, 1, level)).clamp_max(1)
    )
    return torch.maximum(retained, (AD_MINIMUM / a2.clamp_min(AD_MINIMUM)).sqrt())


@constant
def normal_bins(bins: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Φ at the inner edges of the bins, and the weights with which squared deviations at the edges sum to A²."""
    edge = torch.arange(1, bins, dtype=torch.float64, device="cpu") / bins * 2 - 1
    probability = torch.special.ndtr(edge * (2 / (1 - edge.square())).sqrt())
    tail = torch.special.ndtr(-edge.abs() * (2 / (1 - edge.square())).sqrt())
    inside = torch.cat([probability.new_zeros(1), probability, probability.new_ones(1)])
    width = (inside[2:] - inside[:-2]) / 2
    return probability.to(dtype).to(device), (width / (tail * (1 - tail)).clamp_min(1e-30)).to(dtype).to(device)


def clip_values(x: Tensor, alpha: float) -> Tensor:
    """Clip the two-level order statistics of the values; tiles are runs of the flattened event."""
    flat = unit_rms(x.flatten(1))
    width = largest_divisor(flat.shape[1], TILE)
    return clip_order_statistics(flat.unflatten(1, (-1, width)), alpha).view_as(x)

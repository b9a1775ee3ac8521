"""The projections that W composes, each (batch, channel, *space) → the same, and each nearly the identity on noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._checks import constant
from ._groups import (
    LARGEST,
    SMALLEST_GROUP,
    TILE,
    TOUCHED,
    box_sizes,
    box_sums,
    channel_mean_scores,
    correlation_scores,
    cut_rows,
    cuts,
    even_out,
    largest_divisor,
    moment_scores,
    near_lags,
    normal_limit,
    shrink,
    spread,
    to_field,
    to_spectrum,
    unit_rms,
)
from .order_statistics import clip_order_statistics

# ln of an Exp(1) number has this variance and a kurtosis of 5.4.
LOG_POWER_VARIANCE = math.pi**2 / 6
LOG_POWER_KURTOSIS = 5.4
BINS = 4096
# The Anderson–Darling statistic exceeds 7 with probability 3e-4, and falls short of 0.25 with probability 0.03.
ORDER_TOUCHED, ORDER_LANDED, ORDER_LEAST = 7.0, 1.0, 0.25


def whiten_field_spectrum(x: Tensor, touched: float = TOUCHED, smooth: bool = True) -> Tensor:
    """The powers over all axes: no smooth shape, exponential, even in bands, no line too high, no correlation."""
    shape, spectrum = x.shape[1:], to_spectrum(x)
    power = (spectrum.real.square() + spectrum.imag.square()).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    flat = flatten_log_power(power, shape, smooth, touched)
    wanted = even_lags(even_bands(flat, shape, touched), shape, touched)
    return unit_rms(to_field(spectrum * (wanted / power).sqrt(), shape))


def even_field_spectrum(x: Tensor, touched: float = TOUCHED) -> Tensor:
    """`whiten_field_spectrum` where the spectrum has lost its smooth shape already."""
    return whiten_field_spectrum(x, touched, smooth=False)


def flatten_log_power(power: Tensor, shape: tuple[int, ...], smooth: bool, touched: float) -> Tensor:
    """Powers (batch, *half of shape) without the smooth part of their logarithm, and with the spread of Exp(1)."""
    axes = tuple(range(1, power.ndim))
    log = power.log()
    log -= log.mean(axes, keepdim=True)
    if smooth:
        log = log - smooth_part(log, shape)
    variance = log.square().mean(axes, keepdim=True)
    score = (variance / LOG_POWER_VARIANCE - 1) * math.sqrt(math.prod(shape) / 2 / (LOG_POWER_KURTOSIS - 1))
    log = torch.where(score.abs() > normal_limit(1, touched), log * (LOG_POWER_VARIANCE / variance).sqrt(), log)
    power = log.sub_(log.amax(axes, keepdim=True)).exp_()
    return power.div_(power.mean(axes, keepdim=True)).clamp_max_(math.log(math.prod(shape) / 2 / LARGEST))


def smooth_part(log: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What the cepstrum, the transform of the log powers (batch, *half of shape), holds beyond chance.

    A few coefficients describe a spectrum of any steepness (cepstral thresholding, Stoica & Sandgren 2006).
    """
    axes = tuple(range(1, log.ndim))
    cepstrum = to_field(log, shape)
    limit = 2 * normal_limit(math.prod(shape)) ** 2 * log.square().mean(axes, keepdim=True)
    return to_spectrum(torch.where(cepstrum.square() > limit, cepstrum, 0)).real


def even_bands(power: Tensor, shape: tuple[int, ...], touched: float) -> Tensor:
    """Energies of bands of spatial frequency, channels together: radial half-octaves, and linear ones by axis."""
    total = power.sum(1).flatten(1)
    whole = torch.ones_like(total)
    for member, df, band in cuts(tuple(shape[1:]), power.device, power.dtype):
        gain = even_out(total @ member, df * power.shape[1], touched)
        gain = torch.nn.functional.pad(gain, (0, 1), value=1.0).index_select(1, band)
        total, whole = total * gain, whole * gain
    return power * whole.view(-1, 1, *power.shape[2:])


def even_lags(power: Tensor, shape: tuple[int, ...], touched: float) -> Tensor:
    """Autocorrelations, the transform of the powers: near ones as a group, far ones each below the largest by chance.

    Taking an excess e_l off the correlation at lag l multiplies the powers by 1 − Σ_l e_l cos(k·l) to first order; its
    exponential keeps them positive.
    """
    count = math.prod(shape)
    near = near_lags(tuple(shape), power.device)
    correlation = to_field(power, shape).flatten(1)
    r = correlation.div_(correlation[:, :1].clone()).mul_(math.sqrt(count))
    limit = normal_limit(count)
    excess = r - r.clamp(-limit, limit)
    group = r[:, near[0]]
    if group.shape[1]:
        group = group * (1 - shrink(group, group.shape[1], touched))
        excess = excess.index_copy_(1, near[0], group).index_copy_(1, near[1], group)
    excess[:, 0] = 0
    change = -to_spectrum(excess.view(-1, *shape)).real
    return change.clamp_(-3, 3).exp_().mul_(power)


def whiten_channels(x: Tensor, touched: float = TOUCHED) -> Tensor:
    """Means, energies and correlations of channels: the map from their covariance S to a likely S' is √S' √S⁻¹."""
    scores = channel_mean_scores(x)
    flat = x.flatten(2)
    flat = unit_rms(flat - (flat.mean(2) * (1 - shrink(scores, scores.shape[1])))[:, :, None])
    channels, count = flat.shape[1:]
    if channels < 2 or count < 4 * channels:
        return flat.view_as(x)
    covariance = flat @ flat.transpose(1, 2) / count
    energy = covariance.diagonal(dim1=1, dim2=2)
    uneven = shrink((energy - 1) * math.sqrt(count / 2), channels - 1, touched)
    correlation = correlation_scores(covariance, count)
    related = shrink(correlation, correlation.shape[1], touched)
    scale = ((1 + uneven * (energy - 1)) / energy.clamp_min(1e-12)).sqrt()
    target = covariance * scale[:, :, None] * scale[:, None] * related[:, :, None]
    target = target.diagonal_scatter(scale.square() * energy, dim1=1, dim2=2)
    mix = power_of(target, 0.5) @ power_of(covariance, -0.5)
    return (mix @ flat).view_as(x)


def power_of(matrix: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive matrices (batch, n, n); eigenvalues below single precision's noise are lifted."""
    value, vector = torch.linalg.eigh(matrix)
    return (vector * value.clamp_min(1e-6).pow(exponent)[:, None]) @ vector.transpose(1, 2)


def whiten_tiles(x: Tensor, touched: float = TOUCHED) -> Tensor:
    """Energies of runs along the last axis, of small boxes and of large ones, and means of small boxes."""
    sizes = box_sizes(tuple(x.shape[2:]))
    return even_box_means(even_boxes(x, sizes, touched), sizes[1], touched)


def even_boxes(x: Tensor, sizes: list[tuple[int, ...]], touched: float = TOUCHED) -> Tensor:
    """Energies of the boxes of each size in turn, in the space of (batch, channel, *space).

    All gains are constant on runs along the last axis, so that the energies of these runs are all that is needed.
    """
    sizes = [size for size in sizes if math.prod(size) >= SMALLEST_GROUP]
    if not sizes:
        return x
    run = (*(1 for _ in sizes[0][1:]), math.gcd(*(size[-1] for size in sizes)))
    energy = box_sums(x.square(), run)
    whole = torch.ones_like(energy)
    for size in sizes:
        runs = (*size[:-1], size[-1] // run[-1])
        total = box_sums(energy, runs)
        gain = spread(even_out(total.flatten(1), math.prod(size), touched).view_as(total), runs)
        energy, whole = (cut_rows(part, runs).mul(gain).reshape(energy.shape) for part in (energy, whole))
    return x * spread(whole.sqrt(), run).view_as(x)


def even_box_means(x: Tensor, size: tuple[int, ...], touched: float = TOUCHED) -> Tensor:
    """Means of boxes of this size in the space of (batch, channel, *space)."""
    width = math.prod(size)
    means = box_sums(x, size) / width
    scores = means.flatten(1) * math.sqrt(width)
    if width < SMALLEST_GROUP or scores.shape[1] < SMALLEST_GROUP:
        return x
    scores = scores - scores.mean(1, keepdim=True)
    excess = (1 - shrink(scores, scores.shape[1] - 1, touched)) * scores / math.sqrt(width)
    return (cut_rows(x, size) - spread(excess.view_as(means), size)).reshape(x.shape)


def whiten_values(x: Tensor, touched: float = TOUCHED) -> Tensor:
    """The values drawn towards normal ones of the same ranks, where their distribution or moments are not accepted.

    Ranks come from a histogram, evenly binned in the distribution function of Student's t with two degrees of freedom
    so that it has room for heavy tails: no sort. A² (Anderson & Darling 1952) says how far to go.
    """
    flat = unit_rms(x.flatten(1))
    count = flat.shape[1]
    bins = min(BINS, count // 8)
    place = flat.square().add_(2).rsqrt_().mul_(flat).add_(1).mul_(bins / 2)
    bin_ = place.long().clamp_max_(bins - 1)
    counts = flat.new_zeros(len(flat), bins).scatter_add_(1, bin_, torch.ones_like(flat[:, :1]).expand_as(flat))
    below = torch.nn.functional.pad(counts.cumsum(1), (1, 0)) / count
    probability, weight = normal_bins(bins, x.device, x.dtype)
    a2 = count * ((below[:, 1:-1] - probability).square() @ weight)[:, None]
    low, high = below[:, :-1].gather(1, bin_), below[:, 1:].gather(1, bin_)
    rank = place.sub_(bin_).mul_(high.sub_(low)).add_(low)
    limit = normal_limit(2 * count)
    normal = rank.mul_(2).sub_(1).erfinv_().mul_(math.sqrt(2)).clamp_(-limit, limit)
    kept = accepted_share(a2, *moment_scores(flat), touched)
    return normal.lerp_(flat, kept).clamp_(-limit, limit).view_as(x)


def accepted_share(a2: Tensor, third: Tensor, fourth: Tensor, touched: float) -> Tensor:
    """The share (batch, 1) of their distance to exactly normal quantiles that values may keep, by A² and by moments."""
    kept = torch.where(a2 > ORDER_TOUCHED, (ORDER_LANDED / a2.clamp_min(ORDER_TOUCHED)).sqrt(), 1)
    kept = torch.minimum(kept, torch.minimum(shrink(third, 1, touched), shrink(fourth, 1, touched)).clamp_max(1))
    return torch.maximum(kept, (ORDER_LEAST / a2.clamp_min(ORDER_LEAST)).sqrt())


@constant
def normal_bins(bins: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Φ at the inner edges of the bins, and the weights by which squared deviations there sum to A²."""
    edge = torch.arange(1, bins, dtype=torch.float64) / bins * 2 - 1
    probability = torch.special.ndtr(edge * (2 / (1 - edge.square())).sqrt())
    tail = torch.special.ndtr(-edge.abs() * (2 / (1 - edge.square())).sqrt())
    inside = torch.cat([probability.new_zeros(1), probability, probability.new_ones(1)])
    width = (inside[2:] - inside[:-2]) / 2
    return probability.to(dtype).to(device), (width / (tail * (1 - tail)).clamp_min(1e-30)).to(dtype).to(device)


def clip_values(x: Tensor, alpha: float) -> Tensor:
    """Two-level order statistics of the values, in tiles that are runs of the flattened event."""
    flat = unit_rms(x.flatten(1))
    width = largest_divisor(flat.shape[1], TILE)
    return clip_order_statistics(flat.unflatten(1, (-1, width)), alpha).view_as(x)

"""The dilution step of W: how much of a partly whitened vector can stay in a mixture with noise without detection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ._boxes import box_sizes, box_sums
from ._constants import constant
from ._fourier import to_field, to_spectrum
from ._groups import (
    SMALLEST_GROUP,
    channel_mean_scores,
    correlation_scores,
    energy_scores,
    linear_bands,
    moment_scores,
    near_lags,
    normal_limit,
    spectral_bands,
)
from ._projections import LOG_POWER_VARIANCE
from .deterministic import cumulative_sum

# E[−ln P] of an Exp(1) number P.
EULER = 0.5772156649015329


class Levels(NamedTuple):
    """Structure is detected in a statistic that white noise exceeds with probability less than `detected`, and hidden
    in a mixture with noise where white noise exceeds it with probability `hidden`."""

    detected: float
    hidden: float


class Group(NamedTuple):
    """Sum of squares (batch, 1) of scores with df degrees of freedom, of statistics of degree `order` in x."""

    squared: Tensor
    df: int
    order: int

    @classmethod
    def from_scores(cls, scores: Tensor, order: int, df: int | None = None) -> Group:
        """The group of scores (batch, n); df is n by default."""
        return cls(scores.square().sum(1, keepdim=True), scores.shape[1] if df is None else df, order)


class Peak(NamedTuple):
    """The largest (batch, 1) of statistics of order 2, `independent` in number: powers or absolute normal scores."""

    largest: Tensor
    independent: float
    of_powers: bool

    def limits(self, levels: Levels) -> tuple[float, float]:
        """The value above which structure is detected, and the value to which dilution reduces it."""
        if self.of_powers:  # Exp(1)
            return math.log(self.independent / levels.detected), math.log(self.independent / levels.hidden)
        detected = normal_limit(self.independent, levels.detected)
        return detected, 0.75 * detected


def statistics(x: Tensor) -> dict[str, Group | Peak]:
    """The statistics of x (batch, channel, *space) in which structure is sought, by name."""
    flat = x.flatten(1)
    third, fourth = moment_scores(flat)
    means = channel_mean_scores(x)
    groups = {
        "third moment": Group.from_scores(third, 3),
        "fourth moment": Group.from_scores(fourth, 4),
        "means": Group.from_scores(means, 1),
    }
    if x.shape[1] > 1:
        groups["channel means"] = Group.from_scores(means - means.mean(1, keepdim=True), 1, means.shape[1] - 1)
        covariance = x.flatten(2) @ x.flatten(2).transpose(1, 2)
        energies = energy_scores(covariance.diagonal(dim1=1, dim2=2), x[0, 0].numel())
        groups["channel energies"] = Group.from_scores(energies, 2, x.shape[1] - 1)
        groups["channel correlation"] = Group.from_scores(correlation_scores(covariance, x[0, 0].numel()), 2)
    in_field, peaks = field_statistics(x)
    in_sequence, line = sequence_statistics(flat)
    groups |= box_groups(x) | in_field | in_sequence
    return {name: group for name, group in groups.items() if group.df > 0} | peaks | line


def signal_fractions(found: Mapping[str, Group | Peak], levels: Levels) -> dict[str, Tensor]:
    """Name of each of the `statistics` of x → the largest fraction (batch, 1) of x that hides it.

    In the mixture √f x + √(1−f) noise, a statistic of order q in x keeps f^(q/2) of its score.
    """
    groups = {name: group for name, group in found.items() if isinstance(group, Group)}
    fractions = dict(zip(groups, group_fractions(list(groups.values()), levels).split(1, 1), strict=True))
    return fractions | {name: peak_fraction(p, levels) for name, p in found.items() if isinstance(p, Peak)}


def group_fractions(groups: Sequence[Group], levels: Levels) -> Tensor:
    """The largest fraction (batch, groups) of x in a mixture with noise at which each group is not detected.

    The fraction f reduces the sum of squares S to df + f^order (S − df). Sums that are too small are treated alike.
    """
    squared = torch.cat([group.squared for group in groups], 1)
    kinds = tuple((group.df, group.order) for group in groups)
    df, order, low, low_hidden, high_hidden, high = chi2_limits(kinds, levels, squared.device, squared.dtype)
    excess = squared - df
    decay = torch.where(squared > high, (high_hidden - df) / excess.clamp_min(1e-6), 1)
    decay = torch.where(squared < low, (df - low_hidden) / (-excess).clamp_min(1e-6), decay)
    return decay.clamp(1e-6, 1).pow(1 / order)


@constant
def chi2_limits(kinds: tuple[tuple[int, int], ...], levels: Levels, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(6, groups) for groups of each (df, order): df, order, and the quantiles of χ² with df degrees of freedom: lower
    at `detected` and `hidden`, upper at `hidden` and `detected`. The lower ones are 0 for df = 1."""
    df, order = np.array(kinds, dtype=np.float64).T
    low, low_hidden = (special.chdtri(df, 1 - p) * (df > 1) for p in levels)
    high_hidden, high = (special.chdtri(df, p) for p in reversed(levels))
    return torch.from_numpy(np.stack([df, order, low, low_hidden, high_hidden, high])).to(dtype).to(device)


def peak_fraction(peak: Peak, levels: Levels) -> Tensor:
    """The largest fraction (batch, 1) of x in a mixture with noise at which a peak is not detected."""
    detected, hidden = peak.limits(levels)
    return torch.where(peak.largest > detected, hidden / peak.largest.clamp_min(detected), 1)


def box_groups(x: Tensor) -> dict[str, Group]:
    """Groups of the energies of boxes of each size, and of the means of small boxes."""
    groups, squares = {}, x.square()
    for number, size in enumerate(box_sizes(tuple(x.shape[2:]))):
        width, count = math.prod(size), x[0].numel() // math.prod(size)
        if width < SMALLEST_GROUP or count < SMALLEST_GROUP:
            continue
        scores = energy_scores(box_sums(squares, size).flatten(1), width)
        groups[f"box energies {number}"] = Group.from_scores(scores, 2, count - 1)
        if number == 1:
            means = box_sums(x, size).flatten(1) / math.sqrt(width)
            groups["box means"] = Group.from_scores(means - means.mean(1, keepdim=True), 1, count - 1)
    return groups


def field_statistics(x: Tensor) -> tuple[dict[str, Group], dict[str, Peak]]:
    """Groups (powers, bands, near autocorrelations) and peaks (line, far autocorrelations) of the full spectrum."""
    shape, count, spectrum = x.shape[1:], x[0].numel(), to_spectrum(x)
    power = spectrum.real.square() + spectrum.imag.square()
    pairs = count / 2
    excess = (power.square().flatten(1).mean(1, keepdim=True) - 2) * math.sqrt(pairs / 20)
    groups = {
        "powers": Group.from_scores(excess, 4),
        "log powers": Group.from_scores(log_power_score(power.flatten(1), pairs), 4),
    }
    total = power.sum(1).flatten(1)
    for number, (member, df, _) in enumerate(spectral_bands(tuple(shape[1:]), x.device, x.dtype)):
        scores = energy_scores(total @ member, df * x.shape[1])
        groups[f"bands {number}"] = Group.from_scores(scores, 2, scores.shape[1] - 1)
    correlation = to_field(power, shape).flatten(1)
    r = correlation[:, 1:] / correlation[:, :1] * math.sqrt(count)
    groups["near neighbours"] = Group.from_scores(r[:, near_lags(tuple(shape), x.device)[0] - 1], 2)
    far = Peak(r.abs().amax(1, keepdim=True), count, of_powers=False)
    return groups, {
        "field line": Peak(power.flatten(1).amax(1, keepdim=True), pairs, of_powers=True),
        "far neighbours": far,
    }


def log_power_score(power: Tensor, pairs: float) -> Tensor:
    """Score (batch, 1) of the mean log of powers (batch, n) relative to their mean, which is −γ for Exp(1) powers.

    `pairs` is the number of independent powers.
    """
    log = power.clamp_min(torch.finfo(power.dtype).tiny ** 0.5).log().mean(1, keepdim=True)
    centred = log - power.mean(1, keepdim=True).log() + EULER
    return centred * math.sqrt(pairs / (LOG_POWER_VARIANCE - 1))


def sequence_statistics(flat: Tensor) -> tuple[dict[str, Group], dict[str, Peak]]:
    """Group (bands) and peak (line) of the spectrum of the flattened event."""
    last = (flat.shape[1] - 1) // 2
    spectrum = torch.fft.rfft(flat, norm="ortho")[:, 1 : last + 1]
    power = spectrum.real.square() + spectrum.imag.square()
    edge, _ = linear_bands(last, flat.device)
    energy = torch.nn.functional.pad(cumulative_sum(power), (1, 0))[:, edge].diff(dim=1)
    scores = energy_scores(2 * energy, 2 * edge.diff().to(flat.dtype))
    bands = Group.from_scores(scores, 2, scores.shape[1] - 1)
    return {"sequence bands": bands}, {"sequence line": Peak(power.amax(1, keepdim=True), last, of_powers=True)}

"""The whitening operator W: white Gaussian noise that still points along a given direction.

W composes projections, in the spectrum and in space (`FIRST`, `AGAIN`). Each takes groups of statistics that are
independent normal scores for noise and draws them back to where noise has them, which leaves Gaussian input alone.
Two things keep what is structured from showing through. Part of what a projection takes away is given back as noise:
the projection rescales what is there and cannot turn its phases, so that its traces would add up. And what the
projections could not remove is diluted with noise, as far as needed, at the end.
Source: NTRK (arXiv 2606.18066), whitening operator and two-level order statistics; the list of projections, their order
and the noise are this library's own, chosen by measurement (docs/noise.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ._checks import check_alpha, check_batch, constant, fixed_noise, working_dtype
from ._groups import (
    SMALLEST_GROUP,
    TOUCHED,
    box_sizes,
    box_sums,
    channel_mean_scores,
    correlation_scores,
    cuts,
    energy_scores,
    linear_bands,
    moment_scores,
    near_lags,
    normal_limit,
    root_mean_square,
    to_field,
    to_spectrum,
    unit_rms,
)
from ._projections import (
    LOG_POWER_VARIANCE,
    clip_values,
    even_field_spectrum,
    whiten_channels,
    whiten_field_spectrum,
    whiten_tiles,
    whiten_values,
)

# Noise added to the direction first, relative to its RMS: it breaks ties and speaks where the direction is silent.
DITHER = 2e-3
# Of what a masked projection takes away, this share (an amplitude) comes back as noise.
GIVEN_BACK = 0.3
# The least number of values for which the statistics of spectrum and space mean anything.
SMALLEST_EVENT = 256
# A direction turned by less than this, 1 − cos², is nearly white noise: nothing is given back, little diluted, and none
# of it where it was turned by a tenth of this.
TURNED = 2e-3
# A group is diluted that exceeds what noise does with probability NOTICED, until it exceeds what it does with HIDDEN.
NOTICED, HIDDEN = 1e-2, 0.2
# E[−ln P] of an Exp(1) number P.
EULER = 0.5772156649015329

# What every row goes through, and what follows for rows that this has turned, each held to a stricter level.
FIRST = (whiten_values, whiten_channels, whiten_field_spectrum, whiten_tiles)
AGAIN = (
    whiten_values,
    whiten_channels,
    even_field_spectrum,
    whiten_tiles,
    whiten_values,
    even_field_spectrum,
    whiten_tiles,
    whiten_channels,
)
RETOUCHED = 1e-2
MASKED = (whiten_field_spectrum, even_field_spectrum, whiten_values)

Projections = Sequence[Callable[[Tensor, float], Tensor]]


@torch.no_grad()
def whiten(gradient: Tensor, alpha: float = 1e-4, noise: Tensor | None = None) -> Tensor:
    """W(gradient): white Gaussian as far as tests can tell, and still pointing along the gradient.

    The answer depends on the direction of the gradient only, not on its length. White Gaussian input comes back as it
    is but for one part in a few hundred thousand. The more structured the input, the more of the answer is noise: what
    is white can keep only so much of it (docs/noise.md has the limits). A row that is zero everywhere says nothing at
    all and is answered by noise alone.

    `torch.compile` with dynamic=False makes one graph of it for each shape. Bounds and groups are computed from the
    sizes by SciPy, so that these cannot be symbols (dynamic=True).

    Args:
        gradient: (batch, *event), real floating point, any scale, two or more numbers per event. An event of three or
            more axes is read as (channel, *space), one of two axes as (height, width). Of events of fewer than 256
            numbers only the values are whitened.
        alpha: each bounded order statistic of Gaussian input is touched with this probability.
        noise: (batch, *event), standard normal. Left out, every row of every call uses the same fixed noise. Within a
            sampler pass fresh noise, independent of what the answer will be mixed with (`shuffled`).

    Returns:
        (batch, *event) in the gradient's dtype, without gradient, RMS 1 in each row. float16 and bfloat16 are computed
        in float32.

    Raises:
        ValueError: for an alpha outside (0, 1), NaN or infinity, a dtype that is not real floating point, or noise of
            another shape.
    """
    check_batch(gradient, "gradient")
    check_alpha(alpha)
    if noise is not None and noise.shape != gradient.shape:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}, expected the gradient's {tuple(gradient.shape)}; draw it with"
            " torch.randn_like(gradient)."
        )
    if gradient.shape[0] == 0:
        return gradient.detach().clone()
    x = to_unit_rms(gradient.to(working_dtype(gradient)))
    noise = fixed_noise(x[0].numel(), x.device, x.dtype).expand(len(x), -1) if noise is None else noise.to(x).flatten(1)
    x = unit_rms(x + DITHER * noise.view_as(x))
    field = x if x.ndim > 3 else x[:, None]
    small = x[0].numel() < SMALLEST_EVENT
    white = clip_values(field, alpha) if small else whiten_field(field, noise, alpha)
    return unit_rms(white).reshape(x.shape).to(gradient.dtype)


def whiten_field(
    x: Tensor, noise: Tensor, alpha: float, first: Projections = FIRST, again: Projections = AGAIN
) -> Tensor:
    """W for x (batch, channel, *space) of RMS 1 without ties, with noise (batch, N): project, clip, dilute."""
    once = project_in_turn(x, noise, first, TOUCHED, 0)
    more = project_in_turn(once, noise, again, RETOUCHED, len(first))
    white = torch.where(turned(once, x) > TURNED, more, once)
    white = unit_rms(clip_values(white, alpha))
    return dilute(white, x, shuffled(noise, len(first) + len(again) + 1).view_as(x))


def project_in_turn(x: Tensor, noise: Tensor, projections: Projections, touched: float, done: int) -> Tensor:
    """One projection after another, the masked ones followed by `give_back`; `done` is how many came before."""
    for number, project in enumerate(projections, done + 1):
        before, x = x, project(x, touched)
        if project in MASKED:
            x = give_back(x, before, shuffled(noise, number).view_as(x))
    return x


def turned(x: Tensor, start: Tensor) -> Tensor:
    """1 − cos² between x and start, both of RMS 1 or nearly so, with their axes kept."""
    axes = tuple(range(1, x.ndim))
    return 1 - ((x * start).mean(axes, keepdim=True) / root_mean_square(x)).square()


def shuffled(noise: Tensor, number: int = 0) -> Tensor:
    """Noise (batch, *event) in another order, the same for every row and call: as good as independent of it.

    Reversed or shifted noise is not: it has the same power at every frequency.
    """
    order = permutation(noise[0].numel(), number, noise.device)
    return noise.flatten(1).index_select(1, order).view_as(noise)


@constant
def permutation(count: int, number: int, device: torch.device) -> Tensor:
    """A fixed random order of `count` things."""
    return torch.randperm(count, generator=torch.Generator("cpu").manual_seed(number)).to(device)


def give_back(x: Tensor, before: Tensor, noise: Tensor) -> Tensor:
    """x and, in place of what it lost since `before`, a share of noise of the same length."""
    x = unit_rms(x)
    lost = root_mean_square(x - before)
    return unit_rms(x + lost.masked_fill(lost.square() <= TURNED, 0).mul(GIVEN_BACK) * noise)


def dilute(x: Tensor, start: Tensor, noise: Tensor) -> Tensor:
    """√s x + √(1−s) noise, with the largest share s ≤ 1 at which no group of statistics shows what x still holds."""
    share = torch.cat(list(shares(x).values()), 1).amin(1)
    share = share.view(-1, *(1,) * (x.ndim - 1))
    share = 1 - (1 - share) * ((turned(x, start) / TURNED - 0.1) / 5).clamp(0, 1)
    return share.sqrt() * x + (1 - share).clamp_min(0).sqrt() * noise


class Group(NamedTuple):
    """The sum of squares (batch, 1) of scores with df degrees of freedom, of statistics of this order in x."""

    squared: Tensor
    df: int
    order: int

    @classmethod
    def of(cls, scores: Tensor, order: int, df: int | None = None) -> Group:
        """The group of scores (batch, n), of n degrees of freedom if not said."""
        return cls(scores.square().sum(1, keepdim=True), scores.shape[1] if df is None else df, order)


def shares(x: Tensor) -> dict[str, Tensor]:
    """Name of each group or peak → the share (batch, 1) of x (batch, channel, *space) in a mixture that hides it.

    Diluted to the share s, a statistic of order q in x keeps s^(q/2) of its score, and noise adds its own.
    """
    flat = x.flatten(1)
    third, fourth = moment_scores(flat)
    means = channel_mean_scores(x)
    groups = {"third moment": Group.of(third, 3), "fourth moment": Group.of(fourth, 4), "means": Group.of(means, 1)}
    if x.shape[1] > 1:
        groups["channel means"] = Group.of(means - means.mean(1, keepdim=True), 1, means.shape[1] - 1)
        covariance = x.flatten(2) @ x.flatten(2).transpose(1, 2)
        energies = energy_scores(covariance.diagonal(dim1=1, dim2=2), x[0, 0].numel())
        groups["channel energies"] = Group.of(energies, 2, x.shape[1] - 1)
        groups["channel correlation"] = Group.of(correlation_scores(covariance, x[0, 0].numel()), 2)
    in_field, peaks = field_statistics(x)
    in_sequence, line = sequence_statistics(flat)
    groups |= box_groups(x) | in_field | in_sequence
    groups = {name: group for name, group in groups.items() if group.df > 0}
    return dict(zip(groups, rooms(list(groups.values())).split(1, 1), strict=True)) | peaks | line


def rooms(groups: Sequence[Group]) -> Tensor:
    """The largest share (batch, groups) at which each group does not show in a mixture with noise.

    Its sum of squares S falls to df + share^order (S − df). Groups that are too even are treated alike.
    """
    squared = torch.cat([group.squared for group in groups], 1)
    kinds = tuple((group.df, group.order) for group in groups)
    df, order, low, low_hidden, high_hidden, high = limits(kinds, squared.device, squared.dtype)
    excess = squared - df
    left = torch.where(squared > high, (high_hidden - df) / excess.clamp_min(1e-6), 1)
    left = torch.where(squared < low, (df - low_hidden) / (-excess).clamp_min(1e-6), left)
    return left.clamp(1e-6, 1).pow(1 / order)


@constant
def limits(kinds: tuple[tuple[int, int], ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Of groups of each (df, order): df, order, and what χ² with df degrees of freedom falls short of, or exceeds, with
    probability NOTICED and HIDDEN, (6, groups). A single score is never too small."""
    df, order = np.array(kinds, dtype=np.float64).T
    low, low_hidden = (special.chdtri(df, 1 - p) * (df > 1) for p in (NOTICED, HIDDEN))
    high_hidden, high = (special.chdtri(df, p) for p in (HIDDEN, NOTICED))
    return torch.from_numpy(np.stack([df, order, low, low_hidden, high_hidden, high])).to(dtype).to(device)


def peak_share(peak: Tensor, noticed: float, hidden: float) -> Tensor:
    """The share (batch, 1) that brings the highest (batch, 1) of statistics of order 2 from `noticed` to `hidden`."""
    return torch.where(peak > noticed, hidden / peak.clamp_min(noticed), 1)


def box_groups(x: Tensor) -> dict[str, Group]:
    """Energies of boxes of each size, and means of the small ones."""
    found, squares = {}, x.square()
    for number, size in enumerate(box_sizes(tuple(x.shape[2:]))):
        width, count = math.prod(size), x[0].numel() // math.prod(size)
        if width < SMALLEST_GROUP or count < SMALLEST_GROUP:
            continue
        scores = energy_scores(box_sums(squares, size).flatten(1), width)
        found[f"box energies {number}"] = Group.of(scores, 2, count - 1)
        if number == 1:
            means = box_sums(x, size).flatten(1) / math.sqrt(width)
            found["box means"] = Group.of(means - means.mean(1, keepdim=True), 1, count - 1)
    return found


def field_statistics(x: Tensor) -> tuple[dict[str, Group], dict[str, Tensor]]:
    """Fourth moment and bands of the spectrum over all axes, near autocorrelations; lines, far autocorrelations."""
    shape, count, spectrum = x.shape[1:], x[0].numel(), to_spectrum(x)
    power = spectrum.real.square() + spectrum.imag.square()
    pairs = count / 2
    excess = (power.square().flatten(1).mean(1, keepdim=True) - 2) * math.sqrt(pairs / 20)
    groups = {"powers": Group.of(excess, 4), "log powers": Group.of(log_power_score(power.flatten(1), pairs), 4)}
    total = power.sum(1).flatten(1)
    for number, (member, df, _) in enumerate(cuts(tuple(shape[1:]), x.device, x.dtype)):
        scores = energy_scores(total @ member, df * x.shape[1])
        groups[f"bands {number}"] = Group.of(scores, 2, scores.shape[1] - 1)
    correlation = to_field(power, shape).flatten(1)
    r = correlation[:, 1:] / correlation[:, :1] * math.sqrt(count)
    groups["near neighbours"] = Group.of(r[:, near_lags(tuple(shape), x.device)[0] - 1], 2)
    limit = normal_limit(count)
    far = peak_share(r.abs().amax(1, keepdim=True), limit, 0.75 * limit)
    return groups, {"field line": line_share(power.flatten(1), pairs), "far neighbours": far}


def log_power_score(power: Tensor, pairs: float) -> Tensor:
    """Score (batch, 1) of the mean log of powers (batch, n) over their mean, −γ for Exp(1); `pairs` are different."""
    log = power.clamp_min(torch.finfo(power.dtype).tiny ** 0.5).log().mean(1, keepdim=True)
    centred = log - power.mean(1, keepdim=True).log() + EULER
    return centred * math.sqrt(pairs / (LOG_POWER_VARIANCE - 1))


def sequence_statistics(flat: Tensor) -> tuple[dict[str, Group], dict[str, Tensor]]:
    """Bands and lines of the spectrum of the flattened event."""
    last = (flat.shape[1] - 1) // 2
    spectrum = torch.fft.rfft(flat, norm="ortho")[:, 1 : last + 1]
    power = spectrum.real.square() + spectrum.imag.square()
    edge, _ = linear_bands(last, flat.device)
    energy = torch.nn.functional.pad(power.cumsum(1), (1, 0))[:, edge].diff(dim=1)
    scores = energy_scores(2 * energy, 2 * edge.diff().to(flat.dtype))
    bands = Group.of(scores, 2, scores.shape[1] - 1)
    return {"sequence bands": bands}, {"sequence line": line_share(power, last)}


def line_share(power: Tensor, count: float) -> Tensor:
    """The share that hides the highest of `count` powers (batch, n), each Exp(1) for noise."""
    return peak_share(power.amax(1, keepdim=True), math.log(count / NOTICED), math.log(count / HIDDEN))


def to_unit_rms(x: Tensor) -> Tensor:
    """Each row scaled to RMS 1, by way of its peak so that no square overflows or vanishes; a zero row stays zero."""
    peak = x.abs().amax(tuple(range(1, x.ndim)), keepdim=True)
    return unit_rms(x / torch.where(peak > 0, peak, 1))

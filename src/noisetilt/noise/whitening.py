"""The whitening operator W: white Gaussian noise that still points along a given direction.

W is a composition of projections, in the spectrum and in space. Each takes a group of statistics that are independent
normal scores for white noise (order statistics, energies of bands and tiles, correlations). Where the group lies
outside the ball that holds white noise with probability 1 − TOUCHED, it is drawn back radially, into the ball of
1 − LANDED: not just onto the surface, since many statistics that each sit on the edge of the likely are together
unlikely. Gaussian input is hardly ever touched; anything else comes out white after a few rounds.
Source: NTRK (arXiv 2606.18066), whitening operator and two-level order statistics; the other groups and their order are
this library's own, chosen by measurement (docs/noise.md).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ._door import check_alpha, check_batch, constant, fixed_noise, working_dtype
from .order_statistics import clip_order_statistics

DITHER = 1e-4
ROUNDS = 4
TOUCHED = 3e-4
LANDED = 0.1
# The largest of many values, powers or correlations is held below what it exceeds with this probability.
LARGEST = 1e-2
TILE = 16
BANDS = 24
SMALLEST_GROUP = 8
# The Anderson–Darling statistic exceeds 7 with probability 3e-4; its median is 0.77.
ORDER_TOUCHED, ORDER_LANDED = 7.0, 1.0


@torch.no_grad()
def whiten(gradient: Tensor, alpha: float = 1e-4, noise: Tensor | None = None) -> Tensor:
    """W(gradient): white Gaussian as far as tests can tell, and still pointing along the gradient.

    The answer depends on the direction of the gradient only, not on its length. A little noise, 1e-4 of the gradient's
    RMS, is added first: it breaks ties, so that a sparse, constant or periodic gradient brings in no raster pattern
    where it says nothing. A row that is zero everywhere says nothing at all and is answered by noise alone.

    Args:
        gradient: (batch, *event), real floating point, any scale, two or more numbers per event. An event of three or
            more axes is read as (channel, *space).
        alpha: each bounded order statistic of Gaussian input is touched with this probability.
        noise: (batch, *event), standard normal, for ties and zero rows. Left out, every row of every call uses the same
            fixed noise. Within a sampler pass fresh noise, independent of what the answer will be mixed with.

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
    x = to_unit_rms(x + DITHER * dither(x, noise))
    field = x if x.ndim > 3 else x[:, None]
    return whiten_field(field, alpha).reshape(x.shape).to(gradient.dtype)


def dither(x: Tensor, noise: Tensor | None) -> Tensor:
    """The noise for ties: the caller's, or the fixed one."""
    if noise is not None:
        return noise.to(x)
    return fixed_noise(math.prod(x.shape[1:]), x.device, x.dtype).view(1, *x.shape[1:])


def whiten_field(x: Tensor, alpha: float) -> Tensor:
    """W for (batch, channel, *space) of RMS 1 without ties."""
    x = whiten_channels(whiten_means(x))
    for _ in range(ROUNDS):
        x = whiten_spectrum(x)
        x = whiten_sequence(x)
        x = whiten_channels(whiten_means(x))
        x = clip_values(whiten_values(x), alpha)
        x = whiten_tiles(x)
        x = whiten_channels(whiten_means(x))
    return to_unit_rms(x)


def shrink(scores: Tensor, df: int) -> Tensor:
    """Factors (batch, 1) that bring normal scores (batch, n) of df degrees of freedom into a shell they likely lie in.

    Scores that are too small together, hence too even, are as untypical as those that are too large, and are spread.
    """
    low, low_landed, high_landed, high = chi2_radii(df)
    squared = scores.square().sum(1, keepdim=True)
    factor = torch.where(squared > high, high_landed / squared.clamp_min(high), 1)
    return torch.where(squared < low, low_landed / squared.clamp_min(1e-6 * low), factor).sqrt()


@constant
def chi2_radii(df: int) -> tuple[float, float, float, float]:
    """Squared radii that df normal numbers fall short of, or exceed, with probability TOUCHED and LANDED."""
    if df == 1:
        return 0.0, 0.0, float(special.chdtri(df, LANDED)), float(special.chdtri(df, TOUCHED))
    return tuple(float(special.chdtri(df, p)) for p in (1 - TOUCHED, 1 - LANDED, LANDED, TOUCHED))


def even_out(energy: Tensor, df: Tensor | float) -> Tensor:
    """Gains for energies (batch, n), each χ² with df degrees of freedom, that make them no more uneven than chance."""
    scores = energy_to_score(energy, df)
    mean = scores.mean(1, keepdim=True)
    factor = shrink(scores - mean, scores.shape[1] - 1) if scores.shape[1] > 1 else 1.0
    wanted = score_to_energy(mean + factor * (scores - mean), df)
    return wanted / energy.clamp_min(torch.finfo(energy.dtype).tiny)


def whiten_means(x: Tensor) -> Tensor:
    """The means of the channels."""
    flat = x.flatten(2)
    means = flat.mean(2)
    rms = (flat - means[:, :, None]).square().mean((1, 2), keepdim=True).sqrt()[:, :, 0]
    scores = means / rms.clamp_min(DITHER**2) * math.sqrt(flat.shape[2])
    excess = means * (1 - shrink(scores, means.shape[1]))
    return to_unit_rms(flat - excess[:, :, None]).view_as(x)


def whiten_channels(x: Tensor) -> Tensor:
    """Energies and correlations of the channels: the map that takes their covariance S to a likely S' is √S' √S⁻¹."""
    flat = x.flatten(2)
    channels, count = flat.shape[1:]
    if channels < 2 or count < 4 * channels:
        return x
    # Channels that copy each other differ by the dither alone, whose covariance single precision would lose.
    covariance = flat.double() @ flat.double().transpose(1, 2)
    covariance = covariance / covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    energy = covariance.diagonal(dim1=1, dim2=2)
    row, column = torch.triu_indices(channels, channels, 1, device=x.device).unbind()
    correlation = (covariance / (energy[:, :, None] * energy[:, None]).sqrt().clamp_min(DITHER**4))[:, row, column]
    uneven = shrink((energy - 1) * math.sqrt(count / 2), channels - 1)
    related = shrink(correlation * math.sqrt(count), len(row))
    wanted = 1 + uneven * (energy - 1)
    eye = torch.eye(channels, device=x.device, dtype=covariance.dtype)
    scale = (wanted[:, :, None] * wanted[:, None] / (energy[:, :, None] * energy[:, None]).clamp_min(DITHER**8)).sqrt()
    target = scale * covariance * (eye + (1 - eye) * related[:, :, None])
    mix = power_of(target, 0.5) @ power_of(covariance, -0.5)
    return (mix.to(x.dtype) @ flat).view_as(x)


def power_of(matrix: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive matrices (batch, n, n); eigenvalues below what dither leaves are lifted to it."""
    value, vector = torch.linalg.eigh(matrix)
    return (vector * value.clamp_min(DITHER**4).pow(exponent)[:, None]) @ vector.transpose(1, 2)


def whiten_spectrum(x: Tensor) -> Tensor:
    """The powers of the spectrum over all axes: exponential, even in tiles and bands, uncorrelated at every lag."""
    axes = tuple(range(1, x.ndim))
    spectrum = torch.fft.fftn(x, dim=axes, norm="ortho")
    power = spectrum.real.square() + spectrum.imag.square()
    wanted = even_lags(even_bands(even_runs(exponential_powers(power))))
    gain = (wanted / power.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
    return torch.fft.ifftn(spectrum * gain, dim=axes, norm="ortho").real


def exponential_powers(power: Tensor) -> Tensor:
    """Draw the order statistics of the powers towards those of Exp(1) until Anderson and Darling accept them."""
    one, other = pairs(tuple(power.shape[1:]), power.device)
    if len(one) < SMALLEST_GROUP:
        return power
    flat = power.flatten(1)
    value, order = flat[:, one].sort(dim=1)
    count = len(one)
    p = (torch.arange(count, device=power.device, dtype=power.dtype) + 0.5) / count
    value = towards(value, -torch.log1p(-p), (1 - p) / p)
    value = value.clamp(torch.finfo(power.dtype).eps ** 2, math.log(count / LARGEST))
    value = torch.empty_like(value).scatter_(1, order, value)
    return flat.index_copy(1, one, value).index_copy(1, other, value).view_as(power)


def towards(value: Tensor, middle: Tensor, weight: Tensor, limit: Tensor | float = 1.0) -> Tensor:
    """Shrink sorted values (batch, n) towards middle where A², to first order Σ weight (value − middle)², is high."""
    off = value - middle
    a2 = (weight * off.square()).sum(1, keepdim=True)
    factor = torch.where(a2 > ORDER_TOUCHED, (ORDER_LANDED / a2.clamp_min(ORDER_TOUCHED)).sqrt(), 1)
    return middle + torch.clamp_max(factor, limit) * off


def even_runs(power: Tensor) -> Tensor:
    """Energies of runs of TILE neighbouring frequencies along the last axis."""
    width = largest_divisor(power.shape[-1], TILE)
    runs = power.unflatten(-1, (-1, width))
    energy = runs.sum(-1)
    gain = even_out(2 * energy.flatten(1), 2 * width).view_as(energy)
    return (runs * gain.unsqueeze(-1)).view_as(power)


def even_bands(power: Tensor) -> Tensor:
    """Energies of bands of spatial frequency, channels together: radial half-octaves and linear ones."""
    for member in bands(tuple(power.shape[2:]), power.device, power.dtype):
        energy = power.sum(1).flatten(1) @ member
        gain = 1 + (even_out(energy, member.sum(0) * power.shape[1]) - 1) @ member.T
        power = power * gain.view(-1, 1, *power.shape[2:])
    return power


@constant
def bands(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Membership (frequencies, bands) of every spatial frequency but 0, for each way of cutting them into bands."""
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in axes))
    cuts = [np.floor(2 * np.log2(np.maximum(radius, radius[radius > 0].min(initial=0.5))))]
    cuts += [np.floor(np.abs(f) * 2 * min(BANDS, n // 2 + 1) - 1e-9) for f, n in zip(axes, shape, strict=True)]
    kept = (radius > 0).ravel()
    members = [(cut.ravel()[:, None] == np.unique(cut.ravel()[kept])) * kept[:, None] for cut in cuts]
    return [torch.from_numpy(member).to(device, dtype) for member in members]


def even_lags(power: Tensor) -> Tensor:
    """Autocorrelations, the transform of the powers: near ones as a group, far ones each below the largest by chance.

    Taking an excess e_l off the correlation at lag l multiplies the powers by 1 − Σ_l e_l cos(k·l) to first order; its
    exponential keeps them positive.
    """
    axes = tuple(range(1, power.ndim))
    count = power[0].numel()
    near = near_lags(tuple(power.shape[1:]), power.device)
    if count < SMALLEST_GROUP**2 or near.shape[1] == 0:
        return power
    correlation = torch.fft.ifftn(power, dim=axes).real.flatten(1)
    r = correlation / correlation[:, :1] * math.sqrt(count)
    limit = -special.ndtri(LARGEST / count)
    group = r[:, near[0]]
    group = group * (1 - shrink(group, group.shape[1]))
    excess = (r - r.clamp(-limit, limit)).index_copy(1, near[0], group).index_copy(1, near[1], group)
    excess = excess.index_fill(1, near[0, :1] * 0, 0.0)
    change = torch.fft.fftn(excess.view_as(power), dim=axes).real / math.sqrt(count)
    return power * torch.exp(-change.clamp(-3, 3))


@constant
def near_lags(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Flat indices (2, lags) in (channel, *space) of spatial lags up to two steps an axis (1-D: eight), and of −lag."""
    reach = 8 if len(shape) == 2 else 2
    steps = [range(-min(reach, (n - 1) // 2), min(reach, (n - 1) // 2) + 1) for n in shape[1:]]
    lags = [lag for lag in itertools.product(*steps) if lag > (0,) * len(lag)]
    there = [int(np.ravel_multi_index(np.mod((0, *lag), shape), shape)) for lag in lags]
    back = [int(np.ravel_multi_index(np.mod((0, *(-step for step in lag)), shape), shape)) for lag in lags]
    return torch.tensor([there, back], device=device, dtype=torch.long)


@constant
def pairs(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat indices of one of each pair of frequencies k, −k (mod shape) and of the other."""
    index = np.arange(math.prod(shape)).reshape(shape)
    partner = index
    for axis in range(len(shape)):
        partner = np.roll(np.flip(partner, axis), 1, axis)
    one = index < partner
    return torch.from_numpy(index[one]).to(device), torch.from_numpy(partner[one]).to(device)


def whiten_sequence(x: Tensor) -> Tensor:
    """The spectrum of the flattened event: even in linear bands, and no line too high."""
    count = x[0].numel()
    last = (count - 1) // 2
    if last < SMALLEST_GROUP * BANDS:
        return x
    spectrum = torch.fft.rfft(x.flatten(1), norm="ortho")
    inner = spectrum[:, 1 : last + 1]
    power = inner.real.square() + inner.imag.square()
    band = torch.arange(last, device=x.device) * BANDS // last
    df = 2.0 * torch.zeros(BANDS, device=x.device, dtype=x.dtype).index_add(0, band, torch.ones_like(power[0]))
    energy = 2 * torch.zeros_like(power[:, :BANDS]).index_add(1, band, power)
    wanted = (power * even_out(energy, df)[:, band]).clamp_max(math.log(last / LARGEST))
    gain = (wanted / power.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
    spectrum = torch.cat([spectrum[:, :1], inner * gain, spectrum[:, last + 1 :]], dim=1)
    return torch.fft.irfft(spectrum, n=count, norm="ortho").view_as(x)


def whiten_values(x: Tensor) -> Tensor:
    """Draw the order statistics of the values towards normal ones until their distribution and moments are accepted."""
    flat = to_unit_rms(x.flatten(1))
    count = flat.shape[1]
    if count < SMALLEST_GROUP:
        return x
    value, order = flat.sort(dim=1)
    p = (torch.arange(count, device=x.device, dtype=x.dtype) + 0.5) / count
    middle = torch.special.ndtri(p)
    skewness = (value.pow(3) - 3 * value).mean(1, keepdim=True) * math.sqrt(count / 6)
    kurtosis = (value.pow(4) - 3).mean(1, keepdim=True) * math.sqrt(count / 24)
    limit = torch.minimum(shrink(skewness, 1), shrink(kurtosis, 1))
    value = towards(value, middle, torch.exp(-middle.square()) / (2 * math.pi * p * (1 - p)), limit)
    largest = -special.ndtri(LARGEST / 2 / count)
    return torch.empty_like(flat).scatter_(1, order, value.clamp(-largest, largest)).view_as(x)


def clip_values(x: Tensor, alpha: float) -> Tensor:
    """Two-level order statistics of the values, in tiles that are runs of the flattened event."""
    flat = to_unit_rms(x.flatten(1))
    width = largest_divisor(flat.shape[1], TILE)
    return clip_order_statistics(flat.unflatten(1, (-1, width)), alpha).view_as(x)


def whiten_tiles(x: Tensor) -> Tensor:
    """Energies of runs along the last axis, of small boxes and of large ones, and means of small boxes of space."""
    space = tuple(x.shape[2:])
    small = {1: 64, 2: 8}.get(len(space), 4)
    parts = 16 if len(space) == 1 else 4
    sizes = [
        (*(1 for _ in space[:-1]), largest_divisor(space[-1], TILE)),
        tuple(largest_divisor(n, small) for n in space),
        tuple(n // largest_divisor(n, parts) for n in space),
    ]
    for size in sizes:
        x = even_boxes(x, size)
    return even_box_means(x, sizes[1])


def cut_boxes(x: Tensor, size: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """(batch, channel, *space) cut into boxes, (batch, channel, box, place, box, place, …), and the axes of places."""
    for axis, n in enumerate(size):
        x = x.unflatten(2 + 2 * axis, (-1, n))
    return x, [3 + 2 * axis for axis in range(len(size))]


def even_box_means(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Means of boxes of this size in the space of (batch, channel, *space)."""
    width = math.prod(size)
    if width < SMALLEST_GROUP:
        return x
    boxes, inside = cut_boxes(x, size)
    means = boxes.mean(inside, keepdim=True)
    scores = means.flatten(1) * math.sqrt(width)
    if scores.shape[1] < SMALLEST_GROUP:
        return x
    scores = scores - scores.mean(1, keepdim=True)
    excess = (1 - shrink(scores, scores.shape[1] - 1)) * scores / math.sqrt(width)
    return (boxes - excess.view_as(means)).reshape(x.shape)


def even_boxes(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Energies of boxes of this size in the space of (batch, channel, *space)."""
    width = math.prod(size)
    if width < SMALLEST_GROUP:
        return x
    boxes, inside = cut_boxes(x, size)
    energy = boxes.square().sum(inside, keepdim=True)
    gain = even_out(energy.flatten(1), width).view_as(energy)
    return (boxes * gain.sqrt()).reshape(x.shape)


def energy_to_score(energy: Tensor, df: Tensor | float) -> Tensor:
    """The normal score of a χ² with df degrees of freedom (Wilson & Hilferty 1931), finite everywhere."""
    variance = 2 / (9 * df)
    return ((energy / df).pow(1 / 3) - (1 - variance)) / variance**0.5


def score_to_energy(score: Tensor, df: Tensor | float) -> Tensor:
    """The inverse of `energy_to_score`; scores below its range give energy 0."""
    variance = 2 / (9 * df)
    return df * (score * variance**0.5 + (1 - variance)).clamp_min(0).pow(3)


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that does not exceed limit."""
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)


def to_unit_rms(x: Tensor) -> Tensor:
    """Each row scaled to RMS 1, by way of its peak so that no square overflows; a zero row stays zero."""
    axes = tuple(range(1, x.ndim))
    peak = x.abs().amax(axes, keepdim=True)
    x = x / torch.where(peak > 0, peak, 1)
    rms = x.square().mean(axes, keepdim=True).sqrt()
    return x / torch.where(rms > 0, rms, 1)

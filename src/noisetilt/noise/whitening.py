"""The whitening operator W: turns a direction into white Gaussian noise that still has a component along it.

W composes projections in the spectrum and in space (`FIRST_PASS`, `SECOND_PASS`). Each projection corrects groups of
statistics that are independent normal scores under white noise, so Gaussian input hardly changes. Two further steps
hide what the projections cannot correct. Some projections only rescale and leave the phases as they are, so their
effects would accumulate; noise therefore replaces part of what they remove. At the end, structure that is still
detectable is diluted with as much noise as needed.
Source: NTRK (arXiv 2606.18066), whitening operator and two-level order statistics. The list of projections, their order
and the added noise are this library's own, chosen by measurement (docs/noise.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ._checks import check_alpha, check_batch, check_shape, without_autocast, working_dtype
from ._constants import constant, fixed_noise
from ._dilution import Group, Levels, Peak, signal_fractions, statistics
from ._events import as_field
from ._groups import TRIGGER_LEVEL, root_mean_square, unit_rms
from ._projections import (
    clip_values,
    whiten_channels,
    whiten_field_spectrum,
    whiten_flat_field_spectrum,
    whiten_tiles,
    whiten_values,
)

# RMS of the noise that is added to the direction first, whose RMS is 1: it breaks ties and fills zeros.
DITHER = 2e-3
# Noise replaces this fraction of the amplitude that a projection in NOISE_REPLACED removes.
REPLACED_FRACTION = 0.3
# Smaller events have too few values for statistics of spectrum and space.
SMALLEST_EVENT = 256
# Below this change of direction, 1 − cos², a row is nearly white already: no noise replaces what was removed, and
# LIKELY structure is diluted little; below a tenth of it, not at all.
SMALL_CHANGE = 2e-3
# Structure is diluted where it is likely and the row has changed, and in every row where it is nearly certain.
LIKELY, CERTAIN = Levels(detected=1e-2, hidden=0.2), Levels(detected=1e-5, hidden=0.2)

# Every row goes through the first pass; rows that it changes also go through the second, at a stricter level.
FIRST_PASS = (whiten_values, whiten_channels, whiten_field_spectrum, whiten_tiles)
SECOND_PASS = (
    whiten_values,
    whiten_channels,
    whiten_flat_field_spectrum,
    whiten_tiles,
    whiten_values,
    whiten_flat_field_spectrum,
    whiten_tiles,
    whiten_channels,
)
SECOND_PASS_LEVEL = 1e-2
NOISE_REPLACED = (whiten_field_spectrum, whiten_flat_field_spectrum, whiten_values)

Projections = Sequence[Callable[[Tensor, float], Tensor]]


@without_autocast
@torch.no_grad()
def whiten(gradient: Tensor, alpha: float = 1e-4, noise: Tensor | None = None) -> Tensor:
    """W(gradient): a vector that the audit rarely tells from white Gaussian noise, with a component along the gradient.

    The result depends on the direction of the gradient only, not on its norm. White Gaussian input is unchanged up to
    one part in a few hundred thousand, except for a few draws: of 3000 or 4000 draws of `torch.randn`, 1 − cos of the
    angle to the result exceeded 1e-3 in 4 % of events (4, 8, 8), 1 % of (3, 16, 16), 0.1 % of (3, 32, 32) and one of
    (16, 16, 16). The more structured the input, the larger the fraction of noise in the result (limits: docs/noise.md).
    A row of zeros gives noise alone.

    `torch.compile` with dynamic=False compiles one graph for each shape. dynamic=True is not supported: SciPy computes
    bounds and groups from the sizes.

    Args:
        gradient: (batch, *event), real floating point, any scale, two or more numbers per event. An event of three or
            more axes is read as (channel, *space), one of two axes as (height, width), one whose space or rows are
            single positions as a sequence. For events of fewer than 256 numbers only the values are whitened.
        alpha: probability in (0, 1) with which each order statistic of Gaussian input is clipped.
        noise: (batch, *event), standard normal. By default every row of every call uses the same fixed noise. In a
            sampler, pass fresh noise that is independent of the noise the result is mixed with (`shuffled`).

    Returns:
        (batch, *event) in the gradient's dtype, without gradient, RMS 1 in each row. float16 and bfloat16 are computed
        in float32.

    Raises:
        ValueError: for an alpha outside (0, 1), NaN or infinity in the gradient or the noise, a dtype that is not real
            floating point, or noise of another shape.
    """
    check_batch(gradient, "gradient")
    check_alpha(alpha)
    if noise is not None:
        check_batch(noise, "noise")
        if noise.shape != gradient.shape:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}, expected the gradient's {tuple(gradient.shape)}; draw it with"
                " torch.randn_like(gradient)."
            )
    if gradient.shape[0] == 0:
        return gradient.detach().clone()
    x = to_unit_rms(gradient.to(working_dtype(gradient)))
    noise = fixed_noise(x[0].numel(), x.device, x.dtype).expand(len(x), -1) if noise is None else noise.to(x).flatten(1)
    x = unit_rms(x + DITHER * noise.view_as(x))
    field = as_field(x)
    small = x[0].numel() < SMALLEST_EVENT
    white = clip_values(field, alpha) if small else whiten_field(field, noise, alpha)
    return unit_rms(white).reshape(gradient.shape).to(gradient.dtype)


def whiten_field(
    x: Tensor,
    noise: Tensor,
    alpha: float,
    first_pass: Projections = FIRST_PASS,
    second_pass: Projections = SECOND_PASS,
) -> Tensor:
    """W for x (batch, channel, *space) of RMS 1 without ties, with noise (batch, N): project, clip, dilute."""
    white = apply_projections(x, noise, first_pass, TRIGGER_LEVEL, 0)
    changed = direction_change(white, x) > SMALL_CHANGE
    # It is half of the cost, and gradients that are nearly white do not need it, such as the path's of `ntrk-x0`.
    if torch.compiler.is_compiling() or changed.is_meta or changed.any():
        twice = apply_projections(white, noise, second_pass, SECOND_PASS_LEVEL, len(first_pass))
        white = torch.where(changed, twice, white)
    white = unit_rms(clip_values(white, alpha))
    return dilute(white, x, shuffled(noise, len(first_pass) + len(second_pass) + 1).view_as(x))


def apply_projections(x: Tensor, noise: Tensor, projections: Projections, level: float, done: int) -> Tensor:
    """Apply projections in turn, with `replace_by_noise` after those in NOISE_REPLACED; `done` is the number applied
    before."""
    for number, project in enumerate(projections, done + 1):
        before, x = x, project(x, level)
        if project in NOISE_REPLACED:
            x = replace_by_noise(x, before, shuffled(noise, number).view_as(x))
    return x


def direction_change(x: Tensor, start: Tensor) -> Tensor:
    """1 − cos² of the angle between x and start, both of RMS about 1, as (batch, 1, …)."""
    axes = tuple(range(1, x.ndim))
    return 1 - ((x * start).mean(axes, keepdim=True) / root_mean_square(x)).square()


def replace_by_noise(x: Tensor, before: Tensor, noise: Tensor) -> Tensor:
    """x plus noise whose RMS is REPLACED_FRACTION of the RMS that x lost since `before`, at RMS 1."""
    x = unit_rms(x)
    lost = root_mean_square(x - before)
    return unit_rms(x + lost.masked_fill(lost.square() <= SMALL_CHANGE, 0).mul(REPLACED_FRACTION) * noise)


def dilute(x: Tensor, start: Tensor, noise: Tensor) -> Tensor:
    """√f x + √(1−f) noise, with the largest fraction f ≤ 1 that hides structure in x.

    CERTAIN structure is hidden in every row, LIKELY structure the more, the more x has changed since `start`.
    """
    found = statistics(x)
    changed = ((direction_change(x, start).flatten(1) / SMALL_CHANGE - 0.1) / 5).clamp(0, 1)
    likely = 1 - (1 - smallest_fraction(found, LIKELY)) * changed
    fraction = torch.minimum(likely, smallest_fraction(found, CERTAIN)).view(-1, *(1,) * (x.ndim - 1))
    return fraction.sqrt() * x + (1 - fraction).clamp_min(0).sqrt() * noise


def smallest_fraction(found: Mapping[str, Group | Peak], levels: Levels) -> Tensor:
    """The largest fraction (batch, 1) that hides all statistics of `found`."""
    return torch.cat(list(signal_fractions(found, levels).values()), 1).amin(1, keepdim=True)


def shuffled(noise: Tensor, number: int = 0) -> Tensor:
    """Noise (batch, *event) in a fixed random order, nearly independent of the input.

    `number` selects the order. Reversed or shifted noise would not be independent: it has the same power spectrum.

    Raises:
        ValueError: for noise that is not (batch, *event), or holds NaN or infinity.
    """
    check_shape(noise, "noise")
    order = permutation(noise.shape[1:].numel(), number, noise.device)
    return noise.flatten(1).index_select(1, order).view_as(noise)


@constant
def permutation(count: int, number: int, device: torch.device) -> Tensor:
    """The `number`-th fixed random permutation of `count` indices, in int32 where that is enough."""
    generator = torch.Generator("cpu").manual_seed(number)
    order = torch.randperm(count, generator=generator, device="cpu")
    return order.to(torch.int32 if count < 2**31 else torch.int64).to(device)


def to_unit_rms(x: Tensor) -> Tensor:
    """Each row scaled to RMS 1, first by its peak so that squares neither overflow nor underflow; zero stays zero."""
    peak = x.abs().amax(tuple(range(1, x.ndim)), keepdim=True)
    return unit_rms(x / torch.where(peak > 0, peak, 1))

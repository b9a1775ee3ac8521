"""How a pipeline's latents correspond to the sampler's states (batch, channel, *space)."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .temporary import temporarily_set

PACK = "_pack_latents"
CHANNEL_COUNTS = ("num_channels_latents", "num_channels")


@dataclass
class Packing:
    """A call of a pipeline's `_pack_latents`: its function of the latents, their shape, and the shape of the result."""

    function: Callable[[Tensor], Tensor]
    shape: torch.Size
    packed: torch.Size


@contextlib.contextmanager
def recorded_packings(pipe: Any) -> Iterator[list[Packing]]:
    """Records how a pipeline packs latents, temporarily."""
    packings: list[Packing] = []
    original = getattr(pipe, PACK, None)
    if original is None:
        yield packings
        return

    def pack(latents: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        packed = original(latents, *args, **kwargs)
        packings.append(Packing(lambda x: original(x, *args, **kwargs), latents.shape, packed.shape))
        return packed

    with temporarily_set(pipe, **{PACK: pack}):
        yield packings


def without_latents(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `prepare_latents` for latents of its own, drawn from another generator."""
    return {**arguments, "latents": None, "generator": torch.Generator().manual_seed(0)}


class Layout:
    """The layout of a pipeline's latents: a permutation of the elements of each row.

    Args:
        shape: of the latents (batch, …).
        state: the shape (batch, channel, *space) of the states.
        order: for each element of a row of latents the index of the same element of the state, int64; None if they
            have the same order.
    """

    def __init__(self, shape: Sequence[int], state: Sequence[int], order: Tensor | None = None) -> None:
        self.shape, self.state = tuple(shape[1:]), tuple(state[1:])
        self._order = order
        self._inverse = None if order is None else order.argsort()

    def unpack(self, latents: Tensor) -> Tensor:
        """States from latents."""
        return reorder(latents, self._inverse).reshape(-1, *self.state)

    def pack(self, x: Tensor) -> Tensor:
        """Latents from states."""
        return reorder(x, self._order).reshape(-1, *self.shape)


def reorder(x: Tensor, order: Tensor | None) -> Tensor:
    """x (batch, …) with the elements of each row in another order."""
    return x if order is None else x.flatten(1).index_select(1, order.to(x.device))


def layout_of(latents: Tensor, packings: Sequence[Packing], arguments: dict[str, Any]) -> Layout:
    """The layout of latents that a pipeline prepared.

    Args:
        latents: (batch, …).
        packings: what the pipeline packed meanwhile.
        arguments: of its `prepare_latents`.
    """
    packing = next((p for p in reversed(packings) if p.packed == latents.shape), None)
    channels = next((arguments[name] for name in CHANNEL_COUNTS if name in arguments), None)
    before = latents.shape if packing is None else packing.shape
    index = torch.arange(before.numel()).view(before)
    state = channels_first(index, channels)
    packed = index if packing is None else packing.function(index)
    if state is index and packing is None:
        return Layout(latents.shape, latents.shape)
    count = before.numel() // len(latents)
    position = torch.empty(count, dtype=torch.int64)
    position[state[0].flatten()] = torch.arange(count)
    return Layout(latents.shape, state.shape, position[packed[0].flatten()])


def channels_first(index: Tensor, channels: int | None) -> Tensor:
    """Latents with the axis of channels first among those of a row, and without axes of one entry if it was not."""
    if index.ndim < 4 or channels is None or index.shape[1] == channels or channels not in index.shape[2:]:
        return index
    moved = index.movedim(2 + index.shape[2:].index(channels), 1)
    kept = [n for n in moved.shape[2:] if n > 1]
    return moved.reshape(*moved.shape[:2], *kept) if len(kept) > 1 else moved


class SampleView:
    """The tensor that a pipeline gives its scheduler, as a part or a form of its latents.

    Most pipelines give the latents themselves. Others give them in another shape, or a part of them where the rest is
    fixed (a first frame, channels of a condition), or together with other parts that are fixed, or twice, for
    classifier-free guidance.

    Args:
        layout: of the pipeline's latents.
        to_sample: the tensor given to the scheduler, from states.
        to_state: states from such a tensor, zero where it has no element.
    """

    def __init__(
        self, layout: Layout, to_sample: Callable[[Tensor], Tensor], to_state: Callable[[Tensor], Tensor]
    ) -> None:
        self.layout, self.to_sample, self.to_state = layout, to_sample, to_state


def sample_view(layout: Layout, x: Tensor, latents: Tensor, sample: Tensor) -> SampleView | None:
    """The view by which a pipeline made `sample` from its latents; None if there is no such view.

    Args:
        layout: of the latents.
        x, latents: the states, and the latents that the pipeline had.
        sample: what it gave its scheduler at its first step.
    """
    if sample.shape == latents.shape:
        return SampleView(layout, layout.pack, layout.unpack)
    rows, shape = len(latents), tuple(sample.shape[1:])
    if shape == tuple(latents.shape[1:]) and len(sample) == 2 * rows:
        return SampleView(
            layout, lambda x: layout.pack(x).repeat(2, *[1] * len(shape)), lambda s: layout.unpack(s[: len(s) // 2])
        )
    for own in (Layout(x.shape, x.shape), layout, frames_first(x.shape), channels_last(x.shape)):
        full = latents if own is layout else own.pack(x).to(latents.dtype)
        if full.numel() == sample.numel() and torch.equal(full.flatten(), sample.flatten()):
            form = (len(sample) / rows, *shape)
            return SampleView(
                layout,
                functools.partial(_reshaped, own, form),
                functools.partial(_unflattened, own),
            )
        for window in windows(full.shape, sample.shape):
            if torch.equal(full[window], sample):
                return SampleView(
                    layout, functools.partial(_window, own, window), functools.partial(_placed, own, window)
                )
    return surrounded_view(layout, latents, sample)


def surrounded_view(layout: Layout, latents: Tensor, sample: Tensor) -> SampleView | None:
    """The view by which the latents are a part of `sample`, of which the rest is fixed (images of a condition).

    With fewer rows of states than the sample has, the rest is that of its first rows.
    """
    for window in windows(sample.shape, latents.shape) if len(sample) == len(latents) else ():
        if torch.equal(sample[window], latents):
            rest = sample.clone()
            return SampleView(
                layout,
                functools.partial(_inserted, layout, window, rest),
                functools.partial(_cut_out, layout, window),
            )
    return None


def _cut_out(layout: Layout, window: tuple[slice, ...], sample: Tensor) -> Tensor:
    return layout.unpack(sample[window])


def _inserted(layout: Layout, window: tuple[slice, ...], rest: Tensor, x: Tensor) -> Tensor:
    full = rest[: len(x)].to(x.dtype, copy=True)
    full[window] = layout.pack(x)
    return full


def frames_first(shape: Sequence[int]) -> Layout:
    """The layout (batch, frame, channel, H, W) of the states (batch, channel, frame, H, W) of a video; for others that
    of the states themselves.
    """
    if len(shape) != 5:
        return Layout(shape, shape)
    rows, channels, frames, *space = shape
    order = torch.arange(channels * frames * math.prod(space)).view(channels, frames, *space).transpose(0, 1)
    return Layout((rows, frames, channels, *space), shape, order.flatten())


def channels_last(shape: Sequence[int]) -> Layout:
    """The layout (batch, *space, channel) of the states (batch, channel, *space)."""
    rows, channels, *space = shape
    order = torch.arange(channels * math.prod(space)).view(channels, -1).T
    return Layout((rows, *space, channels), shape, order.flatten())


def _reshaped(layout: Layout, form: tuple[float, ...], x: Tensor) -> Tensor:
    """x packed and reshaped; `form` is a number of entries per row of x, and the shape of an entry."""
    return layout.pack(x).reshape([round(form[0] * len(x)), *(int(side) for side in form[1:])])


def _unflattened(layout: Layout, sample: Tensor) -> Tensor:
    return layout.unpack(sample.reshape(-1, *layout.shape))


def _window(layout: Layout, window: tuple[slice, ...], x: Tensor) -> Tensor:
    return layout.pack(x)[window]


def _placed(layout: Layout, window: tuple[slice, ...], sample: Tensor) -> Tensor:
    full = sample.new_zeros(len(sample), *layout.shape)
    full[window] = sample
    return layout.unpack(full)


def windows(full: Sequence[int], part: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The windows of a part's shape at the ends of the axes of a tensor."""
    if len(full) != len(part) or any(m > n for n, m in zip(full, part, strict=True)):
        return
    ends = ([slice(n - m, None), slice(m)] if m < n else [slice(None)] for n, m in zip(full, part, strict=True))
    yield from itertools.product(*ends)

"""Boxes (tiles of any shape) in the space of (batch, channel, *space): their sizes, their sums, and gains for them."""

from __future__ import annotations

import torch
from torch import Tensor

from ._constants import constant
from ._fourier import prefers_matmul

TILE = 16
# Up to this length of the last axis, a CPU is faster with a matrix product than with a sum over runs.
MAX_MATMUL_LENGTH = 256


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that does not exceed limit."""
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)


def box_sizes(space: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sizes of the boxes whose energies are tested: runs along the last axis, small boxes, large boxes and, in 2-D,
    4×4 boxes."""
    small = {1: 64, 2: 8}.get(len(space), 4)
    parts = 16 if len(space) == 1 else 4
    return [
        (*(1 for _ in space[:-1]), largest_divisor(space[-1], TILE)),
        tuple(largest_divisor(n, small) for n in space),
        tuple(n // largest_divisor(n, parts) for n in space),
        *([tuple(largest_divisor(n, 4) for n in space)] if len(space) == 2 else []),
    ]


def split_rows(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(batch, channel, *space) with every axis of space but the last split in two: (…, box, position, …, last)."""
    for axis, n in enumerate(size[:-1]):
        x = x.unflatten(2 + 2 * axis, (-1, n))
    return x


def expand_boxes(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Values of boxes (batch, channel, *boxes) in a shape that broadcasts with `split_rows` of the boxed tensor."""
    values = values.repeat_interleave(size[-1], -1)
    for axis in range(len(size) - 1):
        values = values.unsqueeze(3 + 2 * axis)
    return values


def box_sums(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Sums over boxes of this size, (batch, channel, *boxes), of (batch, channel, *space)."""
    if prefers_matmul(x, x.shape[-1], MAX_MATMUL_LENGTH):
        sums = x @ run_membership(x.shape[-1], size[-1], x.device, x.dtype)
    else:
        sums = x.unflatten(-1, (-1, size[-1])).sum(-1)
    for axis, n in enumerate(size[:-1]):
        sums = sums.unflatten(2 + axis, (-1, n)).sum(3 + axis) if n > 1 else sums
    return sums


@constant
def run_membership(count: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count, count / width): 1 where a number belongs to a run of `width` numbers, 0 elsewhere."""
    return torch.eye(count // width, device=device, dtype=dtype).repeat_interleave(width, 0)

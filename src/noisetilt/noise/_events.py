"""How an event is read: as channels in space, as an image, or as a plain sequence."""

from __future__ import annotations

from torch import Tensor


def as_field(x: Tensor) -> Tensor:
    """Events (batch, *event) as (batch, channel, *space).

    An event of three or more axes is (channel, *space), one of two axes (height, width), and one of one axis a
    sequence; the last two have one channel. If space is a single position, or an image has a single column, the event
    is a sequence.
    """
    if x.ndim > 2 and x.shape[2:].numel() == 1:
        x = x.flatten(1)
    return x if x.ndim > 3 else x[:, None]

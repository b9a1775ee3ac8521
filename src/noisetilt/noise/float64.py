"""Statistics in float64, which not every device has."""

from __future__ import annotations

from torch import Tensor

WITHOUT = ("mps",)


def as_float64(x: Tensor) -> Tensor:
    """x in float64: on its device, or on the CPU if the device, such as Apple's GPU, has no float64."""
    return (x.cpu() if x.device.type in WITHOUT else x).double()

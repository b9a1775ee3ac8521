"""Operations that are exact where `torch.use_deterministic_algorithms` is set."""

from __future__ import annotations

import torch
from torch import Tensor

# Devices whose sums of floating-point numbers depend on the order in which their threads finish.
UNORDERED = ("cuda",)


def cumulative_sum(x: Tensor) -> Tensor:
    """The cumulative sums of floating-point numbers along the last axis.

    CUDA refuses them under `torch.use_deterministic_algorithms`; they are then computed on the CPU.
    """
    if x.device.type in UNORDERED and torch.are_deterministic_algorithms_enabled():
        return x.cpu().cumsum(-1).to(x.device)
    return x.cumsum(-1)

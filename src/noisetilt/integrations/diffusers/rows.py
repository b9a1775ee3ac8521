"""The rows of a pipeline's batch: one per image and particle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def per_row(given: Any, rows: int) -> Any:
    """Repeats one or several input images so that there is one per row of the batch, in the order of the rows.

    Pipelines repeat input images in different orders; with one per row they do not repeat them.
    """
    if isinstance(given, list):
        return [image for image in given for _ in range(max(1, rows // len(given)))]
    if rows == 1 or getattr(given, "ndim", 4) < 4:
        return given
    if not hasattr(given, "ndim"):
        return [given] * rows
    times = max(1, rows // len(given))
    return given.repeat_interleave(times, 0) if torch.is_tensor(given) else given.repeat(times, 0)


def draw_seeds(generator: torch.Generator | None, count: int) -> list[int]:
    """Draws seeds from a generator, or from torch's global generator if it is None."""
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**62, (count,), generator=generator, device=device).tolist()


def row_generator(seed: int, particle: int) -> torch.Generator:
    """The generator of one row for what the pipeline itself draws; independent of the engine's random numbers."""
    mixed = np.random.SeedSequence([seed, particle, 0]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


def pick_rows(output: Any, rows: Tensor, total: int) -> Any:
    """A pipeline's output with only these rows of each field that has `total` of them."""

    def pick(field: Any) -> Any:
        if isinstance(field, list) and len(field) == total:
            return [field[row] for row in rows.tolist()]
        if hasattr(field, "shape") and len(field) == total:
            return field[rows.to(field.device) if torch.is_tensor(field) else rows.cpu().numpy()]
        return field

    if isinstance(output, tuple):
        return tuple(pick(field) for field in output)
    for name in list(output):
        output[name] = pick(output[name])
    return output

"""The command `noisetilt plan`: a table of the GPU memory that a guided diffusers pipeline needs."""

from __future__ import annotations

import argparse

from ..integrations.diffusers.plan import MODES, Peaks, Plan, plan
from ..report import table

GIB, MAX_SIZE = 2**30, 1_000_000


def main(args: argparse.Namespace) -> None:
    """Prints the plan of a model."""
    for name in ("resolution", "height", "width", "frames", "batch"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= MAX_SIZE:
            raise ValueError(f"{name} = {value} must be between 1 and {MAX_SIZE}")
    size = {"height": args.height, "width": args.width}
    found = plan(args.model, args.resolution, args.frames, args.batch, args.dtype, **size)
    print(plan_tables(found, args.gradient_at, args.checkpointing))


def plan_tables(found: Plan, gradient_at: str, checkpointing: bool) -> str:
    """The tables of weights and of peak memory; the row of the given mode is marked with ">"."""
    decoding = " GiB, with checkpointing ".join(str(gib(peaks.decode)) for peaks in (found.peaks, found.checkpointed))
    return (
        _weights_table(found)
        + "\n\nGiB\n"
        + _memory_table(found, gradient_at, checkpointing)
        + f"\n\nDecoding one chunk with gradient: {decoding} GiB. "
        + "Not counted: kernel workspaces, fragmentation and the reward's own network."
    )


def _weights_table(found: Plan) -> str:
    rows = [[p.name, p.kind, p.parameters / 1e9, gib(p.weights)] for p in found.components]
    rows.append(["all", "", sum(p.parameters for p in found.components) / 1e9, gib(found.weights)])
    return table(["component", "class", "10⁹ parameters", "GiB"], rows)


def _memory_table(found: Plan, gradient_at: str, checkpointing: bool) -> str:
    rows = []
    for label, at, with_checkpointing in MODES:
        mark = ">" if (at, with_checkpointing) == (gradient_at, checkpointing) else " "
        peaks: Peaks = found.checkpointed if with_checkpointing else found.peaks
        graph = gib(peaks.graph) if at == "x_t" else 0.0
        sizes = (peaks.of(at), found.total(at, with_checkpointing), found.total(at, with_checkpointing, text=False))
        rows.append([f"{mark} {label}", graph, *(gib(size) for size in sizes)])
    return table(["", "network's graph", "activations, peak", "total", "total without text encoders"], rows)


def gib(size: int) -> float:
    """Bytes in GiB, to two decimals."""
    return round(size / GIB, 2)

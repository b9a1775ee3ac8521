"""The command `noisetilt plan`: a table of the GPU memory that a guided diffusers pipeline needs."""

from __future__ import annotations

import argparse
import math

from ..integrations.diffusers.plan import MODES, Peaks, Plan, plan
from ..models import MODELS
from ..report import table
from .console import filled, line_width

GIB, MAX_SIZE = 2**30, 1_000_000


def main(args: argparse.Namespace) -> None:
    """Prints the plan of a model."""
    for name in ("resolution", "height", "width", "frames", "batch"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= MAX_SIZE:
            raise ValueError(f"{name} = {value} must be between 1 and {MAX_SIZE}")
    if args.memory is not None and not 0 < args.memory < math.inf:
        raise ValueError(f"memory = {args.memory} must be a positive number of GiB, such as 24")
    if args.model in MODELS:
        raise ValueError(
            f"the model {args.model} needs no GPU, and plan is for pipelines; give one, such as FLUX.1-dev"
        )
    size = {"height": args.height, "width": args.width}
    found = plan(args.model, args.resolution, args.frames, args.batch, args.dtype, **size)
    print(plan_tables(found, args.gradient_at, args.checkpointing, _gpu_gib() if args.memory is None else args.memory))


def _gpu_gib() -> float | None:
    """The memory of the first GPU in GiB; None if there is none."""
    import torch

    return torch.cuda.mem_get_info()[1] / GIB if torch.cuda.is_available() else None


def plan_tables(found: Plan, gradient_at: str, checkpointing: bool, memory: float | None = None) -> str:
    """The tables of weights and of peak memory; the row of the given mode is marked with ">".

    Args:
        found: the plan.
        gradient_at, checkpointing: the mode to mark.
        memory: of the GPU, in GiB; with it, the table says what fits.
    """
    if found.weights_only:
        return (
            _weights_table(found)
            + "\n\n"
            + filled(
                "The activations of this pipeline are not known before a run. With --offload model the weights of its "
                f"largest network count: {gib(max(component.weights for component in found.components))} GiB."
            )
        )
    decoding = " GiB, with checkpointing ".join(str(gib(peaks.decode)) for peaks in (found.peaks, found.checkpointed))
    notes = (
        f"Decoding one chunk with gradient: {decoding} GiB. "
        "Not counted: kernel workspaces, fragmentation and the reward's own network."
        + ("" if memory is None else f" A run fits if a tenth more than its total is within {memory:.1f} GiB.")
    )
    tables = _weights_table(found) + "\n\nGiB\n" + _memory_table(found, gradient_at, checkpointing, memory)
    return tables + "\n\n" + filled(notes)


def _weights_table(found: Plan) -> str:
    rows = [[p.name, p.kind, p.parameters / 1e9, gib(p.weights)] for p in found.components]
    rows.append(["all", "", sum(p.parameters for p in found.components) / 1e9, gib(found.weights)])
    return table(["component", "class", "10⁹ parameters", "GiB"], rows, line_width(), ".2f")


def _memory_table(found: Plan, gradient_at: str, checkpointing: bool, memory: float | None) -> str:
    rows = []
    for label, at, with_checkpointing in MODES:
        mark = ">" if (at, with_checkpointing) == (gradient_at, checkpointing) else " "
        peaks: Peaks = found.checkpointed if with_checkpointing else found.peaks
        graph = gib(peaks.graph) if at == "x_t" else 0.0
        totals = [
            found.total(at, with_checkpointing),
            found.total(at, with_checkpointing, text=False),
            found.total(at, with_checkpointing, offload="model"),
        ]
        rows.append([f"{mark} {label}", graph, *(gib(size) for size in (peaks.of(at), *totals))])
        if memory is not None:
            rows[-1].append(_fit(totals[0], totals[2], memory))
    titles = ["", "network's graph", "activations, peak", "total", "total without text encoders", "total, offloaded"]
    return table(titles + ([] if memory is None else ["fits"]), rows, line_width(), ".2f")


def _fit(total: float, offloaded: float, memory: float) -> str:
    """Whether a run fits into a GPU's memory, with a tenth to spare."""
    available = memory * GIB / 1.1
    return "yes" if total <= available else "--offload model" if offloaded <= available else "no"


def gib(size: float) -> float:
    """Bytes in GiB, to two decimals."""
    return round(size / GIB, 2)

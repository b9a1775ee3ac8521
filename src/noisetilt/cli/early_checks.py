"""The checks of a command's arguments that need no model. Nothing heavy is imported here, so that a wrong number or an
output folder that may not be replaced is refused at once."""

from __future__ import annotations

import argparse
import math
from typing import Any

from ..runs import check_folder

# The commands whose arguments are checked here.
COMMANDS = ("generate", "optimize", "invert")
# The rewards and curves of a run are in memory until it ends.
MAX_IMAGES, MAX_STEPS = 10_000, 100_000


def check_arguments(args: argparse.Namespace) -> None:
    """Raises a ValueError or an OSError for numbers and an output folder with which a command cannot run."""
    if args.command in COMMANDS:
        check_numbers(args)
        check_folder(args.out, overwrite=args.overwrite, resume=args.resume, command=args.command)


def check_counts(n: int, batch: int, seed: int = 0) -> None:
    """Raises a ValueError for a number of images, or a seed, that no run can have."""
    for name, number in (("n", n), ("batch", batch)):
        if number < 1:
            raise ValueError(f"{name} = {number} must be 1 or more")
    if n > MAX_IMAGES:
        raise ValueError(f"n = {n} must be at most {MAX_IMAGES}; for more use `noisetilt batch`")
    if seed < 0 or seed + n > 2**63:
        raise ValueError(f"seed = {seed} must be a whole number from 0 to 2**63 - n")


def check_numbers(job: Any) -> None:
    """Raises a ValueError for a number that no model or method accepts.

    Args:
        job: of a run, or the arguments of a command; None is a default.
    """
    check_counts(getattr(job, "n", 1), 1 if job.batch is None else job.batch, job.seed)
    if job.chunk is not None and job.chunk < 1:
        raise ValueError(f"chunk = {job.chunk} must be 1 or more rows per network call")
    if job.guidance is not None and not math.isfinite(job.guidance):
        raise ValueError(f"guidance = {job.guidance} must be a finite number; 1 is no guidance")
    for name in ("steps", "iterations", "edit_iterations"):
        number = getattr(job, name, None)
        if number is not None and number > MAX_STEPS:
            raise ValueError(f"{name} = {number} must be at most {MAX_STEPS}")
    if not getattr(job, "eta", 1.0) >= 0:
        raise ValueError(f"eta = {job.eta} must be 0 (the ODE) or more; 1 is DDPM")

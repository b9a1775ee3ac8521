"""Benchmarks of guided sampling at equal network evaluations, with their features and metrics."""

from .paper_plan import Entry
from .run import bench

__all__ = ["Entry", "bench"]

"""The command `noisetilt bench`: runs a benchmark suite and writes its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bench.run import bench


def main(args: argparse.Namespace) -> None:
    """Runs or resumes the suite and prints the path of its report."""
    out = args.out or Path("out") / f"bench-{args.suite}{'-quick' if args.quick else ''}"
    report = bench(args.suite, out, args.quick, args.methods, args.targets, not args.report, args.images, args.strength)
    print(f"the report is {report}")

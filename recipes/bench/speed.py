"""The time of W and of the projection onto WGNC for events of N numbers, against a sort and a copy of N numbers.

    python recipes/bench/speed.py [--sizes 4096 65536 1048576] [--device cpu]

A sort is what an exact order statistic needs, a copy is the memory's bandwidth. Of several runs the fastest counts; on
a CPU the clock is that of the process, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from noisetilt.noise import project_wgnc, whiten
from noisetilt.report import table


def milliseconds(function: Callable[[Tensor], object], x: Tensor, repeats: int) -> float:
    """The least of several runs, after one that does not count."""
    on_gpu, times = x.device.type == "cuda", []
    clock = time.perf_counter if on_gpu else time.process_time
    for _ in range(repeats + 1):
        if on_gpu:
            torch.cuda.synchronize()
        start = clock()
        function(x)
        if on_gpu:
            torch.cuda.synchronize()
        times.append(clock() - start)
    return 1000 * min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 65536, 1048576])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in args.sizes:
        side = int((size / 16) ** 0.5)
        x = torch.randn(1, 16, side, size // 16 // side, device=args.device)
        calls = (whiten, project_wgnc, lambda y: y.flatten().sort(), torch.clone)
        w, wgnc, sort, copy = (milliseconds(call, x, args.repeats) for call in calls)
        rows.append([x.numel(), w, wgnc, sort, copy, w / sort, wgnc / sort])
    print(table(["N", "W, ms", "WGNC, ms", "sort, ms", "copy, ms", "W / sort", "WGNC / sort"], rows))


if __name__ == "__main__":
    main()

"""Measures what the process that starts a batch does per row, and what a worker does besides the model.

    python recipes/batch/driver.py OUT [--rows 20000] [--written 300]

It works in a temporary folder below OUT. Prints JSON: CPU seconds and bytes per row to read a table, to group its rows,
to resume a run, to write an image with its record, and to encode a PNG of 1024×1024. CPU times hardly depend on what
else the machine does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import torch

from noisetilt.batch import read_table
from noisetilt.batch.ledger import BatchLedger
from noisetilt.batch.run import _Run
from noisetilt.batch.summary import Statistics
from noisetilt.batch.worker import Outcome, WorkerOptions
from noisetilt.report import encode_picture

PROMPT = "a red fox in the snow, photograph, number {}"


def photograph(side: int) -> torch.Tensor:
    """An image (3, side, side) with the spectrum of a photograph, 1/f, and the noise of a camera."""
    torch.manual_seed(0)
    spectrum = torch.fft.rfft2(torch.randn(3, side, side))
    y, x = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    image = torch.fft.irfft2(spectrum / (y**2 + x**2).sqrt().clamp(min=1 / side), s=(side, side))
    image = (image - image.mean()) / image.std() / 5 + 0.5
    return (image + torch.randn(3, side, side) / 128).clamp(0, 1)


def seconds(call) -> tuple[float, object]:
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def measure(out: Path, count: int, written: int) -> dict[str, float]:
    """The figures for a table of `count` rows, of which `written` are written to the folder `out`."""
    found: dict[str, float] = {}
    table = [PROMPT.format(i) for i in range(count)]
    tracemalloc.start()
    rows = read_table(table, {"reward": "redness"})
    found["bytes per row of a table"] = round(tracemalloc.get_traced_memory()[0] / count)
    tracemalloc.stop()
    taken, rows = seconds(lambda: read_table(table, {"reward": "redness"}))
    found["ms per row to read a table"] = taken / count * 1e3
    run = _Run(out, rows, WorkerOptions(), None, False, [], False)
    found["ms per row to group"] = seconds(lambda: run._groups(set(range(count))))[0] / count * 1e3
    image = photograph(1024)
    taken, png = seconds(lambda: encode_picture(image, {"prompt": PROMPT}))
    found |= {"s to encode a PNG of 1024×1024": taken, "MB of this PNG": len(png) / 1e6}
    ledger, statistics = BatchLedger(out, fresh=True), Statistics()
    results = {"reward": 0.5, "heldout": 0.25, "nfe": 28.0, "seconds": 7.1, "attempts": 1, "sha256": "0" * 64}

    def write() -> None:
        for row in rows[:written]:
            statistics.add(ledger.add(row, Outcome(row.index, results, png)))

    begin = time.perf_counter()
    found["CPU ms per row to write an image and its record"] = seconds(write)[0] / written * 1e3
    found["wall-clock ms of the same"] = (time.perf_counter() - begin) / written * 1e3
    found["bytes per record"] = (out / "rows.jsonl").stat().st_size / written
    taken, ledger = seconds(lambda: BatchLedger(out, fresh=False))
    found["ms per finished row to resume"] = taken / written * 1e3
    found["ms per row to compare with the records"] = seconds(lambda: list(map(ledger.is_done, rows)))[0] / count * 1e3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--written", type=int, default=300)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        found = measure(Path(folder), arguments.rows, arguments.written)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()

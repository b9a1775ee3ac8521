"""Measures the cost of batches: overhead over a bare loop, memory over many rows, and rows per second by chunk.

    python recipes/batch/measure.py OUT [--model emoji128] [--rows 16] [--steps 2] [--memory-rows 2000]

Writes OUT/measured.json and OUT/memory.png. Times are CPU seconds of this process, which other programs on the same
machine hardly change; both ways of each comparison run in turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import time
from pathlib import Path

import torch

from noisetilt import load, rewards, sample
from noisetilt.batch import run_batch
from noisetilt.models.exact import GaussianModel
from noisetilt.report import save_picture
from noisetilt.report.plotting import Panel, Series, draw_panels, save_figure

SUBJECTS = ("cat face", "red heart", "house", "bird", "dog face", "apple", "car", "hat")


def bare_loop(model, reward, rows: int, steps: int, out: Path) -> float:
    """CPU seconds of a loop that samples and saves one image at a time."""
    out.mkdir(parents=True)
    begin = time.process_time()
    for seed, prompt in zip(range(rows), itertools.cycle(SUBJECTS), strict=False):
        result = sample(model, [prompt], reward, "ntrk", steps, [seed], chunk=8, track=False)
        save_picture(result.images[0], out / f"{seed}.png", {"reward": float(result.rewards[0])})
    return time.process_time() - begin


def batch(model, reward, rows: int, steps: int, out: Path, **options) -> float:
    """CPU seconds of `run_batch` for the same rows, without loading the model."""
    begin = time.process_time()
    table = itertools.islice(itertools.cycle(SUBJECTS), rows)
    run_batch(list(table), out, model=model, reward=reward, steps=steps, heldout=False, report=False, **options)
    return time.process_time() - begin


def overhead(model, reward, rows: int, steps: int, out: Path, repeats: int = 5) -> dict:
    """The ratio of both, in turns."""
    pairs = []
    for turn in range(repeats + 1):
        shutil.rmtree(out, ignore_errors=True)
        pairs.append((batch(model, reward, rows, steps, out / "b"), bare_loop(model, reward, rows, steps, out / "a")))
        print("turn", turn, [round(t / rows, 4) for t in pairs[-1]], flush=True)
    ratios = [b / a for b, a in pairs[1:]]
    return {"batch / bare loop": round(statistics.median(ratios), 4), "all": [round(r, 4) for r in ratios]}


class Memory:
    """A sink that reads the resident memory after each row, in MiB."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def start(self, run) -> None:
        self.values = []

    def row(self, record, statistics) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.values.append(pages * 4096 / 2**20)

    def finish(self, run) -> None:
        return


def memory(rows: int, out: Path) -> dict:
    """Resident memory over many rows of a model in closed form, 3×64×64."""
    model, sink = GaussianModel(torch.full((3, 64, 64), 0.5), torch.full((1, 64, 64), 0.05)), Memory()
    shutil.rmtree(out / "memory", ignore_errors=True)
    batch(model, rewards.load("redness"), rows, 2, out / "memory", sinks=[sink])
    series = {"memory": Series(range(len(sink.values)), sink.values, markers=False)}
    panel = Panel("row", "resident memory, MiB", series, limits=(None, (0, 1.2 * max(sink.values))))
    save_figure(draw_panels([panel]), out / "memory.png")
    tenth = len(sink.values) // 10
    return {
        "rows": rows,
        "MiB after a tenth": round(sink.values[tenth], 1),
        "MiB at the end": round(sink.values[-1], 1),
        "MiB at most": round(max(sink.values), 1),
    }


def throughput(model, reward, rows: int, steps: int, out: Path) -> dict:
    """CPU seconds per row by the rows of a network call."""
    found = {}
    for chunk in (1, 2, 4, 8):
        shutil.rmtree(out, ignore_errors=True)
        found[chunk] = round(batch(model, reward, rows, steps, out, chunk=chunk) / rows, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="emoji128")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--memory-rows", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    measured = {"memory": memory(arguments.memory_rows, arguments.out)}
    print(json.dumps(measured), flush=True)
    model, reward = load(arguments.model), rewards.load("redness")
    size = (model, reward, arguments.rows, arguments.steps)
    measured["overhead"] = overhead(*size, arguments.out / "overhead")
    print(json.dumps(measured), flush=True)
    measured["CPU seconds per row by chunk"] = throughput(*size, arguments.out / "throughput")
    (arguments.out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()

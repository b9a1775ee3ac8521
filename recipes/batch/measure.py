"""Measures the cost of batches: overhead over a bare loop, memory over many rows, rows per second by chunk, and Ray.

    python recipes/batch/measure.py OUT [--model emoji128] [--rows 16] [--steps 2] [--only overhead]

Writes OUT/measured.json, where the measurements of earlier runs stay unless they are repeated, and OUT/memory.png.
Times are CPU seconds of this process, which other programs on the same machine hardly change; both ways of each
comparison run in turns. Ray is measured with `--only ray` (extra `ray`), in wall-clock time.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from noisetilt import load, rewards, sample
from noisetilt.batch import run_batch
from noisetilt.models.exact import GaussianModel
from noisetilt.report import save_picture
from noisetilt.report.plotting import Panel, Series, draw_panels, save_figure
from noisetilt.runs import write_text

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
    ratios, more = [b / a for b, a in pairs[1:]], [(b - a) / rows * 1e3 for b, a in pairs[1:]]
    return {
        "batch / bare loop": round(statistics.median(ratios), 4),
        "CPU ms more per row": round(statistics.median(more), 2),
        "CPU ms per row of the bare loop": round(statistics.median(a / rows * 1e3 for _, a in pairs[1:]), 1),
        "all": [round(r, 4) for r in ratios],
    }


def tiny() -> GaussianModel:
    """A model in closed form, 3×128×128, whose rows cost little."""
    return GaussianModel(torch.full((3, 128, 128), 0.5), torch.full((1, 128, 128), 0.05))


class Readings:
    """A sink that reads a value after each row."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.values: list[float] = []

    def start(self, run) -> None:
        self.values = []

    def row(self, record, statistics) -> None:
        self.values.append(self.read())

    def finish(self, run) -> None:
        return


def resident_memory() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def memory(rows: int, out: Path) -> dict:
    """Resident memory over many rows of a model in closed form, 3×64×64."""
    model, sink = GaussianModel(torch.full((3, 64, 64), 0.5), torch.full((1, 64, 64), 0.05)), Readings(resident_memory)
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


def on_ray(name: str, reward, rows: int, steps: int, out: Path, repeats: int) -> dict:
    """Wall-clock time per row of one worker of Ray and of one process, in turns, without their start."""
    table, pairs = [SUBJECTS[i % len(SUBJECTS)] for i in range(rows)], []
    for turn in range(repeats):
        found = {}
        for engine in ("ray", "process"):
            shutil.rmtree(out, ignore_errors=True)
            clock, options = Readings(time.perf_counter), {"workers": 1, "batch": 4} if engine == "ray" else {}
            same = {"steps": steps, "heldout": False, "report": False, "threads": 1, "sinks": [clock]}
            run_batch(table, out, model=name, reward=reward, engine=engine, **options, **same)
            found[engine] = (clock.values[-1] - clock.values[0]) / (rows - 1)
        pairs.append(found)
        print("turn", turn, found, flush=True)
    ratios = [pair["ray"] / pair["process"] for pair in pairs]
    return {"ray / process": round(statistics.median(ratios), 3), "all": [round(r, 3) for r in ratios]}


def keep(file: Path, name: str, found: dict) -> dict:
    """Adds a measurement to a JSON file, beside those of other runs, and returns it under its name."""
    earlier = json.loads(file.read_text("utf-8")) if file.exists() else {}
    write_text(file, json.dumps(earlier | {name: found}, indent=2) + "\n")
    return {name: found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="emoji128")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-rows", type=int, default=2000)
    parser.add_argument("--only", choices=["memory", "tiny", "overhead", "throughput", "ray"], nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model, reward = functools.cache(lambda: load(arguments.model)), rewards.load("redness")
    rows, steps, repeats, out = arguments.rows, arguments.steps, arguments.repeats, arguments.out
    measurements = {
        "memory": lambda: memory(arguments.memory_rows, out),
        "tiny": lambda: overhead(tiny(), reward, rows, steps, out / "tiny", repeats),
        "overhead": lambda: overhead(model(), reward, rows, steps, out / "overhead", repeats),
        "throughput": lambda: throughput(model(), reward, rows, steps, out / "throughput"),
    }
    if "ray" in (arguments.only or ()):
        measurements["ray"] = lambda: on_ray(arguments.model, "redness", rows, steps, out / "ray", repeats)
    for name in arguments.only or measurements:
        print(json.dumps(keep(arguments.out / "measured.json", name, measurements[name]())), flush=True)


if __name__ == "__main__":
    main()

"""Runs a batch for half an hour with rows that fail, stops it with Ctrl-C, and reports memory, files and rows.

    python recipes/batch/soak.py OUT [--minutes 30] [--model emoji128]

One row in 50 has an unknown word, one in 50 has a reward that is not a number, and one in 20 raises an error at its
first attempt. Writes OUT/soak.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from kill import SUBJECTS, check, records

from noisetilt.batch import run_batch

MAX_ROWS = 5_000


class TroubledReward:
    """The redness of images; raises an error at the first attempt of some rows, and is not a number for others."""

    name = "troubled"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        if self.calls % 20 == 7:
            raise ConnectionError("the server is away")
        values = images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))
        return values * torch.tensor([float("nan") if "blue" in prompt else 1.0 for prompt in prompts])


class Resources:
    """A sink that reads resident memory, open files and threads of this process after each row."""

    def __init__(self) -> None:
        self.values: list[dict] = []

    def start(self, run) -> None:
        self.begin = time.perf_counter()

    def row(self, record, statistics) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.values.append(
            {
                "s": round(time.perf_counter() - self.begin, 1),
                "MiB": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
                "files": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
            }
        )

    def finish(self, run) -> None:
        return


def table() -> list[str]:
    """Prompts, of which some fail."""
    subjects = itertools.cycle(SUBJECTS)
    return ["qqqq" if i % 50 == 13 else "blue heart" if i % 50 == 38 else next(subjects) for i in range(MAX_ROWS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", default="emoji128")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    resources = Resources()
    timer = threading.Timer(60 * arguments.minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    begin = time.process_time()
    try:
        run_batch(
            table(),
            arguments.out / "run",
            model=arguments.model,
            reward=TroubledReward(),
            method="base",
            steps=2,
            sinks=[resources],
        )
    except KeyboardInterrupt:
        print("stopped by Ctrl-C")
    finally:
        timer.cancel()
    done = check(arguments.out / "run", whole=True)
    found = records(arguments.out / "run")
    tenth = len(resources.values) // 10
    summary = {
        "minutes": round(resources.values[-1]["s"] / 60, 1),
        "CPU seconds": round(time.process_time() - begin, 1),
        "rows done": len(done),
        "rows failed": sum(record["status"] == "failed" for record in found),
        "errors": Counter(record["error"] for record in found if record["status"] == "failed"),
        "rows done at a later attempt": sum(r["status"] == "done" and r["attempts"] > 1 for r in found),
        "rows in order, each once": [record["index"] for record in found] == list(range(len(found))),
        "after a tenth": resources.values[tenth],
        "at the end": resources.values[-1],
        "most MiB": max(value["MiB"] for value in resources.values),
    }
    (arguments.out / "soak.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()

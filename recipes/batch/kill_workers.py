"""Kills Ray workers of a batch at random moments, and compares the result with the one of a single process.

    python recipes/batch/kill_workers.py OUT [--kills 50] [--rows 400]

The model has a closed form, so that workers start fast. Needs ray and psutil.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from pathlib import Path

import torch
from kill import SUBJECTS, check, digests, ray_workers

from noisetilt.batch import run_batch
from noisetilt.models.exact import GaussianModel


class SlowModel(GaussianModel):
    """A model whose images take some time each."""

    steps = 2

    def __init__(self, seconds: float) -> None:
        super().__init__(torch.full((3, 64, 64), 0.5), torch.full((1, 64, 64), 0.05))
        self.seconds = seconds

    def denoiser(self, prompts):
        time.sleep(self.seconds)
        return super().denoiser(prompts)


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def kill(kills: int, seconds: float, found: list, out: Path) -> None:
    """Kills random workers of the Ray that this process started, until there were enough kills."""
    chance = random.Random(0)
    while len(found) < kills:
        time.sleep(chance.uniform(0, seconds))
        actors = ray_workers(os.getpid())
        if actors:
            chance.choice(actors).kill()
            found.append(len(check(out)))
            print(json.dumps({"kill": len(found), "rows done": found[-1]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=8.0, help="longest time between two kills")
    parser.add_argument("--sleep", type=float, default=0.3, help="seconds per row")
    arguments = parser.parse_args()
    table = [SUBJECTS[i % len(SUBJECTS)] for i in range(arguments.rows)]
    same = {"reward": redness, "heldout": False, "threads": 1, "report": False}
    run_batch(table, arguments.out / "reference", model=SlowModel(0.0), **same)
    found: list = []
    out = arguments.out / "run"
    killer = threading.Thread(target=kill, args=(arguments.kills, arguments.seconds, found, out), daemon=True)
    killer.start()
    summary = run_batch(table, out, model=SlowModel(arguments.sleep), engine="ray", workers=2, batch=4, **same)
    assert summary.complete and len(check(out, whole=True)) == arguments.rows
    assert digests(out) == digests(arguments.out / "reference")
    print(json.dumps({"kills": len(found), "rows": summary.done, "lost": 0, "redone": 0, "different": 0}))


if __name__ == "__main__":
    main()

"""The suite `one-step`: what noise ascent gains, how fast, and what it does to the picture and to the noise.

Each method's knobs are tuned on other prompts, the same number of settings and iterations for each, and so is when to
stop: of all settings and iterates of SNAPSHOTS, the highest mean target reward among those that keep to the prompt,
whose mean held-out alignment is at most KEEP below that of the pictures as drawn. On the test prompts the chosen
setting then runs to the end, a row a picture, with the whole way of its rewards, and pictures and noise at the
snapshots.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..methods import METHODS, Method
from ..models import load as load_model
from ..noise import audit
from ..report import file_stem, save_picture
from ..rewards import load as load_reward
from ..sampling.noise_ascent import AscentReport, optimize
from ..sampling.rng import PerImageRNG
from .ledger import Ledger, Row, weights_digest
from .paper_plan import KEEP
from .paper_suite import find_judge

KEY = ("reward", "phase", "method", "knobs", "prompt", "seed")
# A reward and who looks on besides held-out alignment.
JUDGES = {"style:3d": "held-out style:3d", "alignment": "clarity", "redness": "clarity"}
SNAPSHOTS = (2, 5, 10, 20, 40, 60, 100, 200)
TUNING_PROMPTS = ("bear face", "clock", "fish", "red apple")
PROMPTS = ("cat face", "house", "grinning face", "automobile", "flower", "dog", "ship", "tree")
DRAWN = "as drawn"
MODEL = "emoji64-turbo"
CHUNK = 8


def _crossed(**knobs: tuple[float, ...]) -> list[dict[str, float]]:
    return [dict(zip(knobs, values, strict=True)) for values in itertools.product(*knobs.values())]


# As many settings for each: soft penalties share them out between rate and weight.
SETTINGS = {
    "none": _crossed(rate=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    "reno": _crossed(rate=(1.25, 5.0, 20.0), penalty_weight=(0.01, 0.1)),
    "prno": _crossed(rate=(0.01, 0.02, 0.05), penalty_weight=(0.01, 0.1)),
    "mpgr": _crossed(rate=(0.01, 0.02, 0.05), penalty_weight=(0.01, 0.1)),
    "gper": _crossed(rate=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    "gper-latent": _crossed(rate=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    "gper-both": _crossed(rate=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    "gper-w": _crossed(rate=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    "gper-rotation": _crossed(rate=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rewards: tuple[str, ...]
    tuning_prompts: tuple[str, ...]
    prompts: tuple[str, ...]
    tuning_seeds: int
    seeds: int
    tuning_iterations: int
    iterations: int
    settings: int


FULL = Size(tuple(JUDGES), TUNING_PROMPTS, PROMPTS, 1, 2, 60, 200, 4)
QUICK = Size(("style:3d",), TUNING_PROMPTS[:1], PROMPTS[:3], 2, 2, 10, 20, 2)


class Choice(NamedTuple):
    """A setting, and the iterate at which its mean target was highest while it kept to the prompt."""

    knobs: dict[str, float]
    stop: int


def settings_of(method: str, count: int) -> list[dict[str, float]]:
    """`count` settings of a method, from the middle of its list."""
    every = SETTINGS[method]
    first = (len(every) - count) // 2
    return every[first : first + count]


def picture_file(out: Path, row: Row, iterate: int | None = None) -> Path:
    """Where the picture of a test row lies: the best, or that of one of the row's snapshots."""
    parts = [row["reward"], row["method"], row["prompt"], str(row["seed"])]
    parts += [] if iterate is None else [str(iterate)]
    return out / "pictures" / f"{'-'.join(map(file_stem, parts))}.png"


def picture_of(out: Path, row: Row, iterate: int | None = None) -> Tensor:
    """The picture of a test row, (3, H, W) in [0, 1]: the best, or that of one of the row's snapshots."""
    levels = np.asarray(Image.open(picture_file(out, row, iterate)).convert("RGB"))
    return torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 255


class Run:
    """One run of the suite: rows on disk, and how to measure what is missing.

    Args:
        out: folder of the run.
        quick: one reward, few prompts, seeds, iterations and settings.
        methods: names of SETTINGS; pictures as drawn are always made.
        size: how much is measured, in place of `quick`.
    Raises:
        ValueError: if a name is unknown, or the folder holds another run.
    """

    def __init__(
        self,
        out: Path,
        quick: bool = False,
        methods: Sequence[str] | None = None,
        size: Size | None = None,
    ) -> None:
        unknown = sorted(set(methods or ()) - {*SETTINGS, "base"})
        if unknown:
            raise ValueError(f"method {unknown[0]!r} is not in the suite one-step; it has: {', '.join(SETTINGS)}")
        self.size = size or (QUICK if quick else FULL)
        self.out, self.methods = out, [m for m in SETTINGS if not methods or m in methods]
        self.model = load_model(MODEL)
        weights = weights_digest("emoji64", MODEL)
        self.settings = {"suite": "one-step", "model": MODEL, "noisetilt": __version__, "weights": weights}
        self.settings |= vars(self.size)
        self.ledger = Ledger(out, KEY, self.settings)

    def measure(self) -> None:
        """Measures what is missing; after Ctrl-C it goes on where it was."""
        size = self.size
        with tqdm(total=len(size.rewards) * (len(self.methods) + 1), unit="method") as bar:
            for reward in size.rewards:
                for phase in ("tune", "test"):
                    self._measure(reward, phase, DRAWN, {})
                bar.update()
                for method in self.methods:
                    for knobs in settings_of(method, size.settings):
                        self._measure(reward, "tune", method, knobs)
                    self._measure(reward, "test", method, choose(self.ledger, reward, method).knobs)
                    bar.update()

    def _measure(self, reward: str, phase: str, method: str, knobs: dict[str, float]) -> None:
        """All missing pictures of a setting, CHUNK at a time."""
        tuning, label = phase == "tune", json.dumps(knobs, sort_keys=True)
        prompts = self.size.tuning_prompts if tuning else self.size.prompts
        seeds = range(self.size.tuning_seeds if tuning else self.size.seeds)
        pairs = itertools.product(prompts, seeds)
        missing = [pair for pair in pairs if (reward, phase, method, label, *pair) not in self.ledger]
        made = METHODS["none" if method == DRAWN else method]
        iterations = self.size.tuning_iterations if tuning else self.size.iterations
        made = made.replace(iterations=0 if method == DRAWN else iterations, **knobs)
        what = {"reward": reward, "phase": phase, "method": method, "knobs": label}
        for first in range(0, len(missing), CHUNK):
            self.ledger.add(self._rows(what, made, missing[first : first + CHUNK]))

    def _rows(self, what: Row, method: Method, pairs: Sequence[tuple[str, int]]) -> list[Row]:
        prompts, seeds = zip(*pairs, strict=True)
        reward, judge = load_reward(what["reward"]), find_judge(JUDGES[what["reward"]])
        start = PerImageRNG(seeds, 1, self.model.shape).normal()[:, 0]
        snapshots: dict[int, tuple[Tensor, Tensor]] = {}

        def look(report: AscentReport) -> None:
            if what["phase"] == "test" and report.number in SNAPSHOTS:
                snapshots[report.number] = (report.images.cpu(), report.noise.cpu())

        aligned = load_reward("alignment", heldout=True)
        result = optimize(self.model, prompts, reward, method, seeds=seeds, heldout=aligned, chunk=CHUNK, callback=look)

        def figures(images: Tensor, noise: Tensor) -> dict[str, Tensor]:
            with torch.no_grad():
                return {"judge": judge(images, prompts), **noise_figures(noise, start)}

        trace, best = result.trace, figures(result.images.cpu(), result.noise.cpu())
        ways = {number: figures(*snapshot) for number, snapshot in snapshots.items()}
        rows = [
            {
                **what,
                "prompt": prompt,
                "seed": seed,
                "target": result.rewards[i].item(),
                "alignment": result.heldout[i].item(),
                **{name: values[i].item() for name, values in best.items()},
                "iteration": int(result.iterations[i]),
                "nfe": trace.nfe[i].item(),
                "seconds": [round(s / len(pairs), 4) for s in trace.seconds],
                "targets": [round(v, 4) for v in trace.rewards[:, i].tolist()],
                "alignments": [round(v, 4) for v in trace.heldout[:, i].tolist()],
                "snapshots": {str(n): {name: v[i].item() for name, v in way.items()} for n, way in ways.items()},
            }
            for i, (prompt, seed) in enumerate(pairs)
        ]
        if what["phase"] == "test":
            self._keep(rows, result.images, {number: images for number, (images, _) in snapshots.items()})
        return rows

    def _keep(self, rows: Sequence[Row], best: Tensor, snapshots: dict[int, Tensor]) -> None:
        """Pictures of test rows, (row, 3, H, W): the best and those of the snapshots."""
        for i, row in enumerate(rows):
            picture_file(self.out, row).parent.mkdir(exist_ok=True)
            save_picture(best[i], picture_file(self.out, row), row)
            for number, images in snapshots.items():
                save_picture(images[i], picture_file(self.out, row, number), {"iteration": number})


def noise_figures(noise: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Cosine to the start, mean square and the audit's p-value of noise (picture, *event)."""
    return {
        "cosine": torch.cosine_similarity(noise.flatten(1), start.flatten(1)),
        "energy": noise.flatten(1).square().mean(1),
        "p_value": audit(noise).p_value,
    }


def choose(ledger: Ledger, reward: str, method: str) -> Choice:
    """Of the settings and snapshots that keep to the tuning prompts that with the highest mean target reward, or, where
    none does, that with the highest mean held-out alignment."""
    drawn = np.mean([row["alignment"] for row in ledger.where(reward=reward, phase="tune", method=DRAWN)])
    rows = ledger.where(reward=reward, phase="tune", method=method)
    found = []
    for knobs in dict.fromkeys(row["knobs"] for row in rows):
        some = [row for row in rows if row["knobs"] == knobs]
        target, aligned = (np.mean([row[way] for row in some], axis=0) for way in ("targets", "alignments"))
        found += [(target[n], aligned[n], Choice(json.loads(knobs), n)) for n in SNAPSHOTS if n < len(target)]
    faithful = [(t, choice) for t, a, choice in found if a >= drawn - KEEP]
    every = faithful or [(a, choice) for _, a, choice in found]
    return max(every, key=lambda one: one[0])[1]

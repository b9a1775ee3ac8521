"""The suite `one-step`: reward and time of noise ascent, and its effect on images and noise.

The options of each method and the iterate to stop at are tuned on other prompts, with equally many settings and
iterations per method. Among the settings and the iterates of SNAPSHOTS whose mean held-out alignment is at most KEEP
below that of the initial noise, the pair with the highest mean target reward is chosen. On the test prompts the chosen
setting runs to the last iteration. There is one row per image, with the rewards of all iterates, and images and noise
of the snapshots.
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
from tqdm.auto import tqdm

from .. import __version__
from ..methods import METHODS, Method
from ..models import load as load_model
from ..noise import audit
from ..report import file_stem, save_picture
from ..rewards import load as load_reward
from ..sampling.noise_ascent import optimize
from ..sampling.optimize_result import AscentReport
from ..sampling.rng import PerImageRNG
from .ledger import Ledger, Row, weights_digest
from .paper_plan import KEEP
from .paper_suite import load_heldout_reward

KEY = ("reward", "phase", "method", "options", "prompt", "seed")
# The held-out reward of each target besides held-out alignment.
SECOND_HELDOUT = {"style:3d": "held-out style:3d", "alignment": "clarity", "redness": "clarity"}
SNAPSHOTS = (2, 5, 10, 20, 40, 60, 100, 200)
TUNING_PROMPTS = ("bear face", "clock", "fish", "red apple")
PROMPTS = ("cat face", "house", "grinning face", "automobile", "flower", "dog", "ship", "tree")
INITIAL = "initial noise"
MODEL = "emoji64-turbo"
CHUNK = 8


def _crossed(**options: tuple[float, ...]) -> list[dict[str, float]]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


# Equally many settings per method; penalties combine rates and weights.
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


FULL = Size(tuple(SECOND_HELDOUT), TUNING_PROMPTS, PROMPTS, 1, 2, 60, 200, 4)
QUICK = Size(("style:3d",), TUNING_PROMPTS[:1], PROMPTS[:3], 2, 2, 10, 20, 2)


class Choice(NamedTuple):
    """The chosen options of a method, and the iterate to stop at."""

    options: dict[str, float]
    stop: int


def settings_of(method: str, count: int) -> list[dict[str, float]]:
    """`count` settings of a method, from the middle of its list."""
    every = SETTINGS[method]
    first = (len(every) - count) // 2
    return every[first : first + count]


def picture_file(out: Path, row: Row, iterate: int | None = None) -> Path:
    """The file of a test row's image: of the best iterate, or of a snapshot."""
    parts = [row["reward"], row["method"], row["prompt"], str(row["seed"])]
    parts += [] if iterate is None else [str(iterate)]
    return out / "pictures" / f"{'-'.join(map(file_stem, parts))}.png"


def picture_of(out: Path, row: Row, iterate: int | None = None) -> Tensor:
    """The image of a test row, (3, H, W) in [0, 1]: of the best iterate, or of a snapshot."""
    levels = np.asarray(Image.open(picture_file(out, row, iterate)).convert("RGB"))
    return torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 255


class Run:
    """One run of the suite.

    Args:
        out: folder of the run.
        quick: whether to measure one reward with few prompts, seeds, iterations and settings.
        methods: names of SETTINGS; the initial noise is always measured.
        size: used instead of `quick`.
    Raises:
        ValueError: if a name is unknown, or the folder has a run with other settings.
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
        self.ledger = Ledger(out, KEY, self.settings, renamed={"knobs": "options", "judge": "heldout_2"})

    def measure(self) -> None:
        """Measures all missing rows."""
        size = self.size
        with tqdm(total=len(size.rewards) * (len(self.methods) + 1), unit="method") as bar:
            for reward in size.rewards:
                for phase in ("tune", "test"):
                    self._measure(reward, phase, INITIAL, {})
                bar.update()
                for method in self.methods:
                    for options in settings_of(method, size.settings):
                        self._measure(reward, "tune", method, options)
                    self._measure(reward, "test", method, choose(self.ledger, reward, method).options)
                    bar.update()

    def _measure(self, reward: str, phase: str, method: str, options: dict[str, float]) -> None:
        """Measures the missing images of a setting, CHUNK at a time."""
        tuning, label = phase == "tune", json.dumps(options, sort_keys=True)
        prompts = self.size.tuning_prompts if tuning else self.size.prompts
        seeds = range(self.size.tuning_seeds if tuning else self.size.seeds)
        pairs = itertools.product(prompts, seeds)
        missing = [pair for pair in pairs if (reward, phase, method, label, *pair) not in self.ledger]
        chosen = METHODS["none" if method == INITIAL else method]
        iterations = self.size.tuning_iterations if tuning else self.size.iterations
        chosen = chosen.replace(iterations=0 if method == INITIAL else iterations, **options)
        what = {"reward": reward, "phase": phase, "method": method, "options": label}
        for first in range(0, len(missing), CHUNK):
            self.ledger.add(self._rows(what, chosen, missing[first : first + CHUNK]))

    def _rows(self, what: Row, method: Method, pairs: Sequence[tuple[str, int]]) -> list[Row]:
        prompts, seeds = zip(*pairs, strict=True)
        reward, second = load_reward(what["reward"]), load_heldout_reward(SECOND_HELDOUT[what["reward"]])
        start = PerImageRNG(seeds, 1, self.model.shape).normal()[:, 0]
        snapshots: dict[int, tuple[Tensor, Tensor]] = {}

        def record_snapshot(report: AscentReport) -> None:
            if what["phase"] == "test" and report.number in SNAPSHOTS:
                snapshots[report.number] = (report.images.cpu(), report.noise.cpu())

        heldout = load_reward("alignment", heldout=True)
        result = optimize(
            self.model, prompts, reward, method, seeds=seeds, heldout=heldout, chunk=CHUNK, callback=record_snapshot
        )

        def figures(images: Tensor, noise: Tensor) -> dict[str, Tensor]:
            with torch.no_grad():
                return {"heldout_2": second(images, prompts), **noise_figures(noise, start)}

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
            self._save_images(rows, result.images, {number: images for number, (images, _) in snapshots.items()})
        return rows

    def _save_images(self, rows: Sequence[Row], best: Tensor, snapshots: dict[int, Tensor]) -> None:
        """Writes the images of test rows: of the best iterates (row, 3, H, W), and of the snapshots."""
        for i, row in enumerate(rows):
            picture_file(self.out, row).parent.mkdir(exist_ok=True)
            save_picture(best[i], picture_file(self.out, row), row)
            for number, images in snapshots.items():
                save_picture(images[i], picture_file(self.out, row, number), {"iteration": number})


def noise_figures(noise: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Cosine to the initial noise, mean square and the audit's p-value of noise (image, *event)."""
    return {
        "cosine": torch.cosine_similarity(noise.flatten(1), start.flatten(1)),
        "energy": noise.flatten(1).square().mean(1),
        "p_value": audit(noise).p_value,
    }


def choose(ledger: Ledger, reward: str, method: str) -> Choice:
    """The admissible setting and snapshot with the highest mean target reward; if none is admissible, the one with the
    highest mean held-out alignment."""
    drawn = np.mean([row["alignment"] for row in ledger.where(reward=reward, phase="tune", method=INITIAL)])
    rows = ledger.where(reward=reward, phase="tune", method=method)
    found = []
    for options in dict.fromkeys(row["options"] for row in rows):
        some = [row for row in rows if row["options"] == options]
        target, aligned = (np.mean([row[way] for row in some], axis=0) for way in ("targets", "alignments"))
        found += [(target[n], aligned[n], Choice(json.loads(options), n)) for n in SNAPSHOTS if n < len(target)]
    faithful = [(t, choice) for t, a, choice in found if a >= drawn - KEEP]
    every = faithful or [(a, choice) for _, a, choice in found]
    return max(every, key=lambda one: one[0])[1]

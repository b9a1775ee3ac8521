"""The suite `one-step`: reward and time of noise ascent on a few-step generator, and its effect on images and noise.

The rule of fairness is that of the suite `paper`. The options of each method and the iterate to stop at are tuned on
other prompts, with equally many settings and iterations per method. Among the settings and the iterates of SNAPSHOTS
where the mean probability that the judge gives the right concept is at most TOLERANCE below that of the initial noise,
the pair with the highest mean target reward is chosen. On the test prompts the chosen setting runs to the last
iteration. There is one row per image, with the rewards of all iterates, and images and noise of the snapshots.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from .._progress import progress_bar
from ..methods import METHODS, Method
from ..models import load as load_model
from ..noise import audit
from ..report import file_stem, save_picture
from ..rewards import load as load_reward
from ..runs import make_folder
from ..sampling.noise_ascent import optimize
from ..sampling.optimize_result import AscentReport
from ..sampling.rng import PerImageRNG
from .ledger import Ledger, Row, weights_digest
from .meter import CallCounter
from .paper_plan import TARGETS, TOLERANCE, Target, check_images, check_names
from .paper_suite import judged_figures, prompt_seeds

KEY = ("reward", "steps", "phase", "method", "options", "prompt", "seed")
SNAPSHOTS = (2, 5, 10, 20, 40, 60, 100, 200)
INITIAL = "initial noise"
# The few-step model of the suite.
MODEL = "emoji128-turbo"
CHUNK = 8


def _crossed(**options: tuple[float, ...]) -> list[dict[str, float]]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


# Equally many settings per method, the first to try first. Penalties combine weights and rates: all rates at one weight
# come first, so that few settings cover the same range of rates for all methods.
RATES = (0.02, 0.05, 0.01, 0.1, 0.005, 0.2)
PENALTY_WEIGHTS = (0.01, 0.1)
SETTINGS = {
    "none": _crossed(rate=RATES),
    "reno": _crossed(penalty_weight=PENALTY_WEIGHTS, rate=(5.0, 1.25, 20.0)),
    "prno": _crossed(penalty_weight=PENALTY_WEIGHTS, rate=RATES[:3]),
    "mpgr": _crossed(penalty_weight=PENALTY_WEIGHTS, rate=RATES[:3]),
    "gper": _crossed(rate=RATES),
    "gper-latent": _crossed(rate=RATES),
    "gper-both": _crossed(rate=RATES),
    "gper-w": _crossed(rate=RATES),
    "gper-rotation": _crossed(rate=(0.1, 0.05, 0.2, 0.02, 0.4, 0.01)),
}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        targets: the target rewards, with their prompts.
        steps: numbers of steps of the generator.
        images, tuning_images: images per method and setting.
        iterations, tuning_iterations: of each ascent.
        settings: how many settings per method are tried.
    """

    targets: tuple[Target, ...] = tuple(t for t in TARGETS if t.reward not in ("jpeg", "classifier:imagenet:teapot"))
    steps: tuple[int, ...] = (1, 4)
    images: int = 64
    tuning_images: int = 32
    iterations: int = 200
    tuning_iterations: int = 60
    settings: int = 4


FULL = Size()
QUICK = Size(TARGETS[:1], (1,), images=4, tuning_images=4, iterations=20, tuning_iterations=10, settings=2)


def restrict(size: Size, targets: Sequence[str] | None = None, images: int | None = None) -> Size:
    """The size with only these target rewards and so many images per method and setting, if given.

    Raises:
        ValueError: if a target is unknown, or there are fewer than 2 images.
    """
    by_reward = {target.reward: target for target in FULL.targets}
    check_names("one-step", "target", targets, list(by_reward))
    if targets:
        size = replace(size, targets=tuple(by_reward[reward] for reward in dict.fromkeys(targets)))
    if images is not None:
        check_images(images)
        size = replace(size, images=images, tuning_images=min(images, size.tuning_images))
    return size


class Choice(NamedTuple):
    """The chosen options of a method, the iterate to stop at, and whether they satisfy the rule of fairness."""

    options: dict[str, float]
    stop: int
    admissible: bool


def settings_of(method: str, count: int) -> list[dict[str, float]]:
    """The first `count` settings of a method."""
    return SETTINGS[method][:count]


def picture_file(out: Path, row: Row, iterate: int | None = None) -> Path:
    """The file of a test row's image: of the best iterate, or of a snapshot."""
    parts = [row["reward"], str(row["steps"]), row["method"], row["prompt"], str(row["seed"])]
    parts += [] if iterate is None else [str(iterate)]
    return out / "pictures" / f"{'-'.join(map(file_stem, parts))}.png"


class Run:
    """One run of the suite.

    Args:
        out: folder of the run.
        methods: names of SETTINGS; the initial noise is always measured.
        size: how much is measured; FULL if None.
        model: MODEL if None; a FluxModel.
        measure: False only reads the rows measured so far.
    Raises:
        ValueError: if a name is unknown, or the folder has a run with other settings.
    """

    def __init__(
        self,
        out: Path,
        methods: Sequence[str] | None = None,
        size: Size | None = None,
        model: Any = None,
        measure: bool = True,
    ) -> None:
        check_names("one-step", "method", methods, ["base", *SETTINGS])
        self.size = size or FULL
        self.out, self.methods = out, [m for m in SETTINGS if not methods or m in methods]
        self.model = load_model(MODEL) if model is None and measure else model
        settings = {k: v for k, v in vars(self.size).items() if "iterations" in k or k == "settings"}
        self.settings = {"suite": "one-step", "model": MODEL, "noisetilt": __version__, **settings}
        self.settings["weights"] = weights_digest(MODEL) if model is None else "of another model"
        self.ledger = Ledger(out, KEY, self.settings, mend=measure)

    def prompt_seeds(self, target: Target, phase: str) -> list[tuple[str, int]]:
        """The (prompt, seed) pairs of a phase, the same for all methods."""
        tuning = phase == "tune"
        return prompt_seeds(target, not tuning, self.size.tuning_images if tuning else self.size.images)

    def rows(self, target: Target, steps: int, phase: str, method: str) -> list[Row]:
        """The measured rows of a method, without those of prompts and seeds that the size does not have."""
        pairs = set(self.prompt_seeds(target, phase))
        rows = self.ledger.where(reward=target.reward, steps=steps, phase=phase, method=method)
        return [row for row in rows if _pair(row) in pairs]

    def complete(self, target: Target, steps: int, phase: str, method: str) -> dict[str, list[Row]]:
        """The rows of each setting of a method that is measured for the same prompts and seeds as the initial noise."""
        pairs = set(map(_pair, self.rows(target, steps, phase, INITIAL)))
        found: dict[str, list[Row]] = {}
        for row in self.rows(target, steps, phase, method):
            found.setdefault(row["options"], []).append(row)
        return {options: rows for options, rows in found.items() if set(map(_pair, rows)) == pairs}

    def measure(self) -> None:
        """Measures all missing rows."""
        cells = list(itertools.product(self.size.targets, self.size.steps))
        with progress_bar(len(cells) * (len(self.methods) + 1), "method") as bar:
            for target, steps in cells:
                for phase in ("tune", "test"):
                    self._measure(target, steps, phase, INITIAL, {})
                bar.update()
                for method in self.methods:
                    for options in settings_of(method, self.size.settings):
                        self._measure(target, steps, "tune", method, options)
                    chosen = choose(self, target, steps, method)
                    self._measure(target, steps, "test", method, chosen.options)
                    bar.update()

    def _measure(self, target: Target, steps: int, phase: str, method: str, options: dict[str, float]) -> None:
        """Measures the missing images of a setting, CHUNK at a time."""
        key = (target.reward, steps, phase, method, options_label(options))
        missing = [pair for pair in self.prompt_seeds(target, phase) if (*key, *pair) not in self.ledger]
        chosen = METHODS["none" if method == INITIAL else method]
        iterations = self.size.tuning_iterations if phase == "tune" else self.size.iterations
        chosen = chosen.replace(iterations=0 if method == INITIAL else iterations, chain_steps=steps, **options)
        for first in range(0, len(missing), CHUNK):
            cell = dict(zip(KEY, key, strict=False))
            self.ledger.add(self._rows(cell, target, chosen, missing[first : first + CHUNK]))

    def _rows(self, cell: Row, target: Target, method: Method, pairs: Sequence[tuple[str, int]]) -> list[Row]:
        prompts, seeds = zip(*pairs, strict=True)
        reward, second = load_reward(target.reward), load_reward(target.heldout, heldout=True)
        start = PerImageRNG(seeds, 1, self.model.shape).normal()[:, 0]
        snapshots: dict[int, tuple[Tensor, Tensor]] = {}

        def record_snapshot(report: AscentReport) -> None:
            if report.number in SNAPSHOTS:
                snapshots[report.number] = (report.images.cpu(), report.noise.cpu())

        heldout = load_reward("alignment", heldout=True)
        with CallCounter(self.model.pipe.transformer) as counter:
            result = optimize(
                self.model, prompts, reward, method, seeds=seeds, heldout=heldout, chunk=CHUNK, callback=record_snapshot
            )

        def figures(images: Tensor, noise: Tensor) -> list[Row]:
            with torch.no_grad():
                values = {"heldout_2": second(images, prompts), **noise_figures(noise, start)}
            judged = judged_figures(target, images, prompts)
            return [{**judged[i], **{k: v[i].item() for k, v in values.items()}} for i in range(len(prompts))]

        trace, best = result.trace, figures(result.images.cpu(), result.noise.cpu())
        ways = {number: figures(*snapshot) for number, snapshot in snapshots.items()}
        rows = [
            {
                **cell,
                "prompt": prompt,
                "seed": seed,
                "target": result.rewards[i].item(),
                "alignment": result.heldout[i].item(),
                **best[i],
                "iteration": int(result.iterations[i]),
                "nfe": trace.nfe.mean().item(),
                "network_calls": counter.rows / len(pairs),
                "seconds": [round(s / len(pairs), 4) for s in trace.seconds],
                "targets": [round(v, 4) for v in trace.rewards[:, i].tolist()],
                "alignments": [round(v, 4) for v in trace.heldout[:, i].tolist()],
                "snapshots": {str(number): way[i] for number, way in ways.items()},
            }
            for i, (prompt, seed) in enumerate(pairs)
        ]
        if cell["phase"] == "test":
            self._save_images(rows, result.images, {number: images for number, (images, _) in snapshots.items()})
        return rows

    def _save_images(self, rows: Sequence[Row], best: Tensor, snapshots: dict[int, Tensor]) -> None:
        """Writes the images of test rows: of the best iterates (row, 3, H, W), and of the snapshots."""
        for i, row in enumerate(rows):
            make_folder(picture_file(self.out, row).parent)
            kept = {k: v for k, v in row.items() if k not in ("snapshots", "features")}
            save_picture(best[i], picture_file(self.out, row), kept)
            for number, images in snapshots.items():
                save_picture(images[i], picture_file(self.out, row, number), {"iteration": number})


def noise_figures(noise: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Cosine to the initial noise, mean square and the audit's p-value of noise (image, *event)."""
    return {
        "cosine": torch.cosine_similarity(noise.flatten(1), start.flatten(1)),
        "energy": noise.flatten(1).square().mean(1),
        "p_value": audit(noise).p_value,
    }


def options_label(options: dict[str, float]) -> str:
    """The options of a method as the rows have them."""
    return json.dumps(options, sort_keys=True)


def _pair(row: Row) -> tuple[str, int]:
    return row["prompt"], row["seed"]


def choose(run: Run, target: Target, steps: int, method: str) -> Choice | None:
    """The admissible setting and snapshot with the highest mean target reward; if none is admissible, the one with the
    highest probability of the right concept, marked; None if no setting is measured."""
    tried = run.complete(target, steps, "tune", method)
    if not tried:
        return None
    initial = run.rows(target, steps, "tune", INITIAL)
    least, found = np.mean([row["probability"] for row in initial]) - TOLERANCE - 1e-9, []
    for options, some in tried.items():
        for number in sorted(map(int, some[0]["snapshots"])):
            reward = float(np.mean([row["targets"][number] for row in some]))
            probability = float(np.mean([row["snapshots"][str(number)]["probability"] for row in some]))
            found.append((reward, probability, Choice(json.loads(options), number, probability >= least)))
    kept = [(reward, choice) for reward, _, choice in found if choice.admissible]
    every = kept or [(probability, choice) for _, probability, choice in found]
    return max(every, key=lambda one: one[0])[1]

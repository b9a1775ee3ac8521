"""The suite `paper`: all methods at equal network evaluations on emoji64, with strengths tuned on other prompts.

The methods get the target reward divided by its standard deviation over base's images of the tuning prompts, so that
one scale or temperature suits all targets. Results are those of the reward itself.

Tuning: among a method's strengths whose mean held-out alignment (a log odds) on the tuning prompts is at most KEEP
below base's, the one with the highest mean target reward is chosen. For the target `alignment`, whose own held-out
version that is, the mean total variation must be within ROUGHNESS of base's instead, which excludes noisy and blank
images. If no strength is admissible, the weakest is used, and the report says so. Base's mean is over several seeds
(stage `reference`), because it differs between single seeds by more than KEEP. Searches are tuned with a fifth of their
calls. A method with a search around it (`ntrk-svdd`, `dps-best-of-n`) has the strength tuned for the method alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import __version__, rewards
from ..methods import Method
from ..models import load
from ..report import save_picture
from ..rewards import Reward
from ..rewards.reward import RewardFunction
from ..sampling import check_reward, sample
from .features import classify, features
from .ledger import Ledger, Row, weights_digest
from .meter import PeakMemory, injected_p_values, record_noise
from .metrics import total_variation
from .paper_plan import BASE, KEEP, METHODS_OF_SUITE, ROUGHNESS, SEARCHES, Plan, Target, fit_to_budget

# Field names in rows of earlier versions.
RENAMED = {"judge_1": "heldout_1", "judge_2": "heldout_2", "aligned": "heldout_alignment"}
KEY = ("stage", "target", "budget", "method", "value", "prompt", "seed")


def clarity(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The log of the highest class probability by the classifier of the metrics, (batch,)."""
    return classify(images)[0].amax(1).log()


def load_heldout_reward(name: str) -> RewardFunction:
    """A held-out reward by its name in `Target`."""
    return clarity if name == "clarity" else rewards.load(name.removeprefix("held-out "), heldout=True)


class Runner:
    """Generates and measures the images of a plan, each once.

    Args:
        out: folder of the run.
        plan: what is measured.
        model: emoji64 if None.
        measure: False only reads the rows measured so far.
    """

    def __init__(self, out: Path, plan: Plan, model: Any = None, measure: bool = True) -> None:
        self.plan, self.out = plan, out
        self.model = load("emoji64") if model is None else model
        settings: dict[str, Any] = {"suite": "paper", "noisetilt": __version__, "weights": weights_digest("emoji64")}
        settings |= {"budgets": plan.budgets, "tuning_budgets": plan.tuning_budgets}
        settings |= {"tuning_prompts": plan.tuning_prompts}
        self.ledger = Ledger(out, KEY, settings | {"values": plan.values}, mend=measure, renamed=RENAMED)
        (out / "pictures").mkdir(exist_ok=True)

    def budget(self, name: str, stage: str = "test") -> int:
        """Network calls per image of a method in a stage."""
        budgets = self.plan.budgets if stage == "test" else self.plan.tuning_budgets
        return budgets[name in SEARCHES]

    def methods(self, target: Target, wave: Sequence[str] | None = None) -> list[str]:
        """The methods for a target, of one wave or of all: gradient-based methods if the target has a gradient, methods
        that estimate the gradient if it has none."""
        reward = rewards.load(target.reward)
        names = [name for names in self.plan.waves for name in names] if wave is None else wave
        return [name for name in names if _fits(METHODS_OF_SUITE[name].method, reward)]

    def run(self) -> Ledger:
        """Measures all missing rows: base, tuning and test, wave by wave."""
        done = set()
        with tqdm(unit="image", total=self.count()) as bar:
            for wave, target in itertools.product(self.plan.waves, self.plan.targets):
                for cell in self.cells(target, wave):
                    if (target, *cell) not in done:
                        self._measure(target, *cell, bar)
                        done.add((target, *cell))
        return self.ledger

    def cells(self, target: Target, wave: Sequence[str]) -> Iterator[tuple[str, str, float | None]]:
        """(stage, method, strength) in the order of measurement. The chosen strength is known after the tuning."""
        yield from ((stage, "base", None) for stage in ("tuning", "reference", "test"))
        for name in self.methods(target, wave):
            yield from (("tuning", self.tuned_method(name), value) for value in self.values(name))
            yield "test", name, self.chosen_strength(target, name)

    def count(self) -> int:
        """The number of images in the plan."""
        cells = set()
        for target in self.plan.targets:
            names = self.methods(target)
            tuning = {("tuning", self.tuned_method(name), value) for name in names for value in self.values(name)}
            base = {(stage, "base", None) for stage in ("tuning", "reference", "test")}
            cells |= {(target, *cell) for cell in tuning | base | {("test", name, None) for name in names}}
        return sum(len(self.prompt_seeds(stage, target, name)) for target, stage, name, _ in cells)

    def measured(self) -> int:
        """The number of measured images of the plan."""
        pairs = itertools.product(self.plan.targets, self.plan.waves)
        cells = {(target, *cell) for target, wave in pairs for cell in self.cells(target, wave)}
        return sum(len(self.rows(stage, target, name, value=value)) for target, stage, name, value in cells)

    @staticmethod
    def tuned_method(name: str) -> str:
        """The method whose tuned strength this method has: itself, or the method inside the search."""
        return METHODS_OF_SUITE[name].like or name

    def values(self, name: str) -> list[float]:
        """The strengths to try."""
        values = METHODS_OF_SUITE[self.tuned_method(name)].values
        return [values[i] for i in self.plan.values] if values else []

    def prompt_seeds(self, stage: str, target: Target, name: str) -> list[tuple[str, int]]:
        """The (prompt, seed) pairs of a stage. Tuning and test have different seeds."""
        many = self.plan.seeds[name in SEARCHES]
        seeds = {"tuning": range(1000, 1001), "reference": range(1000, 1000 + self.plan.reference)}
        prompts, words = self.plan.prompts if stage == "test" else self.plan.tuning_prompts, target.words
        return [
            (f"{p} {words[(i + s) % len(words)]}".strip(), s)
            for i, p in enumerate(prompts)
            for s in seeds.get(stage, range(many))
        ]

    def rows(self, stage: str, target: Target, name: str, **fields: Any) -> list[Row]:
        """The measured rows of a cell."""
        budget = self.budget(name, stage)
        return self.ledger.where(stage=stage, target=target.reward, budget=budget, method=name, **fields)

    def admissible_strengths(self, target: Target, name: str) -> dict[float, float]:
        """The strengths that satisfy the target's constraint, with their mean target reward in the tuning."""
        base, name = self.rows("reference", target, "base"), self.tuned_method(name)
        tried = {value: self.rows("tuning", target, name, value=value) for value in self.values(name)}
        return {
            value: _mean(rows, "reward")
            for value, rows in tried.items()
            if rows and base and is_admissible(target, rows, base)
        }

    def chosen_strength(self, target: Target, name: str) -> float | None:
        """The admissible strength with the highest target reward, or the weakest if none is admissible; None for
        methods without a strength."""
        if not self.values(name):
            return None
        kept = self.admissible_strengths(target, name)
        return max(kept, key=kept.get) if kept else self.values(name)[0]

    def reward_std(self, target: Target) -> float:
        """Standard deviation of the target reward over base's images of the tuning prompts."""
        return max(float(np.std([row["reward"] for row in self.rows("tuning", target, "base")])), 1e-3)

    def _measure(self, target: Target, stage: str, name: str, value: float | None, bar: tqdm) -> None:
        pairs, budget = self.prompt_seeds(stage, target, name), self.budget(name, stage)
        key = (stage, target.reward, budget, name, value)
        missing = [(p, s) for p, s in pairs if (*key, p, s) not in self.ledger]
        bar.update(len(pairs) - len(missing))
        bar.set_postfix_str(f"{target.reward} {name} {stage}")
        entry, batch = METHODS_OF_SUITE.get(name, BASE), 8 if name not in SEARCHES else 4
        method, steps = fit_to_budget(entry.at(value), self.model.path, budget, entry.steps)
        for first in range(0, len(missing), batch):
            cell, chunk = dict(zip(KEY, key, strict=False)), missing[first : first + batch]
            rows = self._rows(cell, target, method, steps, chunk)
            self.ledger.add(rows)
            bar.update(len(rows))

    def _rows(
        self, cell: Row, target: Target, method: Method, steps: int, pairs: Sequence[tuple[str, int]]
    ) -> list[Row]:
        prompts, seeds = [p for p, _ in pairs], [s for _, s in pairs]
        reward = rewards.load(target.reward)
        scale = 1.0 if cell["method"] == "base" else 1 / self.reward_std(target)
        standardised = Reward(reward.name, lambda x, p: scale * reward(x, p), reward.differentiable)
        recording, recorded = record_noise(method, (steps // 4 + 1, steps // 2 + 1))
        started = time.process_time()
        with PeakMemory(getattr(self.model, "device", "cpu")) as peak:
            result = sample(self.model, prompts, standardised, recording, steps, seeds, chunk=16, track=False)
        processor = (time.process_time() - started) / len(pairs)
        with torch.no_grad():
            names = (*target.heldout, "held-out alignment")
            heldout = [load_heldout_reward(name)(result.images, prompts) for name in names]
        p_values = injected_p_values(recorded, len(pairs), method.selection.particles)
        image_features, roughness = features(result.images), total_variation(result.images)
        return [
            {
                **cell,
                "prompt": prompt,
                "seed": seed,
                "reward": result.rewards[i].item() / scale,
                "heldout_1": heldout[0][i].item(),
                "heldout_2": heldout[1][i].item(),
                "heldout_alignment": heldout[2][i].item(),
                "p_value": None if math.isnan(p_values[i]) else p_values[i].item(),
                "roughness": roughness[i].item(),
                "nfe": result.trace.nfe,
                "seconds": result.trace.seconds / len(pairs),
                "processor_seconds": processor,
                "megabytes": peak.megabytes,
                "features": [round(v, 4) for v in image_features[i].tolist()],
                "picture": self._save(result.images[i], {**cell, "prompt": prompt, "seed": seed}),
            }
            for i, (prompt, seed) in enumerate(pairs)
        ]

    def _save(self, picture: Tensor, settings: Row) -> str:
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16] + ".png"
        save_picture(picture, self.out / "pictures" / name, settings)
        return name


def _fits(method: Method, reward: Reward) -> bool:
    try:
        check_reward(method, reward)
    except ValueError:
        return False
    return not (reward.differentiable and getattr(method.proposal, "zeroth_order", False))


def _mean(rows: Sequence[Row], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))


def is_admissible(target: Target, rows: Sequence[Row], base: Sequence[Row]) -> bool:
    """Whether rows satisfy the target's constraint, relative to base's rows of the same prompts."""
    if target.constraint == "roughness":
        low, high = ROUGHNESS
        return low <= _mean(rows, "roughness") / _mean(base, "roughness") <= high
    return _mean(rows, "heldout_alignment") >= _mean(base, "heldout_alignment") - KEEP

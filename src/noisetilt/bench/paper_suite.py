"""The suite `paper`: every method at equal network evaluations on emoji64, its strength tuned on other prompts.

A target's reward is divided by its standard deviation over base's pictures of the tuning prompts before any method sees
it, so that a scale or a temperature means the same for all targets; figures are of the reward itself.

The tuning rule: of a method's strengths, that with the highest mean target reward on the tuning prompts is chosen among
those that keep to the prompt, whose mean held-out alignment (a log odds) is at most KEEP below base's on the same
prompts. For the target `alignment` that judge would be the target's own; there a strength must keep the mean total
variation within ROUGHNESS of base's, so that no method wins by pictures that fall apart or are wiped out. Where no
strength keeps it, the weakest is taken, and the report says so. Base's mean is one of several seeds, the stage
`reference`: between single seeds it differs by more than KEEP.
Methods that search are tuned with a fifth of their calls. A move with a search around it (`ntrk-svdd`,
`dps-best-of-n`) has the strength that was tuned for the move alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__, rewards
from ..methods import Method
from ..models import load
from ..report import save_picture
from ..rewards import Reward
from ..sampling import check_reward, sample
from .features import classify, features
from .ledger import Ledger, Row, weights_digest
from .meter import PeakMemory, injected_p_values, watch
from .metrics import total_variation
from .paper_plan import BASE, KEEP, METHODS_OF_SUITE, ROUGHNESS, SEARCHES, Plan, Target, matched

KEY = ("stage", "target", "budget", "method", "value", "prompt", "seed")
RewardEvaluator = Callable[[Tensor, Sequence[str]], Tensor]


def clarity(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """How sure a classifier that no reward has touched is of what it sees: log of its highest probability, (batch,)."""
    return classify(images)[0].amax(1).log()


def find_judge(name: str) -> RewardEvaluator:
    """A judge by its name in Target."""
    return clarity if name == "clarity" else rewards.load(name.removeprefix("held-out "), heldout=True)


class Runner:
    """Makes and measures the pictures of a plan, each once; measure is False to look only at what is there."""

    def __init__(self, out: Path, plan: Plan, model: Any = None, measure: bool = True) -> None:
        self.plan, self.out = plan, out
        self.model = load("emoji64") if model is None else model
        settings: dict[str, Any] = {"suite": "paper", "noisetilt": __version__, "weights": weights_digest("emoji64")}
        settings |= {"budgets": plan.budgets, "tuning_budgets": plan.tuning_budgets}
        settings |= {"tuning_prompts": plan.tuning_prompts}
        self.ledger = Ledger(out, KEY, settings | {"values": plan.values}, mend=measure)
        (out / "pictures").mkdir(exist_ok=True)

    def budget(self, name: str, stage: str = "test") -> int:
        """Network calls an image that a method has in a stage."""
        budgets = self.plan.budgets if stage == "test" else self.plan.tuning_budgets
        return budgets[name in SEARCHES]

    def methods(self, target: Target, wave: Sequence[str] | None = None) -> list[str]:
        """A target's methods, of a wave or all: those that need a gradient where there is one, those that estimate it
        where there is none."""
        reward = rewards.load(target.reward)
        names = [name for names in self.plan.waves for name in names] if wave is None else wave
        return [name for name in names if _fits(METHODS_OF_SUITE[name].method, reward)]

    def run(self) -> Ledger:
        """Everything that is missing: base, the tuning, the test, wave by wave."""
        done = set()
        with tqdm(unit="picture", total=self.count()) as bar:
            for wave, target in itertools.product(self.plan.waves, self.plan.targets):
                for cell in self.cells(target, wave):
                    if (target, *cell) not in done:
                        self._measure(target, *cell, bar)
                        done.add((target, *cell))
        return self.ledger

    def cells(self, target: Target, wave: Sequence[str]) -> Iterator[tuple[str, str, float | None]]:
        """(stage, method, strength) in the order of measuring; a tuned strength is known once its tuning is done."""
        yield from ((stage, "base", None) for stage in ("tuning", "reference", "test"))
        for name in self.methods(target, wave):
            yield from (("tuning", self.tuned(name), value) for value in self.values(name))
            yield "test", name, self.chosen(target, name)

    def count(self) -> int:
        """How many pictures the plan has."""
        cells = set()
        for target in self.plan.targets:
            names = self.methods(target)
            tuning = {("tuning", self.tuned(name), value) for name in names for value in self.values(name)}
            base = {(stage, "base", None) for stage in ("tuning", "reference", "test")}
            cells |= {(target, *cell) for cell in tuning | base | {("test", name, None) for name in names}}
        return sum(len(self.wanted(stage, target, name)) for target, stage, name, _ in cells)

    def measured(self) -> int:
        """How many of them are measured; rows of strengths that are no longer in the plan are not counted."""
        pairs = itertools.product(self.plan.targets, self.plan.waves)
        cells = {(target, *cell) for target, wave in pairs for cell in self.cells(target, wave)}
        return sum(len(self.rows(stage, target, name, value=value)) for target, stage, name, value in cells)

    @staticmethod
    def tuned(name: str) -> str:
        """The method whose strength is tuned for this one: itself, or the move that it searches around."""
        return METHODS_OF_SUITE[name].like or name

    def values(self, name: str) -> list[float]:
        """The strengths that are tried."""
        values = METHODS_OF_SUITE[self.tuned(name)].values
        return [values[i] for i in self.plan.values] if values else []

    def wanted(self, stage: str, target: Target, name: str) -> list[tuple[str, int]]:
        """(prompt, seed) of a stage. Seeds of the tuning are apart from those of the test."""
        many = self.plan.seeds[name in SEARCHES]
        seeds = {"tuning": range(1000, 1001), "reference": range(1000, 1000 + self.plan.reference)}
        prompts, words = self.plan.prompts if stage == "test" else self.plan.tuning_prompts, target.words
        return [
            (f"{p} {words[(i + s) % len(words)]}".strip(), s)
            for i, p in enumerate(prompts)
            for s in seeds.get(stage, range(many))
        ]

    def rows(self, stage: str, target: Target, name: str, **fields: Any) -> list[Row]:
        """The rows of a cell that are measured."""
        budget = self.budget(name, stage)
        return self.ledger.where(stage=stage, target=target.reward, budget=budget, method=name, **fields)

    def keeping(self, target: Target, name: str) -> dict[float, float]:
        """The strengths that keep what the target asks to be kept, with their mean target reward in the tuning."""
        base, name = self.rows("reference", target, "base"), self.tuned(name)
        tried = {value: self.rows("tuning", target, name, value=value) for value in self.values(name)}
        return {
            value: _mean(rows, "reward") for value, rows in tried.items() if rows and base and keeps(target, rows, base)
        }

    def chosen(self, target: Target, name: str) -> float | None:
        """The tuned strength: the highest target reward of those that keep, failing all the weakest. None for methods
        without a strength."""
        if not self.values(name):
            return None
        kept = self.keeping(target, name)
        return max(kept, key=kept.get) if kept else self.values(name)[0]

    def spread(self, target: Target) -> float:
        """Standard deviation of the target reward over base's pictures of the tuning prompts."""
        return max(float(np.std([row["reward"] for row in self.rows("tuning", target, "base")])), 1e-3)

    def _measure(self, target: Target, stage: str, name: str, value: float | None, bar: tqdm) -> None:
        wanted, budget = self.wanted(stage, target, name), self.budget(name, stage)
        key = (stage, target.reward, budget, name, value)
        missing = [(p, s) for p, s in wanted if (*key, p, s) not in self.ledger]
        bar.update(len(wanted) - len(missing))
        bar.set_postfix_str(f"{target.reward} {name} {stage}")
        entry, batch = METHODS_OF_SUITE.get(name, BASE), 8 if name not in SEARCHES else 4
        method, steps = matched(entry.at(value), self.model.path, budget, entry.steps)
        for first in range(0, len(missing), batch):
            cell, pairs = dict(zip(KEY, key, strict=False)), missing[first : first + batch]
            rows = self._rows(cell, target, method, steps, pairs)
            self.ledger.add(rows)
            bar.update(len(rows))

    def _rows(
        self, cell: Row, target: Target, method: Method, steps: int, pairs: Sequence[tuple[str, int]]
    ) -> list[Row]:
        prompts, seeds = [p for p, _ in pairs], [s for _, s in pairs]
        reward = rewards.load(target.reward)
        scale = 1.0 if cell["method"] == "base" else 1 / self.spread(target)
        standardised = Reward(reward.name, lambda x, p: scale * reward(x, p), reward.differentiable)
        watched_method, watched = watch(method, (steps // 4 + 1, steps // 2 + 1))
        started = time.process_time()
        with PeakMemory(getattr(self.model, "device", "cpu")) as peak:
            result = sample(self.model, prompts, standardised, watched_method, steps, seeds, chunk=16, track=False)
        processor = (time.process_time() - started) / len(pairs)
        with torch.no_grad():
            judged = [find_judge(judge)(result.images, prompts) for judge in (*target.judges, "held-out alignment")]
        p_values = injected_p_values(watched, len(pairs), method.selection.particles)
        seen, rough = features(result.images), total_variation(result.images)
        return [
            {
                **cell,
                "prompt": prompt,
                "seed": seed,
                "reward": result.rewards[i].item() / scale,
                "judge_1": judged[0][i].item(),
                "judge_2": judged[1][i].item(),
                "aligned": judged[2][i].item(),
                "p_value": None if math.isnan(p_values[i]) else p_values[i].item(),
                "roughness": rough[i].item(),
                "nfe": result.trace.nfe,
                "seconds": result.trace.seconds / len(pairs),
                "processor_seconds": processor,
                "megabytes": peak.megabytes,
                "features": [round(v, 4) for v in seen[i].tolist()],
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


def keeps(target: Target, rows: Sequence[Row], base: Sequence[Row]) -> bool:
    """Whether pictures keep what the target asks to be kept, against base's of the same prompts."""
    if target.kept == "roughness":
        low, high = ROUGHNESS
        return low <= _mean(rows, "roughness") / _mean(base, "roughness") <= high
    return _mean(rows, "aligned") >= _mean(base, "aligned") - KEEP

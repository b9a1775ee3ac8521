"""The suite `paper`: all methods at equal network calls on emoji128, with strengths tuned on other prompts.

The rule of fairness. The judge (`judge`) is optimised by no method. On the tuning prompts, the mean probability that
the judge gives the right concept may be at most TOLERANCE below base's, at the same prompts and seeds. Of the strengths
that satisfy this, the one with the highest mean target reward is chosen, and the method is tested with it on the test
prompts. If none satisfies it, weaker ones are tried, then the weakest is used, and the report says so. For a target
that asks for a concept of its own (`concept:tiger face`, the ImageNet label teapot), the prompt's concept or that one
is right. Each method is also tested with the strength of the highest mean target reward without this constraint. An
image is "named right" if the judge's most probable concept is right.

The methods get the target reward divided by its standard deviation over base's images of the tuning prompts, so that
one scale or temperature suits all targets. Results are those of the reward itself. Searches are tuned with a fifth of
their calls. A method with a search around it (`ntrk-svdd`, `dps-best-of-n`) has the strength tuned for the method
alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__, rewards
from .._progress import progress_bar
from ..methods import Method
from ..models import load
from ..report import save_picture
from ..rewards import Reward
from ..rewards.scorers.concepts import concept_row
from ..rewards.scorers.words import STYLES
from ..runs import make_folder
from ..sampling import check_reward, sample
from . import judge
from .ledger import Ledger, Row, weights_digest
from .meter import CallCounter, PeakMemory, injected_p_values, record_noise
from .metrics import total_variation
from .own_methods import OWN, check_code, entries_of_rows, record_of
from .paper_plan import BASE, METHODS_OF_SUITE, MORE_STRENGTHS, TOLERANCE, WAVES, Entry, Plan, Target, fit_to_budget

MODEL = "emoji128"
KEY = ("stage", "target", "budget", "method", "value", "prompt", "seed")
# By how much the scales of the target reward may differ in a folder, as they do between machines.
SAME_SCALE = 0.01


class Runner:
    """Generates and measures the images of a plan, each once.

    Args:
        out: folder of the run.
        plan: what is measured.
        model: emoji128 if None; a FluxModel. Only measuring needs it.
        measure: False only reads the rows measured so far.
        codes: name → checksum of the code of the plan's own methods.
    Raises:
        ValueError: if the folder has a run with other settings, or rows of other code of an own method; if an own
            method has no budget or suits none of the targets.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        model: Any = None,
        measure: bool = True,
        codes: Mapping[str, str] | None = None,
    ) -> None:
        self.plan, self.out = plan, out
        self.model = load(MODEL) if model is None and measure else model
        self.measures = measure
        # Whether the report has all methods of the folder, or those of the plan: what is measured now is no choice.
        self.reports_all = measure or plan.waves == WAVES
        self.on_cpu = torch.device(getattr(self.model, "device", "cpu")).type == "cpu"
        settings: dict[str, Any] = {"suite": "paper", "noisetilt": __version__, "weights": weights_digest(MODEL)}
        settings |= {"budgets": plan.budgets, "tuning_budgets": plan.tuning_budgets}
        self.ledger = Ledger(out, KEY, settings, mend=measure)
        self.codes = dict(codes or {})
        check_code(self.ledger, self.codes)
        self.entries = {**METHODS_OF_SUITE, **entries_of_rows(self.ledger), **plan.own}
        for name in plan.own if measure else ():
            self._check_own(name)
        make_folder(out / "pictures")

    def budget(self, name: str, stage: str = "test") -> int:
        """Network calls per image of a method in a stage."""
        budgets = self.plan.budgets if stage == "test" else self.plan.tuning_budgets
        entry = self.entry(name)
        return entry.calls or budgets[entry.is_search]

    def entry(self, name: str) -> Entry:
        """The entry of base, or of a method of the suite, of the plan or of the folder's rows."""
        return self.entries.get(name, BASE)

    @property
    def own(self) -> list[str]:
        """The methods that are not in the suite, of the plan or of the folder's rows."""
        return [name for name in self.entries if name not in METHODS_OF_SUITE]

    def _check_own(self, name: str) -> None:
        """Raises a ValueError if a method has no budget, suits none of the targets, or has the strength of a method
        that is not given."""
        entry = self.entries[name]
        if entry.like is not None and entry.like not in {**METHODS_OF_SUITE, **self.plan.own}:
            raise ValueError(f"{name} has the strength of {entry.like!r}, which is not given; give its entry, too")
        for stage in ("tuning", "test"):
            fit_to_budget(entry.method, self.model.path, self.budget(name, stage), entry.steps)
        if not any(self.methods(target, [name]) for target in self.plan.targets):
            check_reward(entry.method, rewards.load(self.plan.targets[0].reward))
            raise ValueError(f"{name} estimates the gradient, and all target rewards have one; give --targets jpeg")

    def methods(self, target: Target, wave: Sequence[str] | None = None) -> list[str]:
        """The methods for a target, of one wave or of all: gradient-based methods if the target has a gradient, methods
        that estimate the gradient if it has none."""
        reward = rewards.load(target.reward)
        names = [name for names in self.plan.waves for name in names] if wave is None else wave
        measured = {row["method"] for row in self.ledger.where(target=target.reward)} if self.own else set()
        read_only = {name for name in self.own if name not in self.plan.own}
        return [n for n in names if (n in measured if n in read_only else _fits(self.entries[n].method, reward))]

    def reported(self, target: Target) -> list[str]:
        """The methods for a target that a report has, if they are measured."""
        return self.methods(target, [*self.own, *METHODS_OF_SUITE] if self.reports_all else None)

    def run(self) -> Ledger:
        """Measures all missing rows: base, tuning and test, wave by wave."""
        done = set()
        with progress_bar(self.count(), "image") as bar:
            for wave, target in itertools.product(self.plan.waves, self.plan.targets):
                for cell in self.cells(target, wave):
                    if (target, *cell) not in done:
                        self._measure(target, *cell, bar)
                        done.add((target, *cell))
        return self.ledger

    def cells(self, target: Target, wave: Sequence[str]) -> Iterator[tuple[str, str, float | None]]:
        """(stage, method, strength) in the order of measurement. The chosen strengths are known after the tuning."""
        yield from ((stage, "base", None) for stage in ("tuning", "test"))
        for name in self.methods(target, wave):
            yield from (("tuning", self.tuned_method(name), value) for value in self.values(target, name))
            while (value := self.further(target, name)) is not None:
                yield "tuning", self.tuned_method(name), value
            strengths = (self.chosen_strength(target, name, constrained) for constrained in (True, False))
            yield from (("test", name, value) for value in dict.fromkeys(strengths))

    def count(self) -> int:
        """The number of images in the plan, without those of strengths that only the test without constraint has."""
        cells = set()
        for target in self.plan.targets:
            names = self.methods(target)
            tuning = {("tuning", self.tuned_method(n), value) for n in names for value in self.values(target, n)}
            base = {(stage, "base", None) for stage in ("tuning", "test")}
            cells |= {(target.reward, *cell) for cell in tuning | base | {("test", name, None) for name in names}}
        return sum(self.plan.images if stage == "test" else self.plan.tuning_images for _, stage, _, _ in cells)

    def measured(self) -> int:
        """The number of measured images that `count` counts."""
        found = 0
        for target in self.plan.targets:
            names = self.methods(target)
            tuned = dict.fromkeys(self.tuned_method(name) for name in names)
            rows = [self.rows("tuning", target, name, value=v) for name in tuned for v in self.values(target, name)]
            rows += [self.rows(stage, target, "base") for stage in ("tuning", "test")]
            rows += [self.rows("test", target, n, value=self.chosen_strength(target, n)) for n in names]
            found += sum(map(len, rows))
        return found

    def tuned_method(self, name: str) -> str:
        """The method whose tuned strength this method has: itself, or the method inside the search."""
        return self.entries[name].like or name

    def values(self, target: Target, name: str) -> list[float]:
        """The strengths to try, and further ones that are measured, from the weakest to the strongest."""
        name = self.tuned_method(name)
        entry = self.entries[name]
        values = [entry.values[i] for i in self.plan.values] if entry.values else []
        if not values or len(values) != len(entry.values):
            return values

        def measured(value: float | None) -> bool:
            return value is not None and bool(self.rows("tuning", target, name, value=value))

        for _ in range(MORE_STRENGTHS):
            if measured(stronger := entry.stronger(values)):
                values = [*values, stronger]
            if measured(weaker := entry.weaker(values)):
                values = [weaker, *values]
        return values

    def further(self, target: Target, name: str) -> float | None:
        """The strength to try next: a stronger one while the rule chooses the strongest one tried, a weaker one while
        none satisfies it; None after MORE_STRENGTHS."""
        values, entry = self.values(target, name), self.entries[self.tuned_method(name)]
        allowed = range(len(entry.values), len(entry.values) + MORE_STRENGTHS)
        if not values or len(values) not in allowed or len(self.tuning_rows(target, name)) < len(values):
            return None
        if not self.admissible_strengths(target, name):
            return entry.weaker(values)
        return entry.stronger(values) if self.chosen_strength(target, name) == values[-1] else None

    def prompt_seeds(self, stage: str, target: Target) -> list[tuple[str, int]]:
        """The (prompt, seed) pairs of a stage, the same for all methods."""
        test = stage == "test"
        return prompt_seeds(target, test, self.plan.images if test else self.plan.tuning_images)

    def tuned_images(self, target: Target, name: str) -> int:
        """The number of tuning images on which the strength of a method is chosen."""
        if not self.plan.all_tuning:
            return self.plan.tuning_images
        name = self.tuned_method(name)
        entry = self.entries[name]
        cells = [("base", None), *((name, entry.values[i]) for i in self.plan.values if entry.values)]
        counts = (self._leading(target, self.ledger.where(**self._cell("tuning", target, *cell))) for cell in cells)
        return max(self.plan.tuning_images, min(counts))

    def tuning_base(self, target: Target) -> list[Row]:
        """Base's rows of the tuning images on which the strengths of the reported methods are chosen."""
        most = max((self.tuned_images(target, name) for name in self.reported(target)), default=0)
        return self.rows("tuning", target, "base", most or self.plan.tuning_images)

    def _leading(self, target: Target, rows: Sequence[Row], test: bool = False) -> int:
        """How many of a stage's pairs of prompt and seed rows have, from the first one on without a gap."""
        found = {(row["prompt"], row["seed"]) for row in rows}
        wanted = prompt_seeds(target, test, len(found))
        return next((number for number, pair in enumerate(wanted) if pair not in found), len(wanted))

    def _cell(self, stage: str, target: Target, name: str, value: float | None) -> Row:
        budget = self.budget(name, stage)
        return {"stage": stage, "target": target.reward, "budget": budget, "method": name, "value": value}

    def rows(self, stage: str, target: Target, name: str, images: int | None = None, **fields: Any) -> list[Row]:
        """The measured rows of a cell, without those of prompts and seeds that the plan does not have, or of the first
        `images` ones."""
        pairs = set(
            self.prompt_seeds(stage, target) if images is None else prompt_seeds(target, stage == "test", images)
        )
        fields |= {"stage": stage, "target": target.reward, "budget": self.budget(name, stage), "method": name}
        return [row for row in self.ledger.where(**fields) if (row["prompt"], row["seed"]) in pairs]

    def measured_images(self, target: Target, name: str | None = None) -> int:
        """The largest number of test images that base and a method have, at one strength of the method.

        Args:
            target: the target.
            name: the method; None: any of the plan.
        """
        cells: dict[tuple[str, float | None], list[Row]] = {}
        names = {"base", *(self.methods(target) if name is None else [name])}
        for row in self.ledger.where(stage="test", target=target.reward):
            if row["method"] in names:
                cells.setdefault((row["method"], row["value"]), []).append(row)
        base = self._leading(target, cells.pop(("base", None), []), test=True)
        most = max((self._leading(target, rows, test=True) for rows in cells.values()), default=0)
        return base if name == "base" else min(base, most)

    def tuning_rows(self, target: Target, name: str) -> dict[float, list[Row]]:
        """The tuning rows of each strength of a method that is measured for all prompts and seeds."""
        name, count = self.tuned_method(name), self.tuned_images(target, name)
        tried = {v: self.rows("tuning", target, name, count, value=v) for v in self.values(target, name)}
        return {value: rows for value, rows in tried.items() if len(rows) >= count}

    def admissible_strengths(self, target: Target, name: str) -> dict[float, float]:
        """The strengths that satisfy the rule of fairness, with their mean target reward in the tuning."""
        base = self.rows("tuning", target, "base", self.tuned_images(target, name))
        tried = self.tuning_rows(target, name)
        return {value: _mean(rows, "reward") for value, rows in tried.items() if base and is_admissible(rows, base)}

    def chosen_strength(self, target: Target, name: str, constrained: bool = True) -> float | None:
        """The admissible strength with the highest target reward, or the weakest measured one if none is admissible;
        None for methods without a strength. If not `constrained`, all strengths are admissible."""
        values = self.values(target, name)
        if not values:
            return None
        tried = {value: _mean(rows, "reward") for value, rows in self.tuning_rows(target, name).items()}
        kept = self.admissible_strengths(target, name) if constrained else tried
        return max(kept, key=kept.__getitem__) if kept else next(iter(tried), values[0])

    def reward_std(self, target: Target) -> float:
        """Standard deviation of the target reward over base's images of the tuning prompts.

        The rows of methods hold the one that they were measured with, and further rows are measured with the same. Rows
        of earlier versions do not hold it; it is about that of base's images that were measured before them, which is
        not exact enough to measure more.

        Raises:
            ValueError: if the rows were measured with different ones, or rows do not hold it and more are measured.
        """
        rows = self.ledger.where(target=target.reward)
        lacking = sum(row["method"] != "base" and "reward_std" not in row for row in rows)
        if lacking and self.measures:
            raise ValueError(
                f"{self.out} has {lacking} rows of guided images of {target.reward} without reward_std, the deviation "
                "that their rewards were divided by, so further images cannot be measured alike; choose another --out, "
                "or --report to read these rows"
            )
        stored = [row["reward_std"] for row in rows if "reward_std" in row]
        if stored and max(stored) > (1 + SAME_SCALE) * min(stored):
            raise ValueError(
                f"{self.out} has rows of {target.reward} that were measured with rewards divided by {min(stored):.3g} "
                f"and by {max(stored):.3g}; keep the rows of one run"
            )
        before = itertools.takewhile(lambda row: row["method"] == "base", rows)
        values = [row["reward"] for row in before if row["stage"] == "tuning"]
        return stored[0] if stored else max(float(np.std(values or [0.0])), 1e-3)

    def _measure(self, target: Target, stage: str, name: str, value: float | None, bar: Any) -> None:
        pairs, key = self.prompt_seeds(stage, target), tuple(self._cell(stage, target, name, value).values())
        if stage == "tuning" and name != "base":  # a further strength on as many images as the others
            pairs = prompt_seeds(target, False, self.tuned_images(target, name))
        missing = [(p, s) for p, s in pairs if (*key, p, s) not in self.ledger]
        bar.update(len(pairs) - len(missing))
        bar.set_postfix_str(f"{target.reward} {name} {stage}")
        entry = self.entry(name)
        batch = 64 if not self.on_cpu else 4 if entry.is_search else 8
        method, steps = fit_to_budget(entry.at(value), self.model.path, self.budget(name, stage), entry.steps)
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
        guided = cell["method"] != "base"
        std = self.reward_std(target) if guided else 1.0
        scale = 1 / std
        standardised = Reward(reward.name, lambda x, p: scale * reward(x, p), reward.differentiable)
        recording, recorded = record_noise(method, (steps // 4 + 1, steps // 2 + 1))
        chunk, started = 16 if self.on_cpu else 256, time.process_time()
        with CallCounter(self.model.pipe.transformer) as counter, PeakMemory(self.model.device) as peak:
            result = sample(self.model, prompts, standardised, recording, steps, seeds, chunk=chunk, track=False)
        processor = (time.process_time() - started) / len(pairs)
        with torch.no_grad():
            heldout, alignment = (
                rewards.load(name, heldout=True)(result.images, prompts) for name in (target.heldout, "alignment")
            )
        p_values = injected_p_values(recorded, len(pairs), method.selection.particles)
        figures = {
            "reward": result.rewards / scale,
            "heldout": heldout,
            "heldout_alignment": alignment,
            "roughness": total_variation(result.images),
        }
        judged = judged_figures(target, result.images, prompts)
        name = cell["method"]
        own = record_of(self.plan.own[name], self.codes.get(name, "")) if name in self.plan.own else None
        common = {
            "nfe": result.trace.nfe,
            "network_calls": counter.rows / len(pairs),
            "seconds": result.trace.seconds / len(pairs),
            "processor_seconds": processor,
            "megabytes": peak.megabytes,
        }
        return [
            {
                **cell,
                "prompt": prompt,
                "seed": seed,
                **{name: values[i].item() for name, values in figures.items()},
                **judged[i],
                **common,
                **({"reward_std": std} if guided else {}),
                **({OWN: own} if own else {}),
                "p_value": None if math.isnan(p_values[i]) else p_values[i].item(),
                "picture": self._save(result.images[i], {**cell, "prompt": prompt, "seed": seed}),
            }
            for i, (prompt, seed) in enumerate(pairs)
        ]

    def _save(self, picture: Tensor, settings: Row) -> str:
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16] + ".png"
        save_picture(picture, self.out / "pictures" / name, settings)
        return name


def prompt_seeds(target: Target, test: bool, count: int) -> list[tuple[str, int]]:
    """`count` pairs of prompt and seed: all prompts with one seed, then with the next one. Test and tuning have other
    prompts and other seeds."""
    prompts, first = (target.prompts, 0) if test else (target.tuning_prompts, 1000)
    words, pairs = target.words, []
    for i in range(count):
        turn, number = divmod(i, len(prompts))
        word = words[(number + turn) % len(words)]
        pairs.append((f"{prompts[number]} {word}".strip(), first + turn))
    return pairs


def judged_figures(target: Target, images: Tensor, prompts: Sequence[str]) -> list[Row]:
    """For each image, the probability that the judge gives the right concept, whether it names that concept first
    (`named`) and among the first five, the style that it names, and its features."""
    found = judge.evaluate(images)
    right = [[concept_row(name) for name in target.concepts(prompt)] for prompt in prompts]
    named, among_five = (judge.names_concept(found.concepts, right, top).tolist() for top in (1, judge.TOP))
    probability = judge.concept_probability(found.concepts, right).tolist()
    styles, features = found.styles.argmax(1).tolist(), found.features.cpu().tolist()
    return [
        {
            "probability": round(probability[i], 5),
            "named": named[i],
            "named_top5": among_five[i],
            "judged_style": STYLES[styles[i]],
            "features": [round(value, 4) for value in features[i]],
        }
        for i in range(len(prompts))
    ]


def _fits(method: Method, reward: Reward) -> bool:
    try:
        check_reward(method, reward)
    except ValueError:
        return False
    return not (reward.differentiable and getattr(method.proposal, "zeroth_order", False))


def _mean(rows: Sequence[Row], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))


def is_admissible(rows: Sequence[Row], base: Sequence[Row]) -> bool:
    """Whether rows satisfy the rule of fairness relative to base's rows of the same prompts and seeds."""
    return _mean(rows, "probability") >= _mean(base, "probability") - TOLERANCE - 1e-9

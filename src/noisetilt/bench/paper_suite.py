"""The suite `paper`: every method at equal network evaluations on emoji64, its strength tuned on other prompts.

A target's reward is divided by its standard deviation over base's pictures of the tuning prompts before any method sees
it, so that a scale or a temperature means the same for all targets; figures are of the reward itself. Of a method's
strengths, that with the highest target reward on the tuning prompts is chosen among those whose mean total variation
lies between 2/3 and 3/2 of base's: no method may win by pictures that fall apart or are wiped out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__, rewards
from ..methods import METHODS, Method
from ..models import load
from ..models.emoji64.model import FOLDER
from ..path import Path as GaussianPath
from ..report import save_picture
from ..rewards import Reward
from ..sampling import check_reward, reverse_steps, sample
from ..selection import Independent
from .features import classify, features
from .ledger import Ledger, Row
from .meter import PeakMemory, injected_p_values, watch
from .metrics import total_variation

KEY = ("stage", "target", "budget", "method", "value", "prompt", "seed")
STEPS = 25
SCORED = ("rewards", "bench")
Judge = Callable[[Tensor, Sequence[str]], Tensor]


@dataclass(frozen=True)
class Target:
    """A reward by name, words that are added to the prompts in turn, and the two judges that only look on."""

    reward: str
    words: tuple[str, ...]
    judges: tuple[str, str]


TARGETS = (
    Target("style:3d", ("noto", "twemoji"), ("held-out style:3d", "held-out alignment")),
    Target("alignment", ("", "3d"), ("held-out alignment", "clarity")),
    Target("redness", ("", "noto"), ("held-out alignment", "clarity")),
    Target("jpeg", ("", "twemoji"), ("held-out alignment", "clarity")),
    Target("0.5*style:3d + 0.5*alignment", ("noto", "twemoji"), ("held-out style:3d", "held-out alignment")),
)
PROMPTS = ("cat face", "house", "grinning face", "red apple", "automobile", "flower", "dog", "ship")
TUNING_PROMPTS = ("bear face", "tree", "clock", "fish")


@dataclass(frozen=True)
class Entry:
    """A method at one budget, and the knob that is tuned: its name, None for none, and five values of it."""

    method: Method
    knob: str | None = None
    values: tuple[float, ...] = ()

    def at(self, value: float | None) -> Method:
        return self.method if self.knob is None else self.method.replace(**{self.knob: value})


SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
TEMPERATURES = (0.03, 0.1, 0.3, 1.0, 3.0)
MIXTURE = METHODS["ntrk"].replace(whitened="mixture")
MOVES = {
    "dps": Entry(METHODS["dps"], "scale", (1.0, 3.0, 10.0, 30.0, 100.0)),
    "lgd": Entry(METHODS["lgd"], "scale", SCALES),
    "mpgd": Entry(METHODS["mpgd"], "scale", SCALES),
    "ugd": Entry(METHODS["ugd"], "scale", SCALES),
    "tfg": Entry(METHODS["tfg"], "rho", SCALES),
    "freedom": Entry(METHODS["freedom"], "scale", (0.05, 0.1, 0.2, 0.4, 0.8)),
    "ntrk": Entry(METHODS["ntrk"], "rho", (0.03, 0.1, 0.3, 0.6, 1.0)),
    "ntrk-early": Entry(METHODS["ntrk"].replace(schedule="early"), "rho", (0.03, 0.1, 0.2, 0.4, 0.8)),
    "ntrk-mixture": Entry(MIXTURE, "best_of", (1e3, 1e6, 1e15, 1e40, 1e150)),
    "ntrk-mixture-early": Entry(MIXTURE.replace(schedule="early"), "best_of", (1e3, 1e6, 1e15, 1e40, 1e150)),
    "ntrk-black-box": Entry(METHODS["ntrk-black-box"], "rho", (0.03, 0.1, 0.2, 0.4, 0.8)),
}
SEARCHES = {
    "best-of-n": Entry(METHODS["best-of-n"]),
    "svdd": Entry(METHODS["svdd"], "temperature", (0.0, 0.03, 0.1, 0.3, 1.0)),
    "rbf": Entry(METHODS["rbf"]),
    "fk": Entry(METHODS["fk"], "temperature", TEMPERATURES),
    "das": Entry(METHODS["das"], "temperature", TEMPERATURES),
    "psi": Entry(METHODS["psi"], "temperature", TEMPERATURES),
    "ntrk-svdd": Entry(METHODS["ntrk-svdd"], "rho", MOVES["ntrk"].values),
    **{
        f"{name}-best-of-n": replace(MOVES[name], method=MOVES[name].method.replace(selection=Independent(20)))
        for name in ("dps", "freedom", "ntrk", "ntrk-mixture")
    },
}


def calls(method: Method, path: GaussianPath, steps: int) -> int:
    """Network calls per image of a method on the path's grid; RBF's are its budget."""
    taken = reverse_steps(path, method.times.walk(path, path.grid(steps)))
    before = 1 + method.initial.iterations if method.initial.needs_reward else 0
    per_step = getattr(method.selection, "budget", method.selection.particles)
    return taken * per_step + before * method.selection.particles


def matched(method: Method, path: GaussianPath, budget: int) -> tuple[Method, int]:
    """The method with as many particles, or else steps, as a budget of network calls an image pays for, and its steps.

    A method of one particle takes as many steps as it can; others take 25 and as many particles as they can.

    Raises:
        ValueError: if the budget does not pay for one particle.
    """
    knob = "budget" if hasattr(method.selection, "budget") else "particles"
    if method.selection.particles == 1 and knob == "particles":
        fitting = [steps for steps in range(1, budget + 1) if calls(method, path, steps) <= budget]
        return method, fitting[-1]
    many = budget // calls(method.replace(**{knob: 1}), path, STEPS)
    if many < 1:
        raise ValueError(f"a budget of {budget} calls does not pay for {STEPS} steps; give {STEPS} or more")
    return method.replace(**{knob: many}), STEPS


@dataclass(frozen=True)
class Plan:
    """How much is measured: what is tuned, what is tested, and at which budgets of network calls an image.

    seeds is how many per prompt at each budget; values is which of an entry's five are tried.
    """

    targets: tuple[Target, ...] = TARGETS
    prompts: tuple[str, ...] = PROMPTS
    tuning_prompts: tuple[str, ...] = TUNING_PROMPTS
    budgets: tuple[int, int] = (25, 500)
    seeds: tuple[int, int] = (4, 2)
    values: tuple[int, ...] = (0, 1, 2, 3, 4)
    methods: tuple[str, ...] = (*MOVES, *SEARCHES)


QUICK = Plan(
    TARGETS[:1],
    PROMPTS[:3],
    TUNING_PROMPTS[:2],
    (25, 100),
    (2, 1),
    (0, 2, 4),
    ("dps", "ntrk", "ntrk-mixture", "best-of-n", "svdd"),
)


def with_methods(plan: Plan, names: Sequence[str] | None) -> Plan:
    """The plan with these methods alone; base always runs.

    Raises:
        ValueError: if a name is unknown.
    """
    if not names:
        return plan
    unknown = [name for name in names if name not in ("base", *MOVES, *SEARCHES)]
    if unknown:
        known = ", ".join(["base", *MOVES, *SEARCHES])
        raise ValueError(f"method {unknown[0]!r} is not in the suite paper; it has: {known}")
    return replace(plan, methods=tuple(name for name in names if name != "base"))


def clarity(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """How sure a classifier that no reward has touched is of what it sees: log of its highest probability, (batch,)."""
    return classify(images)[0].amax(1).log()


def find_judge(name: str) -> Judge:
    """A judge by its name in Target."""
    return clarity if name == "clarity" else rewards.load(name.removeprefix("held-out "), heldout=True)


def weights_digest() -> str:
    """One checksum of all that pictures and their figures depend on: the model, the scorers and the metrics."""
    package = FOLDER.parents[1]
    files = [FOLDER / "emoji64.safetensors", *(package / part / "weights" / "checksums.json" for part in SCORED)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Runner:
    """Makes and measures the pictures of a plan, each once."""

    def __init__(self, out: Path, plan: Plan, model: Any = None, batch: int = 8) -> None:
        self.plan, self.out, self.batch = plan, out, batch
        self.model = load("emoji64") if model is None else model
        settings = {"suite": "paper", "noisetilt": __version__, "weights": weights_digest(), "budgets": plan.budgets}
        self.ledger = Ledger(out, KEY, settings | {"values": plan.values, "tuning_prompts": plan.tuning_prompts})
        (out / "pictures").mkdir(exist_ok=True)

    def cells(self, target: Target) -> list[tuple[str, int, Entry]]:
        """(name, budget, entry) of a target's methods, without those that need a gradient where there is none."""
        reward, low, high = rewards.load(target.reward), *self.plan.budgets
        all_of_them = [
            *((name, low, MOVES[name]) for name in self.plan.methods if name in MOVES),
            *((name, high, SEARCHES[name]) for name in self.plan.methods if name in SEARCHES),
        ]
        return [cell for cell in all_of_them if _can(cell[2].method, reward)]

    def run(self) -> Ledger:
        """Everything that is missing: base, the tuning, the test."""
        with tqdm(unit="picture", total=self.count()) as bar:
            for target in self.plan.targets:
                self._base(target, bar)
                for name, budget, entry in self.cells(target):
                    for value in self.values(entry):
                        self._measure("tuning", target, name, budget, entry, value, bar)
                    self._measure("test", target, name, budget, entry, self.chosen(target, name, budget), bar)
        return self.ledger

    def count(self) -> int:
        """How many pictures the plan has."""
        low, total = self.plan.budgets[0], 0
        for target in self.plan.targets:
            tries = [(low, 1), *((budget, len(self.values(entry))) for _, budget, entry in self.cells(target))]
            for budget, values in tries:
                total += values * len(self._wanted("tuning", target, budget)) + len(
                    self._wanted("test", target, budget)
                )
        return total

    def _base(self, target: Target, bar: tqdm) -> None:
        entry = Entry(METHODS["base"])
        for stage in ("tuning", "test"):
            self._measure(stage, target, "base", self.plan.budgets[0], entry, None, bar)

    def values(self, entry: Entry) -> list[float]:
        """The strengths that are tried."""
        return [entry.values[i] for i in self.plan.values] if entry.knob else []

    def _wanted(self, stage: str, target: Target, budget: int) -> list[tuple[str, int]]:
        """(prompt, seed) of a stage. Seeds of the tuning are apart from those of the test."""
        seeds = range(1000, 1001) if stage == "tuning" else range(self.plan.seeds[self.plan.budgets.index(budget)])
        prompts = self.plan.tuning_prompts if stage == "tuning" else self.plan.prompts
        words = target.words
        return [(f"{p} {words[(i + s) % len(words)]}".strip(), s) for i, p in enumerate(prompts) for s in seeds]

    def chosen(self, target: Target, name: str, budget: int) -> float | None:
        """The tuned strength: highest target reward among those that keep the pictures' roughness; failing all, the
        weakest. None for methods without a strength."""
        entry = {**MOVES, **SEARCHES}[name]
        if entry.knob is None:
            return None
        base = np.mean([r["roughness"] for r in self.ledger.where(stage="tuning", target=target.reward, method="base")])
        mean: dict[float, float] = {}
        for value in self.values(entry):
            rows = self.ledger.where(stage="tuning", target=target.reward, method=name, budget=budget, value=value)
            if 2 / 3 <= np.mean([row["roughness"] for row in rows]) / base <= 3 / 2:
                mean[value] = float(np.mean([row["reward"] for row in rows]))
        return max(mean, key=mean.get) if mean else self.values(entry)[0]

    def spread(self, target: Target) -> float:
        """Standard deviation of the target reward over base's pictures of the tuning prompts."""
        rows = self.ledger.where(stage="tuning", target=target.reward, method="base")
        return max(float(np.std([row["reward"] for row in rows])), 1e-3)

    def _measure(
        self, stage: str, target: Target, name: str, budget: int, entry: Entry, value: float | None, bar: tqdm
    ) -> None:
        wanted = self._wanted(stage, target, budget)
        key = (stage, target.reward, budget, name, value)
        missing = [(p, s) for p, s in wanted if (*key, p, s) not in self.ledger]
        bar.update(len(wanted) - len(missing))
        bar.set_postfix_str(f"{target.reward} {name} {stage}")
        for first in range(0, len(missing), self.batch):
            pairs = missing[first : first + self.batch]
            rows = self._rows(dict(zip(KEY, key, strict=False)), target, entry.at(value), budget, pairs)
            self.ledger.add(rows)
            bar.update(len(rows))

    def _rows(
        self, cell: Row, target: Target, method: Method, budget: int, pairs: Sequence[tuple[str, int]]
    ) -> list[Row]:
        prompts, seeds = [p for p, _ in pairs], [s for _, s in pairs]
        reward = rewards.load(target.reward)
        scale = 1.0 if cell["method"] == "base" else 1 / self.spread(target)
        standardised = Reward(reward.name, lambda x, p: scale * reward(x, p), reward.differentiable)
        method, steps = matched(method, self.model.path, budget)
        watched_method, watched = watch(method, (steps // 4 + 1, steps // 2 + 1))
        with PeakMemory(getattr(self.model, "device", "cpu")) as peak:
            result = sample(self.model, prompts, standardised, watched_method, steps, seeds, chunk=16, track=False)
        with torch.no_grad():
            judged = [find_judge(judge)(result.images, prompts) for judge in target.judges]
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
                "p_value": None if math.isnan(p_values[i]) else p_values[i].item(),
                "roughness": rough[i].item(),
                "nfe": result.trace.nfe,
                "seconds": result.trace.seconds / len(pairs),
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


def _can(method: Method, reward: Reward) -> bool:
    try:
        check_reward(method, reward)
    except ValueError:
        return False
    return True

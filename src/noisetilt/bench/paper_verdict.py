"""Whether the goals of the suite `paper` are reached: noise tilting with few network calls against other methods.

Per target: does NTRK with 25 network calls have a higher target reward than every other method with 500, on the same
prompts and seeds, with 95 % intervals that do not overlap; are its held-out reward and Fréchet distance no worse than
those of base with 25 calls; and does another noise-tilted search with 500 calls have a higher target reward than NTRK†,
the best of N NTRK trajectories?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..proposals import NoiseTilt
from .features import real_features
from .ledger import Row
from .metrics import frechet_distance
from .paper_plan import METHODS_OF_SUITE, SEARCHES, Target
from .paper_suite import Runner
from .statistics import Interval, bootstrap, paired

PAIR = ("prompt", "seed")
# Bootstrap draws for the difference of Fréchet distances.
DRAWS = 200
# The number of targets for which the first goal has to be reached.
REQUIRED_TARGETS = 4


@dataclass(frozen=True)
class Finding:
    """The outcome of a comparison.

    Attributes:
        text: the comparison in words and figures.
        outcome: "yes"; "no"; "chance": the difference is in favour but not significant; "paired": only the paired
            difference is significant; None: not measured yet.
        open: whether methods that could change the outcome are not measured yet.
    """

    text: str
    outcome: str | None
    open: bool = False

    def __str__(self) -> str:
        return WORDS[self.outcome] + (" so far" if self.open and self.outcome else "")


def is_noise_tilt(name: str) -> bool:
    """Whether a method tilts the noise."""
    return isinstance(METHODS_OF_SUITE[name].method.proposal, NoiseTilt)


def ntrk_variant(runner: Runner, target: Target) -> str:
    """NTRK, or its version with an estimated gradient if the target has no gradient."""
    return "ntrk" if "ntrk" in runner.methods(target) else "ntrk-black-box"


def complete(runner: Runner, target: Target, name: str) -> list[Row]:
    """The test rows of a method at its chosen strength; empty unless all are measured."""
    value = None if name == "base" else runner.chosen_strength(target, name)
    rows = runner.rows("test", target, name, value=value)
    return rows if len(rows) >= len(runner.prompt_seeds("test", target, name)) else []


def best_of(runner: Runner, target: Target, names: Sequence[str]) -> tuple[str, list[Row]]:
    """The measured method with the highest mean target reward, and its rows; ("", []) if none is measured."""
    measured = {name: rows for name in names if (rows := complete(runner, target, name))}
    best = max(measured, key=lambda name: np.mean([row["reward"] for row in measured[name]]), default="")
    return best, measured.get(best, [])


def common_rows(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """The rows whose prompt and seed are also among the others."""
    keys = {tuple(row[k] for k in PAIR) for row in others}
    return [row for row in rows if tuple(row[k] for k in PAIR) in keys]


def reward_interval(rows: Sequence[Row]) -> Interval:
    """The mean target reward and its 95 % interval."""
    return bootstrap([row["reward"] for row in rows])


def compare_with_others(runner: Runner, target: Target) -> Finding:
    """NTRK with few calls against all other methods with many."""
    name, (low, high) = ntrk_variant(runner, target), runner.plan.budgets
    others = [other for other in runner.methods(target) if other in SEARCHES and not is_noise_tilt(other)]
    tests = {other: complete(runner, target, other) for other in others}
    best, best_rows = best_of(runner, target, others)
    rows = common_rows(complete(runner, target, name), best_rows)
    if not rows:
        return Finding(f"{name} at {low} calls against other methods at {high} calls: not measured yet", None)
    interval, lead = reward_interval(rows), bootstrap(paired(rows, best_rows, "reward", PAIR))
    separate = interval.low > max(reward_interval(other).high for other in tests.values() if other)
    missing = [other for other, measured in tests.items() if not measured]
    text = (
        f"{name} at {low} calls has a {'higher' if lead.value > 0 else 'lower'} target reward than the best other "
        f"method at {high} calls, {best}: {interval} against {reward_interval(best_rows)}; its interval "
        f"{'is above' if separate else 'is not above'} those of all other methods; paired difference {lead}, "
        f"{len(rows)} images each{_missing(missing)}"
    )
    outcome = "yes" if separate else "paired" if lead.low > 0 else "chance" if lead.value > 0 else "no"
    return Finding(text, outcome, bool(missing))


def compare_with_base(runner: Runner, target: Target) -> Finding:
    """Whether held-out reward and Fréchet distance of NTRK with few calls are no worse than base's."""
    name = ntrk_variant(runner, target)
    rows, base = complete(runner, target, name), runner.rows("test", target, "base")
    if not rows:
        return Finding(f"{name} against base: not measured yet", None)
    gain, frechet = bootstrap(paired(rows, base, "heldout_1", PAIR)), frechet_difference(rows, base)
    worse = gain.high < 0 or frechet.low > 0
    outcome = "no" if worse else "yes" if gain.value >= 0 and frechet.value <= 0 else "chance"
    text = f"{name} against base: {target.heldout[0]} {_signed(gain)}, Fréchet distance {_signed(frechet)}"
    return Finding(f"{text}, {len(rows)} images each", outcome)


def frechet_difference(rows: Sequence[Row], base: Sequence[Row]) -> Interval:
    """Fréchet distance of rows to real emoji, minus that of base at the same prompts and seeds."""
    partner, real = {tuple(row[k] for k in PAIR): row["features"] for row in base}, real_features()
    pairs = np.array([(row["features"], partner[tuple(row[k] for k in PAIR)]) for row in rows], dtype=np.float32)

    def difference(drawn: np.ndarray) -> float:
        features, base_features = torch.from_numpy(drawn).unbind(1)
        return frechet_distance(features, real) - frechet_distance(base_features, real)

    return bootstrap(pairs, difference, DRAWS)


def compare_combinations(runner: Runner, target: Target) -> Finding:
    """The best other noise-tilted search with many calls against NTRK†."""
    dagger = ntrk_variant(runner, target) + "-best-of-n"
    names = [name for name in runner.methods(target) if name in SEARCHES and is_noise_tilt(name) and name != dagger]
    best, rows = best_of(runner, target, names)
    dagger_rows = complete(runner, target, dagger)
    if not (rows and dagger_rows):
        return Finding(f"other combinations against {dagger}: not measured yet", None)
    lead = bootstrap(paired(rows, dagger_rows, "reward", PAIR))
    outcome = "yes" if lead.low > 0 else "chance" if lead.value > 0 else "no"
    missing = [name for name in names if not complete(runner, target, name)]
    text = f"the best other combination, {best}, has a target reward that differs from {dagger}'s by {lead} "
    return Finding(f"{text}(paired, {len(rows)} images each){_missing(missing)}", outcome, bool(missing))


COMPARISONS = (compare_with_others, compare_with_base, compare_combinations)
GOALS = (
    "NTRK at {0} calls above every other method at {1} calls",
    "held-out reward and Fréchet distance no worse than base",
    "best other combination above NTRK†",
)
WORDS = {
    "yes": "reached",
    "paired": "above, but intervals overlap",
    "chance": "not significant",
    "no": "not reached",
    None: "not measured",
}


def findings(runner: Runner) -> dict[str, list[Finding]]:
    """The findings of all COMPARISONS by target reward."""
    return {target.reward: [compare(runner, target) for compare in COMPARISONS] for target in runner.plan.targets}


def summary(runner: Runner, by_target: dict[str, list[Finding]]) -> list[str]:
    """One sentence per goal: for how many targets it is reached."""
    sentences = []
    for number, goal in enumerate(GOALS):
        found = [target_findings[number] for target_findings in by_target.values()]
        measured = [finding for finding in found if finding.outcome]
        reached = sum(finding.outcome == "yes" for finding in measured)
        open_ = sum(finding.open or finding.outcome is None for finding in found)
        text = f"Goal: {goal.format(*runner.plan.budgets)}: "
        text += f"reached for {reached} of {len(measured)} measured targets" if measured else "not measured yet"
        text += f" ({open_} incomplete)" if measured and open_ else ""
        if number == 0 and len(found) >= REQUIRED_TARGETS:
            text += _requirement(reached, open_)
        sentences.append(text + ".")
    return sentences


def _requirement(reached: int, open_: int) -> str:
    """Whether the first goal is reached for enough targets."""
    if reached + open_ < REQUIRED_TARGETS:
        return f"; {REQUIRED_TARGETS} targets are required: not reached"
    return f"; {REQUIRED_TARGETS} targets are required: " + (
        "not decided yet" if open_ and reached < REQUIRED_TARGETS else "reached"
    )


def _missing(names: Sequence[str]) -> str:
    return f"; not measured yet: {', '.join(names)}" if names else ""


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"

"""What the suite `paper` was asked, answered from its rows: noise tilting with few calls against the rest with many.

Three questions a target: whether NTRK at 25 network calls has more target reward than every other method at 500, on the
same prompts and seeds, with 95 % intervals that do not overlap; whether its held-out reward and Fréchet distance are no
worse than base's at 25; and whether a combination at 500 has more than NTRK†, the best of N NTRK trajectories.
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
# Fréchet distances of this many draws of pictures tell their difference from chance.
DRAWS = 200
# For how many targets NTRK is to lead.
AIM = 4


@dataclass(frozen=True)
class Question:
    """An answer: yes, no, "chance" where it leans to yes and chance may have done it, "paired" where only the
    differences of the same pictures tell it from chance; None if not measured yet.

    It is open as long as a method is missing that could turn it.
    """

    said: str
    answer: str | None
    open: bool = False

    def __str__(self) -> str:
        return WORDS[self.answer] + (" so far" if self.open and self.answer else "")


def tilts(name: str) -> bool:
    """Whether a method tilts the noise."""
    return isinstance(METHODS_OF_SUITE[name].method.proposal, NoiseTilt)


def champion(runner: Runner, target: Target) -> str:
    """NTRK, with its gradient estimated where the target has none."""
    gradient = "ntrk" in runner.methods(target)
    return "ntrk" if gradient else "ntrk-black-box"


def complete(runner: Runner, target: Target, name: str) -> list[Row]:
    """The test rows of a method with the strength it was tuned to, empty unless all are measured."""
    value = None if name == "base" else runner.chosen(target, name)
    rows = runner.rows("test", target, name, value=value)
    return rows if len(rows) >= len(runner.wanted("test", target, name)) else []


def best_of(runner: Runner, target: Target, names: Sequence[str]) -> tuple[str, list[Row]]:
    """The measured method with the highest mean target reward; the name is empty if none is measured."""
    measured = {name: rows for name in names if (rows := complete(runner, target, name))}
    best = max(measured, key=lambda name: np.mean([row["reward"] for row in measured[name]]), default="")
    return best, measured.get(best, [])


def same(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """The rows whose prompt and seed the others have too."""
    keys = {tuple(row[k] for k in PAIR) for row in others}
    return [row for row in rows if tuple(row[k] for k in PAIR) in keys]


def reward_interval(rows: Sequence[Row]) -> Interval:
    """Mean target reward and its interval."""
    return bootstrap([row["reward"] for row in rows])


def against_rivals(runner: Runner, target: Target) -> Question:
    """NTRK at few calls against the others at many."""
    name, (low, high) = champion(runner, target), runner.plan.budgets
    rivals = [rival for rival in runner.methods(target) if rival in SEARCHES and not tilts(rival)]
    tests = {rival: complete(runner, target, rival) for rival in rivals}
    rival, theirs = best_of(runner, target, rivals)
    mine = same(complete(runner, target, name), theirs)
    if not mine:
        return Question(f"{name} at {low} calls against the others at {high}: not measured yet", None)
    ours, lead = reward_interval(mine), bootstrap(paired(mine, theirs, "reward", PAIR))
    apart = ours.low > max(reward_interval(rows).high for rows in tests.values() if rows)
    waiting = [rival for rival, rows in tests.items() if not rows]
    said = (
        f"{name} at {low} calls is {'above' if lead.value > 0 else 'not above'} the strongest other method at {high}, "
        f"{rival}: {ours} against {reward_interval(theirs)}, {'no interval' if apart else 'an interval'} of the others "
        f"reaches into its own; paired lead {lead}, {len(mine)} pictures each"
    )
    said += f"; not measured yet: {', '.join(waiting)}" if waiting else ""
    answer = "yes" if apart else "paired" if lead.low > 0 else "chance" if lead.value > 0 else "no"
    return Question(said, answer, bool(waiting))


def against_base(runner: Runner, target: Target) -> Question:
    """Whether NTRK at few calls is no worse than base in held-out reward and Fréchet distance."""
    name = champion(runner, target)
    mine, base = complete(runner, target, name), runner.rows("test", target, "base")
    if not mine:
        return Question(f"{name} against base: not measured yet", None)
    gain, further = bootstrap(paired(mine, base, "judge_1", PAIR)), frechet_difference(mine, base)
    worse = gain.high < 0 or further.low > 0
    answer = "no" if worse else "yes" if gain.value >= 0 and further.value <= 0 else "chance"
    said = f"{name} against base: {target.judges[0]} {_signed(gain)}, Fréchet distance {_signed(further)}"
    return Question(said + f", {len(mine)} pictures each", answer)


def frechet_difference(rows: Sequence[Row], base: Sequence[Row]) -> Interval:
    """Fréchet distance to real emoji of some pictures less that of base's of the same prompts and seeds."""
    partner, real = {tuple(row[k] for k in PAIR): row["features"] for row in base}, real_features()
    pairs = np.array([(row["features"], partner[tuple(row[k] for k in PAIR)]) for row in rows], dtype=np.float32)

    def difference(drawn: np.ndarray) -> float:
        mine, theirs = torch.from_numpy(drawn).unbind(1)
        return frechet_distance(mine, real) - frechet_distance(theirs, real)

    return bootstrap(pairs, difference, DRAWS)


def combination(runner: Runner, target: Target) -> Question:
    """The best other combination with a noise tilt at many calls against NTRK†."""
    dagger = champion(runner, target) + "-best-of-n"
    names = [name for name in runner.methods(target) if name in SEARCHES and tilts(name) and name != dagger]
    name, mine = best_of(runner, target, names)
    theirs = complete(runner, target, dagger)
    if not (mine and theirs):
        return Question(f"a combination against {dagger}: not measured yet", None)
    lead = bootstrap(paired(mine, theirs, "reward", PAIR))
    answer = "yes" if lead.low > 0 else "chance" if lead.value > 0 else "no"
    verb = "above" if lead.value > 0 else "not above"
    waiting = [other for other in names if not complete(runner, target, other)]
    said = f"the best combination, {name}, is {verb} {dagger} by {lead} (paired, {len(mine)} pictures each)"
    said += f"; not measured yet: {', '.join(waiting)}" if waiting else ""
    return Question(said, answer, bool(waiting))


QUESTIONS = (against_rivals, against_base, combination)
ASKED = (
    "NTRK at {0} above every other method at {1}",
    "held-out and Fréchet no worse than base",
    "best combination above NTRK†",
)
WORDS = {
    "yes": "met",
    "paired": "above, but intervals overlap",
    "chance": "not beyond chance",
    "no": "missed",
    None: "not measured",
}


def answers(runner: Runner) -> dict[str, list[Question]]:
    """Target reward → the answers to QUESTIONS."""
    return {target.reward: [ask(runner, target) for ask in QUESTIONS] for target in runner.plan.targets}


def summary(runner: Runner, found: dict[str, list[Question]]) -> list[str]:
    """Whether the aims are met, in sentences."""
    said = []
    for number, asked in enumerate(ASKED):
        asked_of = [questions[number] for questions in found.values()]
        measured = [question for question in asked_of if question.answer]
        met = sum(question.answer == "yes" for question in measured)
        open_ = sum(question.open or question.answer is None for question in asked_of)
        text = f"{asked.format(*runner.plan.budgets)}: met for {met} of {len(measured)} targets measured"
        text = text if measured else f"{asked.format(*runner.plan.budgets)}: not measured yet"
        text += f" ({open_} not to the end)" if measured and open_ else ""
        said.append(text + (_aim(met, open_) if number == 0 and len(asked_of) >= AIM else "") + ".")
    return said


def _aim(met: int, open_: int) -> str:
    """Whether the aim is reached."""
    if met + open_ < AIM:
        return f"; the aim, {AIM} targets, is missed"
    return f"; the aim, {AIM} targets, is " + ("still open" if open_ and met < AIM else "reached")


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"

"""Whether the goals of the suite `paper` are reached, for methods tuned by the rule of fairness.

Per target, at the same prompts and seeds: NTRK with 25 network calls against every other method of the suite with 25
and with 500, NTRK with 12 calls against the same, NTRK†, the best of N NTRK trajectories, with 500 calls against every
other method with 500; further noise-tilted methods against NTRK and against NTRK†; and NTRK against base in what is not
optimised. Methods that a run leaves out are not measured, which leaves the outcome open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .._messages import counted
from ..proposals import NoiseTilt
from .ledger import Row
from .paper_plan import METHODS_OF_SUITE, SEARCHES, TOLERANCE, Target
from .paper_suite import Runner
from .statistics import Interval, mean_interval, paired_interval

# By how much the held-out reward may be below base's to be no worse, in standard deviations of base's images: a small
# effect (Cohen 1988).
HELDOUT_MARGIN = 0.2
WORDS = {"yes": "reached", "chance": "not significant", "no": "not reached", None: "–"}
NO_WORSE_WORDS = {"yes": "no worse", "chance": "undecided", "no": "worse", None: "–"}


@dataclass(frozen=True)
class Finding:
    """The outcome of a comparison.

    Attributes:
        text: the comparison in words and figures.
        outcome: "yes"; "no"; "chance": a difference in favour that is not significant, or an interval that does not
            decide whether NTRK is worse than base; None: not measured.
        open: whether methods that could change the outcome are not measured yet.
        words: the outcomes in words.
    """

    text: str
    outcome: str | None
    open: bool = False
    words: Mapping[str | None, str] = field(default_factory=lambda: WORDS)

    def __str__(self) -> str:
        return self.words[self.outcome] + (" so far" if self.open and self.outcome else "")


def is_noise_tilt(name: str) -> bool:
    """Whether a method tilts the noise."""
    return isinstance(METHODS_OF_SUITE[name].method.proposal, NoiseTilt)


def every_method(runner: Runner, target: Target) -> list[str]:
    """All methods of the suite for a target, also those that the plan leaves out."""
    return runner.methods(target, tuple(METHODS_OF_SUITE))


def ntrk_variant(runner: Runner, target: Target) -> str:
    """NTRK, or its version with an estimated gradient if the target has no gradient."""
    return "ntrk" if "ntrk" in every_method(runner, target) else "ntrk-black-box"


def complete(runner: Runner, target: Target, name: str, constrained: bool = True) -> list[Row]:
    """The test rows of a method at its chosen strength; empty unless all are measured."""
    value = None if name == "base" else runner.chosen_strength(target, name, constrained)
    rows = runner.rows("test", target, name, value=value)
    return rows if len(rows) >= runner.plan.images else []


def is_search(name: str) -> bool:
    """Whether a method has the budget of searches."""
    return name in SEARCHES


def compare_with_others(runner: Runner, target: Target, name: str, searches_only: bool = False) -> Finding:
    """A noise-tilted method against every method that tilts no noise."""
    every = every_method(runner, target)
    others = [n for n in every if not is_noise_tilt(n) and (is_search(n) or not searches_only)]
    tests = {other: rows for other in others if (rows := complete(runner, target, other))}
    rows = complete(runner, target, name)
    if not (rows and tests):
        return Finding(f"{name} against other methods", None)
    leads = {other: paired_interval(rows, their, "reward") for other, their in tests.items()}
    nearest = min(leads, key=lambda other: leads[other].value)
    ahead = sum(lead.low > 0 for lead in leads.values())
    missing = [other for other in others if other not in tests]
    text = (
        f"{name} ({runner.budget(name)} calls) minus {nearest} ({runner.budget(nearest)} calls), the best of the other "
        f"methods: {_signed(leads[nearest])}; {mean_interval(rows, 'reward')} against "
        f"{mean_interval(tests[nearest], 'reward')}; "
        f"significantly above {ahead} of {len(leads)} methods, {len(rows)} images each{_missing(missing)}"
    )
    outcome = "yes" if ahead == len(leads) else "chance" if leads[nearest].value > 0 else "no"
    return Finding(text, outcome, bool(missing) and outcome == "yes")


def compare_ntrk(runner: Runner, target: Target) -> Finding:
    """NTRK with few calls against all other methods with few and with many."""
    return compare_with_others(runner, target, ntrk_variant(runner, target))


def compare_short(runner: Runner, target: Target) -> Finding:
    """NTRK with half of the few calls against all other methods."""
    if "ntrk-12" not in every_method(runner, target):
        return Finding("ntrk-12: the target has no gradient", None)
    return compare_with_others(runner, target, "ntrk-12")


def compare_dagger(runner: Runner, target: Target) -> Finding:
    """NTRK† against all other methods with many calls."""
    return compare_with_others(runner, target, ntrk_variant(runner, target) + "-best-of-n", searches_only=True)


def compare_with_base(runner: Runner, target: Target) -> Finding:
    """Whether NTRK's held-out reward and judge's probability are no worse than base's: not more than a margin below
    them (a test of non-inferiority), TOLERANCE for the probability and HELDOUT_MARGIN for the held-out reward."""
    name = ntrk_variant(runner, target)
    rows, base = complete(runner, target, name), complete(runner, target, "base")
    if not (rows and base):
        return Finding(f"{name} against base", None, words=NO_WORSE_WORDS)
    gain, right = (paired_interval(rows, base, field) for field in ("heldout", "probability"))
    margin = HELDOUT_MARGIN * float(np.std([row["heldout"] for row in base]))
    kept = gain.low >= -margin and right.low > -TOLERANCE
    lost = gain.high < -margin or right.high < -TOLERANCE
    text = (
        f"{name} against base: held-out {target.heldout} {_signed(gain)} (margin {margin:.3g}), probability "
        f"{_signed(right)} (margin {TOLERANCE:g}), {len(rows)} images each"
    )
    return Finding(text, "yes" if kept else "no" if lost else "chance", words=NO_WORSE_WORDS)


def compare_variants(runner: Runner, target: Target, reference: str) -> Finding:
    """The best other noise-tilted method of the same budget against NTRK or NTRK†."""
    search = is_search(reference)
    names = [
        name
        for name in every_method(runner, target)
        if is_search(name) == search
        and is_noise_tilt(name)
        and name != reference
        and METHODS_OF_SUITE[name].calls is None
    ]
    tests = {name: rows for name in names if (rows := complete(runner, target, name))}
    reference_rows = complete(runner, target, reference)
    if not (tests and reference_rows):
        return Finding(f"other noise-tilted methods against {reference}", None)
    # The best is chosen on the rows that it is tested on, so the interval holds for all comparisons (Bonferroni).
    many = len(names)
    level = 1 - 0.05 / many
    leads = {name: paired_interval(rows, reference_rows, "reward", level) for name, rows in tests.items()}
    best = max(leads, key=lambda name: leads[name].value)
    outcome = "yes" if leads[best].low > 0 else "chance" if leads[best].value > 0 else "no"
    missing = [name for name in names if name not in tests]
    text = (
        f"{best}, the best of {len(tests)}, minus {reference}: {_signed(leads[best])}, an interval of {level:.3%} "
        f"for {many} comparisons, {len(reference_rows)} images each{_missing(missing)}"
    )
    return Finding(text, outcome, bool(missing) and outcome != "yes")


def compare_single(runner: Runner, target: Target) -> Finding:
    """The best other noise-tilted trajectory against NTRK."""
    return compare_variants(runner, target, ntrk_variant(runner, target))


def compare_combinations(runner: Runner, target: Target) -> Finding:
    """The best other noise-tilted search against NTRK†."""
    return compare_variants(runner, target, ntrk_variant(runner, target) + "-best-of-n")


@dataclass(frozen=True)
class Goal:
    """A goal, and the number of targets for which it has to be reached; None: none is set.

    Args:
        text: with {0} and {1} for the plan's budgets.
        compare: the comparison for one target.
        required: the number of targets.
    """

    text: str
    compare: Callable[[Runner, Target], Finding]
    required: int | None = None


GOALS = (
    Goal("NTRK at {0} calls above every other method at {0} and at {1} calls", compare_ntrk, 4),
    Goal("NTRK at 12 calls above every other method at {0} and at {1} calls", compare_short),
    Goal("NTRK† at {1} calls above every other method at {1} calls", compare_dagger, 5),
    Goal("another noise-tilted method at {0} calls above NTRK", compare_single),
    Goal("another noise-tilted search at {1} calls above NTRK†", compare_combinations),
    Goal("NTRK's held-out reward and the judge's probability no worse than base's", compare_with_base),
)


def findings(runner: Runner) -> dict[str, list[Finding]]:
    """The findings of all GOALS by target reward."""
    return {target.reward: [goal.compare(runner, target) for goal in GOALS] for target in runner.plan.targets}


def summary(runner: Runner, by_target: dict[str, list[Finding]]) -> list[str]:
    """One sentence per goal that is measured for a target: for how many targets it is reached."""
    sentences = []
    for number, goal in enumerate(GOALS):
        found = [target_findings[number] for target_findings in by_target.values()]
        measured = [finding for finding in found if finding.outcome]
        reached = sum(finding.outcome == "yes" and not finding.open for finding in measured)
        open_ = sum(finding.open or finding.outcome is None for finding in found)
        if not measured:
            continue
        text = f"{goal.text.format(*runner.plan.budgets)}: reached for {reached} of {len(measured)} measured targets"
        text += f" ({open_} incomplete)" if open_ else ""
        if goal.required is not None and len(found) >= goal.required:
            text += _requirement(goal.required, reached, open_)
        sentences.append(text + ".")
    return sentences


def _requirement(required: int, reached: int, open_: int) -> str:
    """Whether a goal is reached for enough targets."""
    if reached + open_ < required:
        return f"; {required} targets are required: not reached"
    decided = "not decided yet" if open_ and reached < required else "reached"
    return f"; {required} targets are required: {decided}"


def _missing(names: Sequence[str]) -> str:
    return f"; {counted(len(names), 'method')} more not measured" if names else ""


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"

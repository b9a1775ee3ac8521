"""The plan of the suite `paper`: targets, prompts, methods with the strengths to try, their order and their number.

Prompts are one or two common words. For the exact name of an emoji, emoji64 draws that emoji at any seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._messages import nearest_name
from ..methods import METHODS, Method
from ..path import Path as GaussianPath
from ..sampling import reverse_steps
from ..selection import Independent, Search

STEPS = 25


@dataclass(frozen=True)
class Target:
    """A target reward.

    Args:
        reward: its name.
        words: words that are added to the prompts in turn.
        heldout: the names of two held-out rewards.
        constraint: what a tuned strength must preserve: "prompt" or "roughness".
    """

    reward: str
    words: tuple[str, ...]
    heldout: tuple[str, str]
    constraint: str = "prompt"


TARGETS = (
    Target("style:3d", ("noto", "twemoji"), ("held-out style:3d", "held-out alignment")),
    Target("alignment", ("", "3d"), ("held-out alignment", "clarity"), "roughness"),
    Target("redness", ("", "noto"), ("held-out alignment", "clarity")),
    Target("jpeg", ("", "twemoji"), ("held-out alignment", "clarity")),
    Target("0.5*style:3d + 0.5*alignment", ("noto", "twemoji"), ("held-out style:3d", "held-out alignment")),
)
PROMPTS = ("bird", "fruit", "building", "vehicle", "monster", "hat", "drink", "bug")
TUNING_PROMPTS = ("mammal", "vegetable", "ball", "musical instrument", "clothing", "reptile")
KEEP = 1.5
ROUGHNESS = (2 / 3, 3 / 2)


@dataclass(frozen=True)
class Entry:
    """A method of the suite and the option for its strength.

    Args:
        method: the method.
        option: the name of the option; None: nothing is tuned.
        values: five values to try, from the weakest to the strongest.
        like: the single-trajectory method whose tuned value is used instead.
        steps: steps of a search; the number of particles follows from the budget.
    """

    method: Method
    option: str | None = None
    values: tuple[float, ...] = ()
    like: str | None = None
    steps: int = STEPS

    def at(self, value: float | None) -> Method:
        """The method at a strength."""
        return self.method if self.option is None else self.method.replace(**{self.option: value})


BASE = Entry(METHODS["base"])
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
TEMPERATURES = (3.0, 1.0, 0.3, 0.1, 0.03)
FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)
MIXTURE = METHODS["ntrk"].replace(whitened="mixture")
# Steps of searches with few long trajectories.
LONG = 100
SINGLE_TRAJECTORY = {
    "dps": Entry(METHODS["dps"], "scale", (1.0, 3.0, 10.0, 30.0, 100.0)),
    "lgd": Entry(METHODS["lgd"], "scale", SCALES),
    "mpgd": Entry(METHODS["mpgd"], "scale", SCALES),
    "ugd": Entry(METHODS["ugd"], "scale", SCALES),
    "tfg": Entry(METHODS["tfg"], "rho", SCALES),
    "freedom": Entry(METHODS["freedom"], "scale", (0.005, 0.02, 0.1, 0.4, 0.8)),
    "ntrk": Entry(METHODS["ntrk"], "rho", FRACTIONS),
    "ntrk-early": Entry(METHODS["ntrk"].replace(schedule="early"), "rho", (0.03, 0.1, 0.2, 0.4, 0.8)),
    "ntrk-mixture": Entry(MIXTURE, "best_of", (1e3, 1e6, 1e15, 1e40, 1e150)),
    "ntrk-mixture-early": Entry(MIXTURE.replace(schedule="early"), "best_of", (1e3, 1e6, 1e15, 1e40, 1e150)),
    "ntrk-path": Entry(METHODS["ntrk"].replace(whitened="path"), "rho", FRACTIONS),
    "ntrk-black-box": Entry(METHODS["ntrk-black-box"], "rho", (0.03, 0.1, 0.2, 0.4, 0.8)),
}
MANY = Independent(20)
SEARCHES = {
    "best-of-n": Entry(METHODS["best-of-n"]),
    "svdd": Entry(METHODS["svdd"], "temperature", (3.0, 1.0, 0.3, 0.1, 0.0)),
    "rbf": Entry(METHODS["rbf"]),
    "fk": Entry(METHODS["fk"], "temperature", TEMPERATURES),
    "das": Entry(METHODS["das"], "temperature", TEMPERATURES),
    "psi": Entry(METHODS["psi"], "temperature", TEMPERATURES),
    "ntrk-svdd": Entry(METHODS["ntrk-svdd"], "rho", like="ntrk"),
    # Tilted particles differ less in reward than base's images, whose deviation is the unit: at 1 SMC hardly resamples.
    "ntrk-smc": Entry(METHODS["ntrk-smc"].replace(temperature=0.1), "rho", like="ntrk"),
    "ntrk-black-box-svdd": Entry(
        SINGLE_TRAJECTORY["ntrk-black-box"].method.replace(selection=Search(20)), "rho", like="ntrk-black-box"
    ),
    **{
        f"{name}-best-of-n": Entry(
            SINGLE_TRAJECTORY[name].method.replace(selection=MANY), SINGLE_TRAJECTORY[name].option, like=name
        )
        for name in ("dps", "freedom", "ntrk", "ntrk-mixture", "ntrk-black-box")
    },
    **{
        f"{name}-long-best-of-n": replace(
            SINGLE_TRAJECTORY[name], method=SINGLE_TRAJECTORY[name].method.replace(selection=MANY), steps=LONG
        )
        for name in ("ntrk", "ntrk-black-box")
    },
    "ntrk-travel-best-of-n": Entry(
        METHODS["ntrk"].replace(selection=MANY, times=METHODS["freedom"].times), "rho", like="ntrk"
    ),
}
METHODS_OF_SUITE = {**SINGLE_TRAJECTORY, **SEARCHES}
# The order of measurement, over all targets: the main comparison, then further noise-tilted methods, then the rest.
FIRST = ("ntrk", "ntrk-black-box", "dps", "best-of-n", "svdd")
SECOND = (
    *("ntrk-best-of-n", "ntrk-svdd", "ntrk-mixture", "ntrk-early", "ntrk-mixture-early", "ntrk-mixture-best-of-n"),
    *("ntrk-path", "ntrk-smc", "ntrk-black-box-best-of-n", "ntrk-black-box-svdd"),
    *("ntrk-long-best-of-n", "ntrk-travel-best-of-n", "ntrk-black-box-long-best-of-n"),
)
WAVES = (FIRST, SECOND, tuple(name for name in METHODS_OF_SUITE if name not in (*FIRST, *SECOND)))


def count_calls(method: Method, path: GaussianPath, steps: int) -> int:
    """Network calls per image of a method on the path's grid; for RBF its budget."""
    taken = reverse_steps(path, method.times.expand(path, path.grid(steps)))
    initial: Any = method.initial
    before = 1 + initial.iterations if method.initial.needs_reward else 0
    per_step = getattr(method.selection, "budget", method.selection.particles)
    return taken * per_step + before * method.selection.particles


def fit_to_budget(method: Method, path: GaussianPath, budget: int, steps: int = STEPS) -> tuple[Method, int]:
    """The method with as many steps or particles as a budget of network calls per image allows, and its steps.

    A method with one particle has as many steps as possible; others have `steps` steps and as many particles as
    possible.

    Raises:
        ValueError: if the budget is too small for one particle.
    """
    option = "budget" if hasattr(method.selection, "budget") else "particles"
    if method.selection.particles == 1 and option == "particles":
        fitting = [steps for steps in range(1, budget + 1) if count_calls(method, path, steps) <= budget]
        return method, fitting[-1]
    many = budget // count_calls(method.replace(**{option: 1}), path, steps)
    if many < 1:
        raise ValueError(f"a budget of {budget} calls is too small for {steps} steps; use {steps} or more")
    return method.replace(**{option: many}), steps


@dataclass(frozen=True)
class Plan:
    """What is tuned and tested.

    Args:
        targets, prompts, tuning_prompts: what is measured.
        budgets, tuning_budgets: network calls per image of single-trajectory methods and of searches.
        seeds: seeds per prompt of the test, likewise.
        reference: seeds per tuning prompt of base, for the constraint on strengths.
        values: which of an entry's five values are tried.
        waves: groups of methods; a group is measured for all targets before the next one.
    """

    targets: tuple[Target, ...] = TARGETS
    prompts: tuple[str, ...] = PROMPTS
    tuning_prompts: tuple[str, ...] = TUNING_PROMPTS
    budgets: tuple[int, int] = (25, 500)
    tuning_budgets: tuple[int, int] = (25, 100)
    seeds: tuple[int, int] = (3, 1)
    reference: int = 6
    values: tuple[int, ...] = (0, 1, 2, 3, 4)
    waves: tuple[tuple[str, ...], ...] = WAVES


QUICK = Plan(
    TARGETS[:1],
    PROMPTS[:4],
    TUNING_PROMPTS[:2],
    seeds=(2, 1),
    values=(0, 2, 4),
    waves=(("ntrk", "ntrk-mixture", "dps", "best-of-n", "svdd", "ntrk-best-of-n"),),
)


def restrict(plan: Plan, methods: Sequence[str] | None = None, targets: Sequence[str] | None = None) -> Plan:
    """The plan with only these methods (and base) and only these target rewards, if given.

    Raises:
        ValueError: if a name is unknown.
    """
    for what, names, known in (
        ("method", methods, ["base", *METHODS_OF_SUITE]),
        ("target", targets, [target.reward for target in TARGETS]),
    ):
        unknown = [name for name in names or () if name not in known]
        if unknown:
            hint = nearest_name(unknown[0], known)
            raise ValueError(f"{what} {unknown[0]!r} is not in the suite paper{hint}; it has: {', '.join(known)}")
    if methods:
        plan = replace(plan, waves=(tuple(name for name in methods if name != "base"),))
    if targets:
        plan = replace(plan, targets=tuple(target for target in TARGETS if target.reward in targets))
    return plan

"""What the suite `paper` measures: its targets and prompts, its methods with the strengths that are tried, in which
order, and how much.

Prompts are one or two common words: the exact name of an emoji makes emoji64 draw that one emoji at any seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..methods import METHODS, Method
from ..path import Path as GaussianPath
from ..sampling import reverse_steps
from ..selection import Independent, Search

STEPS = 25


@dataclass(frozen=True)
class Target:
    """A reward by name, words that are added to the prompts in turn, the two judges that only look on, and what a tuned
    strength must keep: "prompt" or "roughness"."""

    reward: str
    words: tuple[str, ...]
    judges: tuple[str, str]
    kept: str = "prompt"


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
    """A method at one budget and the knob for its strength: five values that are tried, from the weakest, or the move
    whose tuned one it has (`like`). Without a knob there is nothing to tune. A search takes `steps` and as many
    particles as the calls then pay for."""

    method: Method
    knob: str | None = None
    values: tuple[float, ...] = ()
    like: str | None = None
    steps: int = STEPS

    def at(self, value: float | None) -> Method:
        return self.method if self.knob is None else self.method.replace(**{self.knob: value})


BASE = Entry(METHODS["base"])
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
TEMPERATURES = (3.0, 1.0, 0.3, 0.1, 0.03)
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
MIXTURE = METHODS["ntrk"].replace(whitened="mixture")
# Few long trajectories in place of many of 25 steps.
LONG = 100
MOVES = {
    "dps": Entry(METHODS["dps"], "scale", (1.0, 3.0, 10.0, 30.0, 100.0)),
    "lgd": Entry(METHODS["lgd"], "scale", SCALES),
    "mpgd": Entry(METHODS["mpgd"], "scale", SCALES),
    "ugd": Entry(METHODS["ugd"], "scale", SCALES),
    "tfg": Entry(METHODS["tfg"], "rho", SCALES),
    "freedom": Entry(METHODS["freedom"], "scale", (0.005, 0.02, 0.1, 0.4, 0.8)),
    "ntrk": Entry(METHODS["ntrk"], "rho", SHARES),
    "ntrk-early": Entry(METHODS["ntrk"].replace(schedule="early"), "rho", (0.03, 0.1, 0.2, 0.4, 0.8)),
    "ntrk-mixture": Entry(MIXTURE, "best_of", (1e3, 1e6, 1e15, 1e40, 1e150)),
    "ntrk-mixture-early": Entry(MIXTURE.replace(schedule="early"), "best_of", (1e3, 1e6, 1e15, 1e40, 1e150)),
    "ntrk-path": Entry(METHODS["ntrk"].replace(whitened="path"), "rho", SHARES),
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
    # Tilted particles differ by less than base's pictures, whose deviation is the unit: at 1 they are hardly resampled.
    "ntrk-smc": Entry(METHODS["ntrk-smc"].replace(temperature=0.1), "rho", like="ntrk"),
    "ntrk-black-box-svdd": Entry(
        MOVES["ntrk-black-box"].method.replace(selection=Search(20)), "rho", like="ntrk-black-box"
    ),
    **{
        f"{name}-best-of-n": Entry(MOVES[name].method.replace(selection=MANY), MOVES[name].knob, like=name)
        for name in ("dps", "freedom", "ntrk", "ntrk-mixture", "ntrk-black-box")
    },
    **{
        f"{name}-long-best-of-n": replace(MOVES[name], method=MOVES[name].method.replace(selection=MANY), steps=LONG)
        for name in ("ntrk", "ntrk-black-box")
    },
    "ntrk-travel-best-of-n": Entry(
        METHODS["ntrk"].replace(selection=MANY, times=METHODS["freedom"].times), "rho", like="ntrk"
    ),
}
METHODS_OF_SUITE = {**MOVES, **SEARCHES}
# What is measured first, over all targets: the question of the suite, then what noise tilting can add, then the rest.
FIRST = ("ntrk", "ntrk-black-box", "dps", "best-of-n", "svdd")
SECOND = (
    *("ntrk-best-of-n", "ntrk-svdd", "ntrk-mixture", "ntrk-early", "ntrk-mixture-early", "ntrk-mixture-best-of-n"),
    *("ntrk-path", "ntrk-smc", "ntrk-black-box-best-of-n", "ntrk-black-box-svdd"),
    *("ntrk-long-best-of-n", "ntrk-travel-best-of-n", "ntrk-black-box-long-best-of-n"),
)
WAVES = (FIRST, SECOND, tuple(name for name in METHODS_OF_SUITE if name not in (*FIRST, *SECOND)))


def calls(method: Method, path: GaussianPath, steps: int) -> int:
    """Network calls per image of a method on the path's grid; RBF's are its budget."""
    taken = reverse_steps(path, method.times.expand(path, path.grid(steps)))
    initial: Any = method.initial
    before = 1 + initial.iterations if method.initial.needs_reward else 0
    per_step = getattr(method.selection, "budget", method.selection.particles)
    return taken * per_step + before * method.selection.particles


def matched(method: Method, path: GaussianPath, budget: int, steps: int = STEPS) -> tuple[Method, int]:
    """The method with as many particles, or else steps, as a budget of network calls an image pays for, and its steps.

    A method of one particle takes as many steps as it can; others take `steps` and as many particles as they can.

    Raises:
        ValueError: if the budget does not pay for one particle.
    """
    knob = "budget" if hasattr(method.selection, "budget") else "particles"
    if method.selection.particles == 1 and knob == "particles":
        fitting = [steps for steps in range(1, budget + 1) if calls(method, path, steps) <= budget]
        return method, fitting[-1]
    many = budget // calls(method.replace(**{knob: 1}), path, steps)
    if many < 1:
        raise ValueError(f"a budget of {budget} calls does not pay for {steps} steps; give {steps} or more")
    return method.replace(**{knob: many}), steps


@dataclass(frozen=True)
class Plan:
    """How much is measured: what is tuned, what is tested, and at which budgets of network calls an image.

    budgets and tuning_budgets are those of moves and of searches; seeds is how many per prompt at each; reference is
    how many per tuning prompt base has, for what strengths must keep; values is which of an entry's five are tried.
    methods come in waves: a wave is finished for all targets before the next begins.
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


def restricted(plan: Plan, methods: Sequence[str] | None = None, targets: Sequence[str] | None = None) -> Plan:
    """The plan with these methods and these target rewards alone, where given; base always runs.

    Raises:
        ValueError: if a name is unknown.
    """
    for what, names, known in (
        ("method", methods, ["base", *METHODS_OF_SUITE]),
        ("target", targets, [target.reward for target in TARGETS]),
    ):
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise ValueError(f"{what} {unknown[0]!r} is not in the suite paper; it has: {', '.join(known)}")
    if methods:
        plan = replace(plan, waves=(tuple(name for name in methods if name != "base"),))
    if targets:
        plan = replace(plan, targets=tuple(target for target in TARGETS if target.reward in targets))
    return plan

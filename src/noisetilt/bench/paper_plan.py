"""The plan of the suite `paper`: targets, prompts, methods with the strengths to try, their order and their number.

Prompts are names of emoji that the judge knows, with a style word. Tuning prompts and test prompts are disjoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._messages import nearest_name
from ..methods import METHODS, Method
from ..path import Path as GaussianPath
from ..sampling import reverse_steps
from ..selection import Independent, Search
from .statistics import prompted_concept

STEPS = 25
# The rule of fairness: by how much the mean probability of the right concept may be below base's.
TOLERANCE = 0.05
POINTS = f"{100 * TOLERANCE:.0f} percentage points"
# How many strengths beyond the five are tried at most: stronger ones while the rule chooses the strongest one tried,
# weaker ones while none satisfies it.
MORE_STRENGTHS = 2
FLAT_STYLES = ("noto", "twemoji", "flat", "blob")
PROMPTS = (
    *("cat face", "house", "fish", "bird", "frog", "lion", "elephant", "octopus", "butterfly", "turtle", "rose"),
    *("sunflower", "cactus", "banana", "grapes", "pizza", "doughnut", "automobile", "bus", "airplane", "guitar"),
    *("crown", "top hat", "umbrella", "hammer", "telephone", "alarm clock", "robot", "ghost", "trophy", "rainbow"),
    "clown face",
)
TUNING_PROMPTS = (
    *("dog face", "red apple", "sailboat", "owl", "mushroom", "soccer ball", "hamburger", "bicycle", "snowman"),
    *("penguin", "light bulb", "birthday cake", "panda", "strawberry", "rocket", "key"),
)


@dataclass(frozen=True)
class Target:
    """A target reward.

    Args:
        reward: its name.
        words: style words that are added to the prompts in turn; "" adds none.
        heldout: the name of a held-out reward that measures the same; held-out alignment if there is none.
        concept: what the target asks the images to show; naming it counts as right, as naming the prompt's concept
            does. None: the target asks for nothing that the prompt does not.
        prompts, tuning_prompts: names of emoji for the test and for the tuning.
    """

    reward: str
    words: tuple[str, ...] = FLAT_STYLES
    heldout: str = "alignment"
    concept: str | None = None
    prompts: tuple[str, ...] = PROMPTS
    tuning_prompts: tuple[str, ...] = TUNING_PROMPTS

    def concepts(self, prompt: str) -> list[str]:
        """The names of the concepts that count as right for a prompt of this target."""
        name = prompted_concept(prompt)
        return [name] if self.concept is None else [name, self.concept]


MIXTURE_TARGET = "0.5*style:3d + 0.5*alignment"
TARGETS = (
    Target("style:3d", heldout="style:3d"),
    Target("alignment", ("", *FLAT_STYLES, "3d")),
    Target(
        "concept:tiger face",
        ("3d", *FLAT_STYLES),
        "concept:tiger face",
        "tiger face",
        ("cat face", "lion", "fox", "bear", "rabbit face", "cow face", "monkey face", "horse face"),
        ("dog face", "wolf", "panda", "pig face"),
    ),
    Target(
        "classifier:imagenet:teapot",
        ("3d", *FLAT_STYLES),
        "concept:teapot",
        "teapot",
        ("hot beverage", "teacup without handle", "pot of food", "glass of milk", "amphora", "bubble tea"),
        ("beer mug", "cup with straw", "wine glass", "honey pot"),
    ),
    Target("redness", ("3d", *FLAT_STYLES)),
    Target(MIXTURE_TARGET, heldout="style:3d"),
    Target("jpeg", ("3d", *FLAT_STYLES)),
)


@dataclass(frozen=True)
class Entry:
    """A method of the suite and the option for its strength.

        from noisetilt import Method
        from noisetilt.bench import Entry, bench

        mine = Entry(Method(proposal=MyProposal()), "omega", (0.01, 0.02, 0.05, 0.1, 0.2), name="mine")
        bench("paper", "out/mine", methods=[mine], targets=["style:3d"])

    Args:
        method: the method.
        option: the name of the option; None: nothing is tuned.
        values: five values to try, from the weakest to the strongest. `weaker` and `stronger` have
            those before and after them.
        like: the single-trajectory method whose tuned value is used instead.
        steps: steps of a search; the number of particles follows from the budget.
        calls: network calls per image, if other than the plan's budget.
        name: of a method that is not in the suite, in its rows and in the report.
        search: whether it has the network calls of a search; None: if it has several particles.
    """

    method: Method
    option: str | None = None
    values: tuple[float, ...] = ()
    like: str | None = None
    steps: int = STEPS
    calls: int | None = None
    name: str = ""
    search: bool | None = None

    @property
    def is_search(self) -> bool:
        """Whether the method has the network calls of a search."""
        selection = self.method.selection
        return self.search if self.search is not None else selection.particles > 1 or hasattr(selection, "budget")

    def stronger(self, values: Sequence[float]) -> float | None:
        """The strength after these in the same ratio, at most 1 for ρ; None if there is none, or the method refuses
        it."""
        before, last = values[-2:]
        # TFG's rho is a scale, and larger than 1.
        fraction = self.option == "rho" and last <= 1
        if last == 0 or (fraction and last == 1):
            return None
        following = float(f"{last * last / before:.2g}")
        return self._taken(min(following, 1.0) if fraction else following, last)

    def weaker(self, values: Sequence[float]) -> float | None:
        """The strength before these in the same ratio; None if the method refuses it."""
        first, second = values[:2]
        return self._taken(float(f"{first * first / second:.2g}"), first)

    def _taken(self, value: float, beside: float) -> float | None:
        """A strength beyond another one, as a whole number if that is one; None if it is 0 or the method refuses it."""
        value = round(value) if isinstance(beside, int) else value
        if self.option in self.method.options():  # of a method of which only the rows are known it is not
            try:
                self.at(value)
            except ValueError:
                return None
        return None if value in (0, beside) else value

    def at(self, value: float | None) -> Method:
        """The method at a strength."""
        return self.method if self.option is None else self.method.replace(**{self.option: value})


BASE = Entry(METHODS["base"])
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
TEMPERATURES = (3.0, 1.0, 0.3, 0.1, 0.03)
RHOS = (0.01, 0.02, 0.03, 0.05, 0.1)
# Of the early and the late schedule, which reach ρ only at one end of the path.
STEEP_RHOS = (0.015, 0.03, 0.045, 0.075, 0.15)
PATH_RHOS = (0.005, 0.01, 0.015, 0.02, 0.05)
NTRK = METHODS["ntrk"]
MIXTURE = NTRK.replace(whitened="mixture")
PATH = NTRK.replace(whitened="path")
# Steps of searches with few long trajectories.
LONG = 100
SHORT = 12
SINGLE_TRAJECTORY = {
    "dps": Entry(METHODS["dps"], "scale", (1.0, 2.0, 3.0, 10.0, 30.0)),
    "lgd": Entry(METHODS["lgd"], "scale", SCALES),
    "mpgd": Entry(METHODS["mpgd"], "scale", SCALES),
    "ugd": Entry(METHODS["ugd"], "scale", SCALES),
    "tfg": Entry(METHODS["tfg"], "rho", SCALES),
    "freedom": Entry(METHODS["freedom"], "scale", (0.02, 0.1, 0.2, 0.4, 0.8)),
    "ntrk": Entry(NTRK, "rho", RHOS),
    "ntrk-12": Entry(NTRK, "rho", (0.02, 0.04, 0.06, 0.1, 0.2), calls=SHORT),
    "ntrk-early": Entry(NTRK.replace(schedule="early"), "rho", STEEP_RHOS),
    "ntrk-late": Entry(NTRK.replace(schedule="late"), "rho", STEEP_RHOS),
    "ntrk-bump": Entry(NTRK.replace(schedule="bump"), "rho", RHOS),
    "ntrk-mixture": Entry(MIXTURE, "rho", (0.05, 0.1, 0.2, 0.4, 0.8)),
    "ntrk-mixture-early": Entry(MIXTURE.replace(schedule="early"), "rho", (0.1, 0.2, 0.4, 0.6, 0.9)),
    "ntrk-path": Entry(PATH, "rho", PATH_RHOS),
    "ntrk-x0": Entry(METHODS["ntrk-x0"], "rho", (0.02, 0.03, 0.05, 0.1, 0.2)),
    "ntrk-path-early": Entry(PATH.replace(schedule="early"), "rho", PATH_RHOS),
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
        for name in ("dps", "ugd", "freedom", "ntrk", "ntrk-mixture", "ntrk-path", "ntrk-x0", "ntrk-black-box")
    },
    **{
        f"{name}-long-best-of-n": replace(
            SINGLE_TRAJECTORY[name], method=SINGLE_TRAJECTORY[name].method.replace(selection=MANY), steps=LONG
        )
        for name in ("ntrk", "ntrk-black-box")
    },
    "ntrk-travel-best-of-n": Entry(NTRK.replace(selection=MANY, times=METHODS["freedom"].times), "rho", like="ntrk"),
}
METHODS_OF_SUITE = {**SINGLE_TRAJECTORY, **SEARCHES}
# The order of measurement, over all targets: the main comparison, then further noise-tilted methods, then the rest.
FIRST = ("ntrk", "ntrk-black-box", "dps", "freedom", "ugd", "mpgd", "lgd", "best-of-n", "svdd")
SECOND = (
    *("ntrk-x0", "ntrk-best-of-n", "ntrk-x0-best-of-n", "ntrk-12", "ntrk-svdd", "ntrk-path", "ntrk-mixture"),
    *("ntrk-early", "ntrk-late", "ntrk-bump", "ntrk-mixture-early", "ntrk-path-early"),
    *("ntrk-mixture-best-of-n", "ntrk-path-best-of-n", "ntrk-smc"),
    *("ntrk-black-box-best-of-n", "ntrk-black-box-svdd"),
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
        if not fitting:
            raise ValueError(
                f"a budget of {budget} calls is too small for the {count_calls(method, path, 1)} calls of one step of "
                "the method; give it fewer iterations"
            )
        return method, fitting[-1]
    many = budget // count_calls(method.replace(**{option: 1}), path, steps)
    if many < 1:
        raise ValueError(f"a budget of {budget} calls is too small for {steps} steps; use {steps} or more")
    return method.replace(**{option: many}), steps


@dataclass(frozen=True)
class Plan:
    """What is tuned and tested.

    Args:
        targets: the target rewards, with their prompts.
        budgets, tuning_budgets: network calls per image of single-trajectory methods and of searches.
        images, tuning_images: images per method and strength, of prompts in turn, then of the next seed.
        values: which of an entry's five values are tried.
        waves: groups of methods; a group is measured for all targets before the next one.
        own: name → entry of methods that are not in the suite.
        all_tuning: whether a strength is chosen on all tuning images that a folder has, if these are more than
            `tuning_images`, as in a folder with published rows.
    """

    targets: tuple[Target, ...] = TARGETS
    budgets: tuple[int, int] = (25, 500)
    tuning_budgets: tuple[int, int] = (25, 100)
    images: int = 64
    tuning_images: int = 32
    values: tuple[int, ...] = (0, 1, 2, 3, 4)
    waves: tuple[tuple[str, ...], ...] = WAVES
    own: Mapping[str, Entry] = field(default_factory=dict)
    all_tuning: bool = False


QUICK = Plan(
    (replace(TARGETS[0], prompts=PROMPTS[:4], tuning_prompts=TUNING_PROMPTS[:4]),),
    budgets=(10, 50),
    tuning_budgets=(10, 30),
    images=4,
    tuning_images=4,
    values=(1, 3),
    waves=(("ntrk", "dps", "best-of-n", "ntrk-best-of-n"),),
)


def check_names(suite: str, what: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raises a ValueError if a name of a suite's method or target is unknown."""
    unknown = [name for name in names or () if name not in known]
    if unknown:
        hint = nearest_name(unknown[0], known)
        raise ValueError(f"{what} {unknown[0]!r} is not in the suite {suite}{hint}; it has: {', '.join(known)}")


def check_images(images: int) -> None:
    """Raises a ValueError if there are too few images for a mean and its interval."""
    if images < 2:
        raise ValueError(f"images = {images} must be 2 or more, of which a mean and its interval can be made")


def restrict(
    plan: Plan,
    methods: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    images: int | None = None,
) -> Plan:
    """The plan with only these methods (and base), which may be its own, only these target rewards and so many images
    per method and strength, if given.

    Raises:
        ValueError: if a name is unknown, or there are fewer than 2 images.
    """
    if images is not None:
        check_images(images)
        plan = replace(plan, images=images, tuning_images=min(images, plan.tuning_images))
    check_names("paper", "method", methods, ["base", *METHODS_OF_SUITE, *plan.own])
    check_names("paper", "target", targets, [target.reward for target in TARGETS])
    if methods:
        plan = replace(plan, waves=(tuple(name for name in dict.fromkeys(methods) if name != "base"),))
    if targets:
        by_reward = {target.reward: target for target in (*TARGETS, *plan.targets)}
        plan = replace(plan, targets=tuple(by_reward[reward] for reward in dict.fromkeys(targets)))
    return plan

"""The settings that a visitor gives, and their checks, which name the field that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._messages import counted
from ..methods import METHODS, find_method
from ..sampling import Engine, check_reward
from .mix import mix_spec
from .session import Session, Visitor
from .strengths import ASCENTS, SAMPLERS, check_strength, options_for

# Limits of one run of the page, so that no visitor occupies it for hours. The command line has none.
MAX_IMAGES, MAX_STEPS, MAX_ITERATIONS, MAX_BUDGET, MAX_PROMPT = 16, 200, 300, 2000, 500


@dataclass(frozen=True)
class Settings:
    """What all tabs share.

    Args:
        prompt: of all images.
        sliders: name of a reward → weight.
        strength: 0 to 1.
        steps: sampling steps.
        n: number of images.
        seed: of the first image.
    """

    prompt: str
    sliders: Mapping[str, float]
    strength: float
    steps: int
    n: int
    seed: int

    @property
    def reward(self) -> str:
        """The reward as `rewards.load` reads it."""
        return mix_spec(self.sliders)

    @property
    def seeds(self) -> list[int]:
        """One per image."""
        return list(range(self.seed, self.seed + self.n))


def check_whole(name: str, value: Any, least: int, most: int) -> int:
    """The value as a whole number.

    Raises:
        ValueError: if it is none, or out of range.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most or value != int(value):
        shown = "empty" if value is None else f"{value:g}" if isinstance(value, float) else repr(value)[:40]
        raise ValueError(f"{name} is {shown}, expected a whole number from {least} to {most}")
    return int(value)


class Errors:
    """Messages by field, the first one for each field."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def check(self, field: str, check: Callable[..., Any], *arguments: Any) -> None:
        """Calls a check; a ValueError becomes the message of the field."""
        try:
            check(*arguments)
        except (ValueError, ImportError, OSError) as error:
            self.found.setdefault(field, str(error)[:1].upper() + str(error)[1:] + ".")


def check_shared(settings: Mapping[str, Any], model: Any, has_steps: bool = True) -> Errors:
    """Checks what all tabs share.

    Args:
        settings: prompt, sliders, strength, steps, n and seed as the page sends them.
        model: the model that the run uses.
        has_steps: whether the run has steps.
    """
    errors = Errors()
    errors.check("prompt", check_prompt, settings["prompt"], model)
    errors.check("sliders", mix_spec, settings["sliders"])
    errors.check("strength", check_strength, settings["strength"])
    if has_steps:
        errors.check("steps", check_whole, "the number of steps", settings["steps"], 1, MAX_STEPS)
    errors.check("n", check_whole, "the number of images", settings["n"], 1, MAX_IMAGES)
    errors.check("seed", check_whole, "the seed", settings["seed"], 0, 2**53 - MAX_IMAGES)
    return errors


def check_prompt(prompt: Any, model: Any) -> None:
    """Raises a ValueError for a prompt that is empty, too long, or has words that the model does not know."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError('the prompt is empty; type one, such as "cat face"')
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(prompt)} characters, expected at most {MAX_PROMPT}")
    if hasattr(model, "denoiser"):
        model.denoiser([prompt])
    elif getattr(model, "words", ()):
        model.check([prompt], "base", None, 1.0)


def check_generate(session: Session, visitor: Visitor, settings: Mapping[str, Any], method: Any) -> dict[str, str]:
    """Messages by field for a run of the tab Generate."""
    errors = check_shared(settings, session.model)
    errors.check("method", check_one_of, method, SAMPLERS)
    if not errors.found:
        errors.check("sliders", session.load_mix, mix_spec(settings["sliders"]), visitor.own)
    if not errors.found:
        errors.check("method", check_run, session, visitor, settings, method, {})
    return errors.found


def check_compare(
    session: Session, visitor: Visitor, settings: Mapping[str, Any], methods: Sequence[Any], budget: Any
) -> dict[str, str]:
    """Messages by field for a run of the tab Compare."""
    errors = check_shared(settings, session.model)
    if not methods:
        errors.found["methods"] = "No method is selected; select at least one."
    for method in methods:
        errors.check("methods", check_one_of, method, ("base", *SAMPLERS))
    errors.check("budget", check_whole, "the budget", budget, 1, MAX_BUDGET)
    if not errors.found and budget < settings["steps"]:
        calls, steps = counted(int(budget), "network call"), int(settings["steps"])
        errors.found["budget"] = f"The budget is {calls} per image, expected at least the number of steps, {steps}."
    if not errors.found:
        errors.check("sliders", session.load_mix, mix_spec(settings["sliders"]), visitor.own)
    if not errors.found:
        errors.check("methods", check_budget, session, methods, int(settings["steps"]), int(budget))
    if not errors.found:
        for method in methods:
            extra = particles_within(session, method, int(settings["steps"]), int(budget))
            errors.check("methods", check_run, session, visitor, settings, method, extra)
    return errors.found


def check_optimise(
    session: Session, visitor: Visitor, settings: Mapping[str, Any], method: Any, iterations: Any
) -> dict[str, str]:
    """Messages by field for a run of the tab Optimise."""
    errors = check_shared(settings, session.one_step_model(), has_steps=False)
    errors.check("method", check_one_of, method, ASCENTS)
    errors.check("iterations", check_whole, "the number of iterations", iterations, 1, MAX_ITERATIONS)
    if not errors.found:
        errors.check("sliders", session.load_mix, mix_spec(settings["sliders"]), visitor.own)
    if not errors.found:
        reward = session.load_mix(mix_spec(settings["sliders"]), visitor.own)
        errors.check("method", check_reward, find_method(method), reward)
    return errors.found


def check_one_of(method: Any, known: Sequence[str]) -> None:
    """Raises a ValueError unless the method is one of those that a tab offers."""
    if method not in known:
        raise ValueError(f"the method is {method!r}, expected one of {', '.join(known)}")


def check_budget(session: Session, methods: Sequence[str], steps: int, budget: int) -> None:
    """Raises a ValueError if one trajectory of a method takes more network calls than the budget."""
    needed = {method: calls_needed(session, method, steps) for method in methods}
    above = [f"{method} ({calls})" for method, calls in needed.items() if calls > budget]
    if above:
        raise ValueError(
            f"the budget is {budget} network calls per image, and one trajectory needs more with {', '.join(above)}; "
            "raise the budget, or leave these methods out"
        )


def check_run(
    session: Session, visitor: Visitor, settings: Mapping[str, Any], method: str, extra: Mapping[str, Any]
) -> None:
    """Raises a ValueError if a method cannot run with the model, the reward and the steps."""
    chosen = find_method(method).replace(**{**options_for(method, settings["strength"]), **extra})
    reward, model = session.load_mix(mix_spec(settings["sliders"]), visitor.own), session.model
    if hasattr(model, "check"):
        return model.check([settings["prompt"]], chosen, reward, session.job.eta)
    check_reward(chosen, reward)
    engine = Engine(chosen, model.path, model.shape, [0], session.job.eta)
    engine.set_grid(chosen.times.expand(model.path, model.path.grid(int(settings["steps"]))))


def calls_per_trajectory(session: Session, method: str, steps: int) -> int:
    """Network calls of one particle of a method: its steps, those that time travel repeats included."""
    model = session.model
    if not hasattr(model, "path"):
        return steps
    from ..sampling import reverse_steps

    return reverse_steps(model.path, METHODS[method].times.expand(model.path, model.path.grid(steps)))


def calls_needed(session: Session, method: str, steps: int) -> int:
    """Network calls of one particle of a method: its steps, and those that choose its initial noise."""
    initial: Any = METHODS[method].initial
    return calls_per_trajectory(session, method, steps) + (initial.iterations + 1 if initial.needs_reward else 0)


def particles_within(session: Session, method: str, steps: int, budget: int) -> dict[str, int]:
    """The options with which a method makes at most `budget` network calls per image; the unguided base has none."""
    options = METHODS[method].options()
    if method == "base":
        return {}
    each = max(1, budget // calls_needed(session, method, steps))
    return {"budget": each} if "budget" in options else {"particles": each}

"""The fields that all tabs share, and the errors beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..integrations.load import is_pipeline
from ..methods import METHODS
from .mix import LIMIT, OFFERED
from .session import OWN, Session
from .settings import Settings
from .strengths import DEFAULT_STRENGTH, describe_strength

# The shared fields besides the sliders, in the order in which events send them.
OTHERS = ("prompt", "strength", "steps", "n", "seed")
# The rewards of every page whose sliders are not below "More rewards".
FIRST = ("style:3d", "alignment", "style:noto", "redness")
# The weights of a page that starts with the style: mixed with the match with the prompt, images keep what they show.
STYLE_MIX = {"style:3d": 0.5, "alignment": 0.5}


@dataclass
class SharedFields:
    """The components of the fields; `sliders` by the name of their reward."""

    prompt: gr.Textbox
    sliders: dict[str, gr.Slider]
    strength: gr.Slider
    steps: gr.Number
    n: gr.Number
    seed: gr.Number

    @property
    def inputs(self) -> list[Any]:
        """The components in the order in which `read` takes their values."""
        return [self.prompt, self.strength, self.steps, self.n, self.seed, *self.sliders.values()]

    def read(self, values: Sequence[Any]) -> tuple[dict[str, Any], list[Any]]:
        """The values of the shared fields as they were sent, by name, and those of the tab's own fields."""
        named = dict(zip(OTHERS, values, strict=False))
        count = len(self.inputs)
        named["sliders"] = dict(zip(self.sliders, values[len(OTHERS) : count], strict=True))
        return named, list(values[count:])

    def errors(self, found: dict[str, str], own: Sequence[str]) -> list[Any]:
        """What gradio shows beside each field: the shared ones, then those of the tab with these names."""
        names = [*OTHERS, "sliders", *[None] * (len(self.sliders) - 1), *own]
        return [gr.validate(name not in found, found.get(name, "")) for name in names]


def settings_of(named: dict[str, Any]) -> Settings:
    """The settings of values that were checked."""
    counts = {name: int(named[name] or 0) for name in ("steps", "n", "seed")}
    return Settings(named["prompt"], named["sliders"], float(named["strength"]), **counts)


def first_weights(names: Sequence[str]) -> dict[str, float]:
    """The weights of a page's rewards at its start, of which the first one is that of the command line."""
    return STYLE_MIX if names[0] == "style:3d" and set(STYLE_MIX) <= set(names) else {names[0]: 1.0}


def shared_fields(session: Session, prompt: str = "red heart") -> SharedFields:
    """Draws the fields."""
    text = gr.Textbox(prompt, label="Prompt", info=_prompt_info(session), elem_id="nt-prompt")
    # A page may be started with the reward that visitors may type.
    names = list(dict.fromkeys([*session.names, *([OWN] if session.allow_code else [])]))
    first = [name for name in names if name in FIRST or name not in OFFERED]
    with gr.Accordion("Reward mix", open=True, elem_id="nt-mix"):
        gr.Markdown("The run maximises the sum of these rewards. A negative weight avoids what the reward measures.")
        with gr.Row(elem_classes="nt-sliders"):
            weights = first_weights(names)
            drawn = {name: _slider(name, weights.get(name, 0.0)) for name in first}
        if len(first) < len(names):
            with gr.Accordion("More rewards", open=False), gr.Row(elem_classes="nt-sliders"):
                drawn |= {name: _slider(name, 0.0) for name in names if name not in first}
    sliders = {name: drawn[name] for name in names}
    strength = gr.Slider(
        0, 1, DEFAULT_STRENGTH, step=0.01, label="Strength", info="0: hardly guided. 1: too strong for most."
    )
    with gr.Row(elem_classes="nt-numbers"):
        steps = gr.Number(session.model.steps, label="Steps", min_width=80, elem_id="nt-steps")
        n = gr.Number(4, label="Images", min_width=80)
        seed = gr.Number(0, label="First seed", min_width=80)
    return SharedFields(text, sliders, strength, steps, n, seed)


def method_field(shared: SharedFields, names: Sequence[str], first: str) -> gr.Dropdown:
    """Draws a choice of methods, with what the chosen one does and the option that the strength sets."""
    field = gr.Dropdown(list(names), value=first, label="Method", info=_described(first, DEFAULT_STRENGTH))
    for changed in (field, shared.strength):
        changed.change(_describe, [field, shared.strength], field, show_progress="hidden", api_visibility="private")
    return field


def _described(method: str, strength: float) -> str:
    summary = METHODS[method].summary
    return f"{summary[:1].upper()}{summary[1:]}. This strength sets {describe_strength(method, strength)}."


def _describe(method: str, strength: Any) -> Any:
    try:
        return gr.update(info=_described(method, strength))
    except ValueError:
        return gr.skip()


def _prompt_info(session: Session) -> str:
    """What may be typed: models with a vocabulary refuse other words."""
    if not getattr(session.model, "words", ()):
        return "What the images show."
    if is_pipeline(session.job.model):
        return "What the images show. The model knows a list of words and refuses others."
    return "What the images show: an emoji, or words from the names of emoji, such as cat face or rocket."


def _slider(name: str, value: float) -> gr.Slider:
    label = "my reward" if name == OWN else name
    return gr.Slider(-LIMIT, LIMIT, value, step=0.05, label=label, min_width=150, buttons=[])

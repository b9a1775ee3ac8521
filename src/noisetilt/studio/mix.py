"""The reward mix: sliders, and the weighted sum that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..rewards import load as load_reward
from ..rewards.catalogue import split_terms
from ..rewards.reward import evaluate_any

LIMIT = 2.0
# Sliders of every page, if the reward works on images of the model's size.
OFFERED = (
    *("style:3d", "style:noto", "style:twemoji", "style:flat", "style:blob", "alignment"),
    *("redness", "saturation", "brightness"),
)
# The weight in the sum of a slider at 1. The closed forms vary less than the learned rewards: without a larger weight
# their gradient would not count in a mix. Standard deviation of style:3d divided by that of the reward, over the eight
# unguided images of "cat face" at the seeds 0 to 7: 111, 92 and 104.
WEIGHTS = {"redness": 100.0, "saturation": 100.0, "brightness": 100.0}


def supported(names: Sequence[str], size: tuple[int, int], prompt: str) -> list[str]:
    """Those rewards that can be evaluated on images of this size (height, width) with this prompt.

    Raises:
        ImportError: if a reward needs a package that is not installed.
    """
    blank, found = torch.full((1, 3, *size), 0.5), []
    for name in names:
        try:
            evaluate_any(load_reward(name), blank, [prompt])
        except ValueError:
            continue
        found.append(name)
    return found


def slider_name(reward: str) -> str:
    """The name of a reward that is given a slider.

    Raises:
        ValueError: if it is a weighted sum.
    """
    [(weight, name), *rest] = split_terms(reward)
    if rest or weight != 1:
        raise ValueError(
            f"the reward {reward!r} is a weighted sum; give each of its rewards its own --reward, whose slider sets "
            "the weight"
        )
    return name


def check_value(value: Any) -> None:
    """Raises a ValueError unless the value of a slider is a number within its limits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LIMIT:
        raise ValueError(f"the weight is {value!r}, expected a number from {-LIMIT:g} to {LIMIT:g}")


def mix_spec(sliders: Mapping[str, float]) -> str:
    """The reward of slider values, as `rewards.load` reads it: "style:3d", or "style:3d + 50*redness".

    Raises:
        ValueError: if all sliders are 0, or a value is out of range.
    """
    for value in sliders.values():
        check_value(value)
    terms = [(value * WEIGHTS.get(name, 1.0), name) for name, value in sliders.items() if value]
    if not terms:
        raise ValueError("all weights are 0; move at least one slider")
    (first, name), *rest = terms
    start = name if first == 1 else f"{first:.6g}*{name}"
    return start + "".join(f" {'-' if w < 0 else '+'} {abs(w):.6g}*{n}".replace(" 1*", " ") for w, n in rest)


def slider_values(spec: str, names: Sequence[str]) -> dict[str, float]:
    """The slider values of a reward, one for each name.

    Raises:
        ValueError: if the reward has a term without a slider, or a weight that is out of a slider's range.
    """
    values = dict.fromkeys(names, 0.0)
    for weight, name in split_terms(spec):
        if name not in values:
            raise ValueError(f"the reward {name!r} has no slider on this page; start it with --reward {name}")
        values[name] += weight / WEIGHTS.get(name, 1.0)
    for name, value in values.items():
        if not math.isfinite(value) or abs(value) > LIMIT:
            raise ValueError(f"the weight of {name!r} is {value:g} of its slider, which ends at {LIMIT:g}")
    return {name: round(value, 6) for name, value in values.items()}

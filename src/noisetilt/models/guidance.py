"""The guidance scale of a model: its default, and the scales that it was trained for."""

from __future__ import annotations

import inspect
import math
import warnings
from numbers import Real
from typing import Any, NamedTuple


class TrainedGuidance(NamedTuple):
    """The guidance scales of a guidance-distilled network: its default, and the lowest and highest of its training."""

    default: float
    lowest: float
    highest: float


def check_guidance_scale(guidance: Any, trained: TrainedGuidance | None = None) -> float:
    """A guidance scale as a float. Warns of one outside the range that the network was trained for.

    Raises:
        ValueError: if it is not a finite number.
    """
    if isinstance(guidance, bool) or not isinstance(guidance, Real) or not math.isfinite(guidance):
        raise ValueError(f"guidance = {guidance!r} must be a finite number; 1 is no guidance")
    scale = float(guidance)
    if trained is not None and not trained.lowest <= scale <= trained.highest:
        warnings.warn(
            f"guidance = {scale:g} is outside the range that the model was trained for, {trained.lowest:g} to "
            f"{trained.highest:g}; its default is {trained.default:g}",
            stacklevel=3,
        )
    return scale


def flux_guidance(pipe: Any) -> float:
    """The guidance scale of a FluxPipeline that is called without one.

    It is that of the network's guidance input; without this input, that of true classifier-free guidance, 1 (none).
    """
    name = "guidance_scale" if pipe.transformer.config.guidance_embeds else "true_cfg_scale"
    return float(inspect.signature(type(pipe).__call__).parameters[name].default)

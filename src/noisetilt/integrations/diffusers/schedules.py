"""The path, the times and the prediction type of a diffusers scheduler."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...path import FlowPath, Path, Prediction, VPPath, uniform_grid

PREDICTION_NAMES: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "x0",
    "flow_prediction": "velocity",
    "trigflow": "v",
}


@dataclass(frozen=True)
class RatioPath:
    """A variance-preserving path whose time is the ratio σ/α itself: α = 1/sqrt(1 + t²), σ = t/sqrt(1 + t²).

    k-diffusion's σ is this ratio, so a schedule of σ's needs no training timesteps, and states have unit variance.
    """

    def alpha(self, t: float) -> float:
        return 1 / math.sqrt(1 + t * t)

    def sigma(self, t: float) -> float:
        return t / math.sqrt(1 + t * t)

    def prior_std(self, t: float) -> float:
        return 1.0

    def grid(self, steps: int) -> list[float]:
        return [t / (1 - t) for t in uniform_grid(steps, 0.99, 0.0)]


@dataclass(frozen=True)
class TrigPath:
    """TrigFlow (Lu & Song 2025, arXiv 2410.11081): α = cos t, σ = sin t, in units of the data's standard deviation."""

    def alpha(self, t: float) -> float:
        # A scheduler's first time is π/2 rounded, where the cosine may be slightly negative. It is not 0 there, which
        # would mean that no gradient exists: predictions of few-step models do depend on the noise.
        return max(1e-6, math.cos(t))

    def sigma(self, t: float) -> float:
        return math.sin(t)

    def prior_std(self, t: float) -> float:
        return 1.0

    def grid(self, steps: int) -> list[float]:
        return [math.pi / 2 * t for t in uniform_grid(steps)]


class CosinePath:
    """The cosine schedule of Würstchen (Pernias et al. 2024, arXiv 2306.00637), with t from 1 to 0.

    Args:
        scheduler: whose ᾱ as a function of t it takes, except that ᾱ = 1 at t = 0.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def _alpha_squared(self, t: float) -> float:
        time = torch.tensor([t], dtype=torch.float32)
        return float(self._scheduler._alpha_cumprod(time, time.device)) if t > 0 else 1.0

    def alpha(self, t: float) -> float:
        return math.sqrt(self._alpha_squared(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(1 - self._alpha_squared(t))

    def prior_std(self, t: float) -> float:
        return 1.0

    def grid(self, steps: int) -> list[float]:
        return uniform_grid(steps)


def is_cosine(scheduler: Any) -> bool:
    """Whether the schedule is that of Würstchen and Stable Cascade."""
    return hasattr(scheduler, "_alpha_cumprod")


def is_trig(scheduler: Any) -> bool:
    """Whether the schedule is that of TrigFlow (continuous-time consistency models)."""
    return scheduler.config.get("prediction_type") == "trigflow"


def is_flow(scheduler: Any) -> bool:
    """Whether the schedule is that of flow matching, with t = σ from 1 to 0."""
    config = scheduler.config
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(flow) or type(scheduler).__name__.startswith("FlowMatch")


def is_inverted(scheduler: Any) -> bool:
    """Whether σ is the part of the data, from 0 to 1, and the velocity is that from noise to data."""
    return is_flow(scheduler) and bool(scheduler.config.get("invert_sigmas"))


def is_edm(scheduler: Any) -> bool:
    """Whether the schedule is that of EDM, with preconditioning (Karras et al. 2022, arXiv 2206.00364)."""
    return hasattr(scheduler, "precondition_outputs") and "sigma_data" in scheduler.config


def unit_of(scheduler: Any) -> float:
    """The unit of the states: for EDM the standard deviation of its data, for others 1."""
    return float(scheduler.config.sigma_data) if is_edm(scheduler) else 1.0


def has_unit_variance(scheduler: Any) -> bool:
    """Whether the scheduler's states are α x_0 + σ ε with α² + σ² = 1, as those of DPM-Solver are. Those of Euler's
    are x_0 + σ ε."""
    return float(scheduler.init_noise_sigma) == 1 and not is_edm(scheduler)


def own_scheduler(scheduler: Any) -> Any:
    """The pipeline's own scheduler: during a guided call another one, which has it as `original`, is in its place."""
    while (original := vars(scheduler).get("original")) is not None:
        scheduler = original
    return scheduler


def first_order(original: Any) -> Any:
    """A scheduler with the original's timesteps and one network call per step. The original is not changed.

    A pipeline may be checked by one thread while it is called by another, so that the original may be that of the call.

    Raises:
        ValueError: if its schedule is not one of flow matching, TrigFlow, EDM or a table of betas.
    """
    import diffusers

    original = own_scheduler(original)
    name = type(original).__name__
    if "Inverse" in name:
        raise ValueError(
            f"{name} steps from an image to noise, and only steps from noise to an image can be guided; set "
            f"pipe.scheduler to a {name.replace('Inverse', '')}"
        )
    if name == "FlowMapEulerDiscreteScheduler":
        raise ValueError(
            f"{name} steps by a mean velocity that depends on the end of the step, from which x̂_0 cannot be computed; "
            "use a pipeline with a DDIM, Euler or FlowMatchEuler scheduler"
        )
    if is_trig(original):
        # Pipelines scale states and predictions by sigma_data; with 1 the path is variance preserving.
        return type(original).from_config(original.config, sigma_data=1.0)
    if is_flow(original):
        if getattr(original, "_scale_factors", None):
            raise ValueError(
                f"{name} has scale_factors = {original._scale_factors}, by which latents grow from step to step, and "
                "guided latents keep their size; set pipe.scheduler to one without scale_factors"
            )
        sigma_max = original.config.get("sigma_max")
        if original.config.get("use_karras_sigmas") and sigma_max is not None and sigma_max > 1:
            raise ValueError(
                f"{name} has σ up to {sigma_max:g}, of states x_0 + σ ε, which are not supported; use a pipeline whose "
                "scheduler is of DDIM, Euler or flow matching with σ from 1 to 0"
            )
        if getattr(original, "order", 1) == 1:
            return copy.deepcopy(original)
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(original.config)
    if is_edm(original) or is_cosine(original):
        return copy.deepcopy(original)
    if hasattr(original, "get_scalings_for_boundary_condition"):
        raise ValueError(
            f"{name} computes x̂_0 by scalings of its own from the output of a consistency model, which are not "
            "supported; use a latent consistency model, with LCMScheduler"
        )
    if not hasattr(original, "alphas_cumprod") or "prediction_type" not in original.config:
        raise ValueError(
            f"{name} is not supported, because it has no table of ᾱ or σ that gives x̂_0; set pipe.scheduler to a DDIM, "
            "Euler or FlowMatchEuler scheduler if the network predicts ε, v, x_0 or a velocity"
        )
    if name.startswith("PNDM"):
        return diffusers.DDIMScheduler.from_config(original.config)
    if getattr(original, "order", 1) != 1:
        return diffusers.EulerDiscreteScheduler.from_config(original.config)
    return copy.deepcopy(original)


def path_of(scheduler: Any) -> Path:
    """The Gaussian path of a first-order scheduler."""
    if is_trig(scheduler):
        return TrigPath()
    if is_cosine(scheduler):
        return CosinePath(scheduler)
    if is_flow(scheduler):
        return FlowPath()
    if hasattr(scheduler, "sigmas"):
        return RatioPath()
    table = np.asarray(scheduler.alphas_cumprod, dtype=np.float64)
    # With zero terminal SNR ᾱ_T = 0, where x̂_0 cannot be computed from a prediction of ε.
    return VPPath(np.maximum(table, 2.0**-24))


def times_of(scheduler: Any) -> list[float]:
    """The path's times at the scheduler's timesteps, and the time after the last one."""
    if is_trig(scheduler) or is_cosine(scheduler):
        return [float(t) for t in scheduler.timesteps]
    if is_flow(scheduler) or hasattr(scheduler, "sigmas"):
        sigmas = [float(s) / unit_of(scheduler) for s in scheduler.sigmas]
        if is_inverted(scheduler):
            return [1.0 - s for s in sigmas]
        return sigmas if len(sigmas) > len(scheduler.timesteps) else [*sigmas, 0.0]
    # The last step of consistency models returns x̂_0.
    consistency = hasattr(scheduler, "get_scalings_for_boundary_condition_discrete")
    final = 1.0 if consistency else float(getattr(scheduler, "final_alpha_cumprod", 1.0))
    return [*(float(t) for t in scheduler.timesteps), -1.0 if final == 1.0 else 0.0]


def leaves_timesteps(scheduler: Any, grid: Sequence[float]) -> bool:
    """Whether a scheduler's own steps go to other times than those of a grid (step + 1,). DDIM's go back by a fixed
    stride, which ends between its timesteps unless the number of steps divides that of training.
    """
    if "DDIM" not in type(scheduler).__name__:
        return False
    stride, final = scheduler.config.num_train_timesteps // scheduler.num_inference_steps, times_of(scheduler)[-1]
    return [t - stride if t >= stride else final for t in grid[:-1]] != list(grid[1:])


def prediction_of(scheduler: Any) -> Prediction:
    """What the network predicts, up to its sign (`sign_of`).

    Raises:
        ValueError: for an unknown prediction type, or v_prediction with σ's of flow matching.
    """
    if is_flow(scheduler):
        return flow_prediction_of(scheduler)
    if is_edm(scheduler):
        return "v"
    if is_cosine(scheduler):
        return "epsilon"
    name = scheduler.config.prediction_type
    if name not in PREDICTION_NAMES:
        raise ValueError(f"prediction_type = {name!r} is unknown; expected one of {', '.join(PREDICTION_NAMES)}")
    return PREDICTION_NAMES[name]


def flow_prediction_of(scheduler: Any) -> Prediction:
    """What the network of a flow predicts: its velocity, unless the scheduler has an option for it with another value.

    Raises:
        ValueError: for v_prediction, which diffusers converts as on a variance-preserving path.
    """
    options = inspect.signature(type(scheduler).__init__).parameters
    name = scheduler.config.prediction_type if "prediction_type" in options else "flow_prediction"
    if name == "v_prediction":
        raise ValueError(
            f"{type(scheduler).__name__} has use_flow_sigmas and prediction_type = {name!r}, which do not belong "
            "together; set prediction_type='flow_prediction'"
        )
    return PREDICTION_NAMES.get(name, "velocity")


def clip_of(scheduler: Any) -> Callable[[Tensor], Tensor] | None:
    """The scheduler's clipping of x̂_0 (batch, channel, *space): dynamic thresholding (Saharia et al. 2022, arXiv
    2205.11487) or a clamp; None if it does not clip.
    """
    on = {n for n in ("thresholding", "clip_sample") if scheduler.config.get(n) and uses_option(type(scheduler), n)}
    if "thresholding" in on:
        return scheduler._threshold_sample
    limit = scheduler.config.get("clip_sample_range", 1.0)
    return (lambda x_0: x_0.clamp(-limit, limit)) if on else None


def uses_option(kind: Any, name: str) -> bool:
    """Whether a class of schedulers has an option and reads it outside of its `__init__`.

    Configs made by `from_config` keep options of other classes, and CogVideoX's schedulers have `clip_sample` without
    clipping.
    """
    methods = (method for own, method in inspect.getmembers(kind, inspect.isfunction) if own != "__init__")
    return name in inspect.signature(kind.__init__).parameters and any(name in m.__code__.co_names for m in methods)


def keeps_epsilon(scheduler: Any) -> bool:
    """Whether a step of the scheduler combines a clipped x̂_0 with the ε̂ of x̂_0 before clipping."""
    return type(scheduler).__name__.startswith("DDIM")


def sign_of(scheduler: Any) -> float:
    """The sign of the network's prediction. EDM's c_out F is −σ v in units of its data, or, for prediction_type
    "epsilon", the negative. A velocity from noise to data is the negative of that from data to noise.
    """
    negative = is_edm(scheduler) and scheduler.config.prediction_type == "epsilon"
    return -1.0 if negative or is_inverted(scheduler) else 1.0

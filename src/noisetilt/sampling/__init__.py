"""The native sampling loop `sample`, noise ascent `optimize`, and the sampling engine shared by all drivers."""

from .._messages import UnguidedWarning
from .check_inputs import GradientAt
from .engine import Engine, reverse_steps
from .evaluation import Model
from .loop import sample
from .noise_ascent import optimize
from .optimize_result import AscentReport, AscentTrace, OptimizeResult
from .result import Result, StepReport
from .reward_evaluation import check_reward
from .trace import Trace

__all__ = [
    "AscentReport",
    "AscentTrace",
    "Engine",
    "GradientAt",
    "Model",
    "OptimizeResult",
    "Result",
    "StepReport",
    "Trace",
    "UnguidedWarning",
    "check_reward",
    "optimize",
    "reverse_steps",
    "sample",
]

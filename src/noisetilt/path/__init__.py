"""Gaussian paths, reverse kernels, time grids, and the strength of guidance along a path.

`FlowPath`, `VPPath` and `VEPath` are the paths of flow matching, DDPM-like and EDM-like models. This package imports
no other package of noisetilt.
"""

from .accumulated_noise import AccumulatedNoise
from .gaussian import FlowPath, Path, VEPath, VPPath
from .grids import karras_grid, uniform_grid
from .kernel import (
    has_signal,
    is_noisier,
    noise_fraction,
    renoise,
    reverse_kernel,
    signal_ratio,
    state_scale,
    step_eta,
)
from .prediction import PREDICTIONS, Prediction, to_x0
from .strength import ReverseProcess
from .tempering import temper
from .time_travel import TimeTravel

__all__ = [
    "PREDICTIONS",
    "AccumulatedNoise",
    "FlowPath",
    "Path",
    "Prediction",
    "ReverseProcess",
    "TimeTravel",
    "VEPath",
    "VPPath",
    "has_signal",
    "is_noisier",
    "karras_grid",
    "noise_fraction",
    "renoise",
    "reverse_kernel",
    "signal_ratio",
    "state_scale",
    "step_eta",
    "temper",
    "to_x0",
    "uniform_grid",
]

"""Strategies for the initial noise x_T."""

from .ascent import Ascent
from .gaussian import Gaussian
from .langevin import Langevin
from .objective import InitialNoise, NoiseObjective, ZerothOrderInitialNoise
from .pcnl import PCNL

__all__ = ["PCNL", "Ascent", "Gaussian", "InitialNoise", "Langevin", "NoiseObjective", "ZerothOrderInitialNoise"]

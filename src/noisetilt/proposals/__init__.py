"""How one particle moves from x_t to x_s; each proposal is a pure function."""

from .base import Base
from .mean_shift import MeanShift
from .noise_tilt import NoiseTilt
from .step import Proposal, Step

__all__ = ["Base", "MeanShift", "NoiseTilt", "Proposal", "Step"]

"""Proposals: how one particle moves from x_t to x_s. Each proposal is a pure function."""

from .base import Base
from .black_box import BlackBoxTilt
from .coloured_noise import ColouredNoise
from .manifold import ManifoldShift
from .mean_shift import MeanShift, NormalisedMeanShift
from .monte_carlo import MonteCarloShift
from .noise_tilt import ManifoldTilt, NoiseTilt
from .spherical_gaussian import SphericalGaussian
from .step import PathStrengthProposal, Proposal, SmoothingProposal, Step
from .training_free import TrainingFreeGuidance
from .twisted import TwistedShift
from .universal import UniversalGuidance

__all__ = [
    "Base",
    "BlackBoxTilt",
    "ColouredNoise",
    "ManifoldShift",
    "ManifoldTilt",
    "MeanShift",
    "MonteCarloShift",
    "NoiseTilt",
    "NormalisedMeanShift",
    "PathStrengthProposal",
    "Proposal",
    "SmoothingProposal",
    "SphericalGaussian",
    "Step",
    "TrainingFreeGuidance",
    "TwistedShift",
    "UniversalGuidance",
]

"""Rewards: what the pictures should become. Every reward is maximised.

A reward is any callable (images (batch, 3, H, W) in [0, 1], prompts) → (batch,). `load` gives the ones that ship, by
name and in weighted sums; `hub` has those of the literature, whose weights are fetched; `inverse` makes rewards of
measurements.
"""

from . import inverse
from .catalogue import CATALOGUE, has_heldout, load
from .reward import Reward

__all__ = ["CATALOGUE", "Reward", "has_heldout", "inverse", "load"]

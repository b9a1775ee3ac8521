"""Rewards: differentiable or black-box functions of images that sampling maximises.

A reward is any callable (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), or (images) → (batch,). `load` returns
a reward of the catalogue, or a weighted sum of them, by name. `weighted_sum` adds up any rewards. `hub` has published
reward models, whose weights are downloaded. `inverse` makes rewards for inverse problems.
"""

from . import inverse
from .catalogue import CATALOGUE, has_heldout, load
from .reward import Reward, weighted_sum

__all__ = ["CATALOGUE", "Reward", "has_heldout", "inverse", "load", "weighted_sum"]

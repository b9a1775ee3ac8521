"""The learned rewards of this package: `alignment` and `style:*` of emoji images."""

from .scorer import WEIGHTS, Scorer, load_scorer, logit_margin, same_meaning

__all__ = ["WEIGHTS", "Scorer", "load_scorer", "logit_margin", "same_meaning"]

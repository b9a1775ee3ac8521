"""The learned rewards of this package, and the scorers of emoji64."""

from .scorer import WEIGHTS, Scorer, load_scorer, logit_margin, same_meaning

__all__ = ["WEIGHTS", "Scorer", "load_scorer", "logit_margin", "same_meaning"]

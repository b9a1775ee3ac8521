"""The learned rewards of this package, and the scorers of emoji64."""

from .concepts import same_meaning
from .scorer import WEIGHTS, Scorer, load_scorer
from .style import logit_margin

__all__ = ["WEIGHTS", "Scorer", "load_scorer", "logit_margin", "same_meaning"]

"""Where x_T comes from."""

from .ascent import Ascent
from .chain import Chain, Initial
from .gaussian import Gaussian
from .langevin import Langevin
from .pcnl import PCNL

__all__ = ["PCNL", "Ascent", "Chain", "Gaussian", "Initial", "Langevin"]

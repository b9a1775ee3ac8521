"""Where x_T comes from."""

from .chain import Chain, Initial
from .gaussian import Gaussian
from .pcnl import PCNL

__all__ = ["PCNL", "Chain", "Gaussian", "Initial"]

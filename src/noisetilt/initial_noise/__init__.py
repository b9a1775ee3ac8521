"""Where x_T comes from."""

from .gaussian import Gaussian

__all__ = ["Gaussian"]

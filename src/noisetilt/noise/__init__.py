"""Typicality of white Gaussian noise: statistical tests, projections onto typical sets, and penalties."""

from . import penalties
from ._constants import clear_cache
from .order_statistics import project_order_statistics
from .spectrum import from_spectrum, to_spectrum
from .typicality import Audit, audit
from .wgnc import project_wgnc
from .whitening import shuffled, whiten

__all__ = [
    "Audit",
    "audit",
    "clear_cache",
    "from_spectrum",
    "penalties",
    "project_order_statistics",
    "project_wgnc",
    "shuffled",
    "to_spectrum",
    "whiten",
]

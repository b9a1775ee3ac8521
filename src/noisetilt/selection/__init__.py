"""Selections: which particles continue at each step, and which one is returned."""

from .candidates import Candidates, RedrawingSelection, Selection
from .independent import Independent
from .rollover import RolloverBudget
from .search import Search
from .smc import SMC

__all__ = ["SMC", "Candidates", "Independent", "RedrawingSelection", "RolloverBudget", "Search", "Selection"]

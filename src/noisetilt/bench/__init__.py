"""Measuring guided sampling: features, metrics, and comparisons at equal network evaluations."""

"""Benchmarks of guided sampling at equal network evaluations, with their features and metrics."""

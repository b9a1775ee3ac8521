"""p-values under the null distributions of the audit's tests. NumPy arrays in and out, float64."""

from __future__ import annotations

import functools

import numpy as np
from scipy import special


def normal_two_sided(z: np.ndarray) -> np.ndarray:
    """P(|N(0, 1)| ≥ |z|)."""
    return 2 * special.ndtr(-np.abs(z))


def chi2_two_sided(value: np.ndarray, df: float) -> np.ndarray:
    """Twice the smaller tail of χ² with df degrees of freedom: too small is as improbable as too large."""
    return np.minimum(1, 2 * np.minimum(special.chdtr(df, value), special.chdtrc(df, value)))


def largest_of(tail: np.ndarray, count: float) -> np.ndarray:
    """P(the largest of `count` independent values lies in the upper tail of this probability)."""
    return -np.expm1(count * np.log1p(-np.clip(tail, 0, 1 - 1e-16)))


def normal_scores(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Φ⁻¹ of the probability `lower`, given with its complement `upper` to keep precision in both tails."""
    tiny = np.finfo(np.float64).tiny
    return np.where(lower < upper, special.ndtri(np.maximum(lower, tiny)), -special.ndtri(np.maximum(upper, tiny)))


def chi2_scores(energy: np.ndarray, df: float | np.ndarray) -> np.ndarray:
    """Exact normal scores of χ² values with df degrees of freedom."""
    return normal_scores(special.chdtr(df, energy), special.chdtrc(df, energy))


def energy_spread(energy: np.ndarray, df: np.ndarray) -> np.ndarray:
    """p-values of the spread of energies (batch, groups), each χ² with df (groups,): too uneven or too even.

    The fraction of each group in the sum of it and the later groups is Beta distributed, independent of the other
    fractions and of the total, so the scores of all but the last are exactly independent standard normals.
    """
    rest = energy[:, ::-1].cumsum(1)[:, ::-1]
    rest_df = df[::-1].cumsum()[::-1]
    fraction = energy[:, :-1] / np.maximum(rest[:, :-1], np.finfo(np.float64).tiny)
    a, b = df[:-1] / 2, rest_df[1:] / 2
    scores = normal_scores(special.betainc(a, b, fraction), special.betaincc(a, b, fraction))
    return chi2_two_sided((scores**2).sum(1), len(df) - 1)


def skewness(x: np.ndarray, count: int) -> np.ndarray:
    """Two-sided p-values of the sample skewness (batch,) of `count` normal numbers (D'Agostino 1970)."""
    n = float(count)
    y = x * np.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta = 3 * (n**2 + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w2 = np.sqrt(2 * (beta - 1)) - 1
    return normal_two_sided(np.arcsinh(y / np.sqrt(2 / (w2 - 1))) / np.sqrt(0.5 * np.log(w2)))


def kurtosis(x: np.ndarray, count: int) -> np.ndarray:
    """Two-sided p-values of the sample kurtosis m4/m2² (batch,) of `count` normal numbers (Anscombe & Glynn 1983)."""
    n = float(count)
    mean = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    z = (x - mean) / np.sqrt(variance)
    skew = 6 * (n**2 - 5 * n + 2) / ((n + 7) * (n + 9)) * np.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skew * (2 / skew + np.sqrt(1 + 4 / skew**2))
    root = np.cbrt((1 - 2 / a) / np.maximum(1 + z * np.sqrt(2 / (a - 4)), 1e-9))
    return normal_two_sided((1 - 2 / (9 * a) - root) / np.sqrt(2 / (9 * a)))


def anderson_darling(u: np.ndarray) -> np.ndarray:
    """p-values that rows u (batch, n) are independent uniform numbers (Anderson & Darling 1952), n in the hundreds."""
    n = u.shape[1]
    tiny = np.finfo(np.float64).tiny
    u = np.sort(u, axis=1)
    weight = (2 * np.arange(1, n + 1) - 1) / n
    a2 = -n - (weight * (np.log(np.maximum(u, tiny)) + np.log1p(-np.minimum(u[:, ::-1], 1 - 2**-53)))).sum(1)
    grid, log_sf, log_cdf = anderson_darling_table()
    upper = np.exp(np.interp(a2, grid, log_sf, right=-np.inf))
    upper = np.where(a2 > grid[-1], np.exp(log_sf[-1] - (a2 - grid[-1])), upper)
    lower = np.exp(np.interp(a2, grid, log_cdf, left=-np.inf))
    return np.minimum(1, 2 * np.minimum(lower, upper))


@functools.lru_cache(maxsize=1)
def anderson_darling_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, log P(A² > a), log P(A² < a)) for the limit A² = Σ_j χ²_1 / λ_j with λ_j = j (j+1).

    Smirnov's formula: P(A² > a) = (1/π) Σ_k (−1)^{k+1} ∫ exp(−a u/2) / (u √−D(u)) du over u from λ_{2k−1} to λ_{2k},
    where D(u) = Π_j (1 − u/λ_j) = −cos(π/2 √(1+4u)) / (π u). Gauss–Chebyshev nodes handle the root at both ends.
    """
    nodes = np.cos(np.pi * (np.arange(128) + 0.5) / 128)
    first = 2.0 * np.arange(1, 41)[:, None] - 1
    start, end = first * (first + 1), (first + 1) * (first + 2)
    u = (start + end) / 2 + (end - start) / 2 * nodes
    product = np.abs(np.cos(np.pi / 2 * np.sqrt(1 + 4 * u))) / (np.pi * u)
    weight = (-1) ** np.arange(40)[:, None] * (end - start) / 2 * np.sqrt(1 - nodes**2) / (128 * u * np.sqrt(product))
    a = np.concatenate([np.linspace(0.1, 4, 400), np.linspace(4.05, 40, 720)])
    sf = np.array([(weight * np.exp(-v * u / 2)).sum() for v in a])
    return a, np.log(sf), np.log(np.maximum(1 - sf, 1e-300))


def sidak(p: np.ndarray, count: float) -> np.ndarray:
    """The p-value of the smallest of `count` independent p-values."""
    return largest_of(p, count)

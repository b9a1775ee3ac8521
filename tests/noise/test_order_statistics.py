"""Bounds rise along both axes and hold Gaussian input; the projection lands in them, and nothing in them is nearer."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special

from noisetilt.noise import project_order_statistics
from noisetilt.noise.order_statistics import bounds, lower_bounds, two_level_sort

SHAPES = [(1, 1), (1, 7), (9, 1), (2, 2), (3, 5), (64, 16), (256, 48), (7, 300)]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def limits(tiles, width, alpha=1e-4):
    return bounds(tiles, width, alpha, torch.device("cpu"), torch.float64)


def excess(tiles, alpha=1e-4):
    """How far outside [L, U] the worst order statistic of each vector lies."""
    low, high = limits(*tiles.shape[1:], alpha)
    z = two_level_sort(tiles)
    return torch.maximum(low - z, z - high).clamp_min(0).flatten(1).amax(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.5, 1e-2, 1e-4, 1e-12, 1e-100, 1e-300])
def test_bounds_are_finite_ordered_and_rise_along_both_axes(shape, alpha):
    low, high = limits(*shape, alpha)
    assert low.isfinite().all() and high.isfinite().all()
    assert (low < high).all()
    assert (low.diff(dim=0) >= 0).all() and (low.diff(dim=1) >= 0).all()


def test_bounds_widen_as_alpha_shrinks():
    wide, narrow = lower_bounds(64, 16, 1e-8), lower_bounds(64, 16, 1e-2)
    assert (wide < narrow).all()


def test_bounds_against_the_plain_formula():
    r, j = np.arange(1, 9)[:, None], np.arange(1, 6)[None]
    for level in (0.05, 0.95):
        p = special.betaincinv(r, 8 - r + 1, level)
        plain = special.ndtri(special.betaincinv(j, 5 - j + 1, p))
        low, high = limits(8, 5, 0.1)
        np.testing.assert_allclose((low if level < 0.5 else high).numpy(), plain, rtol=1e-9)


def test_bounds_hold_each_statistic_with_the_stated_probability():
    z = two_level_sort(normal(20_000, 6, 4))
    low, high = limits(6, 4, 0.1)
    for outside in ((z < low).double().mean(0), (z > high).double().mean(0)):
        assert (outside - 0.05).abs().max() < 5 * math.sqrt(0.05 * 0.95 / 20_000)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [1e-4, 0.3])
def test_clipped_statistics_stay_doubly_sorted(shape, alpha):
    z = two_level_sort(normal(20, *shape) ** 3 * 2 + 0.3)
    clipped = z.clamp(*limits(*shape, alpha))
    assert (clipped.diff(dim=-1) >= 0).all() and (clipped.diff(dim=-2) >= 0).all()


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1)])
def test_one_level_always_lands_in_the_set(shape):
    for x in (normal(20, *shape) ** 3, torch.zeros(2, *shape, dtype=torch.float64), normal(20, *shape) - 5):
        p = project_order_statistics(x)
        assert excess(p).max() < 1e-12
        torch.testing.assert_close(project_order_statistics(p), p)


def test_moves_as_far_as_the_statistics_were_clipped_and_no_farther():
    """‖Z − clip(Z)‖ is a lower bound on the distance to the set, as sorting is 1-Lipschitz."""
    x = normal(50, 16, 8) ** 3
    z = two_level_sort(x)
    shortest = (z - z.clamp(*limits(16, 8))).flatten(1).norm(dim=1)
    torch.testing.assert_close((project_order_statistics(x) - x).flatten(1).norm(dim=1), shortest)


def brute_force_distance(x, alpha):
    """The distance from x (M, D) to the set, by putting every doubly sorted extreme candidate in every arrangement.

    A member of the set is an arrangement of some Z in [L, U] whose two-level sort is Z again; for a fixed arrangement
    the nearest such Z is a convex problem, solved here by Dykstra's alternating projections.
    """
    low, high = (b.numpy() for b in limits(*x.shape, alpha))
    best = math.inf
    m, d = x.shape
    for rows in itertools.product(itertools.permutations(range(d)), repeat=m):
        within = np.stack([x[i, list(rows[i])] for i in range(m)])
        for columns in itertools.product(itertools.permutations(range(m)), repeat=d):
            best = min(best, nearest_in_order(within, columns, low, high))
    return best


def nearest_in_order(y, columns, low, high, rounds=60):
    """Distance from y to {rows ascending, column j ascending in order columns[j], bounds at those ranks}."""
    lo, hi = np.empty_like(low), np.empty_like(high)
    for j, order in enumerate(columns):
        lo[list(order), j], hi[list(order), j] = low[:, j], high[:, j]
    if (lo[:, :-1] > hi[:, 1:] + 1e-12).any():
        return math.inf
    # Within the box, ascending rows are all that can still fail, and that set is an isotonic regression per row.
    z, corrections = y.copy(), [np.zeros_like(y), np.zeros_like(y)]
    for _ in range(rounds):
        for i, project in enumerate((lambda v: np.clip(v, lo, hi), ascending)):
            moved = project(z + corrections[i])
            corrections[i] += z - moved
            z = moved
    return np.linalg.norm(z - y) if (np.clip(z, lo, hi) - z).__abs__().max() < 1e-6 else math.inf


def ascending(v):
    """Row-wise isotonic regression for rows of two."""
    mean = v.mean(1, keepdims=True)
    return np.where(v[:, :1] > v[:, 1:], mean, v)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_in_the_set_is_nearer_by_brute_force(seed):
    x = normal(1, 3, 2, seed=seed) * 2 + 0.5
    p = project_order_statistics(x, 0.3)
    if excess(p, 0.3).item() < 1e-12:
        assert (p - x).norm().item() == pytest.approx(brute_force_distance(x[0].numpy(), 0.3), abs=1e-4)


def test_two_levels_may_need_more_than_one_pass():
    """A tile nested in another has a high rank at its low end and a low rank at its high end: bounds can cross."""
    x = normal(20, 64, 16) ** 3
    once = project_order_statistics(x)
    many = x
    for _ in range(30):
        many = project_order_statistics(many)
    assert excess(once).max() > 0
    assert excess(many).max() < 0.1 * excess(once).max()


def test_gaussian_input_barely_moves():
    x = normal(20, 4096, 16)
    p = project_order_statistics(x)
    assert torch.cosine_similarity(x.flatten(1), p.flatten(1)).min() > 0.99999
    assert excess(p).max() < 1e-12


def test_equivariant_under_permutations_of_tiles_within_tiles_and_sign():
    x = normal(4, 10, 6) ** 3
    p = project_order_statistics(x)
    shuffled = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(project_order_statistics(x[:, shuffled]), p[:, shuffled])
    torch.testing.assert_close(project_order_statistics(x.flip(2)), p.flip(2))
    torch.testing.assert_close(project_order_statistics(-x), -p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_views_and_empty_batches(dtype):
    x = normal(3, 8, 4).to(dtype).transpose(1, 2).requires_grad_()
    p = project_order_statistics(x)
    assert p.dtype == dtype and p.shape == (3, 4, 8) and not p.requires_grad
    assert project_order_statistics(x[:0]).shape == (0, 4, 8)


@pytest.mark.parametrize(
    ("x", "alpha", "says"),
    [
        (torch.zeros(2, 3), 1e-4, r"\(batch, M, D\)"),
        (torch.zeros(1, 2, 3), 0.0, "alpha is 0.0"),
        (torch.zeros(1, 2, 3), 1.0, "alpha is 1.0"),
        (torch.full((1, 2, 3), math.nan), 1e-4, "6 values that are NaN"),
        (torch.zeros(1, 2, 3, dtype=torch.complex64), 1e-4, "complex64"),
    ],
)
def test_refuses(x, alpha, says):
    with pytest.raises(ValueError, match=says):
        project_order_statistics(x, alpha)

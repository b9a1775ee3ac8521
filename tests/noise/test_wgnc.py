"""project_wgnc returns the nearest point of the set, is idempotent and scale-free; closed forms and edge cases."""

import math

import pytest
import torch

from noisetilt.noise import from_spectrum, project_wgnc, to_spectrum

C = math.sqrt(math.pi) / 2


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def blocks(x, size=16):
    """The compact spectrum cut as project_wgnc documents it: what is left over joins the last block."""
    y = to_spectrum(x)
    half = y.shape[1]
    size = min(size, half)
    starts = [i * size for i in range(half // size)]
    return [y[:, a:b] for a, b in zip(starts, [*starts[1:], half], strict=True)]


def assert_in_set(x, size=16, tolerance=1e-9):
    for block in blocks(x, size):
        width = block.shape[1]
        assert (block.abs().sum(1) - C * width).abs().max() < tolerance
        assert (block.abs().square().sum(1) - width).abs().max() < tolerance


def one_hot(n):
    return torch.eye(n, dtype=torch.float64)[n // 3][None]


EDGE_CASES = {
    "gaussian": normal(4, 1024),
    "event axes": normal(4, 3, 8, 8),
    "heavy tails": normal(4, 512) ** 5,
    "zero": torch.zeros(2, 64, dtype=torch.float64),
    "constant": torch.ones(2, 64, dtype=torch.float64),
    "one-hot": one_hot(64),
    "cosine": torch.cos(torch.arange(128, dtype=torch.float64) * 2 * math.pi * 5 / 128)[None],
    "alternating": torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(32)[None],
    "one coefficient": from_spectrum(torch.eye(32, dtype=torch.complex128)[3:4] * 2j),
    "equal magnitudes": from_spectrum(torch.polar(torch.ones(2, 64, dtype=torch.float64), normal(2, 64))),
    "top tie of 14": from_spectrum(
        torch.cat([torch.full((1, 14), 2j), normal(1, 2) * 0.1 + 0j], 1).to(torch.complex128)
    ),
    "top tie of 12": from_spectrum(
        torch.cat([torch.full((1, 12), 2j), normal(1, 4) * 0.1 + 0j], 1).to(torch.complex128)
    ),
    "left-over coefficients": normal(3, 2 * (3 * 16 + 5)),
    "one left over": normal(3, 2 * (16 + 1)),
    "shorter than a block": normal(3, 10),
    "smallest": normal(3, 4),
    "huge": normal(3, 64) * 1e300,
    "tiny": normal(3, 64) * 1e-300,
    "uneven scales": from_spectrum(torch.exp(torch.linspace(-60, 0, 64, dtype=torch.float64))[None] + 0j),
    "nearly equal magnitudes": from_spectrum(1 + 1e-13 * normal(1, 64) + 0j),
}


@pytest.mark.parametrize("name", EDGE_CASES)
def test_lands_in_the_set(name):
    p = project_wgnc(EDGE_CASES[name])
    assert p.shape == EDGE_CASES[name].shape
    assert_in_set(p)


@pytest.mark.parametrize("name", EDGE_CASES)
def test_idempotent(name):
    p = project_wgnc(EDGE_CASES[name])
    torch.testing.assert_close(project_wgnc(p), p, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "heavy tails", "left-over coefficients", "one coefficient", "constant"])
def test_depends_on_direction_only(name):
    x = EDGE_CASES[name]
    torch.testing.assert_close(project_wgnc(x * 2.0**-40), project_wgnc(x), rtol=0, atol=1e-12)
    if name not in ("one coefficient", "constant"):  # there, rounding selects one of several nearest points
        torch.testing.assert_close(project_wgnc(x * 12.3), project_wgnc(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 5, 16])
@pytest.mark.parametrize("name", ["gaussian", "heavy tails", "one-hot", "left-over coefficients", "top tie of 14"])
def test_no_random_member_of_the_set_is_nearer(name, size):
    x = EDGE_CASES[name][:1]
    x = x / x.flatten(1).norm() * math.sqrt(x[0].numel())
    nearest = (project_wgnc(x, size) - x).norm()
    others = project_wgnc(normal(500, *x.shape[1:], seed=5), size)
    nearby = project_wgnc(project_wgnc(x, size) + 0.05 * normal(500, *x.shape[1:], seed=6), size)
    for candidates in (others, nearby):
        assert (candidates - x).flatten(1).norm(dim=1).min() > nearest - 1e-9


def search(magnitude, starts=64, steps=4000):
    """Σ a·magnitude at the best a found by gradient ascent with alternating projections: an independent answer."""
    size = magnitude.shape[-1]
    a = normal(starts, size).abs().requires_grad_()
    optimiser = torch.optim.Adam([a], lr=0.02)
    for step in range(steps):
        penalty = (a.abs().sum(1) - C * size).square() + (a.square().sum(1) - size).square()
        loss = (10 ** (1 + 4 * step / steps) * penalty - (a.abs() * magnitude).sum(1)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    feasible = penalty < 1e-6
    return ((a.abs() * magnitude).sum(1))[feasible].max().item()


@pytest.mark.parametrize("seed", range(3))
def test_gradient_search_finds_nothing_nearer(seed):
    y = torch.complex(normal(1, 5, seed=seed), normal(1, 5, seed=seed + 10)) ** 2
    a = to_spectrum(project_wgnc(from_spectrum(y), 5)).abs()
    found = search(y.abs())
    assert found <= (a * y.abs()).sum().item() + 2e-2
    assert found >= (a * y.abs()).sum().item() - 0.2


def test_ties_keep_the_largest_possible_inner_product():
    """With more than π/4 of a block tied at the top, the inner product cannot exceed ‖y‖_∞ ‖ẏ‖₁, and must attain it."""
    for name in ("equal magnitudes", "top tie of 14"):
        x = EDGE_CASES[name]
        for block, projected in zip(blocks(x), blocks(project_wgnc(x)), strict=True):
            inner = (block.conj() * projected).real.sum(1)
            torch.testing.assert_close(inner, block.abs().amax(1) * C * block.shape[1])


def test_phases_are_kept():
    x = EDGE_CASES["heavy tails"]
    y, p = to_spectrum(x), to_spectrum(project_wgnc(x))
    assert ((p * y.conj()).imag.abs() < 1e-9 * y.abs()).all()
    assert ((p * y.conj()).real >= -1e-9).all()


def test_closed_form():
    """λ and ẏ as the paper writes them, by trying every k."""
    size = 16
    for w in normal(50, size).abs().exp():
        w = w.sort(descending=True).values
        for k in range(size):
            n, s1, s2 = k + 1, w[: k + 1].sum(), w[: k + 1].square().sum()
            if n <= math.pi * size / 4:
                continue
            threshold = s1 / n - C * math.sqrt(size) / n * math.sqrt((n * s2 - s1**2) / (n - math.pi * size / 4))
            if (w[k + 1] if n < size else -math.inf) <= threshold < w[k]:
                expected = C * size * (w - threshold).relu() / (s1 - n * threshold)
        found = to_spectrum(project_wgnc(from_spectrum(w[None] + 0j))).abs()[0]
        torch.testing.assert_close(found, expected)


def test_gaussian_input_barely_moves():
    x = normal(20, 65536)
    assert torch.cosine_similarity(x, project_wgnc(x)).min() > 0.988


def test_largest_coefficient():
    """No coefficient of a block of 16 exceeds |y|² = 7.18: one entry lifted, the other fifteen level."""
    p = to_spectrum(project_wgnc(torch.cat([one_hot(64), normal(200, 64) ** 7, EDGE_CASES["one coefficient"]])))
    rest = (C * 16 - math.sqrt(7.18)) / 15
    assert 7.18 + 15 * rest**2 == pytest.approx(16, abs=0.01)
    assert p.abs().square().max() < 7.19
    assert p.abs().square().max() > 7.17


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes(dtype):
    x = normal(2, 3, 8, 8).to(dtype)
    p = project_wgnc(x)
    assert p.dtype == dtype
    torch.testing.assert_close(p.double(), project_wgnc(x.double()), rtol=0, atol={2: 0.02, 4: 1e-4}[x.element_size()])


def test_views_gradients_and_empty_batches():
    x = normal(6, 8, 4)
    torch.testing.assert_close(project_wgnc(x.transpose(1, 2)), project_wgnc(x.transpose(1, 2).contiguous()))
    expanded = x[:1].expand(5, 8, 4)
    torch.testing.assert_close(project_wgnc(expanded), project_wgnc(x[:1]).expand(5, 8, 4))
    assert not project_wgnc(x.requires_grad_()).requires_grad
    assert project_wgnc(torch.zeros(0, 3, 4)).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("x", "size", "says"),
    [
        (torch.zeros(1, 2), 16, "2 numbers, expected 4"),
        (torch.zeros(1, 7), 16, "7 numbers, expected an even"),
        (torch.zeros(1, 8), 1, "block_size = 1"),
        (torch.zeros(1, 8), 2.5, "block_size = 2.5 must be a whole number"),
        (torch.zeros(1, 8), "2", "block_size = '2' must be a whole number"),
        (torch.tensor([[1.0, 2.0, math.nan, 0.0]]), 2, "NaN"),
    ],
)
def test_refuses(x, size, says):
    with pytest.raises(ValueError, match=says):
        project_wgnc(x, size)

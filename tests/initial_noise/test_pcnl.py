"""pCNL chains for initial noise from its reward-tilted distribution."""

import math

import pytest
import torch

from noisetilt.initial_noise import PCNL, NoiseObjective
from noisetilt.initial_noise.pcnl import log_acceptance


def quadratic(noise):
    """r(z) = aᵀz − ½ c ‖z‖² and its gradient."""
    direction = torch.linspace(-1, 1, noise[0, 0].numel(), dtype=noise.dtype).view(noise.shape[2:])
    rewards = (noise * direction).flatten(2).sum(2) - 0.25 * noise.square().flatten(2).sum(2)
    return rewards, direction - 0.5 * noise


def objective(evaluate, images, particles, event, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return NoiseObjective(
        evaluate,
        lambda: torch.randn(images, particles, *event, generator=generator, dtype=dtype),
        lambda: torch.rand(images, particles, generator=generator, dtype=dtype),
    )


@pytest.mark.parametrize("delta", [0.01, 0.3, 2.0])
def test_acceptance_satisfies_detailed_balance(delta):
    """The ratio equals π(v) q(v→u) / (π(u) q(u→v))."""
    u, v = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[:, None]
    (r_u, g_u), (r_v, g_v) = quadratic(u), quadratic(v)

    def log_target(x, r):
        return r - 0.5 * x.square().flatten(2).sum(2)

    def log_proposal(a, b, g):
        mean = ((2 - delta) * a + 2 * delta * g) / (2 + delta)
        return -0.5 * (b - mean).square().flatten(2).sum(2) * (2 + delta) ** 2 / (8 * delta)

    expected = log_target(v, r_v) + log_proposal(v, u, g_v) - log_target(u, r_u) - log_proposal(u, v, g_u)
    assert torch.allclose(log_acceptance(u, v, r_u, r_v, g_u, g_v, delta), expected)


def test_chains_converge_to_the_tilted_gaussian():
    """N(0, I)·exp(aᵀz − ¼‖z‖²) is N(a/1.5, I/1.5)."""
    start = objective(quadratic, 1, 4000, (4,))
    z = PCNL(iterations=60, delta=0.3)(start.normal(), start)[0]
    expected = torch.linspace(-1, 1, 4, dtype=torch.float64) / 1.5
    assert torch.allclose(z.mean(0), expected, atol=5 / math.sqrt(1.5 * 4000))
    assert torch.allclose(z.var(0), torch.full((4,), 1 / 1.5, dtype=torch.float64), rtol=0.1)


def test_constant_reward_keeps_gaussian_noise():
    start = objective(lambda z: (torch.zeros(z.shape[:2], dtype=z.dtype), torch.zeros_like(z)), 1, 2000, (8,))
    z = PCNL(iterations=5, delta=1.0)(start.normal(), start)
    assert abs(z.mean()) < 5 / math.sqrt(16_000)
    assert z.var().item() == pytest.approx(1.0, abs=0.06)


def test_acceptance_is_independent_of_dimension_for_a_constant_reward():
    """Every proposal is accepted, in float32 with N = 65 536."""
    u, v = torch.randn(2, 1, 1, 65_536, generator=torch.Generator().manual_seed(0))[:, None]
    zero = torch.zeros(1, 1)
    flat = torch.zeros_like(u)
    assert log_acceptance(u, v, zero, zero, flat, flat, 0.1).abs().max() == 0


@pytest.mark.parametrize("change", [{"iterations": -1}, {"delta": 0.0}, {"delta": 3.0}, {"temperature": 0.0}])
def test_invalid_options_are_rejected(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PCNL(**change)

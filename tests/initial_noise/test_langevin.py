"""Langevin dynamics over the initial noise."""

import math

import pytest
import torch

from noisetilt.initial_noise import Langevin, NoiseObjective


def objective(evaluate, shape):
    generator = torch.Generator().manual_seed(0)
    return NoiseObjective(evaluate, lambda: torch.randn(shape, generator=generator, dtype=torch.float64), None)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_linear_reward_shifts_the_mean_and_keeps_the_variance(gamma):
    """For r = aᵀx the stationary distribution is exactly N(a/τ, I), for any step size."""
    shape, a = (1, 4000, 4), torch.linspace(-2, 2, 4, dtype=torch.float64)
    start = objective(lambda x: ((x * a).sum(2), a.expand_as(x)), shape)
    x = Langevin(iterations=round(20 / gamma), gamma=gamma, temperature=2.0)(start.normal(), start)[0]
    assert torch.allclose(x.mean(0), a / 2, atol=5 / math.sqrt(4000))
    assert torch.allclose(x.var(0), torch.ones(4, dtype=torch.float64), rtol=0.15)


def test_constant_reward_keeps_standard_normal_noise():
    shape = (2, 500, 16)
    start = objective(lambda x: (torch.zeros(x.shape[:2]), torch.zeros_like(x)), shape)
    x = Langevin(iterations=10)(start.normal(), start)
    assert x.var().item() == pytest.approx(1, abs=0.05) and abs(x.mean()) < 5 / math.sqrt(16_000)


@pytest.mark.parametrize("change", [{"iterations": -1}, {"gamma": 0.0}, {"gamma": 1.5}, {"temperature": 0.0}])
def test_invalid_options_are_rejected(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Langevin(**change)

"""Rollover budget forcing: its count of network calls."""

import pytest
import torch

from noisetilt import Method, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.selection import RolloverBudget


def narrow_gaussian(variance=1e-4, size=8):
    """Data near zero, so that the standard deviation of x_t is that of its noise."""
    return GaussianModel(torch.zeros(3, size, size), torch.full((size, size), variance))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_count_of_calls_is_exact_for_rewards_of_any_precision(dtype):
    """bfloat16 has no 299 and no 301."""
    rbf = RolloverBudget(budget=302)
    state = rbf.open_step(torch.tensor([1.0, 1.0], dtype=dtype), None)
    state = rbf.update(state, torch.tensor([1]), torch.tensor([0.5], dtype=dtype))
    assert state.remaining.dtype == torch.int64 and state.remaining.tolist() == [301, 300]
    state = rbf.update(state, torch.tensor([1]), torch.tensor([0.5], dtype=dtype))
    assert state.remaining.tolist() == [301, 299]


def test_a_half_precision_reward_uses_the_budget_and_ends():
    """A reward that never improves takes all calls: 300 in each of two steps."""
    calls = []

    def constant(images):
        calls.append(len(images))
        assert len(calls) < 1000
        return images.new_zeros(len(images), dtype=torch.bfloat16)

    result = sample(narrow_gaussian(), [""], constant, Method(selection=RolloverBudget(300)), steps=2)
    assert result.trace.nfe == 600

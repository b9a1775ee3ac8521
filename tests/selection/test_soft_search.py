"""A search with a temperature."""

import math

import pytest
import torch

from noisetilt.selection import Search
from noisetilt.selection.candidates import Candidates


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_rewards_are_divided_by_the_temperature(temperature):
    """Of rewards 0 and T log 3 the second is drawn three times as often."""
    rewards = torch.tensor([[0.0, temperature * math.log(3.0)]])
    search, ratio = Search(2, temperature=temperature), torch.zeros(1, 2)
    numbers = torch.linspace(0, 1, 1001)[:-1]
    drawn = [search.choose(Candidates(rewards, ratio, u.expand(1, 2), 1, 1), None)[0] for u in numbers]
    assert torch.stack(drawn).float().mean().item() == pytest.approx(0.75, abs=0.01)

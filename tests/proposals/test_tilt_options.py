"""Options of the noise tilt and of W: the schedules of ρ and the level of W."""

import math
from dataclasses import replace

import pytest
import torch

from noisetilt.noise import shuffled, whiten
from noisetilt.path import FlowPath, TimeTravel
from noisetilt.proposals import ManifoldTilt, NoiseTilt, Step


def step(t=0.3, s=0.2, shape=(2, 3, 16, 16)):
    x_t, x0_hat, gradient = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    return Step(FlowPath(), t, s, x_t, x0_hat, x_t, 0.1, None, gradient, None, 1, 1)


@pytest.mark.parametrize("tilt", [NoiseTilt, ManifoldTilt])
@pytest.mark.parametrize("schedule, value", [("constant", 1.0), ("bump", 0.84), ("early", 0.09), ("late", 0.49)])
def test_the_schedule_is_a_function_of_the_noise_fraction(schedule, value, tilt):
    """Which is t itself on a flow."""
    chosen = tilt(0.2, schedule=schedule)
    assert chosen.rho_at(step(0.3)) == pytest.approx(0.2 * value)
    assert chosen.rho_at(step(1.0)) == 0.0


@pytest.mark.parametrize("schedule", ["bump", "early", "late"])
def test_a_scheduled_tilt_is_that_of_its_rho(schedule):
    now, noise = step(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    chosen = NoiseTilt(0.2, schedule=schedule)
    constant = NoiseTilt(chosen.rho_at(now))
    assert torch.equal(chosen(now, noise), constant(now, noise))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 16, 16)])
def test_the_level_of_w_clips_values(shape):
    """At a high level order statistics of Gaussian values are clipped too, at a low one they are not."""
    now, noise = step(shape=shape), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(whiten(now.gradient, 0.5), whiten(now.gradient, 1e-12), atol=1e-4)
    high, low = (NoiseTilt(0.5, alpha=alpha)(now, noise) for alpha in (0.5, 1e-12))
    assert not torch.allclose(high, low, atol=1e-5)
    expected = math.sqrt(0.5) * whiten(now.gradient, 0.5, shuffled(noise)) + math.sqrt(0.5) * noise
    assert torch.allclose(high, now.mean + now.std * expected, atol=1e-6)


def test_steps_from_the_edges_of_the_window_are_not_repeated():
    path, grid = FlowPath(), [0.7, 0.5, 0.3, 0.0]
    window = TimeTravel(repeats=2, after=0.3, before=0.7)
    assert window.expand(path, grid) == [0.7, 0.5, 0.3, 0.5, 0.3, 0.0]
    assert replace(window, after=0.0, before=1.0).expand(path, grid) == [0.7, 0.5, 0.7, 0.5, 0.3, 0.5, 0.3, 0.0]

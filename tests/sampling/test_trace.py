"""What a trace records: gradient norms, and seconds without those of the held-out reward."""

import time

import pytest
import torch

from noisetilt import Method, optimize, sample
from noisetilt.initial_noise import Ascent
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, VEPath
from noisetilt.proposals import Base
from noisetilt.rewards import Reward
from noisetilt.sampling.trace import Trace
from noisetilt.selection import Independent


def unit(path, shape=(3, 4, 4)):
    return GaussianModel(torch.zeros(shape), torch.ones(shape[1:]), path)


def test_the_gradient_norm_is_the_mean_of_the_norms_of_the_particles():
    gradient = torch.zeros(2, 3, 1, 2, 2)
    gradient[0, :, 0, 0, 0] = torch.tensor([1.0, 2.0, 6.0])
    gradient[1, 0] = 1.0
    trace = Trace()
    trace.record(0.5, None, gradient)
    assert trace.gradient_norm.tolist() == [pytest.approx([3.0, 2 / 3])]


def test_the_gradient_norm_of_a_known_model():
    """∇ of 3 aᵀx̂_0 by x_t of a standard normal model is 3 α a, with x̂_0 = α x_t / (α² + σ²)."""

    class Gradient(Base):
        needs_gradient = True

    direction = torch.zeros(3, 4, 4)
    direction[1, 2, 3] = 3.0
    method = Method(proposal=Gradient(), selection=Independent(particles=2))
    found = sample(unit(FlowPath()), [""], lambda x: (x * direction).sum((1, 2, 3)), method, 4).trace
    expected = [3 * (1 - t) / ((1 - t) ** 2 + t**2) for t in found.times]
    assert found.gradient_norm[:, 0].tolist() == pytest.approx(expected, rel=1e-4)


def test_the_seconds_of_an_ascent_are_without_its_held_out_reward():
    def slow(images):
        time.sleep(0.3)
        return images.mean((1, 2, 3))

    def mean(images):
        return images.mean((1, 2, 3))

    started = time.perf_counter()
    trace = optimize(unit(FlowPath()), [""], mean, Method(initial=Ascent(iterations=2)), heldout=slow).trace
    passed = time.perf_counter() - started
    assert trace.seconds[-1] <= passed - 0.9 + 0.01 and trace.seconds == sorted(trace.seconds)


def test_an_ascent_climbs_noise_of_unit_variance_on_any_path():
    """The image of a standard normal model at t = 5 is x_t / 26 with x_t = 5 z, so that r of channel 0, of 16 numbers,
    has the gradient 5/26 by z, and a step of rate 0.05 adds 0.05 · 16 · (5/26)²."""
    red = Reward("red", lambda images: images[:, 0].sum((1, 2)))
    climb = Method(initial=Ascent(3, 0.05, optimiser="sgd", momentum=0.0))
    found = optimize(unit(VEPath(0.05, 5.0)), ["", ""], red, climb)
    steps = found.trace.rewards.diff(dim=0)
    assert torch.allclose(steps, torch.full_like(steps, 0.05 * 16 * (5 / 26) ** 2), rtol=1e-3)
    assert found.trace.gradient_norm.flatten().tolist() == pytest.approx([4 * 5 / 26] * 6, rel=1e-3)


def test_a_state_that_is_not_finite_names_the_step():
    class Escapes(Base):
        def __call__(self, step, noise):
            return step.mean * torch.inf

    with pytest.raises(FloatingPointError, match=r"the state is not finite after step 1 \(t = 1\); lower the strength"):
        sample(unit(FlowPath()), [""], None, Method(proposal=Escapes()), 3)

"""Whitening the path keeps the noise accumulated over all steps white."""

import pytest
import torch

from noisetilt import METHODS, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.noise import audit
from noisetilt.path import FlowPath, VPPath
from noisetilt.path.accumulated_noise import AccumulatedNoise
from noisetilt.path.strength import VARIANCES, ReverseProcess
from noisetilt.path.time_travel import TimeTravel
from noisetilt.rewards import Reward
from noisetilt.selection import RolloverBudget

# Data of variance 1 in every mode: a sample equals the accumulated noise.
WHITE = GaussianModel(torch.zeros(3, 32, 32), torch.ones(32, 32))
PLACE = torch.arange(32)
BUMP = torch.exp(-((PLACE[:, None] - 12.0) ** 2 + (PLACE - 18.0) ** 2) / 8).expand(3, -1, -1)
BRIGHT = Reward("bright", lambda images, prompts: (images * BUMP).sum((1, 2, 3)) / BUMP.norm())
PATH = METHODS["ntrk"].replace(whitened="path", rho=0.1)
VP = VPPath.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def typical(images):
    """p-values of the audit of images, each scaled to RMS 1."""
    return audit(images / images.square().mean((1, 2, 3), keepdim=True).sqrt()).p_value


def test_whitening_the_path_keeps_accumulated_noise_typical():
    """It gains more than the whitened gradient; whitening single steps leaves an atypical sum."""
    gradient, mixture, path = (
        sample(WHITE, [""] * 8, BRIGHT, PATH.replace(whitened=whitened), 25, track=False)
        for whitened in ("gradient", "mixture", "path")
    )
    assert (typical(path.images) > 1e-4).all()
    assert typical(gradient.images).median() < 1e-4 and typical(mixture.images).median() < 1e-4
    assert mixture.rewards.mean() > path.rewards.mean() > 2 * gradient.rewards.mean() and path.rewards.mean() > 8


def test_weak_tilt_is_the_same_with_path_and_mixture():
    weak = PATH.replace(rho=1e-4)
    with_path, with_mixture = (sample(WHITE, [""] * 4, BRIGHT, m, 10) for m in (weak, weak.replace(whitened="mixture")))
    assert torch.allclose(with_path.rewards, with_mixture.rewards, atol=0.05)


def test_step_noise_inverts_total_with():
    noise, step = torch.randn(2, 2, 3, 8, 8).unbind(0)
    injected = AccumulatedNoise(noise, 0.7)
    assert torch.allclose(injected.step_noise(injected.total_with(step, 0.4), 0.4), step, atol=1e-5)


@pytest.mark.parametrize("path", [FlowPath(), VP])
def test_accumulated_noise_is_the_sum_of_propagated_noise(path):
    """On data of variance 1 it equals the state up to the remainder of x_T, and its variance is that of the weights."""
    seen, model = [], GaussianModel(torch.zeros(1, 8, 8), torch.ones(8, 8), path)

    class Recorder(type(PATH.proposal)):
        def __call__(self, step, noise):
            seen.append((step.accumulated, step.mean))
            return super().__call__(step, noise)

    sample(model, ["", ""], None, METHODS["base"].replace(proposal=_zero_tilt(Recorder)), 20)
    first, (last, mean) = seen[0][0], seen[-1]
    assert first.variance == 0 and not first.noise.any()
    assert torch.allclose(last.noise, mean, atol=0.02 if path is VP else 1e-5)
    weights = ReverseProcess(path, path.grid(20)).weights[VARIANCES.tolist().index(1.0)]
    assert last.variance == pytest.approx((weights**2).sum(), rel=1e-6)


def _zero_tilt(kind):
    """A proposal of this class with ρ = 0, which needs no reward."""
    proposal = kind(rho=0.0, whitened="path")
    object.__setattr__(proposal, "needs_gradient", False)
    return proposal


@pytest.mark.parametrize("selection", [METHODS["svdd"].replace(particles=3).selection, RolloverBudget(budget=3)])
def test_selection_moves_accumulated_noise_with_its_particle(selection):
    """A particle that continues from another particle's state takes its accumulated noise too."""
    result = sample(WHITE, ["", ""], BRIGHT, PATH.replace(selection=selection), 25, track=False)
    assert (typical(result.images) > 1e-4).all() and result.rewards.mean() > 8


def test_time_travel_is_rejected():
    with pytest.raises(ValueError, match="time travel"):
        sample(WHITE, [""], BRIGHT, PATH.replace(times=TimeTravel(repeats=2)), 5)

"""Whitening the path: what all steps have injected together stays white noise, whatever a tilt asks for."""

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

# Data of variance 1 in every mode: a picture is what was injected, and nothing else.
WHITE = GaussianModel(torch.zeros(3, 32, 32), torch.ones(32, 32))
PLACE = torch.arange(32)
BUMP = torch.exp(-((PLACE[:, None] - 12.0) ** 2 + (PLACE - 18.0) ** 2) / 8).expand(3, -1, -1)
BRIGHT = Reward("bright", lambda images, prompts: (images * BUMP).sum((1, 2, 3)) / BUMP.norm())
PATH = METHODS["ntrk"].replace(whitened="path", rho=0.1)
VP = VPPath.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def typical(pictures):
    """p-values that pictures, each scaled to RMS 1, are white noise."""
    return audit(pictures / pictures.square().mean((1, 2, 3), keepdim=True).sqrt()).p_value


def test_what_a_path_injects_stays_typical_where_the_sum_of_typical_steps_does_not():
    """And it gains more than the whitened gradient, far beyond the best of any number of pictures one could draw."""
    gradient, mixture, path = (
        sample(WHITE, [""] * 8, BRIGHT, PATH.replace(whitened=whitened), 25, track=False)
        for whitened in ("gradient", "mixture", "path")
    )
    assert (typical(path.images) > 1e-4).all()
    assert typical(gradient.images).median() < 1e-4 and typical(mixture.images).median() < 1e-4
    assert mixture.rewards.mean() > path.rewards.mean() > 2 * gradient.rewards.mean() and path.rewards.mean() > 8


def test_a_weak_tilt_is_the_same_with_and_without_the_account():
    weak = PATH.replace(rho=1e-4)
    with_account, without = (sample(WHITE, [""] * 4, BRIGHT, m, 10) for m in (weak, weak.replace(whitened="mixture")))
    assert torch.allclose(with_account.rewards, without.rewards, atol=0.05)


def test_mixing_and_fitting_are_inverse():
    noise, step = torch.randn(2, 2, 3, 8, 8).unbind(0)
    injected = AccumulatedNoise(noise, 0.7)
    assert torch.allclose(injected.noise_for(injected.total_with(step, 0.4), 0.4), step, atol=1e-5)


@pytest.mark.parametrize("path", [FlowPath(), VP])
def test_the_account_is_the_sum_that_the_kernels_make_of_all_noise(path):
    """On data of variance 1 it is the state, but for what is left of x_T; its variance that of the weights."""
    seen, model = [], GaussianModel(torch.zeros(1, 8, 8), torch.ones(8, 8), path)

    class Seeing(type(PATH.proposal)):
        def __call__(self, step, noise):
            seen.append((step.accumulated, step.mean))
            return super().__call__(step, noise)

    sample(model, ["", ""], None, METHODS["base"].replace(proposal=_blind(Seeing)), 20)
    first, (last, mean) = seen[0][0], seen[-1]
    assert first.variance == 0 and not first.noise.any()
    assert torch.allclose(last.noise, mean, atol=0.02 if path is VP else 1e-5)
    weights = ReverseProcess(path, path.grid(20)).weights[VARIANCES.tolist().index(1.0)]
    assert last.variance == pytest.approx((weights**2).sum(), rel=1e-6)


def _blind(kind):
    """A proposal of this kind that tilts by nothing, so that no reward is needed."""
    proposal = kind(rho=0.0, whitened="path")
    object.__setattr__(proposal, "needs_gradient", False)
    return proposal


@pytest.mark.parametrize("selection", [METHODS["svdd"].replace(particles=3).selection, RolloverBudget(budget=3)])
def test_selections_carry_each_particle_s_own_account(selection):
    """Particles that go on from another's state go on from its account, too: the sums stay typical."""
    result = sample(WHITE, ["", ""], BRIGHT, PATH.replace(selection=selection), 25, track=False)
    assert (typical(result.images) > 1e-4).all() and result.rewards.mean() > 8


def test_time_travel_is_refused():
    with pytest.raises(ValueError, match="time travel"):
        sample(WHITE, [""], BRIGHT, PATH.replace(times=TimeTravel(repeats=2)), 5)

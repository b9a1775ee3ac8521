"""Initial noise that the reward chose is kept by the first step."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch

from noisetilt import METHODS, Method, sample
from noisetilt.initial_noise import Gaussian
from noisetilt.integrations.diffusers.schedules import TrigPath
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, VEPath, VPPath, reverse_kernel
from noisetilt.proposals import Base, NoiseTilt, TwistedShift
from noisetilt.rewards import Reward
from noisetilt.sampling import Engine
from noisetilt.sampling.rng import PerImageRNG
from noisetilt.selection import RolloverBudget


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Chosen:
    """The noise `noise` in all images, as if the reward had chosen it."""

    noise: torch.Tensor
    needs_reward = True

    def __call__(self, noise, objective):
        return self.noise.expand_as(noise)


def zero_snr():
    """A variance-preserving path that ends in nearly pure noise, as those with zero terminal SNR."""
    return VPPath([*VPPath.from_betas(torch.linspace(1e-3, 0.2, 20)).alphas_cumprod, 2.0**-24])


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    "path",
    [FlowPath(), TrigPath(), zero_snr(), VPPath.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)],
    ids=["flow", "trig", "zero-snr", "stable-diffusion"],
)
@pytest.mark.parametrize("proposal", [Base(), NoiseTilt(0.1), TwistedShift()], ids=["base", "ntrk", "twisted"])
def test_chosen_noise_survives_the_first_step(path, eta, proposal):
    """x_s = α_s x̂_0 + σ_s ε̂ in the first step. The next steps draw noise, as with drawn initial noise."""
    x_T, x0_hat = normal(1, 3, 8, 8, seed=1), normal(1, 3, 8, 8, seed=2)
    grid, zeros, reward = path.grid(4), torch.zeros(1, 3, 8, 8), torch.zeros(1)
    engine = Engine(Method(initial=Chosen(x_T), proposal=proposal), path, (3, 8, 8), [0], eta)
    engine.set_grid(grid)
    x = engine.start(grid[0], lambda *_: None)
    x_s = engine.advance(x, x0_hat, grid[0], grid[1], reward, zeros)
    epsilon = (x - path.alpha(grid[0]) * x0_hat) / path.sigma(grid[0])
    torch.testing.assert_close(x_s, path.alpha(grid[1]) * x0_hat + path.sigma(grid[1]) * epsilon, rtol=1e-4, atol=1e-4)
    later = engine.advance(x_s, x0_hat, grid[1], grid[2], reward, zeros)
    mean, std = reverse_kernel(path, x_s, x0_hat, grid[1], grid[2], eta)
    assert ((later - mean) / std).std() > 0.8
    assert (engine.process.weights[:, 0] == 0).all() and (engine.process.weights[:, 1] > 0).all()


def test_drawn_noise_is_replaced_as_by_the_kernel():
    x, x0_hat = normal(1, 3, 8, 8, seed=1), normal(1, 3, 8, 8, seed=2)
    flow = Engine(Method(), FlowPath(), (3, 8, 8), [0])
    x_s = flow.advance(x, x0_hat, 1.0, 0.5, None, None)
    torch.testing.assert_close(x_s, 0.5 * x0_hat + 0.5 * PerImageRNG([0], 1, (3, 8, 8)).normal()[0])


def test_full_renoising_replaces_chosen_noise_too():
    engine = Engine(Method(initial=Chosen(normal(1, 3, 8, 8))), FlowPath(), (3, 8, 8), [0], math.inf)
    one, other = normal(1, 3, 8, 8, seed=1), normal(1, 3, 8, 8, seed=2)
    means = [reverse_kernel(FlowPath(), x, torch.zeros_like(x), 1.0, 0.5, engine.eta)[0] for x in (one, other)]
    x_s = engine.advance(one, torch.zeros_like(one), 1.0, 0.5, None, None)
    assert torch.equal(*means) and torch.cosine_similarity(x_s.flatten(), one.flatten(), 0).abs() < 0.3


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ascent_raises_the_reward_of_several_steps_of_a_flow(eta):
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8), FlowPath())
    wave = torch.linspace(-1, 1, 8).expand(3, 8, 8) / 6
    reward = Reward("linear", lambda i, p: (i * wave).sum((1, 2, 3)))
    method = METHODS["none"].replace(iterations=30, chain_steps=4)
    plain, chosen = (sample(model, [""] * 8, reward, m, 4, eta=eta).rewards for m in ("base", method))
    assert (chosen > plain + 0.5).all()


class Timed(GaussianModel):
    """A model that records the times of its network calls."""

    def denoiser(self, prompts):
        denoiser, self.times = super().denoiser(prompts), []
        network = denoiser.network
        denoiser.network = lambda x, t, index: (self.times.append(t), network(x, t, index))[1]
        return denoiser


@pytest.mark.parametrize(
    "grid, times",
    [
        ([5.0, 2.0, 1.0, 0.3, 0.0], [5.0, 1.0]),
        # Times after a noisier one, and an end with noise.
        ([5.0, 1.0, 2.0, 1.0, 0.3, 0.1], [5.0, 0.3]),
    ],
)
def test_the_chain_of_an_ascent_has_times_of_the_call(grid, times):
    model = Timed(torch.zeros(3, 8, 8), torch.ones(8, 8), VEPath())
    mean = Reward("mean", lambda images, prompts: images.mean((1, 2, 3)))
    sample(model, [""], mean, METHODS["none"].replace(iterations=0, chain_steps=2), grid=grid)
    assert model.times[:2] == times
    with pytest.raises(ValueError, match=r"chain_steps = 9 exceeds the \d steps of this call"):
        sample(model, [""], mean, METHODS["none"].replace(iterations=0, chain_steps=9), grid=grid)


def test_a_step_without_noise_is_not_redrawn():
    """Its candidates are all the same: rollover budget forcing keeps the calls for later steps."""
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8), FlowPath())
    falling = itertools.count(0, -1)
    reward = Reward("falling", lambda images, prompts: torch.full((len(images),), float(next(falling))))
    method = Method(initial=Chosen(normal(1, 3, 8, 8)), selection=RolloverBudget(budget=3))
    assert sample(model, [""], reward, method, 2).trace.nfe == 2
    drawn = sample(model, [""], reward, replace(method, initial=Gaussian()), 2)
    assert drawn.trace.nfe == 6

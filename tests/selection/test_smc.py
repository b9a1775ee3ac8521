"""Sequential Monte Carlo: resampling, weights, and convergence to the tilted distribution."""

import itertools
import math

import pytest
import torch

from noisetilt import sample
from noisetilt.methods import METHODS, Method
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, reverse_kernel
from noisetilt.proposals import (
    Base,
    BlackBoxTilt,
    ColouredNoise,
    ManifoldTilt,
    MeanShift,
    NoiseTilt,
    SphericalGaussian,
    Step,
    TwistedShift,
)
from noisetilt.rewards import Reward
from noisetilt.sampling import Engine
from noisetilt.selection import SMC, Candidates, Independent
from noisetilt.selection.smc import Weights, systematic_resampling


def choose(selection, rewards, state=None, log_ratio=None, number=1, steps=1):
    uniform = torch.full_like(rewards, 0.5)
    log_ratio = torch.zeros_like(rewards) if log_ratio is None else log_ratio
    return selection.choose(Candidates(rewards, log_ratio, uniform, number, steps), state)


def test_systematic_resampling_is_proportional():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    uniform = torch.linspace(0, 1, 1001)[:-1]
    counts = torch.zeros(4)
    for u in uniform:
        drawn = systematic_resampling(weights.log(), u.expand(1, 4))
        count = torch.bincount(drawn[0], minlength=4)
        assert ((count - 4 * weights[0]).abs() < 1).all()
        counts += count
    assert torch.allclose(counts / counts.sum(), weights[0], atol=0.002)


def test_weights_telescope():
    """Without resampling the weights of several steps are exp(last λ r/τ) times all density ratios."""
    smc = SMC(particles=3, temperature=0.5, ess=0.0)
    rewards = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    ratios = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))
    state = None
    for k in range(4):
        _, state = choose(smc, rewards[k], state, ratios[k], k + 1, 4)
    assert torch.allclose(state.log_weights, rewards[-1] / 0.5 + ratios.sum(0), atol=1e-5)


def test_only_images_with_low_ess_are_resampled():
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0], [20.0, 0.0, 0.0, 0.0]])
    drawn, state = choose(SMC(particles=4, ess=0.5), rewards)
    assert drawn.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert isinstance(state, Weights) and (state.log_weights == 0).all()


def test_tilted_start_leaves_the_first_weights_unchanged():
    rewards = torch.tensor([[3.0, 0.0, -1.0]])
    smc = SMC(particles=3, ess=0.0, tilted_start=True)
    _, state = choose(smc, rewards)
    assert (state.log_weights == 0).all()
    _, state = choose(smc, rewards + torch.tensor([[0.0, 1.0, 0.0]]), state, number=2, steps=2)
    assert state.log_weights.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("tempering", [None, 0.5])
def test_a_tilted_start_has_the_same_target_with_tempering(tempering):
    """Particles at −1 and 1 that were drawn with probability ∝ exp(r/τ): after the last step their weighted mean is
    that of exp(r'/τ), for any rewards r' of their images."""
    start, final, temperature = torch.tensor([[1.0, -0.5]]), torch.tensor([[0.2, 0.6]]), 0.7
    smc = SMC(particles=2, ess=0.0, tilted_start=True, temperature=temperature, tempering=tempering)
    _, state = choose(smc, start, number=1, steps=3)
    _, state = choose(smc, torch.randn(1, 2), state, number=2, steps=3)
    _, state = choose(smc, final, state, number=3, steps=3)
    weighted = torch.softmax(start / temperature + state.log_weights, 1)
    torch.testing.assert_close(weighted, torch.softmax(final / temperature, 1))


def test_resampling_happens_at_intervals():
    rewards = torch.tensor([[20.0, 0.0]])
    smc = SMC(particles=2, interval=2, ess=1.0)
    assert choose(smc, rewards, number=1, steps=4)[0] is None
    assert choose(smc, rewards, number=2, steps=4)[0].tolist() == [[0, 0]]


def discrete_power(model, steps):
    """Eigenvalues of the covariance of base samples with this many steps, by the recursion of variances."""
    path, variance = model.path, torch.ones_like(model.power)
    for t, s in itertools.pairwise(path.grid(steps)):
        gain = path.alpha(t) * model.power / (path.alpha(t) ** 2 * model.power + path.sigma(t) ** 2)
        coefficient, std = reverse_kernel(path, torch.ones_like(gain), gain, t, s)
        variance = coefficient**2 * variance + std**2
    return variance


def weighted_moments(proposal, smc, images, steps=20):
    """Mean and variance along a direction of the weighted particles of many independent runs, and their errors."""
    model = GaussianModel(torch.zeros(1, 2, 2), torch.tensor([[1.0, 0.5], [0.5, 0.25]]))
    direction = torch.tensor([[[1.0, 0.5], [-0.5, 0.2]]])
    engine = Engine(Method(proposal=proposal, selection=smc), model.path, model.shape, range(images), steps=steps)
    denoiser = model.denoiser([""])
    grid = model.path.grid(steps)
    x = engine.start(1.0)
    for t, s in itertools.pairwise(grid):
        x = x.requires_grad_()
        with torch.enable_grad():
            x0_hat = denoiser(x, t)
            rewards = (x0_hat * direction).sum((1, 2, 3))
        gradient = torch.autograd.grad(rewards, x, torch.ones_like(rewards))[0]
        x = engine.advance(x.detach(), x0_hat.detach(), t, s, rewards.detach(), gradient)
    values = engine.by_image((x * direction).sum((1, 2, 3)))
    weights = torch.softmax(engine._selection_state.log_weights, dim=1)
    first, second = ((weights * values**k).sum(1) for k in (1, 2))
    mean, error = first.mean(), first.std() / math.sqrt(images)
    variance = second.mean() - mean**2
    prior = (direction * model._filter(direction, discrete_power(model, steps))).sum()
    return mean.item(), error.item(), variance.item(), prior.item()


@pytest.mark.parametrize(
    "proposal, smc",
    [
        (Base(), SMC(particles=64)),
        (Base(), SMC(particles=64, interval=5, tempering=0.05)),
        (TwistedShift(tempering=None), SMC(particles=64)),
        (TwistedShift(tempering=0.05), SMC(particles=64, tempering=0.05)),
        (MeanShift(0.01), SMC(particles=64)),
    ],
    ids=["fk", "fk-tempered", "twisted", "das", "mean-shift"],
)
def test_smc_converges_to_the_tilted_gaussian(proposal, smc):
    """For the reward aᵀx at τ = 1 the target is N(Σa, Σ), along a of mean aᵀΣa and variance aᵀΣa, where Σ is the
    covariance of base sampling with as many steps."""
    mean, error, variance, prior = weighted_moments(proposal, smc, images=200)
    bias = 2 / smc.particles * prior  # of normalised weights: proportional to 1 / particles
    assert abs(mean - prior) < 4 * error + bias
    assert variance == pytest.approx(prior, rel=0.12)


def test_shifted_proposal_without_density_ratio_is_biased():
    mean, error, _, prior = weighted_moments(TwistedShift(tempering=None), SMC(particles=64, correct=False), 200)
    assert mean - prior > 0.2 * prior + 4 * error


@pytest.mark.parametrize(
    "proposal",
    [NoiseTilt(), ManifoldTilt(), BlackBoxTilt(draws=2), SphericalGaussian()],
    ids=lambda p: type(p).__name__,
)
def test_proposals_of_unknown_density_are_refused_with_the_density_ratio(proposal):
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8))
    reward = Reward("mean", lambda images, prompts: images.mean((1, 2, 3)))
    method = Method(proposal=proposal, selection=SMC(particles=3))
    words = f"correct = True .* not known of {type(proposal).__name__}; give correct = False"
    with pytest.raises(ValueError, match=words):
        sample(model, [""], reward, method, 3)
    assert sample(model, [""], reward, method.replace(correct=False), 3).rewards.isfinite().all()


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if getattr(m.proposal, "known_density", True)])
def test_proposals_of_known_density_add_the_noise_to_a_mean(name):
    """Or, for coloured noise, a linear map of it that depends on the time alone."""
    proposal = METHODS[name].proposal
    x_t, x0_hat, gradient, first, second = torch.randn(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = reverse_kernel(FlowPath(), x_t, x0_hat, 0.6, 0.4)
    step = Step(FlowPath(), 0.6, 0.4, x_t, x0_hat, mean, std, None, gradient, lambda x_0: -x_0)
    difference = first - second
    if isinstance(proposal, ColouredNoise):
        difference = proposal.coloured(difference, FlowPath(), 0.6)
    torch.testing.assert_close(proposal(step, first) - proposal(step, second), std * difference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["fk", "das"])
def test_named_methods_reach_higher_rewards_than_best_of_n_with_as_many_particles(name):
    model = GaussianModel(torch.zeros(1, 2, 2), torch.ones(2, 2))
    reward = Reward("sum", lambda x, p: x.sum((1, 2, 3)) / 2)  # standard normal under the prior
    best_of_n = Method(selection=Independent(METHODS[name].selection.particles))
    rewards = {m: sample(model, [""] * 128, reward, m, 10, chunk=4096).rewards for m in (METHODS[name], best_of_n)}
    difference = rewards[METHODS[name]] - rewards[best_of_n]
    assert difference.mean() > 0.1 + 2 * difference.std() / math.sqrt(len(difference))


@pytest.mark.parametrize(
    "change, word",
    [
        ({"particles": 0}, "particles"),
        ({"temperature": 0}, "temperature"),
        ({"ess": 2}, "ess"),
        ({"interval": 0}, "int"),
    ],
)
def test_invalid_options_are_rejected(change, word):
    with pytest.raises(ValueError, match=word):
        SMC(**change)

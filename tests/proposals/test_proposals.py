"""Each proposal against its paper's formula, and against other proposals where they coincide."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from noisetilt import METHODS, Method, sample
from noisetilt.integrations.diffusers.schedules import RatioPath, TrigPath
from noisetilt.models.denoiser import Denoiser
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, ReverseProcess, VEPath, VPPath, reverse_kernel
from noisetilt.path.accumulated_noise import AccumulatedNoise
from noisetilt.path.tempering import temper
from noisetilt.path.time_travel import TimeTravel
from noisetilt.proposals import (
    Base,
    ManifoldShift,
    ManifoldTilt,
    MeanShift,
    MonteCarloShift,
    NoiseTilt,
    NormalisedMeanShift,
    SphericalGaussian,
    Step,
    TrainingFreeGuidance,
    TwistedShift,
    UniversalGuidance,
)
from noisetilt.rewards import Reward
from noisetilt.selection import SMC

VP = VPPath([0.99, 0.8, 0.5, 0.1])
TARGET = torch.linspace(-1, 1, 12, dtype=torch.float64).view(1, 3, 2, 2)


def towards(x_0):
    """∇ of r(x_0) = −½‖x_0 − target‖²."""
    return TARGET - x_0


def step(path=VP, t=2, s=1, eta=1.0, number=1, steps=1):
    generator = torch.Generator().manual_seed(0)
    x_t, x0_hat, gradient = (torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator) for _ in range(3))
    mean, std = reverse_kernel(path, x_t, x0_hat, t, s, eta)
    return Step(path, t, s, x_t, x0_hat, mean, std, None, gradient, towards, number, steps)


NOISE = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_dps_adds_the_gradient():
    now = step()
    assert torch.allclose(MeanShift(0.3)(now, NOISE), Base()(now, NOISE) + 0.3 * now.gradient)


def test_lgd_adds_the_gradient_of_the_smoothed_reward():
    """Its smoothing is tested below; the shift is that of DPS."""
    now = step()
    assert torch.allclose(MonteCarloShift(0.3)(now, NOISE), Base()(now, NOISE) + 0.3 * now.gradient)


def test_freedom_shift_has_the_given_norm_relative_to_the_noise():
    now = step()
    shift = (NormalisedMeanShift(0.2)(now, NOISE) - Base()(now, NOISE)).flatten(1)
    assert torch.allclose(shift.norm(dim=1), torch.full((2,), 0.2 * now.std * math.sqrt(12), dtype=torch.float64))
    cosine = torch.cosine_similarity(shift, now.gradient.flatten(1))
    assert torch.allclose(cosine, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-22, 1e-10, 1e30])
def test_normalised_proposals_do_not_depend_on_the_scale_of_the_gradient(scale):
    """float32 squares of 1e-22 are below its range, and those of 1e30 above it."""
    now, noise = step(), NOISE.float()
    gradient = now.gradient.float()
    for proposal in (
        NormalisedMeanShift(0.2),
        SphericalGaussian(0.3),
        NoiseTilt(0.3),
        ManifoldTilt(0.3, whitened="mixture"),
    ):
        plain, scaled = (proposal(replace(now, gradient=factor * gradient), noise) for factor in (1.0, scale))
        assert torch.allclose(plain, scaled, atol=1e-3)


def test_mpgd_shifts_the_prediction_and_keeps_epsilon():
    """DDIM's formula with the shifted x̂_0 and the old ε̂."""
    now = step(eta=0.5)
    epsilon = (now.x_t - VP.alpha(2) * now.x0_hat) / VP.sigma(2)
    shifted = now.x0_hat + 0.3 * now.gradient
    expected = VP.alpha(1) * shifted + math.sqrt(VP.sigma(1) ** 2 - now.std**2) * epsilon + now.std * NOISE
    assert torch.allclose(ManifoldShift(0.3)(now, NOISE), expected)


def test_universal_guidance_forward_is_a_shift_of_epsilon():
    """Bansal et al. 2023: ε̂ − s σ_t ∇r, then the sampler."""
    now = step(eta=0.5)
    epsilon = (now.x_t - VP.alpha(2) * now.x0_hat) / VP.sigma(2) - 0.4 * VP.sigma(2) * now.gradient
    x0_hat = (now.x_t - VP.sigma(2) * epsilon) / VP.alpha(2)
    expected = VP.alpha(1) * x0_hat + math.sqrt(VP.sigma(1) ** 2 - now.std**2) * epsilon + now.std * NOISE
    assert torch.allclose(UniversalGuidance(0.4, iterations=0)(now, NOISE), expected)


@pytest.mark.parametrize("path, t, s", [(TrigPath(), math.pi / 2, 1.2), (VPPath([0.9, 0.1, 2.0**-24]), 2, 1)])
def test_universal_guidance_is_bounded_where_there_is_hardly_any_signal(path, t, s):
    """σ²/α is 1e6 or 4096 there, and a network's gradient does not vanish with α."""
    now = step(path, t, s)
    forward, none = (UniversalGuidance(scale, iterations=0) for scale in (1.0, 0.0))
    assert torch.equal(forward(now, NOISE), none(now, NOISE))
    expected = reverse_kernel(path, now.x_t, now.x0_hat + 0.5 * towards(now.x0_hat), t, s)[0] + now.std * NOISE
    assert torch.allclose(UniversalGuidance(1.0, rate=0.5)(now, NOISE), expected)


@pytest.mark.parametrize(
    "proposal", [m.proposal for m in METHODS.values() if m.proposal.needs_gradient], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("path, t, s", [(TrigPath(), math.pi / 2, 1.2), (VPPath([0.9, 0.1, 2.0**-24]), 2, 1)])
def test_no_proposal_divides_the_gradient_by_alpha(proposal, path, t, s):
    x_s = proposal(replace(step(path, t, s), accumulated=AccumulatedNoise(torch.zeros_like(NOISE))), NOISE)
    assert x_s.abs().max() < 20


def test_universal_guidance_backward_reaches_the_optimum():
    """Ascent on a quadratic reward converges to its maximum, where the kernel is evaluated."""
    now = step()
    expected = reverse_kernel(VP, now.x_t, TARGET.expand_as(now.x_t), 2, 1)[0] + now.std * NOISE
    assert torch.allclose(UniversalGuidance(0.0, rate=0.5, iterations=60)(now, NOISE), expected, atol=1e-9)


def test_training_free_guidance_contains_dps_and_mpgd():
    """Without a known grid the schedule is not normalised: its strengths are those times ᾱ_t/ᾱ_s."""
    now = step(eta=0.5)
    ratio = (VP.alpha(2) / VP.alpha(1)) ** 2
    only_variance = TrainingFreeGuidance(rho=0.3, mu=0.0, gamma=0.0)
    assert torch.allclose(only_variance(now, NOISE), MeanShift(0.3 * ratio / math.sqrt(ratio))(now, NOISE))
    only_mean = TrainingFreeGuidance(rho=0.0, mu=0.2, iterations=1)
    at_x0 = replace(now, gradient=towards(now.x0_hat))
    assert torch.allclose(only_mean(now, NOISE), ManifoldShift(0.2 * ratio)(at_x0, NOISE))
    shift = towards(now.x0_hat) * (1 - (1 - 0.2 * ratio) ** 3)  # three steps on a quadratic reward
    assert torch.allclose(replace(only_mean, iterations=3)(now, NOISE), Base()(now, NOISE) + VP.alpha(1) * shift)


@pytest.mark.parametrize("t, s", [(3, 2), (2, 1), (1, 0)])
def test_training_free_guidance_has_the_strengths_of_its_code(t, s):
    """Ye et al. 2024, algorithm 1: Sample(x_t, x̂_0) + Δ_t / √(ᾱ_t/ᾱ_s) + √ᾱ_s Δ_0. The code's schedule "increase" is
    ρ̄ · ratio · len(ratios) / ratios.sum() with ratio = ᾱ_t/ᾱ_s, and the same with μ̄."""
    alpha_bar = [*VP.alphas_cumprod[::-1], 1.0]
    ratios = [before / after for before, after in itertools.pairwise(alpha_bar)]
    ratio = ratios[3 - t]
    increase = ratio * len(ratios) / sum(ratios)
    # A step that time travel repeats counts once.
    now = replace(step(t=t, s=s, eta=0.5), process=ReverseProcess(VP, [3, 2, 1, 2, 1, 0, -1]))
    shift = math.sqrt(alpha_bar[3 - s]) * 0.2 * increase * towards(now.x0_hat)
    expected = Base()(now, NOISE) + 0.3 * increase * now.gradient / math.sqrt(ratio) + shift
    assert torch.allclose(TrainingFreeGuidance(rho=0.3, mu=0.2, iterations=1)(now, NOISE), expected)


def test_training_free_guidance_of_one_step_from_pure_noise_is_the_base_proposal():
    """ᾱ_t/ᾱ_s and its mean are 0."""
    now = replace(step(FlowPath(), 1.0, 0.0), process=ReverseProcess(FlowPath(), [1.0, 0.0]))
    assert torch.equal(TrainingFreeGuidance()(now, NOISE), Base()(now, NOISE))


SCALED = {
    "tfg variance": METHODS["tfg"].replace(rho=0.1, mu=0.0),
    "tfg mean": METHODS["tfg"].replace(rho=0.0, mu=0.05),
    "tfg smoothed": METHODS["tfg"].replace(gamma=0.5, rho=0.1),
    "ugd": METHODS["ugd"].replace(scale=0.1),
    "das": METHODS["das"].replace(particles=3, temperature=5.0),
}


@pytest.mark.parametrize("gradient_at", ["x_t", "x0"])
@pytest.mark.parametrize("name", SCALED)
def test_images_are_the_same_on_paths_of_the_same_noise_levels(name, gradient_at):
    """States of the variance-exploding path are sqrt(1 + σ²) times those of the variance-preserving one."""
    grid, target = [80.0, 10.0, 3.0, 1.0, 0.3, 0.0], torch.linspace(-1, 1, 48).view(3, 4, 4)
    near = Reward("near", lambda x, p: -0.5 * (x - target).square().sum((1, 2, 3)))
    exploding, preserving = (
        sample(
            GaussianModel(torch.zeros(3, 4, 4), torch.ones(4, 4), path),
            [""] * 2,
            near,
            SCALED[name],
            grid=grid,
            gradient_at=gradient_at,
        )
        for path in (VEPath(), RatioPath())
    )
    assert torch.allclose(exploding.images, preserving.images, atol=2e-3)
    assert torch.allclose(exploding.trace.rewards, preserving.trace.rewards, atol=2e-2)


def test_twisted_shift_is_the_tilted_kernel_of_a_linear_reward():
    """N(mean, std²) tilted by exp(aᵀx/τ) is N(mean + std² a/τ, std²)."""
    now = step()
    moved = TwistedShift(temperature=2.0, tempering=None)(now, NOISE)
    assert torch.allclose(moved, now.mean + now.std**2 * now.gradient / 2.0 + now.std * NOISE)


@pytest.mark.parametrize("whitened", ["gradient", "mixture", "path"])
def test_ntrk_x0_is_ntrk_where_the_network_s_jacobian_is_a_multiple_of_the_identity(whitened):
    """White noise as data: x̂_0 is a multiple of x_t, and W does not depend on the scale of its input."""
    model = GaussianModel(torch.zeros(1, 16, 16), torch.ones(16, 16))
    target = torch.linspace(-1, 1, 256).view(1, 16, 16)
    near = Reward("near", lambda x, p: -(x - target).square().sum((1, 2, 3)))
    methods = [Method(proposal=kind(rho=0.3, whitened=whitened)) for kind in (NoiseTilt, ManifoldTilt)]
    through, at_x0 = (sample(model, [""] * 2, near, method, 6) for method in methods)
    # The two gradients differ by rounding, which W of the path enlarges.
    assert torch.allclose(through.images, at_x0.images, atol=1e-3)
    assert through.rewards.mean() > sample(model, [""] * 2, near, "base", 6).rewards.mean()


@pytest.mark.parametrize(("name", "differentiated"), [("ntrk", True), ("ntrk-x0", False)])
def test_ntrk_x0_does_not_differentiate_the_network(monkeypatch, name, differentiated):
    model, seen = GaussianModel(torch.zeros(1, 16, 16), torch.ones(16, 16)), []
    plain = model.denoiser([""])

    def network(*args):
        seen.append(torch.is_grad_enabled())
        return plain.network(*args)

    monkeypatch.setattr(model, "denoiser", lambda prompts: Denoiser(model.path, network))
    bright = Reward("bright", lambda x, p: x.mean((1, 2, 3)))
    sample(model, [""], bright, name, 4)
    # The first step, at α = 0, has no gradient, and the last no noise to tilt.
    assert seen == [False, differentiated, differentiated, False]


@pytest.mark.parametrize(
    "proposal",
    [
        MeanShift(0.0),
        MonteCarloShift(0.0),
        NormalisedMeanShift(0.0),
        ManifoldShift(0.0),
        UniversalGuidance(scale=0.0, rate=0.0),
        TrainingFreeGuidance(rho=0.0, mu=0.0),
        NoiseTilt(0.0),
        ManifoldTilt(0.0),
    ],
    ids=lambda p: type(p).__name__,
)
def test_zero_strength_is_the_base_proposal(proposal):
    assert torch.allclose(proposal(step(), NOISE), Base()(step(), NOISE))


def test_tempering_increases_to_one():
    values = [temper(0.05, k, 10) for k in range(1, 11)]
    assert values[-1] == pytest.approx(1.0)
    assert all(a < b for a, b in itertools.pairwise(values))
    assert temper(1e-6, 3, 10) == pytest.approx(0.3, abs=1e-4)
    assert temper(1e-17, 3, 10) == pytest.approx(0.3)
    assert 0 <= temper(1e6, 1, 60) < temper(1e6, 59, 60) < temper(1e6, 60, 60) == 1.0
    with pytest.raises(ValueError, match="tempering"):
        temper(0.0, 1, 2)


def test_time_travel_repeats_steps_in_its_window():
    grid = [1.0, 0.75, 0.5, 0.25, 0.0]
    assert TimeTravel().expand(FlowPath(), grid) == grid
    expanded = TimeTravel(repeats=2, after=0.4, before=0.8).expand(FlowPath(), grid)
    assert expanded == [1.0, 0.75, 0.5, 0.75, 0.5, 0.25, 0.5, 0.25, 0.0]
    hardly_any_signal = [math.pi / 2, 1.2, 0.0]
    assert TimeTravel(repeats=2).expand(TrigPath(), hardly_any_signal) == hardly_any_signal


def test_lgd_equals_dps_for_linear_rewards():
    """log E exp aᵀ(x̂_0 + r ε) has the gradient of aᵀx̂_0: LGD and DPS agree for any draws."""
    model = GaussianModel(torch.zeros(1, 4, 4), torch.ones(4, 4))
    direction = torch.linspace(-1, 1, 16).view(1, 4, 4)
    linear = Reward("linear", lambda x, p: 0.1 * (x * direction).sum((1, 2, 3)))
    dps = sample(model, [""] * 2, linear, METHODS["dps"].replace(scale=0.5), 4)
    lgd = sample(model, [""] * 2, linear, METHODS["lgd"].replace(scale=0.5, draws=3), 4)
    assert torch.allclose(lgd.trace.gradient_norm, dps.trace.gradient_norm, rtol=1e-4)


def test_lgd_shrinks_the_gradient_of_a_quadratic_reward():
    """E exp(−½‖x̂_0 + r ε‖²/v) ∝ exp(−½‖x̂_0‖²/(v + r²)): smoothing shrinks the gradient by v/(v + r²)."""
    model = GaussianModel(torch.ones(1, 2, 2), torch.full((2, 2), 1e-6))
    bowl = Reward("bowl", lambda x, p: -0.5 * x.square().sum((1, 2, 3)))
    norms = {}
    for name, change in {"dps": {}, "lgd": {"draws": 10_000}}.items():
        method = METHODS[name].replace(scale=0.0, **change)
        norms[name] = sample(model, [""], bowl, method, grid=[0.5, 0.0]).trace.gradient_norm[0, 0].item()
    std = 0.5 / math.sqrt(0.5)
    assert norms["lgd"] / norms["dps"] == pytest.approx(1 / (1 + std**2), rel=0.05)


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: MeanShift(-1), "scale"),
        (lambda: ManifoldShift(math.nan), "scale"),
        (lambda: UniversalGuidance(rate=-1), "rate"),
        (lambda: TrainingFreeGuidance(mu=-1), "mu"),
        (lambda: TrainingFreeGuidance(draws=-1), "draws = -1"),
        (lambda: TrainingFreeGuidance(iterations=-1), "iterations = -1"),
        (lambda: UniversalGuidance(iterations=-1), "iterations = -1"),
        (lambda: Method(proposal=NoiseTilt), "proposal = <class"),
        (lambda: TwistedShift(temperature=0), "temperature"),
        (lambda: TwistedShift(tempering=0), "tempering"),
        (lambda: SMC(tempering=-1.0), "tempering"),
        (lambda: TimeTravel(0), "repeats"),
        (lambda: METHODS["lgd"].replace(draws=0), "draws"),
    ],
)
def test_invalid_options_are_rejected(make, word):
    with pytest.raises(ValueError, match=word):
        make()

"""The strength of a whole path: its weights against simulation, and the gain of `best_of` on exact models."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from noisetilt import METHODS, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, VEPath, VPPath, renoise, reverse_kernel
from noisetilt.path.strength import (
    VARIANCES,
    ReverseProcess,
    best_of_excess,
    best_of_gain,
    excess_of_best,
    gain_of_best,
)
from noisetilt.path.time_travel import TimeTravel
from noisetilt.rewards import Reward

VP = VPPath.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@pytest.mark.parametrize("path", [FlowPath(), FlowPath(3.0), VEPath(), VP])
def test_weights_have_unit_norm_on_a_fine_grid(path):
    """With many steps the sampler draws from the prior, so the injected noise has unit variance."""
    process = ReverseProcess(path, path.grid(1000))
    middle = np.abs(np.log10(VARIANCES)) < 1
    assert np.allclose(np.square(process.weights).sum(1)[middle], 1, atol=0.03)


@pytest.mark.parametrize("path", [FlowPath(), VP])
@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("repeats", [1, 2])
def test_weights_match_impulse_responses(path, eta, repeats):
    """An impulse after each reverse step, carried to the end by the exact model's own kernels."""
    grid = TimeTravel(repeats, 0.3, 0.7).expand(path, path.grid(8))
    process, row = ReverseProcess(path, grid, eta), 40
    model = GaussianModel(torch.zeros(1, 1, 1, dtype=torch.float64), torch.tensor(VARIANCES[row]).view(1, 1), path)
    denoiser = model.denoiser([""])
    x = torch.zeros(len(process.times), 1, 1, 1, dtype=torch.float64)
    number = 0
    for t, s in itertools.pairwise(grid):
        if path.alpha(t) * path.sigma(s) > path.alpha(s) * path.sigma(t):
            x = renoise(path, x, torch.zeros_like(x), t, s)
            continue
        x, std = reverse_kernel(path, x, denoiser(x, t), t, s, eta)
        x[number] += std
        number += 1
    assert np.allclose(x.flatten().numpy() / math.sqrt(VARIANCES[row]), process.weights[row])


def test_rho_gives_the_requested_strength():
    process = ReverseProcess(FlowPath(), FlowPath().grid(25))
    for schedule in (lambda u: 1.0, lambda u: u**2):
        rho = process.rho(1e6, 4096, schedule)
        fractions = [0.0, *(rho * schedule(t) for t in process.times[1:])]
        assert math.sqrt(4096 * process.path_rho(fractions)) == pytest.approx(gain_of_best(1e6))
    assert process.rho(1, 4096) == 0


def test_rho_decreases_with_the_number_of_steps():
    rho = [ReverseProcess(FlowPath(), FlowPath().grid(steps)).rho(1e6, 4096) for steps in (10, 25, 100)]
    assert rho[0] > 2 * rho[1] > 4 * rho[2]


@pytest.mark.parametrize("best_of", [1, 2, 5, 20, 1000])
def test_gain_is_the_expected_largest_of_normal_numbers(best_of):
    def density(x):
        return x * best_of * stats.norm.pdf(x) * stats.norm.cdf(x) ** (best_of - 1)

    assert gain_of_best(best_of) == pytest.approx(integrate.quad(density, -10, 10)[0], abs=0.03)


def test_conversions_of_strength_are_inverse():
    for best_of in (1.0, 30.0, 1e6, 1e100):
        assert best_of_gain(gain_of_best(best_of)) == pytest.approx(best_of, rel=1e-6)
        assert best_of_excess(excess_of_best(best_of, 12288), 12288) == pytest.approx(best_of, rel=1e-6)
    # Four times the event size hides twice the squared gain.
    assert excess_of_best(1e6, 4 * 3072) == pytest.approx(excess_of_best(1e6, 3072) / 2)


def spectrum(size):
    frequency = torch.fft.fftfreq(size)
    power = 1 / (1e-3 + frequency[:, None] ** 2 + frequency[None] ** 2)
    return power / power.mean()


def reward_along(model, wave):
    """A linear reward whose standard deviation under the prior is 1."""
    direction = wave / (wave * model._filter(wave, model.power)).sum().sqrt()
    return Reward("linear", lambda images, prompts: (images * direction).sum((1, 2, 3)))


@pytest.mark.parametrize(
    ("path", "size", "steps", "best_of"),
    [(FlowPath(), 16, 25, 1e6), (FlowPath(3.0), 24, 12, 1e6), (VP, 16, 15, 1e12)],
)
@pytest.mark.parametrize("smooth", [True, False])
def test_best_of_gives_the_expected_gain(path, size, steps, best_of, smooth):
    """In standard deviations of the prior, on any path, event and grid, for smooth and for noise-like rewards."""
    model = GaussianModel(torch.zeros(3, size, size), spectrum(size), path)
    wave = torch.cos(2 * math.pi * torch.arange(size) / size).expand(model.shape)
    rough = model._filter(torch.randn(model.shape, generator=torch.Generator().manual_seed(0)), model.power.rsqrt())
    reward = reward_along(model, wave if smooth else rough)
    means = [
        sample(model, [""] * 12, reward, method, steps, chunk=64, track=False).rewards.mean().item()
        for method in ("base", METHODS["ntrk"].replace(best_of=best_of, whitened="mixture"))
    ]
    assert means[1] - means[0] == pytest.approx(gain_of_best(best_of), rel=0.2)


def test_excess_energy_equals_the_squared_gain():
    """A coherent tilt increases ‖Σ^(−1/2)(x − m)‖² by its squared gain, and by nothing else."""
    model = GaussianModel(torch.zeros(3, 16, 16), spectrum(16))
    bump = torch.exp(-((torch.arange(16)[:, None] - 6.0) ** 2) / 4 - (torch.arange(16) - 9.0) ** 2 / 4)
    reward = reward_along(model, bump * torch.tensor([1.0, -0.5, -0.5]).view(3, 1, 1))
    energy, gain = {}, {}
    for whitened in ("base", "gradient", "mixture"):
        method = "base" if whitened == "base" else METHODS["ntrk"].replace(whitened=whitened, best_of=1e20)
        result = sample(model, [""] * 32, reward, method, 15, chunk=64, track=False)
        energy[whitened] = model.whiten(result.images).square().sum((1, 2, 3)).mean().item()
        gain[whitened] = result.rewards.mean().item()
    disturbance = math.sqrt(energy["mixture"] - energy["base"])
    assert 0.9 < (gain["mixture"] - gain["base"]) / disturbance < 1.1
    # W of a smooth gradient has a small component along it, so the same fraction of the noise gains less.
    assert gain["mixture"] - gain["base"] > 2 * (gain["gradient"] - gain["base"])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: gain_of_best(0.5), "best_of = 0.5"),
        (lambda: METHODS["ntrk"].replace(best_of=math.inf), "best_of"),
        (lambda: METHODS["ntrk"].replace(best_of="much"), "best_of = .much"),
        (lambda: METHODS["ntrk"].replace(whitened="both"), "mixture"),
        (lambda: best_of_gain(40), "gain = 40"),
        (lambda: best_of_excess(-1, 100), "excess = -1"),
        (lambda: ReverseProcess(FlowPath(), FlowPath().grid(3)).rho(1e100, 64), "at most"),
    ],
)
def test_invalid_arguments_are_rejected(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_unreachable_strength_is_rejected_before_the_first_step():
    calls = []

    def reward(images, prompts):
        calls.append(1)
        return images.mean((1, 2, 3))

    model, method = GaussianModel(torch.zeros(1, 8, 8), torch.ones(8, 8)), METHODS["ntrk"].replace(best_of=1e100)
    with pytest.raises(ValueError, match="best_of = 1e"):
        sample(model, [""], reward, method, 3)
    assert not calls

import math
from dataclasses import replace

import pytest
import torch

from noisetilt import METHODS, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.path import VPPath, reverse_kernel
from noisetilt.proposals import Base, SphericalGaussian, Step
from noisetilt.rewards import Reward

PATH = VPPath([0.99, 0.8, 0.5, 0.1])
GENERATOR = torch.Generator().manual_seed(0)
NOISE, X_T, X0_HAT, GRADIENT = torch.randn(4, 2, 3, 4, 4, dtype=torch.float64, generator=GENERATOR)
STEP = Step(PATH, 2, 1, X_T, X0_HAT, *reverse_kernel(PATH, X_T, X0_HAT, 2, 1, 1.0), gradient=GRADIENT)


def perturbation(rate, step=STEP):
    return (SphericalGaussian(rate)(step, NOISE) - step.mean).flatten(1)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.7, 1.0])
def test_the_perturbation_has_the_norm_of_the_noise(rate):
    expected = torch.full((2,), math.sqrt(48) * STEP.std, dtype=torch.float64)
    assert torch.allclose(perturbation(rate).norm(dim=1), expected)


@pytest.mark.parametrize("rate, towards", [(0.0, NOISE), (1.0, GRADIENT)])
def test_rates_0_and_1_take_the_direction_of_noise_and_gradient(rate, towards):
    cosine = torch.cosine_similarity(perturbation(rate), towards.flatten(1))
    assert torch.allclose(cosine, torch.ones(2, dtype=torch.float64))


def test_the_mixture_is_that_of_the_paper():
    """d_m = d_sample + g_r (d* − d_sample), with d_sample = std ε and d* = sqrt(N) std g/‖g‖."""
    d_sample, gradient = STEP.std * NOISE.flatten(1), GRADIENT.flatten(1)
    d_star = math.sqrt(48) * STEP.std * gradient / gradient.norm(dim=1, keepdim=True)
    mixed = d_sample + 0.3 * (d_star - d_sample)
    assert torch.allclose(perturbation(0.3), math.sqrt(48) * STEP.std * mixed / mixed.norm(dim=1, keepdim=True))


def test_rows_without_a_gradient_are_the_pretrained_kernels():
    gradient = GRADIENT * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    step = replace(STEP, gradient=gradient)
    moved, base = SphericalGaussian(0.5)(step, NOISE), Base()(step, NOISE)
    assert torch.equal(moved[0], base[0]) and not torch.allclose(moved[1], base[1])


def test_the_reward_rises_with_the_rate_on_the_exact_model():
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8))
    mean = Reward("mean", lambda images, prompts: images.mean((1, 2, 3)))
    methods = (METHODS["dsg"].replace(guidance_rate=rate) for rate in (0.0, 0.05, 0.2))
    none, weak, strong = (sample(model, [""] * 32, mean, method, 10, chunk=32).rewards.mean() for method in methods)
    assert none < weak < strong


def test_bad_options_are_refused():
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="guidance_rate"):
            SphericalGaussian(rate)
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8))
    with pytest.raises(ValueError, match="eta = 0"):
        sample(model, [""], Reward("mean", lambda images, prompts: images.mean((1, 2, 3))), "dsg", 4, eta=0)

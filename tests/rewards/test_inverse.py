"""Measurement operators against their definitions, and their rewards against linear algebra."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt import METHODS, Method, optimize, sample
from noisetilt.initial_noise import PCNL, Ascent
from noisetilt.models.exact import GaussianModel
from noisetilt.rewards import Reward, inverse, load
from noisetilt.sampling.evaluation import Evaluator, noise_objective
from noisetilt.sampling.reward_evaluation import RewardEvaluator

MASK = torch.ones(16, 16, dtype=torch.bool)
MASK[4:12, 4:12] = False
OPERATORS = [inverse.gaussian_blur(1.5), inverse.downsample(4), inverse.keep(MASK), inverse.grey()]


def pictures(count, seed=0, dtype=torch.float64):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_operators_are_linear_and_keep_flat_colours(operator):
    x, y = pictures(2), pictures(2, 1)
    assert torch.allclose(operator(0.3 * x - 2 * y), 0.3 * operator(x) - 2 * operator(y))
    flat = operator(torch.full((1, 3, 16, 16), 0.4, dtype=torch.float64))
    assert torch.allclose(flat[flat != 0], torch.tensor(0.4, dtype=torch.float64))


def test_blur_of_a_point_is_a_gaussian_of_that_width():
    point = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    point[0, 0, 15, 15] = 1
    spread = inverse.gaussian_blur(2.0)(point)[0, 0]
    place = torch.arange(31, dtype=torch.float64) - 15
    assert spread.sum() == pytest.approx(1)
    assert (spread.sum(0) * place**2).sum().sqrt() == pytest.approx(2.0, rel=0.03)  # cut off at three widths
    assert torch.allclose(spread, spread.T)
    assert spread[15, 17] / spread[15, 15] == pytest.approx(math.exp(-0.5))


def test_downsampling_takes_means_and_grey_is_brightness():
    x = pictures(2)
    assert inverse.downsample(4)(x)[1, 2, 0, 3] == pytest.approx(x[1, 2, 0:4, 12:16].mean().item())
    assert torch.allclose(inverse.grey()(x).mean((1, 2, 3)), load("brightness")(x, ["", ""]))


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_the_reward_is_greatest_at_the_truth_and_its_gradient_is_the_residual(operator):
    """∇ −‖Ax − y‖² = −2 Aᵀ(Ax − y) with A as an explicit matrix; that of −‖Ax − y‖ is the same over its length."""
    truth, x = pictures(1)[0], pictures(1, 3)
    y = inverse.measure(operator, truth)
    assert inverse.matching(operator, y)(truth[None], [""]).item() == pytest.approx(0, abs=1e-20)
    matrix = operator(torch.eye(768, dtype=torch.float64).view(768, 3, 16, 16)).flatten(1).T
    residual = matrix @ x.flatten() - y.flatten()
    expected = -2 * matrix.T @ residual
    for power, scale in ((2, 1.0), (1, 0.5 / residual.norm())):
        at = x.clone().requires_grad_()
        reward = inverse.matching(operator, y, power)(at, [""])
        assert reward.item() == pytest.approx(-(residual.norm().item() ** power))
        gradient = torch.autograd.grad(reward.sum(), at)[0].flatten()
        assert torch.allclose(gradient, scale * expected)


def test_jpeg_is_the_files_image_with_the_gradient_of_the_identity():
    x = pictures(2, dtype=torch.float32).requires_grad_()
    operator = inverse.jpeg(20)
    measured = operator(x)
    for image, found in zip(x, measured, strict=True):
        levels = (image.detach() * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "JPEG", quality=20)
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(torch.autograd.grad(measured.sum(), x)[0], torch.ones_like(x))
    smooth = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    errors = [(inverse.jpeg(quality)(smooth) - smooth).square().mean() for quality in (5, 90)]
    assert errors[0] > 4 * errors[1]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_back_is_the_transpose_or_the_pseudo_inverse(operator):
    x, residual = pictures(1), operator(pictures(1, 4))
    matrix = operator(torch.eye(768, dtype=torch.float64).view(768, 3, 16, 16)).flatten(1).T
    found = operator.to_images(residual, x).flatten()
    inverse_matrix = torch.linalg.pinv(matrix) if operator.back is not None else matrix.T
    assert torch.allclose(found, inverse_matrix @ residual.flatten())


class Autoencoder:
    """`encode` is the exact inverse of `decode`, up to an offset."""

    def __init__(self, offset=0.0):
        self.offset = offset

    def decode(self, x_0):
        return (x_0 + 1) / 2

    def encode(self, images):
        return 2 * images - 1 + self.offset


def test_psld_adds_the_distance_to_the_corrected_latent():
    """With an exact autoencoder the second term is 2 ‖A⁺(y − A x)‖; an encoder's offset adds to it."""
    operator, truth, x = inverse.downsample(4), pictures(1)[0], pictures(3, 5)
    y = inverse.measure(operator, truth)
    states = 2 * x - 1
    reward = inverse.psld(operator, y, Autoencoder(), gluing=0.5)
    assert torch.equal(reward(x, [""] * 3), inverse.matching(operator, y, 1)(x, [""] * 3))
    expected = 0.5 * 2 * 4 * (operator(x) - y).flatten(1).norm(dim=1)  # A⁺ repeats each number 4 × 4 times
    assert torch.allclose(-reward.of_states(states, x, [""] * 3), expected)
    perfect = inverse.psld(operator, y, Autoencoder(0.1), 1.0).of_states(2 * truth[None] - 1, truth[None], [""])
    assert -perfect.item() == pytest.approx(0.1 * 768**0.5)


def test_the_term_of_states_guides_the_steps_and_is_not_part_of_the_final_reward():
    model = GaussianModel(torch.full((3, 16, 16), 0.5), 0.02 * torch.ones(16, 16))
    far = Reward("far", lambda images: 0 * images.mean((1, 2, 3)), of_states=lambda x_0, *_: x_0.mean((1, 2, 3)) * 1e3)
    base, guided = (sample(model, [""] * 2, far, method, 5) for method in ("base", METHODS["dps"].replace(scale=1.0)))
    assert guided.images.mean() > base.images.mean() + 0.05
    assert torch.equal(guided.rewards, torch.zeros(2))


# Darker images are better, and the term of states pulls strongly towards brighter ones.
DARK = Reward("dark", lambda images: -images.mean((1, 2, 3)))
TORN = replace(DARK, of_states=lambda x_0, *_: x_0.mean((1, 2, 3)) * 1e3)


def test_optimize_reports_and_selects_the_rewards_of_images():
    """The ascent climbs the term of states, which makes every later iterate worse than the first."""
    model = GaussianModel(torch.full((3, 16, 16), 0.5), 0.02 * torch.ones(16, 16))
    method = METHODS["gper"].replace(iterations=5, chain_steps=3)
    result = optimize(model, [""] * 2, TORN, method)
    assert torch.equal(result.rewards, DARK(result.images, [""] * 2)) and result.iterations.tolist() == [0, 0]
    assert (result.trace.rewards[1:] < result.trace.rewards[0]).all()
    base, sampled = (sample(model, [""] * 2, TORN, m, 3, eta=0.0) for m in ("base", method))
    assert torch.equal(sampled.images, base.images)


@pytest.mark.parametrize("initial", [Ascent(), PCNL()])
def test_the_gradient_of_initial_noise_is_that_of_both_terms(initial):
    """A Markov chain also gets their sum, whose gradient it needs; an ascent selects by the rewards of images."""
    model = GaussianModel(torch.full((3, 16, 16), 0.5), 0.02 * torch.ones(16, 16))
    evaluator = RewardEvaluator(TORN, model.decode, [""])
    evaluate = Evaluator(model.path, model.denoiser([""]), evaluator, "x_t", 1)
    start, index = model.path.grid(4)[2], torch.zeros(1, dtype=torch.long)
    objective = noise_objective(evaluate, Method(initial=initial), [start, 0.0], index)
    noise = pictures(1, 3, torch.float32)
    leaf = noise.clone().requires_grad_()
    x_0 = model.denoiser([""])(leaf, start)
    images, total = DARK(x_0, [""]), DARK(x_0, [""]) + TORN.of_states(x_0)
    rewards, gradient = objective(noise)
    torch.testing.assert_close(rewards, (images if isinstance(initial, Ascent) else total).detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(total.sum(), leaf)[0])


def test_a_heldout_reward_is_evaluated_without_its_term_of_states():
    model = GaussianModel(torch.full((3, 16, 16), 0.5), 0.02 * torch.ones(16, 16))
    plain, torn = (sample(model, [""] * 2, DARK, "ntrk", 3, heldout=heldout) for heldout in (DARK, TORN))
    assert torch.equal(plain.trace.heldout, torn.trace.heldout) and torch.equal(plain.heldout, torn.heldout)


def test_a_perfect_match_has_a_finite_gradient():
    x = pictures(1).requires_grad_()
    reward = inverse.matching(inverse.grey(), inverse.grey()(x.detach())[0], power=1)
    assert torch.autograd.grad(reward(x, [""]).sum(), x)[0].isfinite().all()


def test_measurement_noise_has_its_size_and_its_seed():
    x = pictures(1, dtype=torch.float32)[0]
    clean, one, again, other = (
        inverse.measure(OPERATORS[0], x, noise, seed) for noise, seed in ((0, 0), (0.1, 1), (0.1, 1), (0.1, 2))
    )
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert (one - clean).std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("method", [METHODS["dps"].replace(scale=3.0), METHODS["ntrk"].replace(rho=0.3)])
def test_guided_samples_match_the_measurement_better(method):
    frequency = torch.fft.fftfreq(16)
    power = 1 / (1e-2 + frequency[:, None] ** 2 + frequency[None] ** 2)
    model = GaussianModel(torch.full((3, 16, 16), 0.5), 0.02 * power / power.mean())
    truth = model.draw(1, torch.Generator().manual_seed(5))[0]
    reward = inverse.matching(inverse.downsample(4), inverse.measure(inverse.downsample(4), truth), power=1)
    free, guided = (sample(model, [""] * 4, reward, m, 15, track=False).rewards for m in ("base", method))
    assert (guided > 0.5 * free).all()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: inverse.gaussian_blur(0), "width = 0"),
        (lambda: inverse.jpeg(0), "quality = 0"),
        (lambda: inverse.jpeg(10.5), "quality = 10.5"),
        (lambda: inverse.jpeg("10"), "quality = '10' must be a whole number"),
        (lambda: inverse.downsample(float("nan")), "factor = nan must be a whole number"),
        (lambda: inverse.psld(inverse.grey(), torch.zeros(1, 16, 16), object()), "no `encode`"),
        (lambda: inverse.psld(inverse.grey(), torch.zeros(1, 16, 16), Autoencoder(), -1), "gluing = -1"),
        (lambda: inverse.gaussian_blur(9.0)(pictures(1)), "too wide"),
        (lambda: inverse.downsample(1), "factor = 1"),
        (lambda: inverse.downsample(3)(pictures(1)), "3×3"),
        (lambda: inverse.keep(torch.zeros(16, 16, dtype=torch.bool)), "true pixel"),
        (lambda: inverse.keep(torch.ones(16, 16)), "float32"),
        (lambda: inverse.measure(inverse.grey(), pictures(1)), "one \\(3, H, W\\)"),
        (lambda: inverse.measure(inverse.grey(), pictures(1)[0], -1), "noise = -1"),
        (lambda: inverse.matching(inverse.grey(), torch.zeros(1, 16, 16), 3), "power = 3"),
        (lambda: inverse.matching(inverse.grey(), torch.full((1, 16, 16), math.nan)), "finite"),
        (lambda: inverse.matching(inverse.grey(), torch.zeros(3, 16, 16))(pictures(1), [""]), "same operator"),
    ],
)
def test_bad_input_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()

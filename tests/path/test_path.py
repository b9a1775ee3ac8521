import math

import numpy as np
import pytest
import torch
from scipy import integrate

from noisetilt import METHODS
from noisetilt.models.exact import GaussianModel
from noisetilt.path import (
    FlowPath,
    TimeTravel,
    VEPath,
    VPPath,
    karras_grid,
    noise_fraction,
    renoise,
    reverse_kernel,
    uniform_grid,
)
from noisetilt.sampling import sample

BETAS = np.linspace(1e-4, 0.02, 1000)
VP = VPPath.from_betas(BETAS)


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_eta_one_is_the_ddpm_posterior(states):
    """Ho et al. 2020, eq. 6–7, for consecutive timesteps."""
    x_t, x0_hat = states
    t = 500
    beta, bar, bar_s = BETAS[t], VP.alphas_cumprod[t], VP.alphas_cumprod[t - 1]
    mean, std = reverse_kernel(VP, x_t, x0_hat, t, t - 1, eta=1.0)
    expected = math.sqrt(bar_s) * beta / (1 - bar) * x0_hat + math.sqrt(1 - beta) * (1 - bar_s) / (1 - bar) * x_t
    assert torch.allclose(mean, expected, atol=1e-12)
    assert std == pytest.approx(math.sqrt((1 - bar_s) / (1 - bar) * beta), rel=1e-10)


@pytest.mark.parametrize("path, t, s", [(VP, 700, 420), (FlowPath(), 0.8, 0.55), (VEPath(), 5.0, 2.0)])
def test_eta_one_is_bayes_rule_on_numbers(path, t, s):
    """x_s | x_t, x_0 of the Markov chain, by integrating the product of the two Gaussian densities."""
    x_0, x_t = 0.7, path.alpha(t) * 0.7 + 0.4 * path.sigma(t)
    ratio = path.alpha(t) / path.alpha(s)
    spread = math.sqrt(path.sigma(t) ** 2 - (ratio * path.sigma(s)) ** 2)

    def density(x):
        forward = math.exp(-0.5 * ((x_t - ratio * x) / spread) ** 2)
        return forward * math.exp(-0.5 * ((x - path.alpha(s) * x_0) / path.sigma(s)) ** 2)

    centre = path.alpha(s) * x_0
    span = (centre - 12 * path.sigma(s), centre + 12 * path.sigma(s))
    total, first, second = (integrate.quad(lambda x, k=k: x**k * density(x), *span, limit=200)[0] for k in range(3))
    mean, std = reverse_kernel(path, torch.tensor([x_t], dtype=torch.float64), torch.tensor([x_0]), t, s)
    assert mean.item() == pytest.approx(first / total, abs=1e-6)
    assert std == pytest.approx(math.sqrt(second / total - (first / total) ** 2), rel=1e-5)


def test_eta_zero_is_ddim(states):
    x_t, x0_hat = states
    mean, std = reverse_kernel(VP, x_t, x0_hat, 600, 560, eta=0.0)
    epsilon = (x_t - VP.alpha(600) * x0_hat) / VP.sigma(600)
    assert std == 0
    assert torch.allclose(mean, VP.alpha(560) * x0_hat + VP.sigma(560) * epsilon, atol=1e-12)


def test_eta_zero_is_the_euler_step_of_the_flow(states):
    x_t, x0_hat = states
    t, s = 0.7, 0.64
    mean, std = reverse_kernel(FlowPath(), x_t, x0_hat, t, s, eta=0.0)
    velocity = (x_t - x0_hat) / t
    assert std == 0
    assert torch.allclose(mean, x_t + (s - t) * velocity, atol=1e-12)


@pytest.mark.parametrize("path, t, s", [(VP, 700, 420), (FlowPath(), 1.0, 0.9), (VEPath(), 5.0, 2.0)])
def test_infinite_eta_is_full_renoising(states, path, t, s):
    x_t, x0_hat = states
    mean, std = reverse_kernel(path, x_t, x0_hat, t, s, eta=math.inf)
    assert std == pytest.approx(path.sigma(s))
    assert torch.allclose(mean, path.alpha(s) * x0_hat, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 2.0, math.inf])
@pytest.mark.parametrize("path, t, s", [(VP, 700, 420), (FlowPath(), 0.8, 0.55), (VEPath(), 5.0, 2.0)])
def test_every_eta_keeps_the_marginal(path, t, s, eta):
    """If x_t = α_t x_0 + σ_t ε and x̂_0 = x_0, then x_s has mean α_s x_0 and variance σ_s²."""
    x_0 = torch.tensor([1.3], dtype=torch.float64)
    zero, std = reverse_kernel(path, path.alpha(t) * x_0, x_0, t, s, eta)
    one, _ = reverse_kernel(path, path.alpha(t) * x_0 + path.sigma(t), x_0, t, s, eta)
    assert zero.item() == pytest.approx(path.alpha(s) * 1.3)
    assert std**2 + (one - zero).item() ** 2 == pytest.approx(path.sigma(s) ** 2)


def test_the_last_step_returns_the_prediction(states):
    x_t, x0_hat = states
    for path, t, s in [(VP, 40, -1), (FlowPath(), 0.04, 0.0), (VEPath(), 0.1, 0.0)]:
        mean, std = reverse_kernel(path, x_t, x0_hat, t, s)
        assert std == 0
        assert torch.allclose(mean, x0_hat)


def test_renoise_then_marginal():
    path = FlowPath()
    scale = renoise(path, torch.ones(1), torch.zeros(1), 0.3, 0.6).item()
    noise = renoise(path, torch.zeros(1), torch.ones(1), 0.3, 0.6).item()
    assert scale * path.alpha(0.3) == pytest.approx(path.alpha(0.6))
    assert (scale * path.sigma(0.3)) ** 2 + noise**2 == pytest.approx(path.sigma(0.6) ** 2)


def test_grids():
    assert uniform_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert uniform_grid(2, shift=3.0) == [1.0, 0.75, 0.0]
    sigmas = karras_grid(5, 0.002, 80.0)
    assert sigmas[0] == pytest.approx(80.0) and sigmas[-2] == pytest.approx(0.002) and sigmas[-1] == 0.0
    assert np.allclose(np.diff(np.array(sigmas[:-1]) ** (1 / 7), 2), 0, atol=1e-12)
    assert VP.grid(10)[0] == 999 and VP.grid(10)[-1] == -1


def test_a_first_time_rounded_up_has_hardly_a_signal_and_no_more_than_all_noise():
    """Schedulers start TrigFlow at 1.5708, a little over π/2, where the cosine is −4e-6."""
    from noisetilt.integrations.diffusers.schedules import TrigPath

    assert 0 < TrigPath().alpha(1.5708) < 1e-5 and 0.9999 < noise_fraction(TrigPath(), 1.5708) <= 1
    model = GaussianModel(torch.zeros(1, 4, 4), torch.ones(4, 4), path=TrigPath())
    method = METHODS["ntrk"].replace(rho=1.0, schedule="early")
    result = sample(model, [""], lambda x: x.mean((1, 2, 3)), method, grid=[1.5708, 1.0, 0.5, 0.0])
    assert result.images.isfinite().all()


def test_noise_fraction_is_the_flow_time():
    assert noise_fraction(FlowPath(), 0.3) == pytest.approx(0.3)
    assert noise_fraction(VEPath(), 1.0) == pytest.approx(0.5)


def test_flow_and_vp_kernels_agree(states):
    """At equal x̂_0 and signal-to-noise ratio, the kernels agree up to the scale of the state."""
    x_t, x0_hat = states
    t, s = 700, 420
    flow_t, flow_s = noise_fraction(VP, t), noise_fraction(VP, s)
    mean, std = reverse_kernel(VP, x_t, x0_hat, t, s)
    c_t, c_s = 1 / (VP.alpha(t) + VP.sigma(t)), 1 / (VP.alpha(s) + VP.sigma(s))
    flow_mean, flow_std = reverse_kernel(FlowPath(), c_t * x_t, x0_hat, flow_t, flow_s)
    assert torch.allclose(flow_mean, c_s * mean)
    assert flow_std == pytest.approx(c_s * std)


@pytest.mark.parametrize("path", [FlowPath(), VEPath(sigma_min=0.05, sigma_max=10.0), VP], ids=["flow", "ve", "vp"])
def test_base_sampling_reproduces_the_gaussian(path):
    """On the exact model, mean and covariance spectrum converge with the number of steps."""
    radius = torch.fft.fftfreq(4)[:, None] ** 2 + torch.fft.fftfreq(4)[None] ** 2
    power = 0.04 / (0.02 + radius)
    model = GaussianModel(torch.linspace(-1, 1, 16).view(1, 4, 4), power, path)
    count, errors = 2000, []
    for steps in (5, 100):
        images = sample(model, [""] * count, method="base", steps=steps, chunk=count).images
        spectrum = torch.fft.fft2(images - model.mean).abs().square().mean(0) / 16
        errors.append(((spectrum / power).log().abs()).max().item())
        assert (images.mean(0) - model.mean).abs().max() < 5 * power.mean().sqrt() / math.sqrt(count)
    noise = math.sqrt(2 / count) * 4
    assert errors[1] < 0.12 + noise
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda x: reverse_kernel(FlowPath(), x, x, 0.3, 0.5), "noisier"),
        (lambda x: reverse_kernel(FlowPath(), x, x, 0.0, 0.0), "no noise"),
        (lambda x: reverse_kernel(FlowPath(), x, x, 0.5, 0.3, eta=-1), "eta"),
        (lambda x: reverse_kernel(FlowPath(), x, x, 0.5, 0.3, eta=math.nan), "eta"),
        (lambda x: renoise(FlowPath(), x, x, 0.5, 0.3), "less noisy"),
        (lambda x: renoise(FlowPath(), x, x, 1.0, 1.0), "pure noise"),
        (lambda x: uniform_grid(0), "steps"),
        (lambda x: uniform_grid(5, shift=0), "shift"),
        (lambda x: karras_grid(5, 1.0, 0.5), "sigma_min"),
        (lambda x: VPPath([0.5, 0.7]), "alphas_cumprod"),
        (lambda x: VPPath.from_betas([0.1, 1.5]), "betas"),
        (lambda x: VP.alpha(1000), "outside"),
    ],
)
def test_invalid_arguments_are_rejected(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.zeros(1))


def test_time_travel_does_not_repeat_steps_to_a_noisier_time():
    assert TimeTravel(2).expand(FlowPath(), [1.0, 0.5, 0.8, 0.4, 0.0]) == [1.0, 0.5, 0.8, 0.4, 0.8, 0.4, 0.0]

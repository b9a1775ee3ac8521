import pytest
import torch

from noisetilt.models.exact import GaussianModel, MixtureModel
from noisetilt.path import FlowPath, VEPath


def gaussian(path):
    radius = torch.fft.fftfreq(4, dtype=torch.float64)[:, None] ** 2 + torch.fft.fftfreq(4, dtype=torch.float64) ** 2
    mean = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 4, 4)
    return GaussianModel(mean, 0.5 / (0.1 + radius), path)


@pytest.mark.parametrize("path, t", [(FlowPath(), 0.6), (VEPath(), 1.5)])
def test_gaussian_posterior_mean_by_linear_algebra(path, t):
    """x̂_0 equals the formula with an explicit covariance matrix."""
    model = gaussian(path)
    basis = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    covariance = model._filter(basis, model.power).view(16, 16)
    x_t = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma, m = path.alpha(t), path.sigma(t), model.mean.flatten()
    inner = alpha**2 * covariance + sigma**2 * torch.eye(16)
    gain = alpha * covariance @ torch.linalg.inv(inner)
    expected = m + (x_t.flatten(1) - alpha * m) @ gain.T
    assert torch.allclose(model.denoiser([""])(x_t, t).flatten(1), expected)


def test_whitened_samples_are_standard_normal():
    model = gaussian(FlowPath())
    white = model.whiten(model.draw(4000, torch.Generator().manual_seed(0)))
    assert white.mean().abs() < 4 / (4000 * 16) ** 0.5
    assert (white.flatten(1).T.cov() - torch.eye(16)).abs().max() < 5 / 4000**0.5


def test_mixture_posterior_mean_by_monte_carlo():
    """x̂_0 = E[x_0 | x_t] by importance sampling from the prior."""
    generator = torch.Generator().manual_seed(0)
    model = MixtureModel(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor([0.05, 0.2]), torch.tensor([0.3, 0.7]))
    x_t, t = torch.tensor([[0.1, 0.2]]), 0.5
    component = torch.multinomial(model.weights, 400_000, replacement=True, generator=generator)
    noise = torch.randn(400_000, 2, generator=generator)
    x_0 = model.means[component] + model.variances[component].sqrt()[:, None] * noise
    weight = (-0.5 * ((x_t - model.path.alpha(t) * x_0) / model.path.sigma(t)).square().sum(1)).exp()
    expected = (weight[:, None] * x_0).sum(0) / weight.sum()
    assert torch.allclose(model.denoiser([""])(x_t, t)[0], expected, atol=0.01)


def test_mixture_of_points_denoises_to_the_nearest_point():
    model = MixtureModel(torch.tensor([[-1.0], [1.0]]), torch.zeros(2), torch.ones(2))
    assert torch.allclose(model.denoiser([""])(torch.tensor([[0.9], [-0.8]]), 0.05), torch.tensor([[1.0], [-1.0]]))

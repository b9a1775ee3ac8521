import itertools
import math

import pytest
import torch

from noisetilt import METHODS, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, reverse_kernel
from noisetilt.proposals import Base, ColouredNoise, Step

PATH = FlowPath()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("space", [(16, 16), (8, 24), (9, 15), (32,), (4, 6, 8)])
def test_the_mean_power_is_that_of_white_noise(space):
    full = ColouredNoise().amplitude(space, PATH, 0.5)
    weights = torch.ones(space[-1] // 2 + 1, dtype=torch.float64)
    weights[1 : (space[-1] + 1) // 2] = 2  # a frequency and its mirror image
    assert ((full**2 * weights).sum() / math.prod(space)).item() == pytest.approx(1)


def test_the_noise_has_the_amplitude_at_every_frequency():
    noise, proposal = drawn(2, 3, 16, 16), ColouredNoise()
    found = torch.fft.rfft2(proposal.coloured(noise, PATH, 0.5)) / torch.fft.rfft2(noise)
    expected = proposal.amplitude((16, 16), PATH, 0.5)
    assert torch.allclose(found.real, expected.expand_as(found.real)) and found.imag.abs().max() < 1e-9


def test_progress_is_that_of_deterministic_samples_of_the_gaussian_model():
    """γ = 1 − |X̂_0 − X_0|²/|X_0|², from a fine deterministic run on the model whose spectrum the method assumes."""
    frequency = torch.fft.fftfreq(16, dtype=torch.float64).square()
    total = frequency[:, None] + frequency[None]
    spectrum = total.clamp(min=total[total > 0].min()) ** -1.0
    spectrum = spectrum / spectrum.mean()
    x, times = drawn(1, 16, 16), torch.linspace(1.0, 0.0, 2001, dtype=torch.float64).tolist()
    kept, state = {}, torch.fft.fft2(x)
    for t, s in itertools.pairwise(times):
        alpha, sigma = 1 - t, t
        x0_hat = alpha * spectrum / (alpha**2 * spectrum + sigma**2) * state
        kept[round(t, 4)] = x0_hat
        state = (1 - s) * x0_hat + s * (state - alpha * x0_hat) / sigma
    for t in (0.8, 0.5, 0.2):
        progress = 1 - ((kept[t] - state).abs() / state.abs()).square()
        proposal = ColouredNoise(power=1.0, divider=1.0)
        unformed = proposal.amplitude((16, 16), PATH, t)
        expected = (1 - progress)[0, :, :9]
        assert torch.allclose(unformed / unformed.sum(), expected / expected.sum(), atol=2e-4)


def test_low_frequencies_get_less_once_they_are_formed():
    early, late = (ColouredNoise().amplitude((16, 16), PATH, t) for t in (0.99, 0.3))
    assert late[0, 1] / late[8, 8] < 0.95 * early[0, 1] / early[8, 8]


def test_no_decay_is_white():
    noise = drawn(2, 3, 8, 8)
    assert torch.allclose(ColouredNoise(decay=0.0).coloured(noise, PATH, 0.4), noise)
    assert torch.equal(ColouredNoise().coloured(noise.flatten(1), PATH, 0.4), noise.flatten(1))


def test_the_step_keeps_mean_and_std():
    x_t, x0_hat, noise = drawn(3, 2, 3, 8, 8)
    mean, std = reverse_kernel(PATH, x_t, x0_hat, 0.6, 0.4, 1.0)
    step = Step(PATH, 0.6, 0.4, x_t, x0_hat, mean, std)
    expected = mean + std * ColouredNoise().coloured(noise, PATH, 0.6)
    assert torch.equal(ColouredNoise()(step, noise), expected)
    assert not torch.allclose(expected, Base()(step, noise))


def test_samples_keep_the_variance_of_the_model():
    power = 1 / (1e-2 + torch.fft.fftfreq(16)[:, None] ** 2 + torch.fft.fftfreq(16)[None] ** 2)
    model = GaussianModel(torch.zeros(3, 16, 16), power / power.mean())
    made = sample(model, [""] * 32, None, METHODS["cns"], 25).images
    base = sample(model, [""] * 32, None, "base", 25).images
    assert made.std().item() == pytest.approx(base.std().item(), rel=0.3)


@pytest.mark.parametrize("option, value", [("decay", -1), ("power", 0), ("divider", 0.5), ("decay", math.nan)])
def test_bad_options_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} ="):
        METHODS["cns"].replace(**{option: value})

"""Distances to the true picture against closed forms."""

import math

import pytest
import torch

from noisetilt.bench.fidelity import perceptual_distance, psnr, ssim


def pictures(count=3, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


def noisy(x, size):
    return (x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def test_psnr_of_an_offset():
    x = pictures()
    torch.testing.assert_close(psnr(x + 0.1, x), torch.full((3,), 20.0))
    assert (psnr(x, x) == math.inf).all()


def test_ssim_of_flat_pictures_compares_their_means():
    a, b = 0.2, 0.6
    x, y = (torch.full((1, 3, 16, 16), v, dtype=torch.float64) for v in (a, b))
    assert ssim(x, y).item() == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4))


def test_ssim_by_hand_in_one_window():
    """Eleven pixels a side leave one place; its moments are weighted sums."""
    x, y = pictures(2, 11).double()[:, None]
    weight = torch.exp(-0.5 * ((torch.arange(11.0) - 5) / 1.5) ** 2).double()
    weight = weight[:, None] * weight / weight.sum() ** 2
    mean = [(weight * z).sum((-1, -2)) for z in (x, y)]
    var = [(weight * z * z).sum((-1, -2)) - m * m for z, m in zip((x, y), mean, strict=True)]
    cov = (weight * x * y).sum((-1, -2)) - mean[0] * mean[1]
    expected = (2 * mean[0] * mean[1] + 1e-4) * (2 * cov + 9e-4)
    expected /= (mean[0] ** 2 + mean[1] ** 2 + 1e-4) * (var[0] + var[1] + 9e-4)
    assert ssim(x, y).item() == pytest.approx(expected.mean().item())


@pytest.mark.parametrize("measure", [ssim, psnr, lambda x, y: -perceptual_distance(x, y)])
def test_nearness_falls_as_noise_grows_and_is_symmetric(measure):
    x = pictures()
    values = [measure(noisy(x, size), x) for size in (0.02, 0.1, 0.3)]
    assert (values[0] > values[1]).all() and (values[1] > values[2]).all()
    torch.testing.assert_close(measure(x, noisy(x, 0.1)), values[1])


def test_equal_pictures_are_at_no_distance():
    x = pictures()
    torch.testing.assert_close(perceptual_distance(x, x), torch.zeros(3))
    torch.testing.assert_close(ssim(x, x), torch.ones(3))


@pytest.mark.parametrize("measure", [ssim, psnr, perceptual_distance])
def test_unequal_shapes_are_refused(measure):
    with pytest.raises(ValueError, match="equal batches"):
        measure(pictures(2), pictures(3))


def test_perceptual_distance_takes_any_size():
    x = pictures(2, 96)
    assert (perceptual_distance(noisy(x, 0.2), x) > perceptual_distance(noisy(x, 0.05), x)).all()

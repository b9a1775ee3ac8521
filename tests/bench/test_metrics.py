"""The metrics against closed forms."""

import math

import pytest
import torch

from noisetilt.bench.judge import real_features, real_sample
from noisetilt.bench.metrics import (
    KernelSample,
    frechet_distance,
    kernel_distance,
    precision_recall,
    total_variation,
    vendi_score,
)


def gaussian(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whitened(n, d, seed=0):
    """Rows whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = gaussian(n, d, seed)
    return torch.linalg.qr(x - x.mean(0)).Q * (n - 1) ** 0.5


def test_frechet_distance_of_gaussians_with_given_moments():
    x, mix = whitened(50, 4), gaussian(4, 4, 1)
    scale, mean = torch.tensor([1.0, 2.0, 0.5, 3.0]), torch.tensor([1.0, 0.0, -2.0, 0.0])
    assert frechet_distance(x, whitened(80, 4, 2) * scale + mean) == pytest.approx(5 + 1 + 0.25 + 4)
    a, b = mix @ mix.T, torch.diag(scale.double() ** 2)
    root = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    expected = a.trace() + b.trace() - 2 * root
    assert frechet_distance(x @ mix.T, whitened(80, 4, 2) * scale) == pytest.approx(expected.item())


def test_frechet_distance_is_symmetric_and_zero_with_itself():
    a, b = gaussian(30, 6), 2 * gaussian(40, 6, 1) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a.roll(3, 0)) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_fewer_rows_than_columns():
    a = gaussian(5, 20)
    assert frechet_distance(a, a + 2) == pytest.approx(80)


def test_kernel_distance_is_the_mean_kernel_over_different_rows():
    a, b = gaussian(4, 3), gaussian(5, 3, 1)

    def k(x, y):
        return (x @ y / 3 + 1).item() ** 3

    within = [
        sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / n / (n - 1) for x, n in ((a, 4), (b, 5))
    ]
    expected = sum(within) - 2 * sum(k(x, y) for x in a for y in b) / 20
    assert kernel_distance(a, b) == pytest.approx(expected) == kernel_distance(b, a)
    assert kernel_distance(KernelSample.of(a), b) == kernel_distance(a, b)


@pytest.mark.parametrize("n", [8, 32, 256])
def test_kernel_distance_of_real_emoji_is_zero_at_any_number_and_more_if_they_are_alike(n):
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    draws = [real_features()[order[first : first + n]] for first in range(0, 8 * n, n)]
    found = torch.tensor([kernel_distance(draw, real_sample()) for draw in draws])
    assert found.mean().abs() < 3 * found.std() / 8**0.5 + 0.003
    alike = [draw[: n // 4].repeat(4, 1) for draw in draws]
    assert sum(kernel_distance(some, real_sample()) for some in alike) / 8 > found.mean() + 0.3 * 8 / n


def test_frechet_distance_of_few_images_falls_and_kernel_distance_rises_if_they_become_alike():
    real = real_features()
    few = real[torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:32]]
    alike = few.mean(0) + 0.8 * (few - few.mean(0))
    assert frechet_distance(alike, real) < frechet_distance(few, real)
    assert kernel_distance(alike, real_sample()) > kernel_distance(few, real_sample())


def test_precision_and_recall_of_the_same_and_of_distant_sets():
    a = gaussian(60, 3)
    assert precision_recall(a, a) == (1.0, 1.0)
    assert precision_recall(a, a + 100) == (0.0, 0.0)


def test_precision_is_fidelity_and_recall_is_diversity():
    two_modes = torch.cat([gaussian(50, 2), gaussian(50, 2, 1) + 50])
    one_mode = gaussian(100, 2, 2)
    precision, recall = precision_recall(two_modes, one_mode)
    assert precision > 0.8 and 0.3 < recall <= 0.5


def test_precision_on_a_line_by_hand():
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[-1.0], [-1.1], [4.9], [5.1]])
    assert precision_recall(real, fake, k=1) == (0.5, pytest.approx(0.0))


def test_vendi_score_counts_different_pictures():
    assert vendi_score(torch.eye(7)) == pytest.approx(7)
    assert vendi_score(torch.ones(7, 3)) == pytest.approx(1)
    assert vendi_score(torch.eye(3).repeat(4, 1)) == pytest.approx(3)
    p = torch.tensor([0.25, 0.75])
    uneven = torch.eye(2)[[0, 1, 1, 1]]
    assert vendi_score(uneven) == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-5)


def test_total_variation_of_plain_steps_and_noise():
    ramp = torch.arange(8.0).expand(2, 3, 8, 8)
    torch.testing.assert_close(total_variation(ramp), torch.ones(2))
    assert (total_variation(torch.full((2, 1, 4, 4), 0.3)) == 0).all()
    noise = 0.5 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert total_variation(noise).item() == pytest.approx(4 * 0.5 / math.sqrt(math.pi), rel=0.02)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet_distance(torch.ones(1, 3), torch.ones(5, 3)), "more images"),
        (lambda: frechet_distance(torch.ones(5, 3), torch.ones(5, 4)), "3 and 4 columns"),
        (lambda: frechet_distance(torch.full((5, 3), math.nan), torch.ones(5, 3)), "not finite"),
        (lambda: kernel_distance(torch.ones(1, 3), torch.ones(5, 3)), "more images"),
        (lambda: kernel_distance(torch.ones(5, 3), torch.ones(5, 4)), "3 and 4 columns"),
        (lambda: precision_recall(torch.ones(3, 2), torch.ones(9, 2)), "at least 4"),
        (lambda: precision_recall(torch.ones(9, 2), torch.ones(9, 2), k=0), "k = 0"),
        (lambda: vendi_score(torch.zeros(2, 2)), "zeros"),
        (lambda: total_variation(torch.ones(3, 8, 8)), "batch axis"),
    ],
)
def test_bad_input_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()

"""The compact spectrum is a linear bijection, an isometry up to √2, and takes white noise to white noise."""

import math

import pytest
import torch

from noisetilt.noise import from_spectrum, to_spectrum

EVENTS = [(2,), (4,), (6,), (3, 4, 6), (3, 64, 64), (5, 2, 7)]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("event", EVENTS)
def test_bijection_and_isometry(event):
    x = normal(3, *event)
    y = to_spectrum(x)
    assert y.shape == (3, math.prod(event) // 2)
    torch.testing.assert_close(from_spectrum(y, event), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(2 * y.abs().square().sum(1), x.flatten(1).square().sum(1))
    z = torch.complex(normal(2, *y.shape[1:], seed=1), normal(2, *y.shape[1:], seed=2))
    torch.testing.assert_close(to_spectrum(from_spectrum(z)), z, rtol=0, atol=1e-12)


def test_linear():
    a, b = normal(2, 20), normal(2, 20, seed=1)
    torch.testing.assert_close(to_spectrum(2 * a - 3 * b), 2 * to_spectrum(a) - 3 * to_spectrum(b))


def test_agrees_with_the_definition():
    x = normal(2, 10)
    n = torch.arange(10, dtype=torch.float64)
    dft = torch.exp(-2j * math.pi * n[:, None] * n / 10).to(torch.complex128) @ x.to(torch.complex128).T / math.sqrt(10)
    y = to_spectrum(x)
    torch.testing.assert_close(y[:, 1:], dft[1:5].T)
    torch.testing.assert_close(y[:, 0], (dft[0].real + 1j * dft[5].real) / math.sqrt(2))


def test_maps_white_noise_to_white_noise():
    matrix = torch.view_as_real(to_spectrum(torch.eye(12, dtype=torch.float64))).flatten(1) * math.sqrt(2)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(12, dtype=torch.float64))


def test_precision_follows_the_input():
    assert to_spectrum(torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.complex64
    assert to_spectrum(torch.zeros(1, 4, dtype=torch.float64)).dtype == torch.complex128
    assert to_spectrum(torch.zeros(0, 4)).shape == (0, 2)
    assert from_spectrum(torch.zeros(0, 2, dtype=torch.complex64), (2, 2)).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(1, 5), "5 numbers, expected an even"),
        (torch.zeros(4), r"shape \(4,\)"),
        (torch.zeros(1, 4, dtype=torch.int64), "int64"),
        (torch.tensor([[1.0, math.nan]]), "1 values that are NaN"),
        (torch.tensor([[math.inf, 1.0]]), "infinite"),
        ([[1.0, 2.0]], "list"),
    ],
)
def test_refuses(x, says):
    with pytest.raises(ValueError, match=says):
        to_spectrum(x)


@pytest.mark.parametrize(
    ("y", "event", "says"),
    [
        (torch.zeros(1, 4), None, "complex"),
        (torch.zeros(1, 4, dtype=torch.complex64), (3, 3), "9 numbers, expected 8"),
        (torch.full((1, 2), complex(math.nan, 0)), None, "NaN"),
    ],
)
def test_inverse_refuses(y, event, says):
    with pytest.raises(ValueError, match=says):
        from_spectrum(y, event)

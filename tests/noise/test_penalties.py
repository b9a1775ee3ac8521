"""Each penalty is its formula, differentiable, and lower for white noise than for the structure it penalises."""

import math

import pytest
import torch

from noisetilt.noise import penalties, to_spectrum


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PENALTIES = [penalties.reno, penalties.prno, penalties.mpgr]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_gradients(penalty):
    x = normal(2, 4, 8).requires_grad_()
    assert torch.autograd.gradcheck(penalty, (x,))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_returns_one_value_per_vector(penalty):
    x = normal(3, 2, 32)
    together = penalty(x)
    assert together.shape == (3,)
    torch.testing.assert_close(together, torch.cat([penalty(row[None]) for row in x]))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalty_is_larger_for_the_wrong_scale(penalty):
    x = normal(8, 4096)
    assert (penalty(2 * x) > penalty(x)).all()
    assert (penalty(0.5 * x) > penalty(x)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_half_precision_gives_the_value_and_the_gradient_of_float32(penalty, dtype):
    """At 65 536 numbers, where ‖x‖² is near float16's maximum and (N − 1) ln ‖x‖ is above it."""
    x = normal(2, 4, 128, 128).to(dtype)
    half, full = x.clone().requires_grad_(), x.float().requires_grad_()
    values = penalty(half), penalty(full)
    assert torch.equal(*values) and values[0].dtype == torch.float32
    gradients = [torch.autograd.grad(v.sum(), z)[0].float() for v, z in zip(values, (half, full), strict=True)]
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[1].norm()


def test_reno_is_the_norms_log_density():
    x = normal(4, 50)
    norm = x.norm(dim=1)
    torch.testing.assert_close(penalties.reno(x), norm**2 / 2 - 49 * norm.log())
    assert penalties.reno(x / norm[:, None] * 7)[0] < penalties.reno(x / norm[:, None] * 7.1)[0]


def test_prno_formula():
    x = normal(1, 40)
    z = x.view(10, 4)
    mean, covariance = z.mean(0), z.T @ z / 10
    expected = 10 * (mean @ mean / 2 + (covariance - torch.eye(4)).square().sum() / 4)
    torch.testing.assert_close(penalties.prno(x)[0], expected)


def test_prno_average_over_white_noise():
    k = 4
    assert penalties.prno(normal(2000, 400)).mean().item() == pytest.approx(k * (k + 3) / 4, rel=0.05)


def test_mpgr_formula():
    x = normal(1, 64)
    power = to_spectrum(x)[0].abs().square().view(2, 16)
    moments = x.mean() ** 2 + (x.square().mean() - 1) ** 2
    torch.testing.assert_close(penalties.mpgr(x)[0], moments + ((power.sum(1) / 16 - 1) ** 2).mean())


def test_spectral_term_sees_colour_that_moments_miss():
    wave = math.sqrt(2) * torch.cos(torch.arange(4096, dtype=torch.float64) * 0.1)[None]
    assert penalties.mpgr(wave) > 10 * penalties.mpgr(normal(1, 4096))


def test_permutation():
    x, order = normal(1, 64), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for penalty in (penalties.prno, penalties.mpgr):
        torch.testing.assert_close(penalty(x, permutation=order), penalty(x[:, order]))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: penalties.reno(torch.zeros(1, 4)), "row of zeros"),
        (lambda: penalties.prno(torch.ones(1, 6)), "expected a divisor of 6"),
        (lambda: penalties.mpgr(torch.ones(1, 7), 1), "even"),
        (lambda: penalties.mpgr(torch.full((1, 4), math.nan), 2), "NaN"),
        (lambda: penalties.prno(torch.ones(1, 8), permutation=torch.arange(3)), r"\(8,\)"),
        (lambda: penalties.prno(torch.ones(1, 8), permutation=torch.arange(8) + 1), r"not one of 0 … 7"),
        (lambda: penalties.mpgr(torch.ones(1, 64), permutation=torch.arange(64) // 2), r"torch.randperm\(64\)"),
        (lambda: penalties.prno(torch.ones(1, 8), "4"), "block_size = '4' must be a whole number"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()

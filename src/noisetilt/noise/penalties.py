"""Soft penalties on atypical noise from the literature: differentiable functions to minimise, for comparison.

Projections (`project_wgnc`, `whiten`) enforce typicality; penalties only encourage it. Each takes (batch, *event) and
returns (batch,), float64 for float64 and float32 for all others: half precision has neither the range nor the precision
for these sums. ReNO's is the paper's formula. For PRNO and MPGR the statistics are the papers', and the weights are
this library's, as each docstring states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._messages import whole_number
from ._checks import check_batch, without_autocast, working_dtype
from .spectrum import check_even, to_spectrum


@without_autocast
def reno(x: Tensor) -> Tensor:
    """½ ‖x‖² − (N − 1) ln ‖x‖: minus the log-density of the norm of white noise, up to a constant (ReNO, 2024).

    The minimum is at ‖x‖ = √(N − 1) for every direction: it keeps the norm typical and nothing else.

    Args:
        x: (batch, *event), real floating point, no row zero.

    Returns:
        (batch,), differentiable.

    Raises:
        ValueError: for a zero row (its logarithm is infinite), NaN or infinity, or a tensor that is not real floating
            point.
    """
    check_batch(x, "x")
    squared = flat_batch(x).square().sum(1)
    if not (torch.compiler.is_compiling() or x.is_meta) and bool((squared == 0).any()):
        raise ValueError("x has a row of zeros, expected non-zero rows, for which ln ‖x‖ is finite; draw it again.")
    return 0.5 * squared - 0.5 * (x.shape[1:].numel() - 1) * squared.log()


@without_autocast
def prno(x: Tensor, block_size: int = 4, permutation: Tensor | None = None) -> Tensor:
    """Deviation of mean and covariance over blocks of k numbers from white noise (PRNO/DNO, 2024).

    With the m blocks z_i of k = block_size numbers: m ‖(1/m) Σ z_i‖² / 2 + m ‖(1/m) Σ z_i z_iᵀ − I‖_F² / 4. That is
    half the sum of squares of statistics which for white noise are independent and standard normal as m grows; the
    paper takes tail bounds of the same two norms.

    Args:
        x: (batch, *event), real floating point; k must divide N.
        block_size: k ≥ 1.
        permutation: (N,), order of the numbers; a new one for each call gives all groups of numbers equal weight.

    Returns:
        (batch,), differentiable; k (k + 3) / 4 on average over white noise.

    Raises:
        ValueError: if k does not divide N, for NaN or infinity, or a tensor that is not real floating point.
    """
    check_batch(x, "x")
    flat = permuted(flat_batch(x), permutation)
    blocks = split_blocks(flat, block_size)
    count = blocks.shape[1]
    mean = blocks.mean(1)
    covariance = blocks.transpose(1, 2) @ blocks / count
    identity = torch.eye(block_size, device=flat.device, dtype=flat.dtype)
    return count * (mean.square().sum(1) / 2 + (covariance - identity).square().sum((1, 2)) / 4)


@without_autocast
def mpgr(x: Tensor, block_size: int = 16, permutation: Tensor | None = None) -> Tensor:
    """Moments of the values and block-wise ℓ1 norms of the power spectrum, on permuted input (MPGR, 2025).

    The first term is (mean)² + (mean square − 1)²; the second is the mean over blocks of k = block_size coefficients y
    of the compact spectrum of (‖y‖₂² / k − 1)², ‖y‖₂² being the ℓ1 norm of the block's power spectrum. The paper's
    norm of the deviations and its weights of the two terms were not available: squares and 1 : 1 are this library's.

    Args:
        x: (batch, *event), real floating point, N even, k dividing N/2.
        block_size: k ≥ 1, in coefficients.
        permutation: (N,), order of the numbers; the paper draws a new one for each call.

    Returns:
        (batch,) ≥ 0, differentiable.

    Raises:
        ValueError: for odd N, if k does not divide N/2, for NaN or infinity, or a tensor that is not real floating
            point.
    """
    check_batch(x, "x")
    flat = permuted(flat_batch(x), permutation)
    check_even(flat.shape[1])
    moments = flat.mean(1).square() + (flat.square().mean(1) - 1).square()
    y = to_spectrum(flat)
    power = split_blocks(y.real.square() + y.imag.square(), block_size)
    return moments + (power.mean(2) - 1).square().mean(1)


def flat_batch(x: Tensor) -> Tensor:
    """x as (batch, N) in float64 if it is float64, else in float32."""
    return x.flatten(1).to(working_dtype(x))


def permuted(flat: Tensor, permutation: Tensor | None) -> Tensor:
    """(batch, N) permuted."""
    if permutation is None:
        return flat
    if permutation.shape != flat.shape[1:]:
        raise ValueError(
            f"permutation has shape {tuple(permutation.shape)}, expected ({flat.shape[1]},); draw it with"
            f" torch.randperm({flat.shape[1]})."
        )
    if not torch.compiler.is_compiling() and not torch.equal(
        permutation.sort().values, torch.arange(len(permutation), device=permutation.device, dtype=permutation.dtype)
    ):
        raise ValueError(
            f"permutation is not one of 0 … {flat.shape[1] - 1}; draw it with torch.randperm({flat.shape[1]})."
        )
    return flat[:, permutation]


def split_blocks(flat: Tensor, block_size: int) -> Tensor:
    """(batch, n) as (batch, n / block_size, block_size)."""
    block_size = whole_number("block_size", block_size, 1)
    if flat.shape[1] % block_size:
        raise ValueError(
            f"block_size is {block_size}, expected a divisor of {flat.shape[1]}; use {math.gcd(flat.shape[1], 16)}."
        )
    return flat.unflatten(1, (-1, block_size))

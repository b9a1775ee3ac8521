"""The compact spectrum: a real vector of even length N as N/2 complex coefficients without redundancy.

The discrete Fourier transform of a real vector is redundant (x̂_{N−k} is the conjugate of x̂_k) and has two real
coefficients, x̂_0 and x̂_{N/2}. These two are combined into one complex number, so that N/2 independent coefficients of
one distribution remain: x ~ N(0, I_N) exactly when y ~ CN(0, I_{N/2}).
Source: GPER (arXiv 2602.08646), compact spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import check_batch, check_finite, without_autocast, working_dtype


@without_autocast
def to_spectrum(x: Tensor) -> Tensor:
    """F: R^N → C^{N/2}, a linear bijection with ‖x‖² = 2 ‖F(x)‖².

    y_0 = (x̂_0 + i x̂_{N/2})/√2 and y_k = x̂_k for k = 1 … N/2−1, with x̂ the orthonormal DFT of the flattened event.

    Args:
        x: (batch, *event), real floating point; the event is flattened to N numbers, N even.

    Returns:
        (batch, N/2), complex128 for float64 and complex64 for everything narrower.

    Raises:
        ValueError: for an odd N (which has no x̂_{N/2}), NaN or infinity, or a tensor that is not
            real floating point.
    """
    check_batch(x, "x")
    flat = x.to(working_dtype(x)).flatten(1)
    check_even(flat.shape[1])
    if x.shape[0] == 0:
        return flat.new_empty(0, flat.shape[1] // 2, dtype=flat.dtype.to_complex())
    half = torch.fft.rfft(flat, norm="ortho")
    first = torch.complex(half[:, 0].real, half[:, -1].real) * math.sqrt(0.5)
    return torch.cat([first[:, None], half[:, 1:-1]], dim=1)


@without_autocast
def from_spectrum(y: Tensor, event: Sequence[int] | None = None) -> Tensor:
    """F⁻¹: C^{N/2} → R^N, the exact inverse of `to_spectrum`.

    Args:
        y: (batch, N/2), complex.
        event: the shape of each vector, with N numbers in all; (N,) by default.

    Returns:
        (batch, *event), float64 for complex128 and float32 for complex64.

    Raises:
        ValueError: if y is not complex with two axes, holds NaN or infinity, or event does not hold N numbers.
    """
    if not isinstance(y, Tensor) or not y.is_complex() or y.ndim != 2:
        got = f"{tuple(y.shape)} {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"y is {got}, expected a complex tensor (batch, N/2); pass the output of to_spectrum.")
    check_finite(y, "y")
    count = 2 * y.shape[1]
    event = (count,) if event is None else tuple(event)
    if math.prod(event) != count:
        raise ValueError(f"event {event} holds {math.prod(event)} numbers, expected {count}, twice the width of y.")
    first = y[:, :1] * math.sqrt(2.0)
    if y.shape[0] == 0:
        return y.real.new_empty(0, *event)
    whole = torch.cat([first.real + 0j, y[:, 1:], first.imag + 0j], dim=1)
    return torch.fft.irfft(whole, n=count, norm="ortho").reshape(-1, *event)


def check_even(count: int) -> None:
    """Refuse an odd number of values per event."""
    if count % 2:
        raise ValueError(
            f"the event holds {count} numbers, expected an even count because an odd count has no coefficient"
            " N/2; append one random normal number or remove one."
        )

"""Fourier transforms of (batch, channel, *space) over all axes but the first."""

from __future__ import annotations

import torch
from torch import Tensor

from ._constants import constant

# Up to this many channels, a CPU is faster with a matrix product than with a transform over the channel axis.
MAX_MATMUL_CHANNELS = 32


def prefers_matmul(x: Tensor, size: int, limit: int) -> bool:
    """Whether to compute a short sum or transform as a product with a matrix of `size` rows.

    True for x on a CPU, which is slow at short sums and transforms. A GPU may round products to TF32.
    """
    return x.device.type == "cpu" and size <= limit


def to_spectrum(x: Tensor) -> Tensor:
    """The orthonormal half spectrum over all axes but the first of (batch, channel, *space)."""
    space = tuple(range(2, x.ndim))
    if not prefers_matmul(x, x.shape[1], MAX_MATMUL_CHANNELS):
        return torch.fft.rfftn(x, dim=(1, *space), norm="ortho")
    return mix_channels(torch.fft.rfftn(x, dim=space, norm="ortho"), dft_matrices(x.shape[1], x.device, x.dtype)[0])


def to_field(spectrum: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `to_spectrum`: the field (batch, *shape) of a half spectrum, real or complex."""
    space = tuple(range(2, spectrum.ndim))
    if not prefers_matmul(spectrum, shape[0], MAX_MATMUL_CHANNELS):
        return torch.fft.irfftn(spectrum, s=shape, dim=(1, *space), norm="ortho")
    inverse = dft_matrices(shape[0], spectrum.device, spectrum.real.dtype)[1]
    return torch.fft.irfftn(mix_channels(spectrum, inverse), s=shape[1:], dim=space, norm="ortho")


def mix_channels(x: Tensor, matrix: Tensor) -> Tensor:
    """The matrix (channel, channel) applied to (batch, channel, *space)."""
    return x if x.shape[1] == 1 else (matrix @ x.flatten(2).to(matrix.dtype)).view_as(x)


@constant
def dft_matrices(channels: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The orthonormal discrete Fourier transform of `channels` numbers as a symmetric matrix, and its inverse."""
    unit = torch.eye(channels, dtype=torch.float64, device="cpu")
    dft = torch.fft.fft(unit, norm="ortho").to(dtype.to_complex()).to(device)
    return dft, dft.conj().resolve_conj()

"""Weights that are included in the package: half-precision safetensors with a checksum that is verified on load."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ..rewards.checksums import read_verified


def load_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in float32, after a check of its SHA-256 against `<file>.sha256`.

    Raises:
        ValueError: if the file is missing or its checksum differs.
    """
    state, _ = read_verified(file, file.with_name(file.name + ".sha256").read_text("utf-8").strip())
    return {name: tensor.float() for name, tensor in state.items()}


def save_weights(tensors: dict[str, Tensor], file: Path) -> None:
    """Write tensors in half precision, and their checksum to `<file>.sha256`."""
    data = save({name: tensor.detach().half().contiguous() for name, tensor in tensors.items()})
    file.write_bytes(data)
    file.with_name(file.name + ".sha256").write_text(hashlib.sha256(data).hexdigest() + "\n", "utf-8")

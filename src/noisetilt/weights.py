"""Weights that ship with the package: half-precision safetensors with a checksum beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor


def load_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in float32, after its SHA-256 was compared with `<file>.sha256`.

    Raises:
        OSError: if the checksum differs.
    """
    data = file.read_bytes()
    wanted = file.with_name(file.name + ".sha256").read_text().strip()
    found = hashlib.sha256(data).hexdigest()
    if wanted != found:
        raise OSError(
            f"the weights {file.name} are damaged: SHA-256 {found[:12]}… where {wanted[:12]}… was expected; "
            "install noisetilt again"
        )
    return {name: tensor.float() for name, tensor in load(data).items()}


def save_weights(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes tensors in half precision, and the checksum beside them."""
    data = save({name: tensor.detach().half().contiguous() for name, tensor in tensors.items()})
    file.write_bytes(data)
    file.with_name(file.name + ".sha256").write_text(hashlib.sha256(data).hexdigest() + "\n")

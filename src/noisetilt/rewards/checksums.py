"""Reads weights files and verifies their SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_verified(path: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose SHA-256 is `digest`.

    Raises:
        ValueError: if the file is missing or has another SHA-256.
    """
    if not path.is_file():
        raise ValueError(f"the weights {path} are missing; install noisetilt again, or train them with the recipes")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise ValueError(
            f"the weights {path} have SHA-256 {found[:12]}…, expected {digest[:12]}…; the file is damaged or was "
            "replaced: install noisetilt again"
        )
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118

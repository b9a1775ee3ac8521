"""Reads the files of the learned rewards and verifies their SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


def digest_of(folder: Path, name: str) -> str:
    """The SHA-256 of a file as a folder's checksums.json states it."""
    return str(json.loads((folder / "checksums.json").read_text("utf-8"))[name])


def read_verified(path: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose SHA-256 is `digest`.

    Raises:
        ValueError: if the file is missing or has another SHA-256.
    """
    if not path.is_file():
        raise ValueError(f"the weights {path} are missing; install noisetilt again, or train them with the recipes")
    _verify(path, path.read_bytes(), digest)
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118


def read_json(path: Path) -> Any:
    """The content of a JSON file whose SHA-256 is in the checksums.json beside it.

    Raises:
        ValueError: if the file is missing or has another SHA-256.
    """
    if not path.is_file():
        raise ValueError(f"the file {path} is missing; install noisetilt again")
    data = path.read_bytes()
    _verify(path, data, digest_of(path.parent, path.name))
    return json.loads(data)


def _verify(path: Path, data: bytes, digest: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ValueError(
            f"the file {path} has SHA-256 {found[:12]}…, expected {digest[:12]}…; it is damaged or was replaced: "
            "install noisetilt again"
        )

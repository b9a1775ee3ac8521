"""Loads the node pack of ComfyUI, and makes tiny networks in inference mode as ComfyUI does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"


def load_pack() -> ModuleType:
    """The node pack as a module, imported as ComfyUI imports it."""
    spec = importlib.util.spec_from_file_location(
        "noisetilt_nodes", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    package = importlib.util.module_from_spec(spec)
    for name in [name for name in sys.modules if name.split(".")[0] == "noisetilt_nodes"]:
        del sys.modules[name]
    sys.modules["noisetilt_nodes"] = package
    spec.loader.exec_module(package)
    return package


class TinyNet(nn.Module):
    """Convolution, normalisation and attention to a text embedding; ε̂ or velocity (batch, channels, H, W)."""

    def __init__(self, channels: int = 4, width: int = 16, text: int = 8) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1)
        self.norm, self.time = nn.GroupNorm(4, width), nn.Linear(1, width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(text, width), nn.Linear(text, width)
        self.register_buffer("frequency", torch.tensor([2.0]))

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        time = self.time(torch.sin(self.frequency * sigma[:, None]))[:, :, None, None]
        h = nn.functional.silu(self.norm(self.enter(x)) + time)
        tokens = h.flatten(2).transpose(1, 2)
        context = context.expand(len(x), -1, -1)
        read = nn.functional.scaled_dot_product_attention(self.query(tokens), self.key(context), self.value(context))
        return self.leave(h + read.transpose(1, 2).unflatten(2, h.shape[2:]))


class TinyDecoder(nn.Module):
    """Images (batch, 3, 2H, 2W) in about [-1, 1] from latents, with a constant that is no parameter."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 1))
        self.scale = torch.tensor([0.5])

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.net(x * self.scale))

"""emoji64 with the interface that `sample` and `optimize` need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...path import FlowPath
from ...rewards.scorers.words64 import bags
from ..denoiser import Denoiser
from ..pixels import clamp_unit
from ..weights import load_weights
from .network import Emoji64

FOLDER = Path(__file__).parent


def load_network(*names: str) -> Emoji64:
    """The network with the included weights of these names; later weights override earlier ones."""
    network = Emoji64(**json.loads((FOLDER / "config.json").read_text("utf-8")))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_weights(FOLDER / f"{name}.safetensors")
    network.load_state_dict(tensors)
    return network


class Emoji64Model:
    """The embedded model: 64×64 emoji from prompts such as "smiling cat face, 3d".

    Args:
        guidance: scale of classifier-free guidance; 1 is no guidance.
        device, dtype: of the network; states are float32.
        network: an Emoji64 that replaces the included one.
        steps: the default number of sampling steps; any other number is possible.
    """

    path = FlowPath()
    shape = (3, 64, 64)

    def __init__(
        self,
        guidance: float = 2.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        network: Emoji64 | None = None,
        steps: int = 25,
    ) -> None:
        self.guidance, self.device, self.dtype, self.steps = guidance, device, dtype, steps
        network = load_network("emoji64") if network is None else network
        self.network = network.to(device, dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0 for these prompts; classifier-free guidance takes one network call with twice the rows.

        Raises:
            ValueError: if a prompt has an unknown word; names the nearest known words.
        """
        text = self.network.encode_text(bags(prompts).to(self.device, self.dtype))
        empty = self.network.encode_text(torch.zeros_like(bags([""])).to(text))

        def network(x_t: Tensor, t: float, index: Tensor) -> Tensor:
            times = torch.full((len(x_t),), t, device=x_t.device, dtype=self.dtype)
            x, condition = x_t.to(self.dtype), text[index]
            if self.guidance == 1.0:
                return self.network(x, times, condition).to(x_t.dtype)
            both = self.network(
                torch.cat([x, x]), torch.cat([times, times]), torch.cat([condition, empty.expand_as(condition)])
            )
            conditional, unconditional = both.to(x_t.dtype).chunk(2)
            return unconditional + self.guidance * (conditional - unconditional)

        return Denoiser(self.path, network)

    def decode(self, x_0: Tensor) -> Tensor:
        """Images (batch, 3, 64, 64) in [0, 1] from states in about [-1, 1]."""
        return clamp_unit((x_0 + 1) / 2)

    def encode(self, images: Tensor) -> Tensor:
        """States in [-1, 1] of images (batch, 3, 64, 64) in [0, 1]."""
        return 2 * images - 1


def turbo(
    guidance: float = 1.0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Emoji64Model:
    """emoji64-turbo: emoji64 distilled to one step, with the text encoder and layout of emoji64.

    Raises:
        ValueError: for any guidance but 1, because guidance was distilled into the weights.
    """
    if guidance != 1.0:
        raise ValueError(
            f"guidance = {guidance} is not supported by emoji64-turbo, whose weights include emoji64's guidance of 2; "
            "leave it out or use 1"
        )
    return Emoji64Model(1.0, device, dtype, load_network("emoji64", "emoji64-turbo"), steps=4)

"""emoji64 as `sample` wants it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...path import FlowPath
from ...rewards.scorers.words import bags
from ..denoiser import Denoiser
from ..pixels import clamp_unit
from ..weights import load_weights
from .network import Emoji64

FOLDER = Path(__file__).parent


def shipped(*names: str) -> Emoji64:
    """The network with the shipped weights of these names, later ones over earlier ones."""
    network = Emoji64(**json.loads((FOLDER / "config.json").read_text()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_weights(FOLDER / f"{name}.safetensors")
    network.load_state_dict(tensors)
    return network


class Emoji64Model:
    """The embedded model: 64×64 emoji from words, such as "smiling cat face, 3d".

    Args:
        guidance: scale of classifier-free guidance, 1 is none.
        device, dtype: where and in what precision the network runs; states stay float32.
        network: another Emoji64 instead of the one that ships.
        steps: how many it is made for; any other number can be asked of it.
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
        network = shipped("emoji64") if network is None else network
        self.network = network.to(device, dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0 for these prompts; the two halves of classifier-free guidance are one network call.

        Raises:
            ValueError: if a prompt has a word the model does not know; names the nearest known ones.
        """
        text = self.network.encode_text(bags(prompts).to(self.device, self.dtype))
        none = self.network.encode_text(torch.zeros_like(bags([""])).to(text))

        def network(x_t: Tensor, t: float, index: Tensor) -> Tensor:
            times = torch.full((len(x_t),), t, device=x_t.device, dtype=self.dtype)
            x, condition = x_t.to(self.dtype), text[index]
            if self.guidance == 1.0:
                return self.network(x, times, condition).to(x_t.dtype)
            both = self.network(
                torch.cat([x, x]), torch.cat([times, times]), torch.cat([condition, none.expand_as(condition)])
            )
            guided, free = both.to(x_t.dtype).chunk(2)
            return free + self.guidance * (guided - free)

        return Denoiser(self.path, network)

    def decode(self, x_0: Tensor) -> Tensor:
        """Pictures (batch, 3, 64, 64) in [0, 1] from states in about [-1, 1]."""
        return clamp_unit((x_0 + 1) / 2)


def turbo(
    guidance: float = 1.0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Emoji64Model:
    """emoji64-turbo: emoji64's pictures in one step. Its text encoder and layout are emoji64's.

    Raises:
        ValueError: for any guidance but 1: what guidance does was distilled into the weights.
    """
    if guidance != 1.0:
        raise ValueError(
            f"guidance = {guidance} was asked of emoji64-turbo, which has emoji64's guidance of 2 in its weights; "
            "leave it out or give 1"
        )
    return Emoji64Model(1.0, device, dtype, shipped("emoji64", "emoji64-turbo"), steps=4)

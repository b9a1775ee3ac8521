"""The noise that a pipeline draws by diffusers' function."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor

from .continuation import DRAW


def with_globals(function: Any, **changes: Any) -> Any:
    """A copy of a function that sees other values of global variables. The module is not changed."""
    variables = {**function.__globals__, **changes}
    copy = types.FunctionType(
        function.__code__, variables, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def with_recorded_draws(method: Any) -> tuple[Any, list[Tensor]]:
    """A method of a pipeline, with a list of the noise that it draws by diffusers' function in its last calls."""
    draws: list[Tensor] = []
    function = getattr(method, "__func__", None)
    if DRAW not in getattr(function, "__globals__", {}):
        return method, draws
    original = function.__globals__[DRAW]

    def draw(*args: Any, **kwargs: Any) -> Tensor:
        draws.append(original(*args, **kwargs))
        return draws[-1]

    return types.MethodType(with_globals(function, **{DRAW: draw}), method.__self__), draws


class TorchOfLists:
    """torch for a function of a pipeline, whose `randn` takes a list of generators as diffusers' function does."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randn(self, *size: Any, generator: Any = None, **options: Any) -> Tensor:
        """Noise, of which a list of generators draws a row each."""
        if not isinstance(generator, list):
            return torch.randn(*size, generator=generator, **options)
        from diffusers.utils.torch_utils import randn_tensor

        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        return randn_tensor(tuple(shape), generator=generator, **options)


def is_multiple(latents: Tensor, noise: Tensor) -> bool:
    """Whether latents have the values of noise, in any order and up to a factor."""
    if latents.numel() != noise.numel():
        return False
    own, drawn = (x.detach().flatten().float().sort().values for x in (latents, noise.to(latents.device)))
    factor = own.norm() / drawn.norm()
    return bool((own - factor * drawn).norm() < 0.01 * own.norm())

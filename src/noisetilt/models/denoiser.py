"""x̂_0 = E[x_0 | x_t] from any network, and the count of network evaluations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..path import PREDICTIONS, Path, Prediction, to_x0


class Denoiser:
    """A network as x̂_0(x_t, t), after classifier-free guidance, that counts its evaluations.

    Args:
        path: the Gaussian path.
        network: maps x_t (batch, *event), t (a float) and index (batch,) of int64, the prompt of each row, to
            its prediction of x_t's shape; with guidance it is called once with `unconditional` beside it.
        prediction: what the network predicts: "x0", "epsilon", "v" or "velocity".
        unconditional: the same network without the prompt, (x_t, t, index) → prediction. With it, the prediction is
            u + guidance · (c − u) (Ho & Salimans 2022, arXiv 2207.12598).
        guidance: scale of classifier-free guidance; 1 is none.

    `nfe` counts rows denoised. The two halves of guidance count once, as in the papers we compare with.
    """

    def __init__(
        self,
        path: Path,
        network: Callable[[Tensor, float, Tensor], Tensor],
        prediction: Prediction = "x0",
        unconditional: Callable[[Tensor, float, Tensor], Tensor] | None = None,
        guidance: float = 1.0,
    ) -> None:
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction = {prediction!r} is unknown; give one of {', '.join(PREDICTIONS)}")
        if guidance != 1.0 and unconditional is None:
            raise ValueError(f"guidance = {guidance} needs the prediction without prompt; pass `unconditional`")
        self.path, self.network, self.prediction = path, network, prediction
        self.unconditional, self.guidance = unconditional, guidance
        self.nfe = 0

    def __call__(self, x_t: Tensor, t: float, index: Tensor | None = None) -> Tensor:
        """x̂_0 of shape (batch, *event).

        Args:
            x_t: (batch, *event).
            t: the time of all rows.
            index: (batch,) which prompt each row has; row i has prompt i if left out.
        """
        index = torch.arange(len(x_t), device=x_t.device) if index is None else index
        self.nfe += len(x_t)
        output = self.network(x_t, t, index)
        if self.guidance != 1.0:
            free = self.unconditional(x_t, t, index)
            output = free + self.guidance * (output - free)
        return to_x0(self.path, self.prediction, output, x_t, t)

"""`Denoiser`: any network as x̂_0 = E[x_0 | x_t], with a count of network evaluations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..path import PREDICTIONS, Path, Prediction, to_x0
from .guidance import check_guidance_scale


class Denoiser:
    """A network as x̂_0(x_t, t), with classifier-free guidance and a count of evaluations.

    Args:
        path: the Gaussian path.
        network: (x_t (batch, *event), t (a float), index (batch,) int64, the prompt of each row) → prediction of x_t's
            shape.
        prediction: what the network predicts: "x0", "epsilon", "v" or "velocity".
        unconditional: the network without prompt, (x_t, t, index) → prediction. With it, the prediction is
            u + guidance · (c − u) (Ho & Salimans 2022, arXiv 2207.12598).
        guidance: scale of classifier-free guidance; 1 is no guidance.

    `nfe` is the number of denoised rows. A guided row counts once, as in the compared papers.
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
            raise ValueError(f"prediction = {prediction!r} is unknown; use one of {', '.join(PREDICTIONS)}")
        guidance = check_guidance_scale(guidance)
        if guidance != 1.0 and unconditional is None:
            raise ValueError(f"guidance = {guidance} needs a prediction without prompt; pass unconditional=...")
        self.path, self.network, self.prediction = path, network, prediction
        self.unconditional, self.guidance = unconditional, guidance
        self.nfe = 0

    def __call__(self, x_t: Tensor, t: float, index: Tensor | None = None) -> Tensor:
        """x̂_0 of shape (batch, *event).

        Args:
            x_t: (batch, *event).
            t: time of all rows.
            index: (batch,) int64, the prompt of each row; 0, 1, 2, … by default.

        Raises:
            ValueError: if a gradient is needed and the network computes none.
        """
        index = torch.arange(len(x_t), device=x_t.device) if index is None else index
        self.nfe += len(x_t)
        output = self.network(x_t, t, index)
        if self.guidance != 1.0:
            free = self.unconditional(x_t, t, index)
            output = free + self.guidance * (output - free)
        if torch.is_grad_enabled() and x_t.requires_grad and not output.requires_grad:
            raise ValueError(
                "the network's prediction has no gradient with respect to x_t, which the method needs; remove "
                "torch.no_grad or inference_mode from the network, or give gradient_at='x0'"
            )
        return to_x0(self.path, self.prediction, output, x_t, t)

"""Conversion of network outputs to x̂_0, for the prediction types of diffusion and flow models."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .gaussian import Path

Prediction = Literal["x0", "epsilon", "v", "velocity"]
PREDICTIONS = ("x0", "epsilon", "v", "velocity")


def to_x0(path: Path, prediction: Prediction, output: Tensor, x_t: Tensor, t: float) -> Tensor:
    """Converts a network's output to x̂_0; all tensors have x_t's shape.

    - "x0": the output itself
    - "epsilon": x̂_0 = (x_t − σ_t ε̂) / α_t
    - "v": v = α_t ε − σ_t x_0 (Salimans & Ho 2022), so x̂_0 = (α_t x_t − σ_t v) / (α_t² + σ_t²)
    - "velocity": u = ε − x_0 (flow matching's dx/dt for α = 1 − t, σ = t), so x̂_0 = (x_t − σ_t u) / (α_t + σ_t)

    Raises:
        ValueError: for an unknown prediction, or "epsilon" where α_t = 0.
    """
    alpha, sigma = path.alpha(t), path.sigma(t)
    if prediction == "x0":
        return output
    if prediction == "epsilon":
        if alpha == 0:
            raise ValueError(
                f"an epsilon prediction does not determine x_0 at t = {t}, where alpha = 0; start at a less noisy time"
            )
        return (x_t - sigma * output) / alpha
    if prediction == "v":
        return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
    if prediction == "velocity":
        return (x_t - sigma * output) / (alpha + sigma)
    raise ValueError(f"prediction = {prediction!r} is unknown; use one of {', '.join(PREDICTIONS)}")

"""The reverse kernel of a Gaussian path, and the forward kernel for re-noising."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from torch import Tensor

from .gaussian import Path

State = TypeVar("State", Tensor, np.ndarray, float)


def noise_fraction(path: Path, t: float) -> float:
    """σ_t / (α_t + σ_t) ∈ [0, 1]: the flow time at which a flow has this signal-to-noise ratio, on any path."""
    return min(1.0, path.sigma(t) / (path.alpha(t) + path.sigma(t)))


def is_noisier(path: Path, s: float, t: float) -> bool:
    """Whether the noise-to-signal ratio σ/α at s is higher than at t."""
    return path.alpha(t) * path.sigma(s) > path.alpha(s) * path.sigma(t)


def has_signal(path: Path, t: float) -> bool:
    """Whether x_t says something of x_0: α_t > σ_t / 1000. Some schedules end at pure noise with a tiny α_t instead of
    0, by which a network's error must not be divided."""
    return path.alpha(t) > 1e-3 * path.sigma(t)


def state_scale(path: Path, t: float) -> float:
    """n_t = max(1, sqrt(α_t² + σ_t²)): x_t / n_t is the state of a variance-preserving path of the same noise-to-signal
    ratio. It is 1 on variance-preserving paths, and on flows, whose states are up to sqrt(2) times smaller."""
    return max(1.0, math.hypot(path.alpha(t), path.sigma(t)))


def signal_ratio(path: Path, t: float, s: float) -> float:
    """ᾱ_t / ᾱ_s in [0, 1] of a step from t to a less noisy s, with sqrt(ᾱ_t) = α_t / n_t (`state_scale`)."""
    alpha_t, alpha_s = (path.alpha(time) / state_scale(path, time) for time in (t, s))
    return (alpha_t / alpha_s) ** 2 if alpha_s else 0.0


def noise_correlation(path: Path, t: float, s: float) -> float:
    """α_t σ_s / (α_s σ_t) ∈ [0, 1], for a step from t to a less noisy s: the part of the noise ε̂ of x_t that the
    posterior of DDPM keeps in x_s. 0 if x_t is pure noise (α_t = 0)."""
    return path.alpha(t) * path.sigma(s) / (path.alpha(s) * path.sigma(t)) if path.alpha(s) else 0.0


def step_eta(eta: float, keep_noise: bool) -> float:
    """η of a step: 0 with `keep_noise`, for initial noise that was chosen for its image.

    x_s = α_s x̂_0 + σ_s ε̂ then keeps the noise, and x_s has the marginals of the path, as for any η. The posterior of
    DDPM would keep the part `noise_correlation` of it: none at α_t = 0, and 0.4 to 0.6 in the first of 4 to 10 steps
    of Stable Diffusion's schedule. η = inf, which replaces the noise in every step, is left as it is.
    """
    return 0.0 if keep_noise and eta < math.inf else eta


def reverse_kernel(path: Path, x_t: State, x0_hat: State, t: float, s: float, eta: float = 1.0) -> tuple[State, float]:
    """Mean and standard deviation of x_s given x_t, for a step from t to a less noisy s.

        std  = min(σ_s, η σ_s sqrt(1 − (α_t σ_s / (α_s σ_t))²))
        mean = α_s x̂_0 + sqrt(σ_s² − std²) ε̂,   ε̂ = (x_t − α_t x̂_0) / σ_t

    η = 1 is the exact posterior of DDPM (Ho et al. 2020), η = 0 is DDIM (Song et al. 2021, eq. 12) and the Euler step
    of the flow ODE, η = inf is full re-noising, std = σ_s.

    Args:
        path: the Gaussian path.
        x_t: state at t, any shape.
        x0_hat: E[x_0 | x_t], the same shape.
        t, s: times with σ_s/α_s ≤ σ_t/α_t.
        eta: stochasticity ≥ 0.
    Returns:
        mean with x_t's shape, and std as a float.
    Raises:
        ValueError: if s is noisier than t, t has no noise left, or eta is negative.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    if not eta >= 0:
        raise ValueError(f"eta = {eta} must be 0 (deterministic) or more; 1 is the DDPM posterior")
    if sigma_t == 0:
        raise ValueError(f"t = {t} has no noise left; end the time grid there")
    if alpha_t * sigma_s > alpha_s * sigma_t * (1 + 1e-12):
        raise ValueError(f"s = {s} is noisier than t = {t}; a reverse step must go towards the data")
    posterior = sigma_s * math.sqrt(max(0.0, 1 - noise_correlation(path, t, s) ** 2))
    std = min(sigma_s, eta * posterior) if posterior else 0.0
    coefficient = math.sqrt(max(0.0, sigma_s**2 - std**2)) / sigma_t
    # Two multiply-adds: α_s x̂_0 + coefficient · (x_t − α_t x̂_0)
    return (alpha_s - coefficient * alpha_t) * x0_hat + coefficient * x_t, std


def renoise(path: Path, x_t: Tensor, noise: Tensor, t: float, s: float) -> Tensor:
    """The forward kernel from t up to a noisier s: x_s = (α_s/α_t) x_t + sqrt(σ_s² − (α_s σ_t/α_t)²) ε.

    Args:
        x_t, noise: state at t and standard Gaussian noise, the same shape.
    Raises:
        ValueError: if s is less noisy than t, or α_t = 0.
    """
    if path.alpha(t) == 0:
        raise ValueError(f"t = {t} is pure noise and cannot be re-noised; start from a time with alpha > 0")
    scale = path.alpha(s) / path.alpha(t)
    variance = path.sigma(s) ** 2 - (scale * path.sigma(t)) ** 2
    if variance < -1e-12:
        raise ValueError(f"s = {s} is less noisy than t = {t}; re-noising must go towards the noise")
    return scale * x_t + math.sqrt(max(0.0, variance)) * noise

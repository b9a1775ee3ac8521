"""A guided sampler with the signature of k-diffusion's samplers, for k-diffusion and ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..methods import Method, find_method
from ..path import Path, VEPath
from ..rewards.reward import RewardFunction
from ..sampling.check_inputs import GradientAt
from ..sampling.trace import Trace
from .inference_tensors import NormalTensors, normal_tensor
from .stepped_sampler import SteppedSampler
from .vjp import make_vjp


def sample_noisetilt(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    *,
    reward: RewardFunction | None,
    decode: Callable[[Tensor], Tensor] | None = None,
    method: str | Method = "ntrk",
    rho: float | None = None,
    eta: float = 1.0,
    seeds: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    noise_sampler: Callable[[Tensor, Tensor], Tensor] | None = None,
    path: Path | None = None,
    gradient_at: GradientAt = "x_t",
    chunk: int = 1,
    heldout: RewardFunction | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Reward-guided sampling; without a reward it is Euler ancestral sampling.

    It may be called in inference mode, with weights and conditioning that were made there, as ComfyUI does.

    Args:
        model: (x (batch, *event), sigma (batch,), **extra_args) → denoised x̂_0, as k-diffusion's denoisers.
        x: noise of standard deviation sigmas[0], (batch, *event).
        sigmas: (steps + 1,) decreasing noise levels, the last usually 0. With less than two there is no step, and x is
            returned.
        extra_args: further arguments of the model. Tensors with one row per row of x are repeated for the particles.
        callback: called after each network evaluation with x, i, sigma, sigma_hat and denoised.
        disable: whether to hide the progress bar.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised.
        decode: images in [0, 1] from states (batch, *event), differentiable; the identity if None.
        method: a name of METHODS or a Method; methods that choose the initial noise are not supported.
        rho: strength of noise tilting in [0, 1], for methods that have this option.
        eta: stochasticity: 0 is Euler, 1 ancestral.
        seeds: one integer ≥ 0 per row of x for the noise; drawn from torch's global generator if None.
        prompts: one per row of x for the reward; empty if None.
        noise_sampler: (sigma, next sigma) → standard normal noise of x's shape for each step; only for methods with one
            particle. Where a method repeats a step, evaluates perturbed images or draws a candidate again, the noise is
            that of the seeds, because such a sampler may return the same noise for the same sigmas.
        path: the model's Gaussian path; VEPath() (α = 1) if None. Use FlowPath() for ComfyUI's rectified-flow models.
        gradient_at: "x_t": the gradient is taken through the model; "x0": only at x̂_0, which is cheaper.
        chunk: rows that are decoded and evaluated at a time.
        heldout: held-out reward. It is evaluated after every step and never optimised; its values are in the trace.
        trace: a Trace() to fill with rewards, held-out rewards, network evaluations and seconds.
    Returns:
        x_0 (batch, *event) in x's dtype; for a method with several particles, that of the best particle.
    Raises:
        ValueError: for invalid input, in one sentence.
        FloatingPointError: if a reward, gradient or state is not finite.
    """
    method = find_method(method)
    method = method if rho is None else method.replace(rho=rho)
    particles, count = method.selection.particles, len(x)
    if noise_sampler is not None and particles > 1:
        raise ValueError(
            f"noise_sampler is for one particle per row and this method has {particles}; pass seeds instead"
        )
    seeds = torch.randint(2**62, (count,)).tolist() if seeds is None else list(seeds)
    prompts = [""] * count if prompts is None else list(prompts)
    if len(seeds) != count or len(prompts) != count:
        raise ValueError(
            f"{len(seeds)} seeds and {len(prompts)} prompts for {count} rows of x; pass one of each per row"
        )
    if len(sigmas) < 2:
        return x
    path = VEPath() if path is None else path
    levels = [float(sigma) for sigma in sigmas]
    with torch.inference_mode(False), torch.no_grad():
        x = normal_tensor(x)
        state = x.to(torch.promote_types(x.dtype, torch.float32)).repeat_interleave(particles, 0)
        extra_args = {name: per_particle(value, count, particles) for name, value in (extra_args or {}).items()}
        sampler = SteppedSampler(
            method,
            path,
            x.shape[1:],
            seeds,
            prompts,
            reward,
            decode or (lambda x_0: x_0),
            grid=levels,
            start=state,
            eta=eta,
            gradient_at=gradient_at,
            chunk=chunk,
            device=x.device,
            dtype=state.dtype,
            step_noise=None if noise_sampler is None else StepNoise(noise_sampler, sigmas),
            heldout=heldout,
            trace=trace,
            context=NormalTensors,
        )
        ones, number = x.new_ones(len(state)), 0
        with sampler, tqdm(total=len(levels) - 1, disable=disable) as bar:
            while not sampler.done:
                t = sampler.t
                gradient = sampler.needs_vjp
                with torch.set_grad_enabled(gradient), NormalTensors() if gradient else nullcontext():
                    leaf = sampler.x.detach().requires_grad_(gradient)
                    denoised = model(leaf.to(x.dtype), t * ones, **extra_args).to(state.dtype)
                if callback is not None:
                    states = {"x": leaf.detach().to(x.dtype), "denoised": denoised.detach().to(x.dtype)}
                    callback({**states, "i": number, "sigma": t, "sigma_hat": t})
                sampler.advance(leaf, denoised, make_vjp(denoised, leaf))
                number += 1
                bar.update()
        return sampler.x[sampler.rows].to(x.dtype)


class ParticleCalls:
    """A model for several particles of each latent, with one call per particle, so that a call has one row per latent.

    Conditioning and masks of ComfyUI and the web UIs have one row per latent, and are not repeated for particles. A
    counter of calls `step`, as the web UIs' models have, advances by one for all particles together.
    """

    def __init__(self, model: Any, latents: int, particles: int) -> None:
        self.model, self.rows, self.particles = model, latents * particles, particles

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        parts, step = [], getattr(self.model, "step", None)
        for particle in range(self.particles):
            if step is not None:
                self.model.step = step
            rows = slice(particle, None, self.particles)
            own = {name: self._rows_of(value, rows) for name, value in options.items()}
            parts.append(self.model(x[rows], sigma[rows], **own))
        return torch.stack(parts, dim=1).flatten(0, 1)

    def _rows_of(self, value: Any, rows: slice) -> Any:
        return value[rows] if torch.is_tensor(value) and value.ndim and len(value) == self.rows else value


class StepNoise:
    """The noise of a k-diffusion noise sampler for the first step between two sigmas, and None for its repetitions."""

    def __init__(self, noise_sampler: Callable[[Tensor, Tensor], Tensor], sigmas: Tensor) -> None:
        self._noise_sampler, self._sigmas = noise_sampler, sigmas
        self._taken: set[tuple[float, float]] = set()

    def __call__(self, t: float, s: float) -> Tensor | None:
        """The noise (row, *event) of the step from t to s."""
        if (t, s) in self._taken:
            return None
        self._taken.add((t, s))
        noise = self._noise_sampler(self._sigmas.new_tensor(t), self._sigmas.new_tensor(s))
        if not torch.is_tensor(noise):
            raise ValueError(f"noise_sampler returned {noise!r}, expected a tensor like x, such as torch.randn_like(x)")
        return noise


def per_particle(value: Any, count: int, particles: int) -> Any:
    """Repeats a tensor with `count` rows for the particles of each row; returns other values unchanged."""
    if not torch.is_tensor(value):
        return value
    return value.repeat_interleave(particles, 0) if value.ndim and len(value) == count and particles > 1 else value

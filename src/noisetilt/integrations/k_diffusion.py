"""A sampler with the signature of k-diffusion's, for k-diffusion and ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..methods import Method, find_method
from ..path import Path, VEPath
from ..rewards.reward import RewardFunction
from ..sampling.trace import Trace
from .guide import GradientAt, Guide, make_vjp


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
    """Reward-guided sampling; Euler ancestral sampling where the reward says nothing.

    Args:
        model: (x (batch, *event), sigma (batch,), **extra_args) → denoised x̂_0, as k-diffusion's denoisers.
        x: noise of standard deviation sigmas[0], (batch, *event).
        sigmas: (steps + 1,) noise levels, falling, the last usually 0.
        extra_args: for the model; tensors with a row per row of x are repeated for methods with several particles.
        callback: called after each network evaluation with x, i, sigma, sigma_hat and denoised.
        disable: hides the progress bar.
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), maximised.
        decode: pictures in [0, 1] from states (batch, *event), differentiable; the identity if left out.
        method: a name of METHODS or a Method; not one that chooses its own initial noise.
        rho: strength of noise tilting in [0, 1], for methods that have it.
        eta: stochasticity: 0 is Euler, 1 ancestral.
        seeds: one whole number ≥ 0 per row of x for the noise; drawn from torch's random numbers if left out.
        prompts: one per row of x for the reward; empty if left out.
        noise_sampler: (sigma, next sigma) → standard normal noise of x's shape, instead of the seeds'; for methods
            with one particle.
        path: of the model; α = 1 if left out. Give FlowPath() for ComfyUI's rectified-flow models.
        gradient_at: "x_t" through the model, "x0" at x̂_0, which is cheaper.
        chunk: rows decoded and judged at a time.
        heldout: a reward that looks on, asked after every step and never followed; its values are in the trace.
        trace: a Trace() to be filled with what happens: rewards, held-out rewards, evaluations, seconds.
    Returns:
        x_0 (batch, *event) of x's dtype, the winners' where a method has several particles.
    Raises:
        ValueError: for bad input, in one sentence.
        FloatingPointError: if a reward, gradient or state is not finite.
    """
    method = find_method(method)
    method = method if rho is None else method.replace(rho=rho)
    particles, count = method.selection.particles, len(x)
    if noise_sampler is not None and particles > 1:
        raise ValueError(f"noise_sampler gives noise for one particle a row and the method has {particles}; give seeds")
    seeds = torch.randint(2**62, (count,)).tolist() if seeds is None else list(seeds)
    prompts = [""] * count if prompts is None else list(prompts)
    if len(seeds) != count or len(prompts) != count:
        raise ValueError(
            f"{len(seeds)} seeds and {len(prompts)} prompts for {count} rows of x; give one of each per row"
        )
    path = VEPath() if path is None else path
    levels = [float(sigma) for sigma in sigmas]
    # ComfyUI runs nodes in inference mode, in which no gradient exists.
    with torch.inference_mode(False), torch.no_grad():
        x = usable(x)
        state = x.to(torch.promote_types(x.dtype, torch.float32)).repeat_interleave(particles, 0)
        extra_args = {name: per_particle(value, count, particles) for name, value in (extra_args or {}).items()}
        guide = Guide(
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
            rng=None if noise_sampler is None else SampledNoise(noise_sampler, sigmas),
            heldout=heldout,
            trace=trace,
        )
        ones, number = x.new_ones(len(state)), 0
        with guide, tqdm(total=len(levels) - 1, disable=disable) as bar:
            while not guide.done:
                t = guide.t
                with torch.set_grad_enabled(guide.through):
                    leaf = guide.x.detach().requires_grad_(guide.through)
                    denoised = model(leaf.to(x.dtype), t * ones, **extra_args).to(state.dtype)
                if callback is not None:
                    seen = {"x": leaf.detach().to(x.dtype), "denoised": denoised.detach().to(x.dtype)}
                    callback({**seen, "i": number, "sigma": t, "sigma_hat": t})
                guide.answer(leaf, denoised, make_vjp(denoised, leaf))
                number += 1
                bar.update()
        return guide.x[guide.rows].to(x.dtype)


class SampledNoise:
    """A k-diffusion noise sampler as a source of noise for one particle a row."""

    def __init__(self, noise_sampler: Callable[[Tensor, Tensor], Tensor], sigmas: Tensor) -> None:
        self._noise_sampler, self._sigmas, self._at = noise_sampler, sigmas, 0

    def normal(self, images: Sequence[int] | None = None) -> Tensor:
        """The noise of the next step, (image, 1, *event)."""
        at = min(self._at, len(self._sigmas) - 2)
        self._at += 1
        noise = self._noise_sampler(self._sigmas[at], self._sigmas[at + 1])[:, None]
        return noise if images is None else noise[list(images)]


def usable(value: Tensor) -> Tensor:
    """A tensor that autograd may save."""
    return value.clone() if value.is_inference() else value


def per_particle(value: Any, count: int, particles: int) -> Any:
    """A tensor with a row for each of `count` pictures, repeated for their particles; anything else as it is."""
    if not torch.is_tensor(value):
        return value
    value = usable(value)
    return value.repeat_interleave(particles, 0) if value.ndim and len(value) == count and particles > 1 else value

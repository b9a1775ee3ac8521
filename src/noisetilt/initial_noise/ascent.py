"""InitialNoise noise by ascent of the reward: the noise of a one-step generator, optimised."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..noise import audit, penalties, project_wgnc, whiten
from .objective import NoiseObjective

Penalty = Literal["none", "reno", "prno", "mpgr"]
Direction = Literal["raw", "wgnc", "whiten"]
Evaluate = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
WORDS = {
    "gradient": ("raw", "wgnc", "whiten"),
    "latent": ("free", "wgnc"),
    "penalty": ("none", "reno", "prno", "mpgr"),
    "optimiser": ("adam", "sgd", "rotation"),
    "perturb": ("noise", "image"),
}


@dataclass(frozen=True)
class Iterate:
    """The ascent after `number` steps: noise (row, *event), r (row,), and which rows still ascent (row,).

    gradient is ∇r (row, *event), zero in rows that were not evaluated; None at the last iterate.
    """

    number: int
    noise: Tensor
    rewards: Tensor
    active: Tensor
    gradient: Tensor | None


@dataclass(frozen=True)
class Ascent:
    """x ← Adam(x, g'), g' = Proj(clip(∇_x [r(M(x)) − λ P(x)])), and the best iterate is returned; M makes a picture of
    the noise x.

    Its corners are published methods. Where a paper's settings were available they are the defaults of METHODS.
    - none: nothing keeps x typical.
    - reno: P = ½‖x‖² − (N − 1) ln‖x‖, gradient clipped, Nesterov momentum (ReNO, Eyring et al. 2024, arXiv 2406.04312;
      its code: rate 5, clip 0.1, λ = 0.01, 50 iterations, best iterate).
    - prno: P = mean and covariance of blocks (DNO with probability regularisation, Tang et al. 2024, arXiv 2405.18881;
      its code: Adam at 0.01, 50 iterations, clip 1). P is this library's form of it.
    - mpgr: P = moments and block-wise power of the spectrum (Hwang et al. 2025, arXiv 2509.07027), times N/8.
    - gper: the gradient is projected to the white-Gaussian feasible set (GPER, arXiv 2602.08646; SDXL-Turbo: rate 0.1,
      50 iterations, clip 0.03; FLUX-schnell: rate 0.02, 200 iterations; B = 16).
    - gper-latent: x itself is projected, at the start and after each step (the same paper's v1).
    - gper-both: both, as in its released settings.
    - gper-w: the whitening operator W in place of that projection.
    - gper-rotation: gper's gradient, but x is turned towards it instead of moved by Adam (ours).

    It costs iterations + 1 network calls a particle, times chain_steps. Clipping acts before the projection, which
    forgets lengths: with "wgnc" or "whiten" it has no effect.

    Args:
        iterations: steps of ascent, 0 or more.
        rate: learning rate > 0: for "adam" how far each number of x moves in a step, for "rotation" the first angle.
        gradient: "raw", "wgnc" (projected to white-Gaussian norms) or "whiten" (W).
        latent: "free", or "wgnc" to project x.
        penalty: "none", "reno", "prno" or "mpgr"; the last two read x in a fresh random order at each step.
        penalty_weight: λ ≥ 0, in units of reward per unit of penalty. Under each of the three a noise of mean square q
            is pulled back by about λ (q − 1) x, so one λ is equally strict with all; 0.01 is ReNO's.
        block_size: B of the projection or of the penalty.
        optimiser: "adam" (β = 0.9, 0.999), "sgd" with Nesterov momentum, or "rotation" towards g', see `Rotation`.
        momentum: of "sgd" and "rotation", in [0, 1); 0 is plain gradient ascent.
        clip: > 0, the greatest norm of an image's gradient; inf for none.
        audit_level: an image stops climbing before its noise fails the typicality audit at this level; 0 never asks.
        chain_steps: network calls K that make the picture: the K steps with η = 0, differentiated through (DNO).
        draws: 0 for rewards with a gradient; else pairs n of pictures whose rewards stand in for it, see `perturb`.
        width: standard deviation > 0 of δ in the next line.
        perturb: "noise": x ± δ (DNO's Hybrid-2, in pairs; its code has width 0.01), which keeps to pictures that the
            model makes and costs 2n·K network calls an iteration. "image": x_0 ± δ, which costs none. Either way the
            estimate is pulled back through the exact Jacobian of the network.
    """

    iterations: int = 50
    rate: float = 0.1
    gradient: Direction = "raw"
    latent: Literal["free", "wgnc"] = "free"
    penalty: Penalty = "none"
    penalty_weight: float = 0.0
    block_size: int = 16
    optimiser: Literal["adam", "sgd", "rotation"] = "adam"
    momentum: float = 0.9
    clip: float = math.inf
    audit_level: float = 0.0
    chain_steps: int = 1
    draws: int = 0
    width: float = 0.05
    perturb: Literal["noise", "image"] = "noise"
    needs_reward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown; give one of {', '.join(words)}")
        for name, least in (("iterations", 0), ("draws", 0), ("chain_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be {least} or more")
        for name in ("rate", "clip", "width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        for name in ("momentum", "audit_level"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 0 and below 1")
        if not self.penalty_weight >= 0:
            raise ValueError(f"penalty_weight = {self.penalty_weight} must be 0 or more; the penalty is subtracted")

    @property
    def zeroth_order(self) -> bool:
        """Whether rewards of pictures stand in for the gradient."""
        return self.draws > 0

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        flat = noise.flatten(0, 1)

        def evaluate(x: Tensor, rows: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
            rewards, gradient = objective.evaluate(flat.index_copy(0, rows, x).view_as(noise))
            return rewards.flatten()[rows], gradient.flatten(0, 1)[rows]

        chosen, best = flat, None
        for iterate in self.iterate(flat, evaluate):
            better = torch.ones_like(iterate.active) if best is None else iterate.rewards > best
            best = iterate.rewards if best is None else iterate.rewards.where(better, best)
            chosen = torch.where(wide(better, flat), iterate.noise, chosen)
        return chosen.view_as(noise)

    @torch.no_grad()
    def iterate(self, noise: Tensor, evaluate: Evaluate) -> Generator[Iterate, Tensor | None, None]:
        """The iterates x_0 … x_I; rows do not know of each other.

        Args:
            noise: standard Gaussian noise (row, *event).
            evaluate: (x (some rows, *event), the numbers of those rows, whether a gradient is wanted) → their rewards
                and the gradients of these by x.
        Yields:
            Each iterate. Sending back booleans (row,) stops the rows that are False; they keep their noise and cost no
            more network calls.
        """
        x = self._feasible(noise).clone()
        optimiser = self._optimiser(x)
        active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        rewards = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        for number in range(self.iterations + 1):
            rows, last = active.nonzero().flatten(), number == self.iterations
            found, slope = evaluate(x[rows], rows, not last)
            rewards = rewards.index_copy(0, rows, found.to(rewards))
            gradient = None if last else torch.zeros_like(x).index_copy(0, rows, slope.to(x))
            keep = yield Iterate(number, x.clone(), rewards, active, gradient)
            active = active if keep is None else active & keep.to(active.device)
            if last or not active.any():
                return
            active = self._step(x, gradient, optimiser, active, number)
            if not active.any():
                return

    def _step(
        self, x: Tensor, gradient: Tensor, optimiser: torch.optim.Optimizer | Rotation, active: Tensor, number: int
    ) -> Tensor:
        """Moves the active rows of x in place; gives the rows that go on."""
        before = x.clone()
        x.grad = self.direction(x, gradient, number)
        optimiser.step()
        moved = self._feasible(x)
        if self.audit_level > 0:
            passed = torch.zeros_like(active)
            passed[active] = (audit(moved[active]).p_value >= self.audit_level).to(active.device)
            active = passed
        x.copy_(torch.where(wide(active, x), moved, before))
        return active

    def direction(self, x: Tensor, gradient: Tensor, number: int = 0) -> Tensor:
        """g' (row, *event) of the step `number` at x from ∇r; a gradient that is zero everywhere stays zero."""
        if self.penalty != "none" and self.penalty_weight > 0:
            gradient = gradient - self.penalty_weight * self._penalty_gradient(x, number)
        norm = wide(gradient.flatten(1).norm(dim=1), gradient)
        if self.gradient == "raw":
            return gradient * (self.clip / norm).clamp(max=1)
        projected = project_wgnc(gradient, self.block_size) if self.gradient == "wgnc" else whiten(gradient)
        return torch.where(norm > 0, projected, 0)

    def _penalty_gradient(self, x: Tensor, number: int) -> Tensor:
        penalty, scale = getattr(penalties, self.penalty), x[0].numel() / 8 if self.penalty == "mpgr" else 1
        if self.penalty != "reno":
            # The order depends on nothing but the step, so that an image does not notice which others are optimised.
            order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(number)).to(x.device)
            penalty = _in_order(penalty, self.block_size, order)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return scale * torch.autograd.grad(penalty(leaf).sum(), leaf)[0]

    def _feasible(self, x: Tensor) -> Tensor:
        return x if self.latent == "free" else project_wgnc(x, self.block_size)

    def _optimiser(self, x: Tensor) -> torch.optim.Optimizer | Rotation:
        if self.optimiser == "rotation":
            return Rotation(x, self.rate, self.momentum, self.iterations)
        if self.optimiser == "adam":
            return torch.optim.Adam([x], lr=self.rate, maximize=True)
        return torch.optim.SGD([x], lr=self.rate, momentum=self.momentum, nesterov=self.momentum > 0, maximize=True)


class Rotation:
    """x ← cos θ · x + sin θ · ‖x‖ u, with u the unit direction towards m at right angles to x, and m ← μ m + g'.

    The norm of x never changes, and where g' is typical noise independent of x, so is the answer: it is the noise tilt
    of NTRK (arXiv 2606.18066) with ρ = sin²θ, along a great circle. θ falls linearly towards 0 with the steps, as one
    that does not would end in a jitter, and is at most the angle to m, where x comes to rest.

    Args:
        x: (row, *event), moved in place by `step` along x.grad.
        rate: θ of the first step, in radians.
        momentum: μ in [0, 1).
        steps: how many there will be, 1 or more.
    """

    def __init__(self, x: Tensor, rate: float, momentum: float, steps: int) -> None:
        self.x, self.rate, self.momentum, self.mean = x, rate, momentum, torch.zeros_like(x)
        self.left = self.steps = max(steps, 1)

    def step(self) -> None:
        self.mean = self.momentum * self.mean + self.x.grad
        x, m = self.x.flatten(1), self.mean.flatten(1)
        length = x.norm(dim=1, keepdim=True)
        along = (x * m).sum(1, keepdim=True) / length
        across = m - along * x / length
        height = across.norm(dim=1, keepdim=True)
        theta = torch.atan2(height, along).clamp(max=self.rate * self.left / self.steps)
        self.left -= 1
        unit = across / torch.where(height > 0, height, 1)
        self.x.copy_((theta.cos() * x + theta.sin() * length * unit).view_as(self.x))


def _in_order(penalty: Callable[..., Tensor], block_size: int, order: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: penalty(x, block_size, order)


def wide(values: Tensor, like: Tensor) -> Tensor:
    """(row,) with as many axes as (row, *event)."""
    return values.view(-1, *[1] * (like.ndim - 1))

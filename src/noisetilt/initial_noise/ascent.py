"""Noise ascent: the initial noise of a one-step or few-step generator, optimised for the reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .._messages import whole_number
from .._options import check_types
from ..noise import audit, penalties, project_wgnc, whiten
from ..noise.typicality import SMALLEST_EVENT
from ..noise.whitening import to_unit_rms
from .objective import NoiseObjective
from .rotation import Rotation

Penalty = Literal["none", "reno", "prno", "mpgr"]
Direction = Literal["raw", "wgnc", "whiten"]
Evaluate = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Iterate:
    """The state after `number` steps: noise (row, *event), rewards (row,), and which rows are active (row,).

    gradient is ∇r (row, *event), zero in rows that were not evaluated, and None at the last iterate.
    """

    number: int
    noise: Tensor
    rewards: Tensor
    active: Tensor
    gradient: Tensor | None


@dataclass(frozen=True)
class Ascent:
    """x ← Adam(x, g'), g' = Proj(clip(∇_x [r(M(x)) − λ P(x)])), and the best iterate is returned; M maps the
    noise x to an image.

    Published methods are special cases. METHODS uses the papers' settings where they were available.
    - none: no regularisation.
    - reno: P = ½‖x‖² − (N − 1) ln‖x‖, gradient clipped, Nesterov momentum (ReNO, Eyring et al. 2024, arXiv 2406.04312;
      its code: rate 5, clip 0.1, λ = 0.01, 50 iterations, best iterate).
    - prno: P = mean and covariance of blocks (DNO with probability regularisation, Tang et al. 2024, arXiv 2405.18881;
      its code: Adam at 0.01, 50 iterations, clip 1). P is this library's form.
    - mpgr: P = moments and block-wise power of the spectrum (Hwang et al. 2025, arXiv 2509.07027), times N/8.
    - gper: the gradient is projected to the white-Gaussian feasible set (GPER, arXiv 2602.08646; SDXL-Turbo: rate 0.1,
      50 iterations, clip 0.03; FLUX-schnell: rate 0.02, 200 iterations; B = 16).
    - gper-latent: x itself is projected, at the start and after each step (the same paper's v1).
    - gper-both: both, as in its released settings.
    - gper-w: the whitening operator W instead of that projection. The noise that W adds is the initial noise in another
      random order at each step.
    - gper-rotation: gper's gradient, with `Rotation` instead of Adam (ours).

    In `sample` the first step has η = 0 and keeps x. Later steps replace it little by little if η > 0.

    The cost is (iterations + 1) · chain_steps network calls per particle. Clipping is before the projection, which
    depends on the direction only, so it has no effect with "wgnc" or "whiten".

    Args:
        iterations: steps of ascent, 0 or more.
        rate: learning rate > 0; for "rotation" the angle of the first step, in radians.
        gradient: "raw", "wgnc" (projection onto white-Gaussian norms) or "whiten" (W).
        latent: "free", or "wgnc" to project x after each step.
        penalty: "none", "reno", "prno" or "mpgr"; the last two permute x anew at each step.
        penalty_weight: λ ≥ 0, in units of reward per unit of penalty. For each of the three, the penalty gradient
            at noise of mean square q is about λ (q − 1) x, so that λ is comparable between them. ReNO uses 0.01.
        block_size: B ≥ 1 of the projection (there 2 or more) or of the penalty.
        optimiser: "adam" (β = 0.9, 0.999), "sgd" with Nesterov momentum, or "rotation" (see `Rotation`).
        momentum: of "sgd" and "rotation", in [0, 1); 0 is plain gradient ascent.
        clip: maximum norm > 0 of an image's gradient; inf for no clipping.
        audit_level: an image stops before the audit rejects its noise at this level in [0, 1); 0 disables the audit.
        chain_steps: number K ≥ 1 of deterministic steps (η = 0) from noise to image, differentiated through (DNO). In
            `sample` and pipelines their times are among those of the call, which has K steps or more.
        draws: 0 uses the gradient of the reward; n > 0 estimates it from n pairs of rewards, see `perturb`.
        width: standard deviation > 0 of the perturbation δ.
        perturb: "noise" evaluates the images of x ± δ (DNO's Hybrid-2, in pairs; its code has width 0.01), at 2n·K
            network calls per iteration. "image" evaluates x_0 ± δ, without network calls. Both multiply the estimate
            by the exact Jacobian of the network.
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
    selects_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("draws", 0), ("chain_steps", 1), ("block_size", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        check_types(self)
        for name in ("rate", "clip", "width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        for name in ("momentum", "audit_level"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be in [0, 1)")
        if not self.penalty_weight >= 0:
            raise ValueError(
                f"penalty_weight = {self.penalty_weight} must be 0 or more, because the penalty is subtracted"
            )

    def check_event(self, event: Sequence[int]) -> None:
        """Check that this ascent is possible for noise of the shape `event` of one image.

        Raises:
            ValueError: if a projection, the penalty or the audit needs another number of values.
        """
        count = math.prod(event)
        needs = {
            "gradient": (self.gradient == "wgnc", count % 2 == 0 and count >= 4, "an even number of 4 or more"),
            "latent": (self.latent == "wgnc", count % 2 == 0 and count >= 4, "an even number of 4 or more"),
            "audit_level": (self.audit_level > 0, count >= SMALLEST_EVENT, f"{SMALLEST_EVENT} or more"),
        }
        if self.penalty_weight > 0 and self.penalty in ("prno", "mpgr"):
            size = self.block_size * (2 if self.penalty == "mpgr" else 1)
            needs["penalty"] = (True, count % size == 0, f"a multiple of {size}; another block_size may fit")
        for option, (used, possible, expected) in needs.items():
            if used and not possible:
                raise ValueError(
                    f"{option} = {getattr(self, option)!r} does not fit noise of the shape {tuple(event)}, which has "
                    f"{count} values; it needs {expected}"
                )

    @property
    def zeroth_order(self) -> bool:
        """Whether the gradient is estimated from rewards."""
        return self.draws > 0

    def __call__(self, noise: Tensor, objective: NoiseObjective) -> Tensor:
        flat = noise.flatten(0, 1)
        best_noise, best = flat, None
        for iterate in self.iterate(flat, lambda x, rows, with_gradient: objective.evaluate(x, with_gradient, rows)):
            better = torch.ones_like(iterate.active) if best is None else iterate.rewards > best
            best = iterate.rewards if best is None else iterate.rewards.where(better, best)
            best_noise = torch.where(expand_like(better, flat), iterate.noise, best_noise)
        return best_noise.view_as(noise)

    @torch.no_grad()
    def iterate(self, noise: Tensor, evaluate: Evaluate) -> Generator[Iterate, Tensor | None, None]:
        """Yield the iterates x_0 … x_I; rows are independent.

        Args:
            noise: standard Gaussian noise (row, *event); half precision is raised to float32 between evaluations.
            evaluate: (x (some rows, *event), indices of these rows, whether to compute the gradient) → rewards and
                their gradients with respect to x.
        Yields:
            Each Iterate. Booleans (row,) sent to the generator stop the rows that are False: they keep their noise and
            are not evaluated again.
        Raises:
            ValueError: see `check_event`.
        """
        self.check_event(noise.shape[1:])
        # In float16 Adam's squares underflow, and sums of squares overflow.
        start = noise.to(torch.promote_types(noise.dtype, torch.float32))
        x = self._feasible(start).clone()
        optimiser = self._optimiser(x)
        active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        rewards = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        for number in range(self.iterations + 1):
            rows, last = active.nonzero().flatten(), number == self.iterations
            values, slope = evaluate(x[rows].to(noise), rows, not last)
            rewards = rewards.index_copy(0, rows, values.to(rewards))
            gradient = None if last else torch.zeros_like(x).index_copy(0, rows, slope.to(x))
            keep = yield Iterate(number, x.to(noise, copy=True), rewards, active, gradient)
            active = active if keep is None else active & keep.to(active.device)
            if last or not active.any():
                return
            active = self._step(x, gradient, optimiser, active, number, start)
            if not active.any():
                return

    def _step(
        self,
        x: Tensor,
        gradient: Tensor,
        optimiser: torch.optim.Optimizer | Rotation,
        active: Tensor,
        number: int,
        start: Tensor,
    ) -> Tensor:
        """Update the active rows of x in place; returns the rows that remain active."""
        before, rows = x.clone(), active.nonzero().flatten()
        direction = self.direction(x[rows], gradient[rows], number, start[rows])
        x.grad = torch.zeros_like(x).index_copy_(0, rows, direction)
        optimiser.step()
        moved = self._feasible(x[rows])
        if self.audit_level > 0:
            passed = (audit(moved).p_value >= self.audit_level).to(rows.device)
            rows, moved = rows[passed], moved[passed]
        x.copy_(before.index_copy_(0, rows, moved))
        return torch.zeros_like(active).index_fill_(0, rows, True)

    def direction(self, x: Tensor, gradient: Tensor, number: int = 0, start: Tensor | None = None) -> Tensor:
        """g' (row, *event) of step `number` at x from ∇r, for an ascent from `start` (x by default); a row of zeros
        stays zero."""
        if self.penalty != "none" and self.penalty_weight > 0:
            gradient = gradient - self.penalty_weight * self._penalty_gradient(x, number)
        if self.gradient == "raw":
            return gradient if self.clip == math.inf else gradient * (self.clip / _norm(gradient)).clamp(max=1)
        if self.gradient == "wgnc":
            projected = project_wgnc(gradient, self.block_size)
        else:
            # W must not add the same noise at each step or for each image. The noise of an inversion has another RMS.
            noise = x if start is None else start
            noise = to_unit_rms(noise.flatten(1)[:, _order(noise, number)].view_as(noise))
            projected = whiten(gradient, noise=noise)
        return torch.where(expand_like((gradient != 0).flatten(1).any(1), gradient), projected, 0)

    def _penalty_gradient(self, x: Tensor, number: int) -> Tensor:
        penalty, scale = getattr(penalties, self.penalty), x[0].numel() / 8 if self.penalty == "mpgr" else 1
        if self.penalty != "reno":
            penalty = _permuted(penalty, self.block_size, _order(x, number))
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


def _norm(x: Tensor) -> Tensor:
    """The norm of each row, (row, 1, …), also where the squares overflow."""
    norm = x.flatten(1).norm(dim=1)
    peak = x.flatten(1).abs().amax(1)
    scaled = peak * (x.flatten(1) / peak[:, None]).norm(dim=1)
    return expand_like(torch.where(norm.isinf(), scaled, norm), x)


def _order(x: Tensor, number: int) -> Tensor:
    """A random order of the numbers of an event of x (row, *event).

    It depends on `number` alone, so that an image does not depend on the others of its batch.
    """
    generator = torch.Generator("cpu").manual_seed(number)
    return torch.randperm(x[0].numel(), generator=generator, device="cpu").to(x.device)


def _permuted(penalty: Callable[..., Tensor], block_size: int, order: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: penalty(x, block_size, order)


def expand_like(values: Tensor, like: Tensor) -> Tensor:
    """values (row,) reshaped to broadcast with `like` (row, *event)."""
    return values.view(-1, *[1] * (like.ndim - 1))

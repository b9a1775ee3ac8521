"""What a model makes of noisy states, and what a reward says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..methods import Method
from ..models.denoiser import Denoiser
from ..path import Path
from .deterministic import deterministic_chain, deterministic_grid
from .reward_evaluation import RewardEvaluator, chunks


class Model(Protocol):
    """What `sample` asks of a model."""

    path: Path
    shape: tuple[int, ...]

    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0(x_t, t, index) for these prompts."""

    def decode(self, x_0: Tensor) -> Tensor:
        """Pictures in [0, 1], (batch, 3, H, W), from states (batch, *event); differentiable."""


@dataclass
class Evaluator:
    """x̂_0, r(x̂_0) and ∇_{x_t} r(x̂_0), a chunk of rows at a time so that memory is bounded.

    Args:
        path: of the denoiser.
        denoiser: x̂_0(x_t, t, index).
        reward_evaluator: of states, by the same index.
        gradient_at: "x_t" through the denoiser, or "x0".
        chunk: rows at a time.
        number: of the step or iteration, for messages.
    """

    path: Path
    denoiser: Denoiser
    reward_evaluator: RewardEvaluator
    gradient_at: Literal["x_t", "x0"]
    chunk: int
    number: int = 0

    def __call__(
        self,
        x_t: Tensor,
        t: float,
        index: Tensor,
        with_reward: bool,
        with_gradient: bool,
        perturbations: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x̂_0, rewards and gradient of all rows; perturbations (batch, draws, *event) are offsets from x̂_0.

        Where α_t = 0 nothing of x_0 is in x_t and the gradient is zero, whatever a network says.
        """
        no_signal = self.path.alpha(t) == 0
        spread: Any = [None] * len(x_t) if perturbations is None else perturbations
        parts = [
            self._one(x_t[rows], t, index[rows], spread[rows], with_reward, with_gradient, no_signal)
            for rows in chunks(len(x_t), self.chunk)
        ]
        x0_hat, rewards, gradient = zip(*parts, strict=True)
        return (
            torch.cat(x0_hat),
            torch.cat(rewards) if with_reward else None,
            torch.cat(gradient) if with_gradient else None,
        )

    def _one(
        self,
        x_t: Tensor,
        t: float,
        index: Tensor,
        perturbations: Tensor | None,
        with_reward: bool,
        with_gradient: bool,
        no_signal: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        follow = with_gradient and not no_signal
        through = follow and self.gradient_at == "x_t" and not self.reward_evaluator.estimated
        perturbations = perturbations if torch.is_tensor(perturbations) else None
        with torch.set_grad_enabled(through):
            x_t = x_t.detach().requires_grad_(through)
            x0_hat = self.denoiser(x_t, t, index)
        if not with_reward:
            return x0_hat, None, None
        if follow:
            rewards, gradient = self.reward_evaluator.value_and_gradient(
                x0_hat, index, perturbations, x_t if through else None
            )
        else:
            rewards, gradient = (
                self.reward_evaluator(x0_hat, index).detach(),
                torch.zeros_like(x_t) if with_gradient else None,
            )
        self.reward_evaluator.require_finite(rewards, "value", self.number, t)
        if with_gradient:
            self.reward_evaluator.require_finite(gradient, "gradient", self.number, t)
        return x0_hat.detach(), rewards, gradient

    def at_x0(self, x_0: Tensor, index: Tensor, t: float) -> Tensor:
        """∇r at x_0 (batch, *event), without the denoiser."""
        parts = [
            self.reward_evaluator.value_and_gradient(x_0[rows], index[rows])[1] for rows in chunks(len(x_0), self.chunk)
        ]
        gradient = torch.cat(parts)
        self.reward_evaluator.require_finite(gradient, "gradient", self.number, t)
        return gradient

    def of_noise(
        self, x_T: Tensor, grid: Sequence[float], index: Tensor, directions: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Rewards of the pictures that the steps of a grid with η = 0 make of noise, their gradients by x_T (None
        unless wanted) and the pictures, of all rows; options are those of `_of_noise`."""
        spread: Any = [None] * len(x_T) if directions is None else directions
        parts = [
            self._of_noise(x_T[rows], grid, index[rows], spread[rows], **options)
            for rows in chunks(len(x_T), self.chunk)
        ]
        self.number += 1
        rewards, gradient, images = zip(*parts, strict=True)
        return torch.cat(rewards), None if gradient[0] is None else torch.cat(gradient), torch.cat(images)

    def _of_noise(
        self,
        x_T: Tensor,
        grid: Sequence[float],
        index: Tensor,
        directions: Tensor | None,
        with_gradient: bool = True,
        width: float = 1.0,
        perturb: str = "image",
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        estimated = torch.is_tensor(directions)
        through = with_gradient and self.gradient_at == "x_t"
        with torch.set_grad_enabled(through):
            x_T = x_T.detach().requires_grad_(through)
            made = deterministic_chain(self.denoiser, x_T, grid, index)
        x_0 = made.detach().requires_grad_(with_gradient and not estimated)
        with torch.set_grad_enabled(x_0.requires_grad):
            images = self.reward_evaluator.decode(x_0)
            rewards = self.reward_evaluator.of_images(images, index)
        self.reward_evaluator.require_finite(rewards.detach(), "value", self.number, grid[0], "iteration")
        gradient = None
        if with_gradient:
            if estimated and perturb == "noise":
                gradient = self._estimate_along(x_T.detach(), grid, index, width * directions) / (4 * width**2)
            elif estimated:
                gradient = self.reward_evaluator.estimate(x_0, index, width * directions) / (2 * width**2)
            else:
                gradient = self.reward_evaluator.gradient(rewards, x_0)
            nfe = self.denoiser.nfe
            gradient = torch.autograd.grad(made, x_T, gradient)[0] if through else gradient
            # What checkpoints compute again is the price of memory, not another evaluation.
            self.denoiser.nfe = nfe
            self.reward_evaluator.require_finite(gradient, "gradient", self.number, grid[0], "iteration")
        return rewards.detach(), gradient, images.detach()

    def _estimate_along(self, x_T: Tensor, grid: Sequence[float], index: Tensor, offsets: Tensor) -> Tensor:
        """J Jᵀ∇r at x_0, up to a factor, from the rewards of the pictures that noises on either side make: Hybrid-2 of
        DNO (Tang et al. 2024, arXiv 2405.18881), in antithetic pairs."""
        draws = offsets.shape[1]
        rows = index.repeat_interleave(draws)
        with torch.no_grad():
            ahead, behind = (
                deterministic_chain(self.denoiser, (x_T[:, None] + sign * offsets).flatten(0, 1), grid, rows)
                for sign in (1, -1)
            )
            slopes = (self.reward_evaluator(ahead, rows) - self.reward_evaluator(behind, rows)).unflatten(
                0, (-1, draws)
            )
        apart = (ahead - behind).unflatten(0, (-1, draws))
        return torch.einsum("bd,bd...->b...", slopes.to(apart), apart) / draws


def rewards_of_noise(
    evaluate: Evaluator, method: Method, start: float, index: Tensor
) -> Callable[..., tuple[Tensor, Tensor]]:
    """What the method's initial noise asks of x_T: rewards and gradients of the pictures that its steps with η = 0
    make."""
    initial: Any = method.initial
    ahead = deterministic_grid(evaluate.path, start, getattr(initial, "chain_steps", 1))
    options = {"width": initial.width, "perturb": initial.perturb} if getattr(initial, "draws", 0) else {}
    return lambda x_T, *directions: evaluate.of_noise(x_T, ahead, index, *directions, **options)[:2]

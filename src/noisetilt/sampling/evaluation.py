"""Evaluation of x̂_0, rewards and reward gradients at noisy states, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..initial_noise import ZerothOrderInitialNoise
from ..methods import Method
from ..models.denoiser import Denoiser
from ..path import Path
from .check_inputs import GradientAt
from .deterministic import chain_grid, deterministic_chain
from .rescaled_vjp import rescaled_vjp
from .reward_evaluation import RewardEvaluator, chunks, perturbed, weighted_sum


class Model(Protocol):
    """The interface of a model for `sample` and `optimize`."""

    path: Path
    shape: tuple[int, ...]

    def denoiser(self, prompts: Sequence[str]) -> Denoiser:
        """x̂_0(x_t, t, index) for these prompts."""

    def decode(self, x_0: Tensor) -> Tensor:
        """Images (batch, 3, H, W) in [0, 1] from states (batch, *event); differentiable."""


@dataclass
class Evaluator:
    """Computes x̂_0, r(x̂_0) and ∇_{x_t} r(x̂_0) in chunks of rows, which bounds the memory.

    Args:
        path: the Gaussian path of the denoiser.
        denoiser: x̂_0(x_t, t, index).
        reward_evaluator: rewards of states, with the same index.
        gradient_at: "x_t" differentiates through the denoiser, "x0" does not.
        chunk: rows per network call and per reward evaluation, draws included.
        number: of the step or iteration, for error messages.
        rows: of the batch that the next call evaluates, for error messages; None: all.
    """

    path: Path
    denoiser: Denoiser
    reward_evaluator: RewardEvaluator
    gradient_at: GradientAt
    chunk: int
    number: int = 0
    rows: Tensor | None = None

    def __call__(
        self,
        x_t: Tensor,
        t: float,
        index: Tensor,
        with_reward: bool,
        with_gradient: bool,
        perturbations: Tensor | None = None,
        with_images: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """x̂_0, rewards, gradient and the decoded x̂_0 of all rows, None for what is not asked for; there are images only
        with rewards. perturbations (batch, draws, *event) are offsets from x̂_0."""
        parts = [
            self._evaluate_chunk(
                x_t[rows],
                t,
                index[rows],
                None if perturbations is None else perturbations[rows],
                with_reward,
                with_gradient,
                with_images,
            )
            for rows in chunks(len(x_t), self.chunk)
        ]
        x0_hat, rewards, gradient, images = (
            None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)
        )
        self._require_finite(rewards, gradient, t, "step")
        return x0_hat, rewards if with_reward else None, gradient, images

    def _require_finite(self, rewards: Tensor | None, gradient: Tensor | None, t: float, unit: str) -> None:
        """Check all rows at once, which costs one synchronisation with the device for each tensor."""
        for values, what in ((rewards, "value"), (gradient, "gradient")):
            if values is not None:
                self.reward_evaluator.require_finite(values, what, self.number, t, unit, self.rows)

    def _evaluate_chunk(
        self,
        x_t: Tensor,
        t: float,
        index: Tensor,
        perturbations: Tensor | None,
        with_reward: bool,
        with_gradient: bool,
        with_images: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        through = with_gradient and self.differentiates_network
        with torch.set_grad_enabled(through):
            x_t = x_t.detach().requires_grad_(through)
            x0_hat = self.denoiser(x_t, t, index)
        if x0_hat.shape != x_t.shape:
            got, expected = tuple(x0_hat.shape), tuple(x_t.shape)
            raise ValueError(f"the denoiser of the model returned {got}, expected the shape of x_t, {expected}")
        if not with_reward and not with_gradient:
            return x0_hat, None, None, None
        gradient = None
        if with_gradient:
            rewards, gradient, images = self.reward_evaluator.value_and_gradient(
                x0_hat, index, perturbations, x_t if through else None, self.chunk, with_reward
            )
        else:
            images, _, rewards = self.reward_evaluator.evaluate_images(x0_hat, index)
            rewards, images = rewards.detach(), images.detach()
        return x0_hat.detach(), rewards, gradient, images if with_images else None

    @property
    def differentiates_network(self) -> bool:
        """Whether gradients are taken through the network."""
        return self.gradient_at == "x_t" and not self.reward_evaluator.estimated

    def gradient_at_x0(
        self, x_0: Tensor, index: Tensor, t: float, perturbations: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """∇r at x_0 (batch, *event), without a network call; perturbations are offsets from x_0.

        `rows` (batch,) are its rows in the whole batch, for error messages.
        """
        parts = [
            self.reward_evaluator.value_and_gradient(
                x_0[part],
                index[part],
                None if perturbations is None else perturbations[part],
                chunk=self.chunk,
                with_values=False,
            ).gradient
            for part in chunks(len(x_0), self.chunk)
        ]
        gradient = torch.cat(parts)
        self.reward_evaluator.require_finite(gradient, "gradient", self.number, t, rows=rows)
        return gradient

    def evaluate_noise(
        self, x_T: Tensor, grid: Sequence[float], index: Tensor, directions: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Rewards, gradients with respect to x_T (None without `with_gradient`) and images of the samples that start at
        x_T and follow the grid with η = 0; and the values that have these gradients: the rewards plus the reward's
        term of states, if it has one.

        `directions` (batch, draws, *event) requests a zeroth-order estimate; options are those of
        `_evaluate_noise_chunk`.
        """
        parts = [
            self._evaluate_noise_chunk(
                x_T[rows], grid, index[rows], None if directions is None else directions[rows], **options
            )
            for rows in chunks(len(x_T), self.chunk)
        ]
        rewards, gradient, images, values = (
            None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)
        )
        self._require_finite(values, gradient, grid[0], "iteration")
        self.number += 1
        return rewards, gradient, images, values

    def _evaluate_noise_chunk(
        self,
        x_T: Tensor,
        grid: Sequence[float],
        index: Tensor,
        directions: Tensor | None,
        with_gradient: bool = True,
        width: float = 1.0,
        perturb: str = "image",
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        estimated = directions is not None
        through = with_gradient and self.gradient_at == "x_t"
        with torch.set_grad_enabled(through):
            x_T = x_T.detach().requires_grad_(through)
            chain = deterministic_chain(self.denoiser, x_T, grid, index)
        x_0 = chain.detach().requires_grad_(with_gradient and not estimated)
        with torch.set_grad_enabled(x_0.requires_grad):
            images, rewards, values = self.reward_evaluator.evaluate_images(x_0, index)
        gradient = None
        if with_gradient:
            if estimated and perturb == "noise":
                # The width is that of the noise of unit variance.
                std = width * self.path.prior_std(grid[0])
                gradient = self._estimate_gradient(x_T.detach(), grid, index, std * directions) / (4 * std**2)
            elif estimated:
                gradient = self.reward_evaluator.estimate(x_0, index, width * directions, self.chunk)
                gradient = gradient / (2 * width**2)
            else:
                gradient = self.reward_evaluator.gradient(values, x_0, images)
            nfe = self.denoiser.nfe
            if through:
                gradient = rescaled_vjp(lambda g: torch.autograd.grad(chain, x_T, g)[0], gradient)
            # Recomputation by checkpoints is not counted as network calls.
            self.denoiser.nfe = nfe
        return rewards.detach(), gradient, images.detach(), values.detach()

    def _estimate_gradient(self, x_T: Tensor, grid: Sequence[float], index: Tensor, offsets: Tensor) -> Tensor:
        """J Jᵀ∇r at x_0, up to a factor, from the rewards of the samples of x_T ± offsets: Hybrid-2 of DNO (Tang et al.
        2024, arXiv 2405.18881) in antithetic pairs."""
        draws = offsets.shape[1]
        pairs = zip(*(perturbed(x_T, index, offsets, sign, self.chunk) for sign in (1, -1)), strict=True)
        parts = []
        with torch.no_grad():
            for (higher, of), (lower, _) in pairs:
                plus, minus = (deterministic_chain(self.denoiser, x, grid, of) for x in (higher, lower))
                parts.append((self.reward_evaluator(plus, of) - self.reward_evaluator(minus, of), plus - minus))
        slopes, difference = (torch.cat(part).unflatten(0, (-1, draws)) for part in zip(*parts, strict=True))
        return weighted_sum(slopes, difference) / draws


def noise_objective(
    evaluate: Evaluator, method: Method, grid: Sequence[float], index: Tensor
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The function that the method's initial noise evaluates: x_T → rewards and gradients of the samples of its
    deterministic steps, at times of the call's grid.

    An ascent selects by the rewards of images; a Markov chain accepts by the values that have the gradients.

    Raises:
        ValueError: if the method has more deterministic steps than the grid.
    """
    initial = method.initial
    grid = chain_grid(evaluate.path, grid, getattr(initial, "chain_steps", 1))
    options: dict[str, Any] = {}
    if getattr(initial, "draws", 0):
        zeroth_order = cast(ZerothOrderInitialNoise, initial)
        options = {"width": zeroth_order.width, "perturb": zeroth_order.perturb}

    def objective(
        x_T: Tensor, directions: Tensor | None = None, with_gradient: bool = True, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        evaluate.rows = rows
        rewards, gradient, _, values = evaluate.evaluate_noise(
            x_T, grid, index if rows is None else index[rows], directions, with_gradient=with_gradient, **options
        )
        return rewards if getattr(initial, "selects_images", False) else values, gradient

    return objective

"""Evaluation of a reward at states: decoding, reward values, gradients, and checks that they are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods import Method
from ..rewards.reward import RewardFunction, evaluate_any, require_normalised, reward_name


def no_gradient(reward: RewardFunction) -> ValueError:
    """The error for a reward without a gradient."""
    return ValueError(
        f"the reward {reward_name(reward)!r} has no gradient and the method needs one; "
        "use best-of-n, svdd or ntrk-black-box, or a differentiable reward"
    )


def check_reward(method: Method, reward: RewardFunction | None) -> None:
    """Check that a method has the reward and the gradient that it needs.

    Raises:
        ValueError: if the reward is missing, not differentiable, or yet to be normalised.
    """
    if reward is not None:
        require_normalised(reward)
    estimated = getattr(method.proposal, "zeroth_order", False)
    zeroth_order_start = getattr(method.initial, "zeroth_order", False)
    differentiates = (method.proposal.needs_gradient and not estimated) or (
        method.initial.needs_reward and not zeroth_order_start
    )
    needs_reward = (
        differentiates
        or estimated
        or zeroth_order_start
        or method.selection.needs_rewards
        or method.selection.particles > 1
    )
    if reward is None and needs_reward:
        raise ValueError("this method needs a reward and none was given; pass reward=..., or method='base'")
    if reward is not None and differentiates and getattr(reward, "differentiable", True) is False:
        raise no_gradient(reward)


def chunks(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover all rows."""
    return [slice(first, first + size) for first in range(0, rows, size)]


@dataclass
class RewardEvaluator:
    """Evaluates a reward at states x_0 (batch, *event).

    Args:
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,). For videos (batch, frames, 3, H, W) it is
            averaged over frames, unless it has `video = True` and takes whole videos.
        decode: images or videos in [0, 1] from states, differentiable.
        prompts: list of prompts; `index` (batch,) int64 selects one for each row.
        estimated: whether to estimate the gradient from rewards at perturbed x_0, as for a black box.
        indexed: whether `decode` also takes the index (batch,) of each state.
    """

    reward: RewardFunction | None
    decode: Callable[..., Tensor]
    prompts: Sequence[str]
    estimated: bool = False
    indexed: bool = False

    def __call__(self, x_0: Tensor, index: Tensor) -> Tensor:
        """r (batch,), with the reward's `of_states` term."""
        return self.evaluate_images(x_0, index)[2]

    def evaluate_images(self, x_0: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded images, their rewards (batch,), and r (batch,) with the reward's `of_states` term."""
        images = self.decode(x_0, index) if self.indexed else self.decode(x_0)
        rewards, of_states = self.of_images(images, index), getattr(self.reward, "of_states", None)
        if of_states is None:
            return images, rewards, rewards
        return images, rewards, rewards + of_states(x_0, images, [self.prompts[i] for i in index.tolist()])

    @torch.no_grad()
    def images(self, x_0: Tensor, index: Tensor, chunk: int) -> Tensor:
        """Decoded images (batch, 3, H, W) in [0, 1], in chunks of rows."""
        parts = [(x_0[rows], index[rows]) for rows in chunks(len(x_0), chunk)]
        return torch.cat([self.decode(x, of) if self.indexed else self.decode(x) for x, of in parts])

    @torch.no_grad()
    def values(self, x_0: Tensor, index: Tensor, chunk: int) -> Tensor:
        """r (batch,) with the `of_states` term, without a gradient, in chunks of rows."""
        return torch.cat([self(x_0[rows], index[rows]) for rows in chunks(len(x_0), chunk)])

    @torch.no_grad()
    def image_values(self, x_0: Tensor, index: Tensor, chunk: int) -> Tensor:
        """The rewards (batch,) of the images of states, without the `of_states` term, in chunks of rows."""
        parts = [(x_0[rows], index[rows]) for rows in chunks(len(x_0), chunk)]
        return torch.cat([self.of_images(self.images(x, of, chunk), of) for x, of in parts])

    @torch.no_grad()
    def values_of_images(self, images: Tensor, index: Tensor, chunk: int) -> Tensor:
        """r (batch,) of decoded images without a gradient, in chunks of rows."""
        return torch.cat([self.of_images(images[rows], index[rows]) for rows in chunks(len(images), chunk)])

    def of_images(self, images: Tensor, index: Tensor) -> Tensor:
        """r (batch,) of decoded images."""
        assert self.reward is not None
        prompts = [self.prompts[i] for i in index.tolist()]
        return evaluate_any(self.reward, images, prompts)

    def smoothed(self, x_0: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        """log of the mean of exp r over x_0 + offsets, (batch,) from offsets (batch, draws, *event)."""
        draws = offsets.shape[1]
        perturbed = (x_0[:, None] + offsets).flatten(0, 1)
        values = self(perturbed, index.repeat_interleave(draws)).unflatten(0, (-1, draws))
        return values.logsumexp(1) - math.log(draws)

    def estimate(self, x_0: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        """∇r at x_0, up to a factor, from the rewards at x_0 ± offsets (batch, draws, *event)."""
        draws = offsets.shape[1]
        rows = index.repeat_interleave(draws)
        plus, minus = (self((x_0[:, None] + sign * offsets).flatten(0, 1), rows) for sign in (1, -1))
        slopes = (plus - minus).unflatten(0, (-1, draws))
        return torch.einsum("bd,bd...->b...", slopes.to(offsets), offsets) / draws

    def value_and_gradient(
        self, x_0: Tensor, index: Tensor, offsets: Tensor | None = None, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """r (batch,) and its gradient: of r, of r smoothed over offsets (batch, draws, *event), or (`estimated`) an
        estimate from the rewards at x_0 ± offsets.

        Args:
            inputs: the tensor to differentiate with respect to, from which x_0 was computed; x_0 itself by default.
        """
        if self.estimated and offsets is not None:
            return self(x_0, index).detach(), self.estimate(x_0, index, offsets)
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_() if inputs is None else x_0
            rewards = self(x_0, index)
            objective = rewards if offsets is None else self.smoothed(x_0, index, offsets)
        return rewards.detach(), self.gradient(objective, x_0 if inputs is None else inputs)

    def gradient(self, rewards: Tensor, inputs: Tensor) -> Tensor:
        """The gradient of each row's reward (batch,) with respect to the same row of inputs.

        Raises:
            ValueError: if the reward has no gradient.
        """
        if not rewards.requires_grad:
            assert self.reward is not None
            raise no_gradient(self.reward)
        return torch.autograd.grad(rewards, inputs, torch.ones_like(rewards))[0]

    def require_finite(self, values: Tensor, what: str, number: int, t: float, unit: str = "step") -> None:
        """Check that values (batch, …) are finite.

        Raises:
            FloatingPointError: names the reward, the step and the first row that is not finite.
        """
        finite = values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()
        if not finite.all():
            assert self.reward is not None
            row = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"the {what} of the reward {reward_name(self.reward)!r} is not finite at {unit} {number} "
                f"(t = {t:.4g}, row {row}); bound the reward, or lower the strength of the method"
            )

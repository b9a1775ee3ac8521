"""What a reward says of states: decoded, judged, differentiated, and refused where it says nothing sensible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..methods import Method
from ..rewards.reward import RewardFunction, evaluate_reward, mean_over_frames, reward_name


def no_gradient(reward: Any) -> ValueError:
    return ValueError(
        f"the reward {reward_name(reward)!r} has no gradient and the method needs one; "
        "choose best-of-n, svdd or ntrk-black-box, or a differentiable reward"
    )


def check_reward(method: Method, reward: RewardFunction | None) -> None:
    """Refuses a method that needs a reward or its gradient and has none.

    Raises:
        ValueError: with the reward's name.
    """
    estimated = getattr(method.proposal, "zeroth_order", False)
    zeroth_order_start = getattr(method.initial, "zeroth_order", False)
    differentiates = (method.proposal.needs_gradient and not estimated) or (
        method.initial.needs_reward and not zeroth_order_start
    )
    needy = (
        differentiates
        or estimated
        or zeroth_order_start
        or method.selection.needs_rewards
        or method.selection.particles > 1
    )
    if reward is None and needy:
        raise ValueError("this method follows a reward and none was given; pass reward=..., or method='base'")
    if differentiates and getattr(reward, "differentiable", True) is False:
        raise no_gradient(reward)


def chunks(rows: int, size: int) -> list[slice]:
    """All rows, `size` at a time."""
    return [slice(first, first + size) for first in range(0, rows, size)]


@dataclass
class RewardEvaluator:
    """A reward asked about states x_0 (batch, *event).

    Args:
        reward: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,). Videos (batch, frames, 3, H, W) are judged
            frame by frame and averaged, unless the reward has `video = True` and takes them whole.
        decode: pictures or videos in [0, 1] from states, differentiable.
        prompts: `index` (batch,) int64 says which each row has.
        estimated: whether rewards of pictures perturbed x_0 stand in for the gradient, as for a black box.
    """

    reward: Any
    decode: Callable[[Tensor], Tensor]
    prompts: Sequence[str]
    estimated: bool = False

    def __call__(self, x_0: Tensor, index: Tensor) -> Tensor:
        """r (batch,)."""
        return self.of_images(self.decode(x_0), index)

    @torch.no_grad()
    def values(self, x_0: Tensor, index: Tensor, chunk: int) -> Tensor:
        """r (batch,) without a gradient, a chunk of rows at a time."""
        return torch.cat([self(x_0[rows], index[rows]) for rows in chunks(len(x_0), chunk)])

    @torch.no_grad()
    def values_of_images(self, images: Tensor, index: Tensor, chunk: int) -> Tensor:
        """The same of what is decoded already."""
        return torch.cat([self.of_images(images[rows], index[rows]) for rows in chunks(len(images), chunk)])

    def of_images(self, images: Tensor, index: Tensor) -> Tensor:
        """r (batch,) of what is decoded already."""
        prompts = [self.prompts[i] for i in index.tolist()]
        evaluate = (
            mean_over_frames if images.ndim == 5 and not getattr(self.reward, "video", False) else evaluate_reward
        )
        return evaluate(self.reward, images, prompts)

    def smoothed(self, x_0: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        """log of the mean of exp r over x_0 + offsets, (batch,) from offsets (batch, draws, *event)."""
        draws = offsets.shape[1]
        perturbed = (x_0[:, None] + offsets).flatten(0, 1)
        values = self(perturbed, index.repeat_interleave(draws)).unflatten(0, (-1, draws))
        return values.logsumexp(1) - math.log(draws)

    def estimate(self, x_0: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
        """∇r at x_0 from the rewards of pairs of pictures on either side, up to a factor."""
        draws = offsets.shape[1]
        rows = index.repeat_interleave(draws)
        ahead, behind = (self((x_0[:, None] + sign * offsets).flatten(0, 1), rows) for sign in (1, -1))
        slopes = (ahead - behind).unflatten(0, (-1, draws))
        return torch.einsum("bd,bd...->b...", slopes.to(offsets), offsets) / draws

    def value_and_gradient(
        self, x_0: Tensor, index: Tensor, offsets: Tensor | None = None, by: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """r (batch,) and the gradient of what is followed: of r, or of r smoothed over offsets (batch, draws, *event);
        or an estimate of it from the rewards at the offsets.

        Args:
            by: what to differentiate by, which x_0 was made of; x_0 itself if left out.
        """
        if self.estimated and offsets is not None:
            return self(x_0, index).detach(), self.estimate(x_0, index, offsets)
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_() if by is None else x_0
            rewards = self(x_0, index)
            followed = rewards if offsets is None else self.smoothed(x_0, index, offsets)
        return rewards.detach(), self.gradient(followed, x_0 if by is None else by)

    def gradient(self, rewards: Tensor, by: Tensor) -> Tensor:
        """The gradient of each row's reward (batch,) by its own row.

        Raises:
            ValueError: if the reward has none.
        """
        if not rewards.requires_grad:
            raise no_gradient(self.reward)
        return torch.autograd.grad(rewards, by, torch.ones_like(rewards))[0]

    def require_finite(self, values: Tensor, what: str, number: int, t: float, unit: str = "step") -> None:
        """Refuses values (batch, …) that are not finite.

        Raises:
            FloatingPointError: naming the reward, the step and the first such row.
        """
        finite = values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"the {what} of the reward {reward_name(self.reward)!r} is not finite at {unit} {number} "
                f"(t = {t:.4g}, row {row}); bound the reward, or lower the strength of the method"
            )

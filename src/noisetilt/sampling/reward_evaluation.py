"""Evaluation of a reward at states: decoding, reward values, gradients, and checks that they are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from ..methods import Method
from ..rewards.reward import RewardFunction, evaluate_any, require_normalised, reward_name
from .rescaled_vjp import rescaled_vjp


def no_gradient(reward: RewardFunction, ascends: bool | None = None) -> ValueError:
    """The error for a reward without a gradient; `ascends`: whether the method needs it for the initial noise alone,
    None if that is not known."""
    start = "estimate the gradient of the initial noise with the option draws=32 (--set draws=32)"
    steps = "best-of-n, svdd or ntrk-black-box"
    remedies = {True: f"{start}, or sample with ntrk-black-box (noisetilt generate)", False: f"use {steps}"}
    remedy = f"use {steps}, or draws=32 in a noise ascent" if ascends is None else remedies[ascends]
    return ValueError(
        f"the reward {reward_name(reward)!r} has no gradient and the method needs one; {remedy}, or a differentiable "
        "reward"
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
    in_steps = method.proposal.needs_gradient and not estimated
    differentiates = in_steps or (method.initial.needs_reward and not zeroth_order_start)
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
        has_draws = hasattr(method.initial, "draws")
        raise no_gradient(reward, None if in_steps and has_draws else not in_steps and has_draws)


def chunks(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover all rows."""
    return [slice(first, first + size) for first in range(0, rows, size)]


def perturbed(
    x_0: Tensor, index: Tensor, offsets: Tensor, sign: int, chunk: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """x_0 + sign · offsets (batch, draws, *event) as flat rows (batch · draw, *event) with their index, in parts of at
    most `chunk` rows; None: in one part."""
    flat, draws = offsets.flatten(0, 1), offsets.shape[1]
    rows = torch.arange(len(x_0), device=x_0.device).repeat_interleave(draws)
    index = index.repeat_interleave(draws)
    for part in chunks(len(flat), chunk or len(flat)):
        yield x_0[rows[part]] + sign * flat[part], index[part]


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """The sum over draws of values (batch, draws, *event) with weights (batch, draws), without autocast's rounding."""
    with torch.autocast(values.device.type, enabled=False):
        return torch.einsum("bd,bd...->b...", weights.to(values), values)


def _detached(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach()


class Evaluation(NamedTuple):
    """Rewards (batch,), their gradient (batch, *event), and the images that were decoded for them, all detached.
    Rewards and images are None if not computed or not kept."""

    values: Tensor | None
    gradient: Tensor
    images: Tensor | None


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
        role: what messages call the reward, such as "held-out reward".
    """

    reward: RewardFunction | None
    decode: Callable[..., Tensor]
    prompts: Sequence[str]
    estimated: bool = False
    indexed: bool = False
    role: str = "reward"
    remedy: ClassVar[str] = "bound the reward, or lower the strength of the method"

    def describe(self) -> str:
        """What is evaluated, for messages."""
        return f"the {self.role} {reward_name(cast(RewardFunction, self.reward))!r}"

    def no_gradient(self) -> ValueError:
        """The error for values without a gradient."""
        return no_gradient(cast(RewardFunction, self.reward))

    def __call__(self, x_0: Tensor, index: Tensor) -> Tensor:
        """r (batch,), with the reward's `of_states` term."""
        return self.evaluate_images(x_0, index)[2]

    @property
    def depends_on_images_only(self) -> bool:
        """Whether x_0 changes r through the images alone."""
        return getattr(self.reward, "of_states", None) is None

    def evaluate_images(self, x_0: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded images, their rewards (batch,), and r (batch,) with the reward's `of_states` term."""
        images = self.decoded(x_0, index)
        return images, *self.rewards_of_decoded(x_0, images, index)

    def rewards_of_decoded(self, x_0: Tensor, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The rewards (batch,) of the images that x_0 was decoded to, and r (batch,) with the `of_states` term."""
        rewards, of_states = self.of_images(images, index), getattr(self.reward, "of_states", None)
        if of_states is None:
            return rewards, rewards
        return rewards, rewards + of_states(x_0, images, [self.prompts[i] for i in index.tolist()])

    def decoded(self, x_0: Tensor, index: Tensor) -> Tensor:
        """Decoded images (batch, 3, H, W) in [0, 1].

        Images in half precision become float32, in which the gradient with respect to them does not underflow.
        """
        images = self.decode(x_0, index) if self.indexed else self.decode(x_0)
        return images.to(torch.promote_types(images.dtype, torch.float32))

    @torch.no_grad()
    def images(self, x_0: Tensor, index: Tensor, chunk: int) -> Tensor:
        """Decoded images (batch, 3, H, W) in [0, 1], in chunks of rows."""
        parts = [(x_0[rows], index[rows]) for rows in chunks(len(x_0), chunk)]
        return torch.cat([self.decoded(x, of) for x, of in parts])

    @torch.no_grad()
    def values(self, x_0: Tensor, index: Tensor, chunk: int) -> Tensor:
        """r (batch,) with the `of_states` term, without a gradient, in chunks of rows."""
        return torch.cat([self(x_0[rows], index[rows]) for rows in chunks(len(x_0), chunk)])

    @torch.no_grad()
    def values_and_images(self, x_0: Tensor, index: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """`values` (batch,) and the images (batch, 3, H, W) that were decoded for them."""
        parts = [self.evaluate_images(x_0[rows], index[rows]) for rows in chunks(len(x_0), chunk)]
        return torch.cat([values for _, _, values in parts]), torch.cat([images for images, _, _ in parts])

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
        prompts = [self.prompts[i] for i in index.tolist()]
        return evaluate_any(cast(RewardFunction, self.reward), images, prompts)

    def smoothed(self, x_0: Tensor, index: Tensor, offsets: Tensor, chunk: int | None = None) -> Tensor:
        """log of the mean of exp r over x_0 + offsets, (batch,) from offsets (batch, draws, *event), differentiable by
        x_0; evaluates at most `chunk` states at once."""
        parts = []
        for x, of in perturbed(x_0.detach(), index, offsets, 1, chunk):
            with torch.enable_grad():
                images, _, values = self.evaluate_images(x.requires_grad_(), of)
            parts.append((values.detach(), self.gradient(values, x, images)))
        values, gradients = (torch.cat(part).unflatten(0, (-1, offsets.shape[1])) for part in zip(*parts, strict=True))
        gradient = weighted_sum(values.softmax(1), gradients.to(values)).to(x_0)
        # The last term is zero and has the gradient of the whole.
        return values.logsumexp(1) - math.log(offsets.shape[1]) + ((x_0 - x_0.detach()) * gradient).flatten(1).sum(1)

    def estimate(self, x_0: Tensor, index: Tensor, offsets: Tensor, chunk: int | None = None) -> Tensor:
        """∇r at x_0, up to a factor, from the rewards at x_0 ± offsets (batch, draws, *event); evaluates at most
        `chunk` states at once."""
        draws = offsets.shape[1]
        plus, minus = (
            torch.cat([self(x, of) for x, of in perturbed(x_0, index, offsets, sign, chunk)]) for sign in (1, -1)
        )
        slopes = (plus - minus).unflatten(0, (-1, draws))
        return weighted_sum(slopes, offsets) / draws

    def value_and_gradient(
        self,
        x_0: Tensor,
        index: Tensor,
        offsets: Tensor | None = None,
        inputs: Tensor | None = None,
        chunk: int | None = None,
        with_values: bool = True,
    ) -> Evaluation:
        """r (batch,), the images, and the gradient: of r, of r smoothed over offsets (batch, draws, *event), or
        (`estimated`) an estimate from the rewards at x_0 ± offsets.

        Args:
            inputs: the tensor to differentiate with respect to, from which x_0 was computed; x_0 itself by default.
            chunk: states of x_0 ± offsets that are evaluated at once; None: all.
            with_values: whether r at x_0 itself is needed. Without it, and with offsets, x_0 is not decoded; the values
                are those of the smoothed reward, or None of an estimate.
        """
        estimated = self.estimated and offsets is not None
        leaf = x_0.detach().requires_grad_(not estimated)
        images: Tensor | None = None
        values: Any = None
        if offsets is None or with_values:
            with torch.set_grad_enabled(offsets is None):
                images, _, values = self.evaluate_images(leaf, index)
        if estimated and offsets is not None:
            return Evaluation(_detached(values), self.estimate(x_0, index, offsets, chunk), _detached(images))
        if offsets is None:
            gradient = self.gradient(values, leaf, images)
        else:
            with torch.enable_grad():
                objective = self.smoothed(leaf, index, offsets, chunk)
            gradient = self.gradient(objective, leaf)
            values = objective if values is None else values
        if inputs is not None:
            gradient = rescaled_vjp(lambda g: torch.autograd.grad(x_0, inputs, g)[0], gradient)
        return Evaluation(_detached(values), gradient, _detached(images))

    def gradient(self, rewards: Tensor, x_0: Tensor, images: Tensor | None = None) -> Tensor:
        """The gradient of each row's reward (batch,) with respect to the same row of x_0.

        Args:
            images: the images that x_0 was decoded to, through which the gradient is propagated in two steps, so that
                half precision in the decoder does not round it to 0.

        Raises:
            ValueError: if the reward, or the decoder, has no gradient.
        """
        if images is not None and self.depends_on_images_only and not images.requires_grad:
            raise ValueError(
                "the model's `decode` returns images without a gradient, which the method needs; remove torch.no_grad "
                "from it, or use a method without a gradient, such as best-of-n or svdd"
            )
        if not rewards.requires_grad:
            raise self.no_gradient()
        ones = torch.ones_like(rewards)
        if images is None or not self.depends_on_images_only or not images.requires_grad:
            return torch.autograd.grad(rewards, x_0, ones)[0]
        (by_images,) = torch.autograd.grad(rewards, images, ones, allow_unused=True)
        if by_images is None:
            raise self.no_gradient()
        return rescaled_vjp(lambda g: torch.autograd.grad(images, x_0, g)[0], by_images)

    def require_finite(
        self, values: Tensor, what: str, number: int, t: float, unit: str = "step", rows: Tensor | None = None
    ) -> None:
        """Check that values (batch, …) are finite.

        Args:
            what: "value" or "gradient".
            number, unit, t: of the step or iteration, for the message.
            rows: the row of each value in the whole batch (batch,), for the message; 0, 1, 2, … by default.
        Raises:
            FloatingPointError: names the reward, the step and the first row that is not finite.
        """
        finite = values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"the {what} of {self.describe()} is not finite at {unit} {number} "
                f"(t = {t:.4g}, row {row if rows is None else int(rows[row])}); {self.remedy}"
            )

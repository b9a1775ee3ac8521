"""The reward protocol: a function of images and prompts that returns one number per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]


def reward_name(reward: RewardFunction) -> str:
    """A reward's name for messages and tables."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def evaluate_reward(reward: RewardFunction, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """r(images, prompts), after a check that it is one number per image.

    Raises:
        ValueError: if the reward returns anything but a (batch,) tensor.
    """
    if not callable(reward):
        raise ValueError(f"the reward is {reward!r}, expected a function; load a reward by name with rewards.load")
    values = reward(images, prompts)
    if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the reward {reward_name(reward)!r} returned {got}; expected a tensor of shape ({len(images)},)"
        )
    return values


def mean_over_frames(reward: RewardFunction, videos: Tensor, prompts: Sequence[str]) -> Tensor:
    """The mean of an image reward over all frames of videos (batch, frames, 3, H, W)."""
    frames = videos.shape[1]
    values = evaluate_reward(reward, videos.flatten(0, 1), [prompt for prompt in prompts for _ in range(frames)])
    return values.unflatten(0, (-1, frames)).mean(1)


@dataclass(frozen=True)
class Reward:
    """A reward function with a name and its properties.

    Args:
        name: for messages, tables and files.
        function: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,).
        differentiable: False for black-box rewards, which methods that need a gradient do not accept.
        video: whether it takes videos (batch, frames, 3, H, W). Other rewards are averaged over the frames of a video.
    """

    name: str
    function: Callable[[Tensor, Sequence[str]], Tensor]
    differentiable: bool = True
    video: bool = False

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.function(images, prompts)


def weighted_sum(terms: Sequence[tuple[float, Reward]], name: str) -> Reward:
    """Σ weight · reward.

    It is differentiable if all its terms are. It is a video reward if any term is; the other terms are then averaged
    over frames.
    """
    video = any(reward.video for _, reward in terms)

    def value(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
        direct = reward.video or not video
        return reward(images, prompts) if direct else mean_over_frames(reward, images, prompts)

    def total(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return cast(Tensor, sum(weight * value(reward, images, prompts) for weight, reward in terms))

    return Reward(name, total, all(reward.differentiable for _, reward in terms), video)

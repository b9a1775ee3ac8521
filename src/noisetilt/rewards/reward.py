"""The reward protocol: a function of images and prompts that returns one number per image."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
Normalise = Literal["base"]


def reward_name(reward: Callable[..., Any]) -> str:
    """A reward's name for messages and tables."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, or of the `forward` of a module.

    Of a module that wraps another one and takes any arguments, such as those of torch.compile and DataParallel, it is
    that of the wrapped module.

    Raises:
        TypeError, ValueError: if it is not known.
    """
    if not isinstance(function, torch.nn.Module):
        return inspect.signature(function)
    signature = inspect.signature(function.forward)
    takes_any = any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values())
    inner = next((getattr(function, name, None) for name in ("_orig_mod", "module") if hasattr(function, name)), None)
    return _signature(inner) if takes_any and isinstance(inner, torch.nn.Module) else signature


def _prompts_keyword(function: Callable[..., Any]) -> str | None:
    """ "prompts" or "prompt" if that is an argument other than the second positional one; else None."""
    try:
        parameters = list(_signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    given = function.keywords if isinstance(function, functools.partial) else {}
    positional = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    for one in parameters:
        by_keyword = one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in positional[:2]
        if one.name in ("prompts", "prompt") and by_keyword and one.name not in given:
            return one.name
    return None


def takes_prompts(function: Callable[..., Any]) -> bool:
    """Whether a function, or the `forward` of a module, has an argument for prompts: one of the name "prompts" or
    "prompt", or else the second positional one; True if that is not known.

    A second argument with a default other than None is an option of the function, unless its name says otherwise.
    """
    try:
        signature = _signature(function)
    except (TypeError, ValueError):
        return True
    if _prompts_keyword(function) is not None:
        return True
    try:
        given = signature.bind(None, None)
    except TypeError:
        return False
    second = signature.parameters[list(given.arguments)[-1]]
    needed = second.default is second.empty or second.default is None  # == of an array has no truth value
    return needed or second.name.startswith("prompt")


def call_reward(function: Callable[..., Tensor], images: Tensor, prompts: Sequence[str]) -> Tensor:
    """function(images, prompts), or function(images) if it has no argument for prompts; see `takes_prompts`."""
    keyword = _prompts_keyword(function)
    if keyword is not None:
        return function(images, **{keyword: prompts})
    return function(images, prompts) if takes_prompts(function) else function(images)


def may_use_prompts(reward: RewardFunction | None) -> bool:
    """Whether the values of a reward, or of a term of a sum, may depend on the prompts; True if that is not known."""
    terms = getattr(reward, "terms", ())
    if terms:
        return any(may_use_prompts(term) for _, term in terms)
    if reward is None or getattr(reward, "uses_prompts", True) is False:
        return False
    return takes_prompts(getattr(reward, "function", reward))


def check_prompts_of(reward: RewardFunction | None, prompts: Sequence[str]) -> None:
    """Raises a ValueError if a reward cannot score one of the prompts and has a `check_prompts` that says so."""
    check = getattr(reward, "check_prompts", None)
    if check is not None:
        check(prompts)


def check_callable(reward: RewardFunction | None) -> None:
    """Raises a ValueError for a reward that is neither a function nor None."""
    if reward is not None and not callable(reward):
        raise ValueError(f"the reward is {reward!r}, expected a function; load a reward by name with rewards.load")


def evaluate_reward(reward: RewardFunction, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """r(images, prompts), or r(images) for a function of images alone, after a check that it is one number per image.

    Returns:
        (batch,) on the device of the images, in float32 or, if the reward returns float64, in float64. Half precision
        and integers are converted, so that sums and comparisons of rewards do not lose digits.
    Raises:
        ValueError: if the reward returns anything but a (batch,) tensor of real numbers, changes its images in place,
            or ends the program.
    """
    if reward is None:
        raise ValueError("the reward is None, expected a function; load a reward by name with rewards.load")
    check_callable(reward)
    version = None if images.is_inference() else images._version
    try:
        values = call_reward(reward, images, prompts)
    except SystemExit as error:  # as of a script's `sys.exit()`, which would end the command without a word
        raise ValueError(f"the reward {reward_name(reward)!r} fails: SystemExit: {error}; remove its exit") from error
    if version is not None and images._version != version:
        raise ValueError(
            f"the reward {reward_name(reward)!r} changes its images in place, which are the images that are returned; "
            "work on a copy, images.clone()"
        )
    if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the reward {reward_name(reward)!r} returned {got}; expected a tensor of shape ({len(images)},)"
        )
    if values.is_complex():
        raise ValueError(
            f"the reward {reward_name(reward)!r} returned {values.dtype}, which has no largest value; return a real "
            "number per image, such as values.abs()"
        )
    return values.to(images.device, torch.promote_types(values.dtype, torch.float32))


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
        function: (images (batch, 3, H, W) in [0, 1], prompts) → (batch,), or (images) → (batch,).
        differentiable: False for black-box rewards, which methods that need a gradient do not accept.
        video: whether it takes videos (batch, frames, 3, H, W). Other rewards are averaged over the frames of a video.
        terms: of a weighted sum, (weight, reward) each; empty for other rewards.
        normalise: "base" if the terms have yet to be divided by their spread on the base model's images; `sample` and
            `optimize` do so, elsewhere call `normalised`.
        of_states: a further term for the evaluation at states x_0, (x_0 (batch, *event), images, prompts) → (batch,),
            which guides the sampling and is not part of the reward of an image; `weighted_sum` leaves it out.
        uses_prompts: False if the values do not depend on the prompts, though the function may take them.
        check_prompts: raises a ValueError for prompts that the reward cannot score. `sample`, `optimize` and pipelines
            of `align` call it before the first network call.
    """

    name: str
    function: Callable[..., Tensor]
    differentiable: bool = True
    video: bool = False
    terms: tuple[tuple[float, Reward], ...] = ()
    normalise: Normalise | None = None
    of_states: Callable[..., Tensor] | None = None
    uses_prompts: bool = True
    check_prompts: Callable[[Sequence[str]], None] | None = None

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        require_normalised(self)
        return call_reward(self.function, images, prompts)

    def normalised(self, images: Tensor, prompts: Sequence[str]) -> Reward:
        """The sum with each term divided by its standard deviation on these images, usually those of the base model.

        A sum of rewards on unlike scales otherwise follows the one with the largest spread alone.

        Args:
            images: (batch, 3, H, W) in [0, 1], two or more, or videos (batch, frames, 3, H, W).
            prompts: one per image.
        Raises:
            ValueError: if this is not a sum, there is not one prompt per image, or a term has no spread on these
                images.
        """
        if not self.terms:
            raise ValueError(f"the reward {self.name!r} is not a sum, so there is nothing to normalise")
        if isinstance(prompts, str) or len(prompts) != len(images):
            raise ValueError(f"{len(images)} images and the prompts {prompts!r}; pass a list with one prompt per image")
        scaled = [(weight / spread(reward, images, prompts), reward) for weight, reward in self.terms]
        return weighted_sum(scaled, self.name)


def spread(reward: Reward, images: Tensor, prompts: Sequence[str]) -> float:
    """The standard deviation of a reward on images.

    Raises:
        ValueError: if it is 0 or not finite.
    """
    with torch.no_grad():
        values = evaluate_each(reward, images, prompts)
    deviation = float(values.float().std()) if len(values) > 1 else 0.0
    if not 0 < deviation < float("inf"):
        raise ValueError(
            f"the reward {reward.name!r} has standard deviation {deviation} on {len(images)} images of the base model; "
            "normalise on two or more images with different rewards"
        )
    return deviation


def require_normalised(reward: RewardFunction) -> None:
    """Raises a ValueError if a sum has yet to be normalised."""
    if getattr(reward, "normalise", None) is not None:
        raise ValueError(
            f"the reward {reward_name(reward)!r} has normalise='base' and no images of the base model yet; pass "
            "reward.normalised(images, prompts), with images that the model or pipeline makes without guidance"
        )


def evaluate_any(reward: RewardFunction, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """r of images, or of videos (batch, frames, 3, H, W): for a reward of images the mean over the frames."""
    by_frame = images.ndim == 5 and not getattr(reward, "video", False)
    return (mean_over_frames if by_frame else evaluate_reward)(reward, images, prompts)


def evaluate_each(reward: RewardFunction, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """`evaluate_any` in one call per image, which takes the memory of one."""
    return torch.cat([evaluate_any(reward, images[i : i + 1], prompts[i : i + 1]) for i in range(len(images))])


def weighted_sum(
    terms: Sequence[tuple[float, RewardFunction]], name: str | None = None, normalise: Normalise | None = None
) -> Reward:
    """Σ weight · reward.

    It is differentiable if all its terms are. It is a video reward if any term is; the other terms are then averaged
    over frames.

    Args:
        terms: (weight, reward) each; a reward may be any function of images, or of images and prompts.
        name: "0.5*a + 0.5*b" from the names of the rewards if None.
        normalise: "base" divides each term by its standard deviation on the base model's images, see `Reward`.
    Raises:
        ValueError: if there is no term, a weight is not finite, all are 0, `normalise` is unknown, or a term is a sum
            that is yet to be normalised.
    """
    check_normalise(normalise)
    if not terms:
        raise ValueError("a weighted sum of [] has no terms; give at least one pair of a weight and a reward")
    for weight, reward in terms:
        if not math.isfinite(float(weight)):
            raise ValueError(
                f"the weight of {reward_name(reward)!r} is {weight}, expected a finite number, such as 0.5"
            )
    if not any(float(weight) for weight, _ in terms):
        names = ", ".join(repr(reward_name(reward)) for _, reward in terms)
        raise ValueError(f"all weights of the sum of {names} are 0, so that it rewards nothing; give another weight")
    rewards = [(float(weight), as_reward(reward)) for weight, reward in terms]
    for _, reward in rewards:
        if reward.normalise is not None:
            raise ValueError(
                f"the term {reward.name!r} of a sum has normalise='base', which only the outermost sum may have; "
                "set it there, or pass term.normalised(images, prompts)"
            )
    video = any(reward.video for _, reward in rewards)
    checks = [reward.check_prompts for _, reward in rewards if reward.check_prompts is not None]

    def check_prompts(prompts: Sequence[str]) -> None:
        for check in checks:
            check(prompts)

    def total(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return cast(Tensor, sum(weight * evaluate_any(reward, images, prompts) for weight, reward in rewards))

    return Reward(
        name or " + ".join(f"{weight:g}*{reward.name}" for weight, reward in rewards),
        total,
        all(reward.differentiable for _, reward in rewards),
        video,
        tuple(rewards),
        normalise,
        check_prompts=check_prompts if checks else None,
    )


def check_normalise(normalise: object) -> None:
    """Raises a ValueError for another normalisation than "base" or None."""
    if normalise not in (None, "base"):
        raise ValueError(f"normalise = {normalise!r} must be 'base' or None")


def as_reward(reward: RewardFunction) -> Reward:
    """A reward function as a Reward, with the properties that it has."""
    if isinstance(reward, Reward):
        return reward
    differentiable = getattr(reward, "differentiable", True) is not False
    return Reward(
        reward_name(reward),
        reward,
        differentiable,
        bool(getattr(reward, "video", False)),
        uses_prompts=may_use_prompts(reward),
        check_prompts=getattr(reward, "check_prompts", None),
    )

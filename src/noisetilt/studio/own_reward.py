"""The reward that a visitor types: executed only on a page that was started with --allow-code."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType

import torch

from .._python_files import describe_error, registered
from ..rewards import Reward
from ..rewards.reward import as_reward, evaluate_any
from ..runs import write_text
from .session import OWN, OwnReward, Session, Visitor

FILE, _, FUNCTION = OWN.partition(":")
# Characters, so that no visitor fills the disk.
MAX_CODE = 100_000
_NUMBERS = itertools.count()
EXAMPLE = '''def reward(images, prompts):
    """Images (batch, 3, height, width) in [0, 1] to one number per image; larger is better."""
    return images[:, 2].mean(dim=(1, 2)) - images[:, 0].mean(dim=(1, 2))
'''
FORBIDDEN = (
    "this page does not execute code; start it with `noisetilt studio --allow-code`, or download the file and start "
    f"the page with --reward {OWN}"
)


def check_length(code: str) -> None:
    """Raises a ValueError if the code is longer than MAX_CODE."""
    if len(code) > MAX_CODE:
        raise ValueError(
            f"the code has {len(code)} characters, expected at most {MAX_CODE}; shorten it, or start the page with a "
            "file of your own as --reward"
        )


def write_code(session: Session, visitor: Visitor, code: str) -> Path:
    """Writes the code as a file to download, in place of the one that the visitor made before.

    Raises:
        ValueError: if the code is too long.
    """
    check_length(code)
    place = session.folder_of(visitor) / FILE
    write_text(place, code)
    return place


def use_code(session: Session, visitor: Visitor, code: str) -> str:
    """Executes the code, tries its function `reward` on two images, and keeps it as the visitor's own reward.

    Returns:
        What was found, in a sentence.

    Raises:
        ValueError: if the page does not allow code, the code is too long or raises an error, it has no function
            `reward`, or the function does not return one number per image.
    """
    if not session.allow_code:
        raise ValueError(FORBIDDEN)
    check_length(code)
    module = ModuleType(f"noisetilt_my_reward_{next(_NUMBERS)}")
    try:
        with registered(module):
            exec(compile(code, FILE, "exec", dont_inherit=True), vars(module))  # nosec B102: only with --allow-code
    except BaseException as error:  # the code may raise anything
        raise ValueError(f"the code cannot be executed: {describe_error(error, FILE)}") from error
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        raise ValueError(f"the code has no function {FUNCTION}(images, prompts); define one")
    typed = as_reward(function)
    differentiable = _try(session, typed) and typed.differentiable
    visitor.own = OwnReward(code, Reward("my reward", typed.function, differentiable, typed.video))
    mix = "Set the weight of “my reward” in the reward mix."
    if differentiable:
        return f"The reward works and has a gradient. {mix}"
    return f"The reward works. It has no gradient, so use a method without one, such as svdd or ntrk-black-box. {mix}"


def _try(session: Session, reward: Reward) -> bool:
    """Whether the reward has a gradient; raises a ValueError if it does not work on images."""
    blank = session.blank()
    blank = torch.full((1, 3, 256, 256), 0.5) if blank is None else blank.float()
    with torch.enable_grad():
        images = torch.rand_like(blank.repeat(2, *[1] * (blank.ndim - 1))).requires_grad_()
        try:
            values = evaluate_any(reward, images, ["cat"] * 2)
        except ValueError:
            raise
        except BaseException as error:
            raise ValueError(f"the reward fails on two random images: {describe_error(error, FILE)}") from error
    if not bool(values.isfinite().all()):
        raise ValueError(f"the reward of two random images is {values.tolist()}, expected finite numbers")
    return bool(values.requires_grad)

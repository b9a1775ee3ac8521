"""The reward that a visitor types: executed only on a page that was started with --allow-code."""

from __future__ import annotations

import torch

from ..rewards import Reward
from ..rewards.reward import as_reward, evaluate_any
from .session import OWN, Session, Visitor

FUNCTION = OWN.partition(":")[2]
EXAMPLE = '''def reward(images, prompts):
    """Images (batch, 3, height, width) in [0, 1] to one number per image; larger is better."""
    return images[:, 2].mean(dim=(1, 2)) - images[:, 0].mean(dim=(1, 2))
'''
FORBIDDEN = (
    "this page does not execute code; start it with `noisetilt studio --allow-code`, or download the file and start "
    f"the page with --reward {OWN}"
)


def use_code(session: Session, visitor: Visitor, code: str) -> str:
    """Executes the code, tries its function `reward` on two images, and keeps it as the visitor's own reward.

    Returns:
        What was found, in a sentence.

    Raises:
        ValueError: if the page does not allow code, the code raises an error, it has no function `reward`, or the
            function does not return one number per image.
    """
    if not session.allow_code:
        raise ValueError(FORBIDDEN)
    names: dict[str, object] = {"__name__": "my_reward"}
    try:
        exec(compile(code, "my_reward.py", "exec"), names)  # nosec B102: only with --allow-code
    except (Exception, SystemExit) as error:
        raise ValueError(f"the code cannot be executed: {_place(error)}") from error
    function = names.get(FUNCTION)
    if not callable(function):
        raise ValueError(f"the code has no function {FUNCTION}(images, prompts); define one")
    typed = as_reward(function)
    differentiable = _try(session, typed) and typed.differentiable
    visitor.code, visitor.reward = code, Reward(OWN, typed.function, differentiable, typed.video)
    if differentiable:
        return "The reward works and has a gradient. It is in the reward mix as “my reward”."
    return (
        "The reward works. It has no gradient, so use a method without one, such as svdd or ntrk-black-box. "
        "It is in the reward mix as “my reward”."
    )


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
        except (Exception, SystemExit) as error:
            raise ValueError(f"the reward fails on two random images: {_place(error)}") from error
    if not bool(values.isfinite().all()):
        raise ValueError(f"the reward of two random images is {values.tolist()}, expected finite numbers")
    return bool(values.requires_grad)


def _place(error: BaseException) -> str:
    """The error with the line of the typed code that raised it."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "my_reward.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}" + (f" (line {line})" if line else "")

"""The option --print-completion: a script with which a shell completes commands, options and names on TAB."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from .._messages import missing_extra

SHELLS = ("bash", "zsh", "fish")
# In bash a colon otherwise ends a word, and names such as style:3d have one.
_WORDS_WITH_COLONS = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n"


class PrintCompletion(argparse.Action):
    """Prints the script of a shell, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        shell = args[1]
        parser.exit(message=completion_script(parser, shell))


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script of a shell in SHELLS for a parser, with the names of methods, rewards and models.

    Raises:
        SystemExit: through the parser, if shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        parser.error(missing_extra("completion", "the option --print-completion"))
    from ..methods import METHODS
    from ..models import MODELS
    from ..rewards import CATALOGUE

    rewards = [name for name in CATALOGUE if name.isascii() and not set(name) & set(" <>[]()…|")]
    names = {"method": METHODS, "methods": METHODS, "reward": rewards, "heldout": [*rewards, "none"], "model": MODELS}
    names |= {"targets": rewards, "suite": ("exact", "paper", "one-step"), "engine": ("process", "ray")}
    names |= {"dtype": ("float32", "float16", "bfloat16"), "track": ("tensorboard", "wandb", "mlflow")}
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        _offer(command, {**names, "name": METHODS} if name == "methods" else names)
    script = shtab.complete(parser, shell)
    return _WORDS_WITH_COLONS + script if shell == "bash" else script


def _offer(command: argparse.ArgumentParser, names: Mapping[str, Sequence[str]]) -> None:
    """Adds the values of a command's arguments: names, or files and folders."""
    import shtab

    for action in command._actions:
        if action.dest in names and action.choices is None:
            action.choices = list(names[action.dest])
        elif action.dest in ("out", "file", "table", "lora"):
            action.complete = shtab.DIRECTORY if action.dest == "out" else shtab.FILE  # type: ignore[attr-defined]

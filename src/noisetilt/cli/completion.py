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
        print(completion_script(parser, args[1]))
        parser.exit()


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script of a shell in SHELLS for a parser, with the names of methods, rewards and models.

    Raises:
        SystemExit: through the parser, if shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        parser.error(missing_extra("completion", "the option --print-completion"))
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        _offer(command, _names(name))
    script = shtab.complete(parser, shell)
    return _WORDS_WITH_COLONS + script if shell == "bash" else script


def _names(command: str) -> dict[str, list[str]]:
    """The names that the arguments of a command may have, by the argument's destination."""
    from ..batch.sinks import TRACKERS
    from ..bench.one_step import SETTINGS
    from ..bench.paper_plan import METHODS_OF_SUITE, TARGETS
    from ..inversion.distances import DISTANCES
    from ..methods import METHODS
    from ..models import MODELS
    from ..rewards.catalogue import GROUPS, complete_names

    rewards, methods = complete_names(), list(METHODS)
    if command in ("optimize", "invert"):
        methods = [name for name in METHODS if _is_ascent(name)]
    return {
        "method": methods,
        "name": [*rewards, *GROUPS] if command == "rewards" else methods,
        "reward": rewards,
        "heldout": [*rewards, "none"],
        "model": _plan_models() if command == "plan" else list(MODELS),
        "methods": sorted({"base", *METHODS_OF_SUITE, *SETTINGS}),
        "targets": [target.reward for target in TARGETS if " " not in target.reward],
        "suite": ["exact", "paper", "one-step"],
        "engine": ["process", "ray"],
        "dtype": ["float32", "float16", "bfloat16"],
        "distance": list(DISTANCES),
        "track": list(TRACKERS),
    }


def _is_ascent(method: str) -> bool:
    from ..sampling.noise_ascent import find_ascent

    try:
        find_ascent(method)
    except ValueError:
        return False
    return True


def _plan_models() -> list[str]:
    from ..integrations.diffusers.components import known_models

    return list(known_models())


def _offer(command: argparse.ArgumentParser, names: Mapping[str, Sequence[str]]) -> None:
    """Adds the values of a command's arguments: names, or files and folders."""
    import shtab

    for action in command._actions:
        if action.dest in names and action.choices is None:
            action.choices = list(names[action.dest])
        elif action.dest in ("out", "file", "table", "lora", "photos"):
            action.complete = shtab.DIRECTORY if action.dest == "out" else shtab.FILE  # type: ignore[attr-defined]

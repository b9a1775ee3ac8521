"""argparse with help that fits the terminal, and errors that suggest the nearest name."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from .._messages import nearest_name
from .console import painted


class HelpFormatter(argparse.HelpFormatter):
    """Paragraphs are broken at the width of the terminal, and example commands as a shell reads them."""

    def start_section(self, heading: str | None) -> None:
        # From Python 3.14 on argparse paints by itself.
        if heading and sys.version_info < (3, 14):
            heading = painted(heading, "bold", sys.stdout)
        super().start_section(heading)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            lines = paragraph.split("\n")
            commands = [line for line in lines if line.startswith("  noisetilt ")]
            words = " ".join(line.strip() for line in lines if line not in commands)
            if words:
                parts.append(textwrap.fill(words, width, initial_indent=indent, subsequent_indent=indent))
            parts += [_broken_command(command, width) for command in commands]
            parts.append("")
        return "\n".join(parts).rstrip("\n")


def _broken_command(command: str, width: int) -> str:
    """A command in lines of a width, each but the last ending in a backslash; arguments are kept whole."""
    lines = [""]
    for word in re.findall(r'"[^"]*"|\S+', command):
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += (" " if lines[-1] else "  ") + word
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one or two lines: what is wrong, the nearest name, and how to get help."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **kwargs})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Also refuses unknown options before argparse looks for missing arguments."""
        args = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_options(args)
        return super().parse_known_args(args, namespace)

    def _refuse_unknown_options(self, args: Sequence[str]) -> None:
        known = self._option_string_actions
        for before, text in zip(["", *args], args, strict=False):
            if text == "--" or (self._subparsers is not None and not text.startswith("-")):
                return  # the rest is for the command's own parser
            name = text.partition("=")[0]
            if not re.fullmatch(r"--?[A-Za-z][\w-]*", name) or any(option.startswith(name) for option in known):
                continue
            if before in known and not text.startswith("--"):
                self.error(f"the value of {before} begins with a dash; write {before}={text}")
            self.error(f"option {name} is unknown{nearest_name('--' + name.lstrip('-'), known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            kind = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            hint = nearest_name(str(value), names)
            message = f"{kind} {value!r} is unknown{hint}; the {kind}s are: {', '.join(names)}"
            raise argparse.ArgumentError(None if kind == "command" else action, message)

    def error(self, message: str) -> NoReturn:
        """Prints the message without the list of all options, and ends with exit status 2."""
        prefix = painted(f"{self.prog}:", "red", sys.stderr)
        self.exit(2, f"{prefix} {message}\nSee `{self.prog} --help`.\n")

"""argparse with help that fits the terminal, and errors that suggest the nearest name."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from .._messages import nearest_name
from .console import painted

# Characters of a line, below which the text on an option is below its name.
NARROW = 60
# A value such as "-1*style:3d", which argparse would take for an option.
NEGATIVE_TERM = re.compile(r"-\.?\d\S*\*.*", re.S)
# The same without a number, such as "-redness", after an option that takes a reward.
NEGATIVE_NAME, OF_REWARDS = re.compile(r"-\s*[^\W\d].*", re.S), ("--reward", "--heldout")


class HelpFormatter(argparse.HelpFormatter):
    """Paragraphs are broken at the width of the terminal, and example commands as a shell reads them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._width < NARROW:
            self._max_help_position = 8

    def start_section(self, heading: str | None) -> None:
        # From Python 3.14 on argparse paints by itself.
        if heading and sys.version_info < (3, 14):
            heading = painted(heading, "bold", sys.stdout)
        super().start_section(heading)

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """The usage without the options that may be left out, which are listed below it."""
        if usage is None:
            needed = [_usage_of(action) for action in actions if action.required or not action.option_strings]
            usage = " ".join(["%(prog)s [options]", *needed]) % {"prog": self._prog}
            lines = textwrap.wrap(usage, self._width - len("usage: "), subsequent_indent="    ", break_on_hyphens=False)
            usage = "\n".join(lines).replace("%", "%%")
        super().add_usage(usage, actions, groups, prefix)

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


def _usage_of(action: argparse.Action) -> str:
    """An argument in a usage."""
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    if action.option_strings:
        return f"{action.option_strings[0]} {name.upper()}"
    several = action.nargs in (argparse.PARSER, argparse.ONE_OR_MORE)
    return f"[{name}]" if action.nargs == "?" else f"{name} …" if several else name


def _broken_command(command: str, width: int) -> str:
    """A command in lines of a width, each but the last ending in a backslash; options stay with short values."""
    lines = [""]
    words: list[str] = []
    for word in re.findall(r'--\S+(?: (?:"[^"]*"|[^\s"-]\S*))?|"[^"]*"|\S+', command):
        words += word.split(" ", 1) if len(word) + 6 > width else [word]
    for word in words:
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "  ") + word
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one or two lines: what is wrong, the nearest name, and how to get help."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **kwargs})

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Also refuses unknown options before argparse looks for missing arguments, takes a reward with a negative
        weight for the value of the option before it, and names the option before an argument that is left over."""
        args = self._with_negative_terms(sys.argv[1:] if args is None else args)
        self._refuse_unknown_options(args)
        found, left_over = super().parse_known_args(args, namespace)
        if left_over and self._subparsers is None:
            self._refuse_left_over(args, left_over[0])
        return found, left_over

    def _refuse_left_over(self, args: Sequence[str], text: str) -> NoReturn:
        options = [word for word in args[: args.index(text)] if word in self._option_string_actions]
        if not options:
            self.error(f"the argument {text!r} is one too many")
        hint = "put quotes around a value of several words"
        if isinstance(self._option_string_actions[options[-1]], argparse._AppendAction):
            hint += f", or repeat the option: {options[-1]} {shlex.quote(text)}"
        self.error(f"the argument {text!r} is left over; {hint}")

    def _with_negative_terms(self, args: Sequence[str]) -> list[str]:
        """The arguments, with "--reward", "-1*redness" as "--reward=-1*redness", and so "-redness"."""
        joined: list[str] = []
        for text in args:
            before = joined[-1] if joined and "--" not in joined else ""
            of_reward = len(before) > 4 and any(option.startswith(before) for option in OF_REWARDS)
            name = of_reward and NEGATIVE_NAME.fullmatch(text) and text not in self._option_string_actions
            if name or (re.fullmatch(r"--[a-z-]+", before) and NEGATIVE_TERM.fullmatch(text)):
                joined[-1] = f"{before}={text}"
            else:
                joined.append(text)
        return joined

    def _refuse_unknown_options(self, args: Sequence[str]) -> None:
        known = self._option_string_actions
        for before, text, after in zip(["", *args], args, [*args[1:], ""], strict=False):
            if text == "--" or (self._subparsers is not None and not text.startswith("-")):
                return  # the rest is for the command's own parser
            name = text.partition("=")[0]
            if not re.fullmatch(r"--?[A-Za-z][\w-]*", name) or any(option.startswith(name) for option in known):
                continue
            if before in known and not text.startswith("--"):
                self.error(f"the value of {before} begins with a dash; write {before}={text}")
            value = text.partition("=")[2] or ("" if after.startswith("--") else after)
            hint = self._option_of_methods(name, value) or nearest_name("--" + name.lstrip("-"), known)
            self.error(f"option {name} is unknown{hint}")

    def _option_of_methods(self, name: str, value: str) -> str:
        """How to give an option of a method, which is none of the command's; "" if it is no option of a method."""
        if "--set" not in self._option_string_actions:
            return ""
        # Imported for the message only: it imports torch.
        from ..methods import METHODS

        option = name.lstrip("-").replace("-", "_")
        if not any(option in method.options() for method in METHODS.values()):
            return ""
        setting = shlex.quote(f"{option}={value or 'VALUE'}")
        return f", but methods have an option {option}; write --set {setting}"

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

"""Texts broken into lines that fit."""

from __future__ import annotations

import re
from collections.abc import Callable


def break_lines(text: str, fits: Callable[[str], bool], most: int) -> list[str]:
    """A text in lines that fit, at most so many; a word that does not fit is broken, and the rest ends in "…"."""
    found = [""]
    for word in re.findall(r"\S+", "".join(c if c.isprintable() else " " for c in text)):
        line = f"{found[-1]} {word}".strip()
        if fits(line):
            found[-1] = line
            continue
        if found[-1]:
            found.append("")
        for character in word:
            if found[-1] and not fits(found[-1] + character):
                found.append("")
            found[-1] += character
    if len(found) > most:
        last = found[most - 1]
        while last and not fits(last + "…"):
            last = last[:-1]
        found = [*found[: most - 1], last + "…"]
    return found

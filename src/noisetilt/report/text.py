"""Texts broken into lines that fit, and in characters that a font has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Signs that have no decomposition into letters.
_SIGNS = {"–": "-", "—": "-", "−": "-", "×": "x", "ß": "ss", "’": "'"}


def spelt(text: str, has: Callable[[str], bool]) -> str:
    """A text without the characters that a font lacks: "🐯" is "tiger face", "é" is "e", and other letters are "?".

    Args:
        text: the text.
        has: whether the font has a character.
    """
    found = ""
    for character in text:
        if has(character) or not character.isprintable() or character.isspace():
            found += character
        elif unicodedata.category(character)[0] != "M":  # a mark, such as an accent, changes the character before it
            plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
            symbol = unicodedata.name(character, "?").lower() if unicodedata.category(character)[0] == "S" else "?"
            spelling = _SIGNS.get(character) or plain or symbol
            found += (" " if len(spelling) > 2 and found[-1:].isalnum() else "") + spelling
    return found


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

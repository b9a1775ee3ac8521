"""A griffe extension for the docstrings of noisetilt, which are a little more compact than griffe's parser expects.

`Args:`, `Returns:` and `Raises:` may follow each other without an empty line, and a line may describe several
arguments (`height, width: in pixels`).
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTIONS = re.compile(r"(?<!\n)\n(?=(?:Args|Attributes|Returns|Yields|Raises):\n)")
PRIVATE_BASES = ("ShortRepr",)
SEVERAL = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)+):(?P<text> .*\n?(?: {5,}.*\n?)*)", re.M)


def separated(docstring: str) -> str:
    """The docstring with an empty line before every section, and one item for each argument."""
    return SEVERAL.sub(one_item_each, SECTIONS.sub("\n\n", docstring))


def one_item_each(match: re.Match[str]) -> str:
    text = match["text"].rstrip("\n")
    items = "\n".join(f"    {name}:{text}" for name in match["names"].split(", "))
    return items + "\n" * match["text"].endswith("\n")


class DocstringSections(griffe.Extension):
    """Applies `separated` to all docstrings, and leaves out base classes that are not public."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = separated(obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        cls.bases = [base for base in cls.bases if str(base) not in PRIVATE_BASES]

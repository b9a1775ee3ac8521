"""A griffe extension: `Args:`, `Returns:` and `Raises:` of a docstring may follow each other without an empty line."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTIONS = re.compile(r"(?<!\n)\n(?=(?:Args|Attributes|Returns|Yields|Raises|Returns):\n)")


def separated(docstring: str) -> str:
    """The docstring with an empty line before every section, which griffe's parser needs."""
    return SECTIONS.sub("\n\n", docstring)


class DocstringSections(griffe.Extension):
    """Applies `separated` to all docstrings."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = separated(obj.docstring.value)

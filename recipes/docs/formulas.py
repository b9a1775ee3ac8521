"""A hook of MkDocs: formulas in dollar signs become MathML, which browsers show without a script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.S)


def to_mathml(match: re.Match[str]) -> str:
    block = match["tag"] == "div"
    formula = convert(html.unescape(match["latex"]).strip(), display="block" if block else "inline")
    return f'<div class="formula">{formula}</div>' if block else formula


def on_page_content(content: str, **_: Any) -> str:
    """Converts the elements that pymdownx.arithmatex makes."""
    return FORMULA.sub(to_mathml, content)

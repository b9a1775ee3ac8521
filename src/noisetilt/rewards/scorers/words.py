"""The words that the scorers know, and prompts as bags of words."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor

FOLDER = resources.files(__package__) / "concepts"
STYLES = ("3d", "noto", "twemoji", "flat", "blob")
# Words that say nothing of what an image shows.
STOP_WORDS = frozenset("a an the of in on with and for to at from without emoji style icon picture".split())
VARIATION_SELECTOR = "\ufe0f"


@functools.cache
def rows() -> dict[str, int]:
    """The row of every word's vector: words, their plurals and emoji. Forms of one word have one row."""
    return dict(json.loads((FOLDER / "words.json").read_text("utf-8")))


@functools.cache
def _pattern() -> re.Pattern[str]:
    emoji = sorted((word for word in rows() if not word.isascii()), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, emoji), r"[a-z0-9]+", r"[^\x00-\x7f]+"]))


def split_words(text: str) -> list[str]:
    """Lower-case words and emoji of a text, without apostrophes, in order."""
    plain = re.sub("['’]", "", text.lower().replace(VARIATION_SELECTOR, ""))
    return _pattern().findall(plain)


def content_words(prompt: str) -> list[str]:
    """The words of a prompt that say what the image shows: no styles and no stop words, each once.

    Raises:
        ValueError: if a word is unknown, with the nearest known words, or the prompt has no such words.
    """
    found = [word for word in dict.fromkeys(split_words(prompt)) if word not in STOP_WORDS and word not in STYLES]
    for word in found:
        if word not in rows():
            near = difflib.get_close_matches(word, rows(), n=4, cutoff=0.6)
            hint = f"; nearest known words: {', '.join(near)}" if near else "; use another word"
            raise ValueError(f"the scorer does not know the word {word!r} of the prompt {prompt!r}{hint}")
    if not found:
        raise ValueError(
            f"the prompt {prompt!r} names no content to align with; add at least one word besides the styles "
            f"{', '.join(STYLES)}, or use a style reward"
        )
    return found


def bags(prompts: Sequence[str]) -> Tensor:
    """Prompts to bags of their content words (len(prompts), number of rows), 1.0 where a word is present."""
    out = torch.zeros(len(prompts), max(rows().values()) + 1)
    for number, prompt in enumerate(prompts):
        out[number, [rows()[word] for word in content_words(prompt)]] = 1.0
    return out

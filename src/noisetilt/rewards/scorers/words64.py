"""The vocabulary of emoji64, and prompts as bags of words."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor

STYLES = ("3d", "noto", "twemoji")
STOP_WORDS = frozenset("a an and at for from in no of on or s symbol sign the to with without mark".split())
GRID_PROMPTS = (
    "smiling cat face|red heart|red apple|grinning face|house|automobile|rose|pizza|globe|tiger face|clock|guitar"
    "|sunflower|airplane|crown|octopus|christmas tree|santa|rocket|cherries|bear face|ice cream|umbrella|fire"
).split("|")


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, without stop words, in order and without repetition."""
    found = re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("’", ""))
    return [w for w in dict.fromkeys(found) if w not in STOP_WORDS]


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """The words that emoji64 was trained with, in the order of its embedding's rows."""
    return tuple(json.loads(resources.files(__package__).joinpath("vocabulary.json").read_text("utf-8")))


@functools.cache
def _index() -> dict[str, int]:
    return {word: row for row, word in enumerate(vocabulary())}


def _known(word: str) -> str | None:
    """The form of a word in the vocabulary: the word or its singular; None if it is unknown."""
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in _index():
            return form
    return None


def known_words(prompt: str) -> list[str]:
    """The prompt's words as the vocabulary writes them.

    Raises:
        ValueError: if a word is unknown; the message has the nearest known words.
    """
    words = []
    for word in split_words(prompt):
        form = _known(word)
        if form is None:
            near = difflib.get_close_matches(word, vocabulary(), n=4, cutoff=0.6)
            hint = f"; nearest known words: {', '.join(near)}" if near else "; `noisetilt models --words` lists all"
            raise ValueError(f"emoji64 does not know the word {word!r} of the prompt {prompt!r}{hint}")
        words.append(form)
    return words


def bags(prompts: Sequence[str]) -> Tensor:
    """Prompts to bags of words (len(prompts), len(vocabulary)), 1.0 where a word is present."""
    out = torch.zeros(len(prompts), len(vocabulary()))
    for row, prompt in enumerate(prompts):
        out[row, [_index()[w] for w in known_words(prompt)]] = 1.0
    return out

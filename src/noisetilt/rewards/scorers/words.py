"""The words that the scorers know, and prompts as bags of words."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from ..checksums import read_json

FOLDER = Path(str(resources.files(__package__))) / "concepts"
STYLES = ("3d", "noto", "twemoji", "flat", "blob")
# Words that say nothing of what an image shows.
STOP_WORDS = frozenset("a an the of in on with and for to at from without emoji style icon picture".split())
VARIATION_SELECTOR = "\ufe0f"
_SKIN_TONES = dict.fromkeys(range(0x1F3FB, 0x1F400))
# The style 3d, written with a hyphen (or one that does not break).
_HYPHENATED_3D = re.compile(r"\b3[-‐‑](d)\b", re.I)


@functools.cache
def concepts() -> tuple[tuple[str, str], ...]:
    """(emoji, name) of every concept, in the order of the networks' rows."""
    return tuple((emoji, " ".join(words)) for emoji, *words in read_json(FOLDER / "concepts.json"))


@functools.cache
def _uses() -> Counter[str]:
    """In how many concepts' names a word is."""
    return Counter(word for _, name in concepts() for word in name.split())


@functools.cache
def rows() -> dict[str, int]:
    """The row of every word's vector: words, their plurals and emoji. Forms of one word have one row."""
    return dict(read_json(FOLDER / "words.json"))


@functools.cache
def _pattern() -> re.Pattern[str]:
    emoji = sorted((word for word in rows() if not word.isascii()), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, emoji), r"[a-z0-9]+", r"[^\x00-\x7f]+"]))


def join_3d(text: str) -> str:
    """The text with "3d" for "3-D" and the like."""
    return _HYPHENATED_3D.sub(r"3\1", text)


def _plain(text: str) -> str:
    return re.sub("['’]", "", join_3d(text.lower()).replace(VARIATION_SELECTOR, ""))


def split_words(text: str) -> list[str]:
    """Lower-case words and emoji of a text, without apostrophes, in order."""
    return _pattern().findall(_plain(text))


def base_form(text: str) -> str:
    """The lower-case text without accents, skin tones and variation selectors."""
    letters = unicodedata.normalize("NFKD", text.lower()).translate(_SKIN_TONES)
    return unicodedata.normalize("NFC", "".join(c for c in letters if unicodedata.category(c) != "Mn"))


def written_word(text: str, begin: int, end: int) -> str:
    """The whole word, or emoji with its skin tone, that text[begin:end] is a part of: "naïve" for its "na"."""

    def continues(character: str) -> bool:
        accent = unicodedata.category(character) in ("Mn", "Mc") and character != VARIATION_SELECTOR
        return character.isalnum() or accent

    if any(map(continues, text[begin:end])):
        while begin > 0 and continues(text[begin - 1]):
            begin -= 1
        while end < len(text) and continues(text[end]):
            end += 1
    elif begin > 0 and ord(text[begin]) in _SKIN_TONES:
        begin -= 1
    return text[begin:end]


def nearest_words(word: str, known: Collection[str]) -> list[str]:
    """At most four known words that are most like a word, the nearest first.

    Accents and skin tones do not count. Of equally like words, those in more names of concepts come first.
    """
    matcher, found = difflib.SequenceMatcher(), []
    matcher.set_seq2(base_form(word))
    for each in known:
        matcher.set_seq1(each)
        # Of these upper bounds and the ratio itself, each takes longer than the one before.
        if all(bound() >= 0.6 for bound in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)):
            found.append((-matcher.ratio(), -_uses()[each], each))
    return [each for *_, each in sorted(found)[:4]]


def content_words(prompt: str) -> list[str]:
    """The words of a prompt that say what the image shows: no styles and no stop words, each once.

    Raises:
        ValueError: if a word is unknown, with the nearest known words, or the prompt has no such words.
    """
    plain = _plain(prompt)
    places = {match[0]: match.span() for match in reversed(list(_pattern().finditer(plain)))}
    found = [word for word in dict.fromkeys(split_words(prompt)) if word not in STOP_WORDS and word not in STYLES]
    for word in found:
        if word not in rows():
            word = written_word(plain, *places[word])
            near = nearest_words(word, rows())
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

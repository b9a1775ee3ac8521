"""Captions, the vocabulary and the two word-level tokenizers of emoji128.

Token ids: <pad> 0, <unk> 1, <bos> 2, <eos> 3, then words, style names, emoji characters and plural forms.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TypedDict

import numpy as np

STYLES = ("3d", "noto", "twemoji", "flat", "blob")
SPECIAL = ["<pad>", "<unk>", "<bos>", "<eos>"]
UNK_ID, BOS_ID, EOS_ID = 1, 2, 3
COMMON = "a an the of in on with and for to at from without emoji style icon picture".split()
LENGTH = 16  # tokens of a caption, special tokens included
NO_PROMPT, LABEL, NAME_WORDS, CHARACTER = np.cumsum([0.1, 0.4, 0.18, 0.04]).tolist()
VARIATION_SELECTOR = "\ufe0f"


class Words(TypedDict):
    """What is known of one picture: emoji character, label, the label's words, and further keywords."""

    char: str
    label: str
    name: list[str]
    further: list[str]


class Vocabulary(TypedDict):
    """Tokens in the order of their ids, and for some ids (as strings) the id whose embedding they have."""

    tokens: list[str]
    same_as: dict[str, int]


def split_words(text: str) -> list[str]:
    """Lower-case words of letters a to z and digits, without apostrophes."""
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("’", ""))


def plural(word: str) -> str:
    """The regular plural of a noun; for verbs and adjectives it is a harmless extra entry."""
    if word.endswith("y") and len(word) > 3 and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def build_vocabulary(rows: list[Words]) -> Vocabulary:
    """All words of labels and keywords, styles, common words, emoji characters, and plurals that share an embedding."""
    count: Counter[str] = Counter()
    for row in rows:
        count.update({*row["name"], *row["further"], *split_words(row["label"])})
    tokens = SPECIAL + sorted({*count, *STYLES, *COMMON})
    tokens += sorted({row["char"].replace(VARIATION_SELECTOR, "") for row in rows})
    index = {token: i for i, token in enumerate(tokens)}
    same_as: dict[str, int] = {}
    for word in sorted(count):
        form = plural(word)
        if word.isalpha() and word not in COMMON and form not in index:
            index[form] = len(tokens)
            same_as[str(len(tokens))] = index[word]
            tokens.append(form)
    return {"tokens": tokens, "same_as": same_as}


def tokenizers(tokens: list[str]):
    """Two transformers fast tokenizers: `<bos> words <eos>` for CLIP and `words <eos>` for T5.

    Emoji are split into grapheme clusters, so that a sequence such as ❤️‍🔥 is one token and two emoji are two.
    """
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    def make(template: str) -> PreTrainedTokenizerFast:
        tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.Lowercase(),
                normalizers.Replace(VARIATION_SELECTOR, ""),
                normalizers.Replace(Regex("['’]"), ""),
            ]
        )
        pattern = Regex(r"[a-z0-9]+|(?=[^\x00-\x7f])\X")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<bos>", BOS_ID), ("<eos>", EOS_ID)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            unk_token="<unk>",
            bos_token="<bos>",
            eos_token="<eos>",
            model_max_length=LENGTH,
            padding_side="right",
        )

    return make("<bos> $A <eos>"), make("$A <eos>")


def _content(row: Words, random: np.random.Generator) -> list[str] | None:
    """What a caption names: the label, its words in any order, the emoji itself or some keywords; None for nothing."""
    kind = random.random()
    if kind < NO_PROMPT:
        return None
    if kind < LABEL:
        return split_words(row["label"])
    if kind < NAME_WORDS:
        words = list(row["name"])
        random.shuffle(words)
        return words
    if kind < CHARACTER:
        return [row["char"].replace(VARIATION_SELECTOR, "")]
    keep = random.uniform(0.15, 0.9)
    words = [word for word in row["name"] + row["further"] if random.random() < keep]
    random.shuffle(words)
    return words


def caption(row: Words, style: str, random: np.random.Generator) -> list[str]:
    """The words of a caption as a person might write it, with or without the style; [] one time in ten."""
    words = _content(row, random)
    if words is None:
        return []
    if random.random() < 0.15:
        words = [str(random.choice(["a", "the", "an"])), *words]
    if random.random() < 0.65:
        forms = ([*words, style], [style, *words], [*words, "in", style, "style"], [*words, style, "style"])
        words = forms[random.integers(4)]
    if random.random() < 0.08:
        words = [*words, "emoji"]
    return words[: LENGTH - 2]


def encode(words: list[str], index: dict[str, int]) -> np.ndarray:
    """Token ids of words, then <eos>, then <pad>: (LENGTH,) int16, as the T5 tokenizer gives them."""
    ids = [*(index[word] for word in words), EOS_ID]
    return np.pad(np.array(ids, np.int16), (0, LENGTH - len(ids)))

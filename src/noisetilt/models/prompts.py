"""Prompts for models whose tokenizer knows whole words only."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from .._messages import shown
from ..rewards.scorers.words import join_3d, nearest_words, written_word


def is_word_level(tokenizer: Any) -> bool:
    """Whether a transformers tokenizer maps each word to one token, and all others to its unknown token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "model", None)).__name__ == "WordLevel"


class PromptReader:
    """Reads prompts as a word-level tokenizer does, and refuses those that it does not represent completely.

    It has a copy of the tokenizer: transformers' own keeps padding and truncation as state, which other threads change
    while they encode prompts.

    Args:
        tokenizer: of transformers, with words as tokens.
    Attributes:
        words: the vocabulary without special tokens, in the order of its ids.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokens = copy.deepcopy(tokenizer.backend_tokenizer)
        self._tokens.no_padding()
        self._tokens.no_truncation()
        self._unknown, self._special = tokenizer.unk_token_id, frozenset(tokenizer.all_special_tokens)
        self._limit = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        vocabulary = tokenizer.get_vocab()
        self.words: list[str] = sorted(set(vocabulary) - self._special, key=vocabulary.__getitem__)

    def read(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as the tokenizer knows them: "3-D" is "3d".

        Raises:
            ValueError: if a prompt is no text, has an unknown word, naming the nearest known ones, a special token such
                as "<eos>", no word at all but other characters than spaces, or more words than the text encoder reads.
        """
        return [self._read(prompt) for prompt in prompts]

    def _read(self, prompt: str) -> str:
        if not isinstance(prompt, str):
            raise ValueError(f"the prompt is {prompt!r}, expected a text")
        text = join_3d(prompt)
        problem = self.problem(text, prompt)
        if problem is not None:
            raise ValueError(problem)
        return text

    def problem(self, text: str, prompt: str) -> str | None:
        """Why the tokenizer does not represent a text completely, in one sentence that calls it `prompt`; None if it
        does."""
        encoded = self._tokens.encode(text, add_special_tokens=False)
        unknown: dict[str, None] = {}
        for token, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
            if text[begin:end] in self._special:
                return (
                    f"the prompt {shown(prompt)} has {text[begin:end]!r}, which controls the text encoder; leave it out"
                )
            if token == self._unknown:
                unknown[written_word(text, begin, end)] = None
        if unknown:
            return self._unknown_words(list(unknown), prompt)
        if not encoded.ids and prompt.strip():
            return f"the prompt {shown(prompt)} has no word; write at least one, or leave the prompt empty"
        if len(encoded.ids) > self._limit:
            return (
                f"the prompt {shown(prompt)} has {len(encoded.ids)} words and the model reads {self._limit}; shorten it"
            )
        return None

    def _unknown_words(self, words: Sequence[str], prompt: str) -> str:
        """The message for unknown words, with the words nearest to the first of them."""
        nearest = nearest_words(words[0], self.words)
        of = f" to {shown(words[0])}" if len(words) > 1 else ""
        hint = f"; nearest known words{of}: {', '.join(nearest)}" if nearest else "; use another word"
        names = ", ".join(map(shown, words[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
        kind = "words" if len(words) > 1 else "word"
        return f"the model does not know the {kind} {names} of the prompt {shown(prompt)}{hint}"


def unread_part(tokenizer: Any, prompts: Sequence[str]) -> str | None:
    """What a tokenizer of transformers does not know of the first such prompt, in one sentence; None if it knows all.

    Only ASCII characters that are neither letters nor digits, such as ~, may be unknown.
    """
    if is_word_level(tokenizer):
        reader = PromptReader(tokenizer)
        return next(filter(None, (reader.problem(prompt, prompt) for prompt in prompts)), None)
    unknown = getattr(tokenizer, "unk_token_id", None)
    others = [getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "bos", "pad")]
    if unknown is None or unknown in others or not getattr(tokenizer, "is_fast", False):
        return None
    for prompt in prompts:
        encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        texts = [prompt[begin:end].strip() for token, (begin, end) in places if token == unknown]
        lost = [text for text in texts if any(not letter.isascii() or letter.isalnum() for letter in text)]
        if lost:
            names = ", ".join(map(shown, dict.fromkeys(lost)))
            return f"the model does not know {names} of the prompt {shown(prompt)}; use other words"
    return None

"""Checks of prompts for models whose tokenizer knows whole words only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from .._messages import shown


def is_word_level(tokenizer: Any) -> bool:
    """Whether a transformers tokenizer maps each word to one token, and all others to its unknown token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "model", None)).__name__ == "WordLevel"


def known_words(tokenizer: Any) -> list[str]:
    """The vocabulary without special tokens, in the order of its ids."""
    vocabulary = tokenizer.get_vocab()
    return sorted(set(vocabulary) - set(tokenizer.all_special_tokens), key=vocabulary.__getitem__)


def check_prompts(tokenizer: Any, prompts: Sequence[str]) -> None:
    """Refuses prompts that a word-level tokenizer does not represent completely.

    Raises:
        ValueError: if a prompt has an unknown word, naming the nearest known ones, or more words than the text encoder
            reads.
    """
    for prompt in prompts:
        encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pairs = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
        unknown = [prompt[begin:end] for token, (begin, end) in pairs if token == tokenizer.unk_token_id]
        if unknown:
            raise ValueError(_unknown_words(tokenizer, list(dict.fromkeys(unknown)), prompt))
        limit = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        if len(encoded.input_ids) > limit:
            raise ValueError(
                f"the prompt {shown(prompt)} has {len(encoded.input_ids)} words and the model reads {limit}; shorten it"
            )


def _unknown_words(tokenizer: Any, words: Sequence[str], prompt: str) -> str:
    """The message for unknown words, with the words nearest to the first of them."""
    nearest = difflib.get_close_matches(words[0].lower(), known_words(tokenizer), n=4, cutoff=0.6)
    of = f" to {shown(words[0])}" if len(words) > 1 else ""
    hint = f"; nearest known words{of}: {', '.join(nearest)}" if nearest else "; use another word"
    names = ", ".join(map(shown, words[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
    kind = "words" if len(words) > 1 else "word"
    return f"the model does not know the {kind} {names} of the prompt {shown(prompt)}{hint}"

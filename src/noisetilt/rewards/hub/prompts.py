"""Prompts as tokens for the rewards' text encoders, with a warning about those that are cut."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

# Tokenizers keep padding and truncation as state, which each of the two calls below sets.
_TOKENISING = threading.Lock()


def tokens_of(name: str, tokenizer: Any, texts: Sequence[str], limit: int, padding: bool | str) -> Any:
    """The tokens and masks of texts, cut to `limit` tokens, as transformers returns them in tensors.

    Warns of each text that is cut. Threads may share the tokenizer.

    Args:
        name: of the reward, for the warning.
        tokenizer: of transformers.
        texts: the prompts.
        limit: of tokens in a text, special tokens included.
        padding: as in transformers.
    """
    with _TOKENISING:
        _warn_truncated(name, tokenizer, texts, limit)
        return tokenizer(list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt")


def warn_truncated(name: str, tokenizer: Any, texts: Sequence[str], limit: int) -> None:
    """Warns as `tokens_of` does, for a network that makes the tokens itself."""
    with _TOKENISING:
        _warn_truncated(name, tokenizer, texts, limit)


def _warn_truncated(name: str, tokenizer: Any, texts: Sequence[str], limit: int) -> None:
    """Warns of each text of more tokens than `limit`, special tokens included, and names what is cut."""
    most = limit - tokenizer.num_special_tokens_to_add()
    for text in dict.fromkeys(texts):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if len(tokens) > most:
            cut = tokenizer.decode(tokens[most:])
            warnings.warn(
                f"{name} reads {most} tokens of a prompt and this one has {len(tokens)}; it ignores {cut!r}",
                stacklevel=3,
            )

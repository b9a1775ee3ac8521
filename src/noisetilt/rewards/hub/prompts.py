"""A warning about prompts that are longer than a reward's text encoder reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any


def warn_truncated(name: str, tokenizer: Any, texts: Sequence[str], limit: int) -> None:
    """Warns of each text of more tokens than `limit`, special tokens included, and names what is cut."""
    most = limit - tokenizer.num_special_tokens_to_add()
    for text in dict.fromkeys(texts):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if len(tokens) > most:
            cut = tokenizer.decode(tokens[most:])
            warnings.warn(
                f"{name} reads {most} tokens of a prompt and this one has {len(tokens)}; it ignores {cut!r}",
                stacklevel=2,
            )

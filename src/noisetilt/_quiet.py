"""Loading with transformers and diffusers without their progress bars and warnings. Imports nothing of noisetilt."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """transformers reports errors only."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """No progress bars, and no warning of new diffusers that `torch_dtype` has another name."""
    import diffusers.utils.logging
    import transformers.utils.logging

    active = [m for m in (diffusers.utils.logging, transformers.utils.logging) if m.is_progress_bar_enabled()]
    try:
        for module in active:
            module.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            yield
    finally:
        for module in active:
            module.enable_progress_bar()

"""What is printed: colours, the width of the terminal, and encodings with few characters.

Only the standard library is imported here. NO_COLOR, FORCE_COLOR and COLUMNS are respected.
"""

from __future__ import annotations

import codecs
import os
import shutil
import sys
import textwrap
import unicodedata
from typing import Any, TextIO

_STYLES = {"bold": "1", "red": "1;31", "yellow": "1;33"}
# Characters that are printed by this package and have no decomposition.
_ASCII = {"–": "-", "—": "-", "─": "-", "−": "-", "·": ".", "×": "x", "…": "...", "→": "->", "≥": ">=", "≤": "<="}
_ASCII |= {"Ψ": "Psi", "ρ": "rho", "η": "eta", "ε": "eps", "α": "alpha", "σ": "sigma", "λ": "lambda", "∇": "grad "}
_ASCII |= {"█": "#", "‖": "|", "√": "sqrt", "π": "pi", "∂": "d", "µ": "u", "†": "+", "’": "'", "“": '"', "”": '"'}


def use_colour(stream: TextIO) -> bool:
    """Whether to print colours: not with NO_COLOR, always with FORCE_COLOR, otherwise in terminals."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, style: str, stream: TextIO) -> str:
    """A text in one of the styles "bold", "red" and "yellow", if the stream shows colours."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if use_colour(stream) else text


def given_columns() -> int | None:
    """The environment variable COLUMNS as a number of characters, or None."""
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def line_width(stream: TextIO | None = None) -> int | None:
    """The characters of a line: COLUMNS if it is set, the terminal's, or None for a file or a pipe."""
    stream = sys.stdout if stream is None else stream
    return given_columns() or (shutil.get_terminal_size().columns if stream.isatty() else None)


def filled(text: str, indent: str = "") -> str:
    """A paragraph in lines of the terminal's width, all but the first indented; one line for a file or a pipe."""
    width = line_width()
    if width is None:
        return text
    options: Any = dict(break_long_words=False, break_on_hyphens=False)
    return textwrap.fill(text, max(width, 20), subsequent_indent=indent, **options)


def warn(text: str, kind: str = "warning") -> None:
    """Prints a line on the standard error, such as "noisetilt: warning: …"."""
    print(f"noisetilt: {painted(kind + ':', 'yellow', sys.stderr)} {text}", file=sys.stderr)


def print_error(text: object) -> None:
    """Prints an error on the standard error."""
    print(f"{painted('noisetilt:', 'red', sys.stderr)} {text}", file=sys.stderr)


def _spelt_in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: characters that an encoding lacks, as letters and signs that all encodings have."""
    assert isinstance(error, UnicodeEncodeError)
    found = []
    for character in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        combining = unicodedata.combining(character)
        found.append(_ASCII.get(character) or plain or ("" if combining else "?"))
    return "".join(found), error.end


def allow_all_characters(*streams: TextIO) -> None:
    """Makes streams print every text: a character that the encoding lacks is spelt in ASCII instead of an error."""
    codecs.register_error("noisetilt", _spelt_in_ascii)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="noisetilt")

"""Images in terminals that can show them: kitty's graphics protocol, iTerm2's inline images, and sixel.

`show` finds out what the terminal understands, from its environment and its answers to standard queries, and writes
nothing to a terminal that cannot show images or to a file.
"""

from __future__ import annotations

import base64
import io
import os
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TextIO

import numpy as np
from PIL import Image

Protocol = Literal["kitty", "iterm", "sixel"]
# The terminal's graphics (kitty), its name (XTVERSION) and its features (DA1), which every terminal answers.
_QUERY = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[>q\x1b[c"
_FEATURES = re.compile(rb"\x1b\[\?([\d;]*)c")
# Sixel: "4" is among the features. The names of terminals that know iTerm2's images and do not say so otherwise.
_SIXEL, _ITERM_NAMES = b"4", re.compile(rb"iTerm2|WezTerm|mintty")
# Seconds to wait for the answers; over a slow connection they take a tenth.
TIMEOUT = 0.5
# Pixels of a character cell where the terminal does not tell.
CELL_WIDTH = 8


def show(image: Image.Image, stream: TextIO | None = None, timeout: float = TIMEOUT) -> str | None:
    """Shows an image in the terminal of a stream, no wider than the terminal.

    Args:
        image: the image.
        stream: a text stream; None: the standard output.
        timeout: seconds to wait for the terminal's answers.
    Returns:
        None if the image is shown, otherwise the reason why not, in one sentence.
    """
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        return "the image is not shown, because the output is not a terminal"
    protocol = find_protocol(os.environ, lambda: _ask_terminal(timeout))
    if protocol is None:
        return "the image is not shown, because this terminal has no kitty graphics, iTerm2 images or sixel"
    columns, pixels = _terminal_width(stream)
    encode = {"kitty": encode_kitty, "iterm": encode_iterm, "sixel": encode_sixel}[protocol]
    stream.write(encode(_fitted(image, pixels), columns if image.width > pixels else None) + "\n")
    stream.flush()
    return None


def find_protocol(environment: Mapping[str, str], ask: Any) -> Protocol | None:
    """The protocol of a terminal; None if it has none.

    Args:
        environment: the environment variables.
        ask: () → the terminal's answers to the queries, as bytes. It is called unless the environment says enough.
    """
    nested = "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux"))
    if environment.get("TERM", "") in ("dumb", ""):
        return None
    if not nested:  # a multiplexer inherits the variables of the terminal around it, and not its images
        if "KITTY_WINDOW_ID" in environment or environment["TERM"] in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "mintty"):
            return "iterm"
    answer = ask()
    if b"\x1b_Gi=31;OK" in answer:
        return "kitty"
    if _ITERM_NAMES.search(answer):
        return "iterm"
    features = _FEATURES.search(answer)
    return "sixel" if features and _SIXEL in features.group(1).split(b";") else None


def _ask_terminal(timeout: float) -> bytes:
    """The answers of the controlling terminal to the queries; empty without one, as on Windows."""
    try:
        import termios
        import tty

        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):
        return b""
    try:
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal, termios.TCSAFLUSH)
            os.write(terminal, _QUERY.encode())
            return _read_answer(terminal, time.monotonic() + timeout)
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    except (termios.error, OSError):
        return b""
    finally:
        os.close(terminal)


def _read_answer(terminal: int, end: float) -> bytes:
    """What the terminal sends until its features, which it sends last, or until a time of `time.monotonic`."""
    answer = b""
    while not _FEATURES.search(answer) and (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            answer += os.read(terminal, 1024)
    return answer


def _terminal_width(stream: TextIO) -> tuple[int, int]:
    """The width of a stream's terminal in columns and in pixels."""
    columns = shutil.get_terminal_size().columns
    try:
        import fcntl
        import struct
        import termios

        size = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        _, real_columns, pixels, _ = struct.unpack("HHHH", size)
        if pixels and real_columns:
            return columns, columns * pixels // real_columns
    except (ImportError, OSError):
        pass
    return columns, columns * CELL_WIDTH


def _fitted(image: Image.Image, pixels: int) -> Image.Image:
    image = image.convert("RGB")
    if image.width <= pixels:
        return image
    return image.resize((pixels, max(1, round(image.height * pixels / image.width))), Image.Resampling.LANCZOS)


def _base64_png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def encode_kitty(image: Image.Image, columns: int | None = None) -> str:
    """An image in kitty's graphics protocol, at most `columns` character cells wide; None: as large as it is."""
    data, size = _base64_png(image), 4096
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    width = f",c={columns}" if columns else ""
    keys = [f"a=T,f=100,q=2{width}," if not i else "" for i in range(len(parts))]
    return "".join(f"\x1b_G{key}m={int(i + 1 < len(parts))};{parts[i]}\x1b\\" for i, key in enumerate(keys))


def encode_iterm(image: Image.Image, columns: int | None = None) -> str:
    """An image in iTerm2's protocol, at most `columns` character cells wide; None: as large as it is."""
    width = columns or f"{image.width}px"
    return f"\x1b]1337;File=inline=1;width={width};preserveAspectRatio=1:{_base64_png(image)}\x07"


def encode_sixel(image: Image.Image, columns: int | None = None) -> str:
    """An image as sixel, reduced to 256 colours; its size in pixels is not changed."""
    reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    levels = np.array(reduced.getpalette()[: 3 * 256]).reshape(-1, 3) * 100 // 255
    index = np.array(reduced)
    used = np.unique(index)
    colours = "".join("#{};2;{};{};{}".format(i, *levels[i]) for i in used)
    bands = "-".join("$".join(_band(index[top : top + 6])) for top in range(0, len(index), 6))
    return f'\x1bPq"1;1;{image.width};{image.height}{colours}{bands}\x1b\\'


def _band(rows: np.ndarray) -> Iterator[str]:
    """The sixels of six rows of pixels, one string per colour."""
    weights = 2 ** np.arange(len(rows))[:, None]
    for colour in np.unique(rows):
        bits = ((rows == colour) * weights).sum(0)
        ends = np.flatnonzero(np.diff(bits, append=-1))
        counts = np.diff(ends, prepend=-1)
        runs = zip(counts.tolist(), bits[ends].tolist(), strict=True)
        yield f"#{colour}" + "".join(f"!{n}{chr(63 + b)}" if n > 3 else chr(63 + b) * n for n, b in runs)

"""Images in terminals: the protocol that a terminal has is found, and what is written decodes to the image."""

import base64
import io
import os
import re
import select
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noisetilt.report.terminal import encode_iterm, encode_kitty, encode_sixel, find_protocol, show

FEATURES, SIXEL_FEATURES = b"\x1b[?62;22c", b"\x1b[?62;4;22c"
XTERM = {"TERM": "xterm-256color"}


def picture(width=40, height=26):
    """A gradient with few colours, whose rows are no multiple of six."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x // 8 * 40, y // 8 * 60, (x + y) // 16 * 50], 2).astype(np.uint8))


def read_kitty(text):
    """The image of kitty's escape sequences, and their keys."""
    parts = [part for part in re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text) if "a=q" not in part[0]]
    assert all(len(data) <= 4096 for _, data in parts)
    more = [dict(key.split("=") for key in keys.split(","))["m"] for keys, _ in parts]
    assert more == ["1"] * (len(parts) - 1) + ["0"]
    data = base64.b64decode("".join(data for _, data in parts))
    return Image.open(io.BytesIO(data)), dict(key.split("=") for key in parts[0][0].split(","))


def read_iterm(text):
    """The image of iTerm2's escape sequence."""
    return Image.open(io.BytesIO(base64.b64decode(re.search(r"\x1b\]1337;File=[^:]*:([^\x07]*)\x07", text).group(1))))


def read_sixel(text):
    """The pixels (H, W, 3) of a sixel image, as a terminal draws it."""
    body = re.fullmatch(r"\x1bPq(.*)\x1b\\", text.strip(), re.S).group(1)
    width, height = map(int, re.match(r'"1;1;(\d+);(\d+)', body).groups())
    pixels, colours = np.full((height + 5, width, 3), -1), {}
    x = top = current = 0
    body = re.sub(r'^"[\d;]*', "", body)
    for token in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|([-$])", body):
        number, red, green, blue, selected, count, repeated, single, control = token.groups()
        if number:
            colours[int(number)] = [int(red), int(green), int(blue)]
        elif selected:
            current = int(selected)
        elif control:
            x, top = 0, top + (6 if control == "-" else 0)
        else:
            for _ in range(int(count or 1)):
                for bit in range(6):
                    if (ord(repeated or single) - 63) >> bit & 1:
                        pixels[top + bit, x] = colours[current]
                x = x + 1
    assert (pixels[height:] == -1).all() and (pixels[:height] >= 0).all()
    return pixels[:height] * 255 / 100


@pytest.mark.parametrize(
    "environment, answer, protocol",
    [
        ({**XTERM, "KITTY_WINDOW_ID": "1"}, None, "kitty"),
        ({"TERM": "xterm-ghostty"}, None, "kitty"),
        ({**XTERM, "TERM_PROGRAM": "iTerm.app"}, None, "iterm"),
        (XTERM, b"\x1b_Gi=31;OK\x1b\\" + FEATURES, "kitty"),
        (XTERM, b"\x1bP>|iTerm2 3.5.0\x1b\\" + SIXEL_FEATURES, "iterm"),
        (XTERM, b"\x1bP>|XTerm(390)\x1b\\" + SIXEL_FEATURES, "sixel"),
        (XTERM, b"\x1b_Gi=31;EINVAL:bad\x1b\\" + FEATURES, None),
        (XTERM, b"\x1b[?64;41;14c", None),
        (XTERM, b"", None),
        # Inside tmux the variables are those of the terminal around it.
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, FEATURES, None),
        ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, SIXEL_FEATURES, "sixel"),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None, None),
        ({}, None, None),
    ],
)
def test_the_protocol_of_a_terminal(environment, answer, protocol):
    def ask():
        assert answer is not None, "the environment says enough"
        return answer

    assert find_protocol(environment, ask) == protocol


def test_kitty_and_iterm_have_the_image_itself():
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8))
    stored, keys = read_kitty(encode_kitty(noisy, 20))
    assert (np.asarray(stored) == np.asarray(noisy)).all() and keys["c"] == "20" and keys["a"] == "T"
    assert (np.asarray(read_iterm(encode_iterm(noisy))) == np.asarray(noisy)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(1, 40))
def test_sixel_draws_every_pixel(width, height):
    image = picture(width, height)
    assert np.abs(read_sixel(encode_sixel(image)) - np.asarray(image, dtype=int)).max() <= 4


def test_a_file_gets_no_escape_sequence():
    stream = io.StringIO()
    assert "not a terminal" in show(picture(), stream) and stream.getvalue() == ""


SCRIPT = """
from PIL import Image
from noisetilt.report.terminal import show
print(show(Image.open({file!r}), timeout=10 if {answers} else 0.3), flush=True)
"""


def run_in_terminal(file, answer, environment):
    """What a script that shows a file writes to a pseudo-terminal that answers its queries."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    script = SCRIPT.format(file=str(file), answers=answer is not None)
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
    options = dict(env={**keep, **environment}, stdin=slave, stdout=slave, stderr=subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", _AS_SESSION + script], **options)
    os.close(slave)
    output, end = b"", time.monotonic() + 240
    while time.monotonic() < end:
        if select.select([master], [], [], 0.2)[0]:
            try:
                output += os.read(master, 4096)
            except OSError:  # the script has ended
                break
            if answer and b"\x1b[c" in output:
                os.write(master, answer)
                answer = None
    os.close(master)
    assert process.wait(60) == 0, process.stderr.read().decode()
    return output.decode().replace("\r\n", "\n")


# The script becomes the leader of a session whose terminal is its standard output.
_AS_SESSION = "import fcntl, os, termios; os.setsid(); fcntl.ioctl(1, termios.TIOCSCTTY, 0)\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    "environment, answer, read",
    [
        ({"TERM": "xterm-kitty"}, None, lambda text: read_kitty(text)[0]),
        (XTERM, b"\x1b_Gi=31;OK\x1b\\" + FEATURES, lambda text: read_kitty(text)[0]),
        (XTERM, b"\x1bP>|iTerm2 3.5\x1b\\" + FEATURES, read_iterm),
        (XTERM, SIXEL_FEATURES, lambda text: read_sixel(re.search(r"\x1bPq.*?\x1b\\", text, re.S).group(0))),
        (XTERM, FEATURES, None),
        (XTERM, None, None),
    ],
    ids=["kitty by environment", "kitty by query", "iTerm2 by query", "sixel by query", "no images", "no answer"],
)
def test_show_in_a_pseudo_terminal(environment, answer, read, tmp_path):
    image = picture()
    image.save(tmp_path / "a.png")
    output = run_in_terminal(tmp_path / "a.png", answer, environment)
    if read is None:
        assert "this terminal has no kitty graphics" in output
        assert not re.search(r"\x1b\]1337|\x1bPq|\x1b_Ga=T", output)
    else:
        assert output.rstrip().endswith("None")
        assert np.abs(np.asarray(read(output), dtype=float) - np.asarray(image)).max() <= 4

"""Grids of 1 to 64 images with labels of any length: nothing is cut off, and no text lies on a text or an image."""

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from noisetilt.report import grid, pictures, save_animation, to_image

LABELS = st.text(st.characters(min_codepoint=32, max_codepoint=0xFF), max_size=150)


def drawn_boxes(monkeypatch, draw):
    """The sheet that `draw` makes, and the boxes of its texts and of its images."""
    texts, tiles = [], []
    write, paste = ImageDraw.ImageDraw.text, Image.Image.paste

    def text(self, at, words, *args, font=None, **kwargs):
        texts.append(self.textbbox(at, words, font=font))
        return write(self, at, words, *args, font=font, **kwargs)

    def tile(self, image, at, *args):
        tiles.append((*at, at[0] + image.width, at[1] + image.height))
        return paste(self, image, at, *args)

    with monkeypatch.context() as patched:
        patched.setattr(ImageDraw.ImageDraw, "text", text)
        patched.setattr(Image.Image, "paste", tile)
        return draw(), texts, tiles


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(LABELS, st.integers(1, 64)), min_size=1, max_size=3),
    st.sampled_from([(8, 8), (64, 64), (40, 90)]),
    st.integers(1, 3),
    st.integers(1, 8),
    st.lists(LABELS, max_size=8),
)
@example([("guided (ntrk)  reward +7.190  held-out +4.309", 1)], (128, 128), 2, 8, [])
@example([("guided (ntrk)  reward +7.190  held-out +4.309", 2)], (64, 64), 2, 8, [])
def test_labels_of_grids(rows, size, scale, per_line, captions):
    with pytest.MonkeyPatch.context() as monkeypatch:
        images = [(label, [torch.full((3, *size), 0.5)] * count) for label, count in rows]
        sheet, texts, tiles = drawn_boxes(monkeypatch, lambda: grid(images, scale, 4, per_line, captions))
    assert len(tiles) == sum(count for _, count in rows)
    for box in texts + tiles:
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= sheet.width and box[3] <= sheet.height
    for a, b in itertools.combinations(texts + tiles, 2):
        assert not overlap(a, b)


@pytest.mark.parametrize("columns, side", [(1, 16), (2, 128), (8, 128), (8, 512)])
def test_labels_grow_with_the_width_of_a_grid(columns, side, monkeypatch):
    images = [torch.zeros(3, side, side)] * columns
    sheet, texts, _ = drawn_boxes(monkeypatch, lambda: grid([("Aj", images)], captions=["Aj"] * columns))
    assert len(texts) == 1 + columns
    assert all(box[3] - box[1] >= sheet.width / 120 for box in texts)


def test_a_long_label_is_kept_in_full(monkeypatch):
    label = "ntrk-black-box-best-of-n: reward +7.190, held-out +4.309"
    words = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, **kwargs: words.append(text))
    grid([(label, [torch.zeros(3, 16, 16)])])
    assert " ".join(words) == label and len(words) > 1


def test_an_animation_is_a_webp_that_stays_on_its_last_frame(tmp_path):
    frames = [Image.new("RGB", (20 + i, 30), (80 * i, 0, 0)) for i in range(3)]
    save_animation(frames, tmp_path / "a.webp", milliseconds=100)
    with Image.open(tmp_path / "a.webp") as stored:
        assert (stored.format, stored.n_frames, stored.size) == ("WEBP", 3, (22, 30))
        durations = []
        for number in range(3):
            stored.seek(number)
            stored.load()
            durations.append(stored.info["duration"])
            assert abs(stored.convert("RGB").getpixel((5, 5))[0] - 80 * number) < 12
    assert durations == [100, 100, 1500]


def test_an_animation_needs_a_frame(tmp_path):
    with pytest.raises(ValueError, match="no frame"):
        save_animation([], tmp_path / "a.webp")


@pytest.mark.parametrize(
    "picture, error, message",
    [
        (
            torch.rand(2, 3, 8, 8),
            ValueError,
            r"has shape \(2, 3, 8, 8\), expected a tensor \(3, H, W\); give one",
        ),
        (torch.rand(8, 8, 3), ValueError, r"has shape \(8, 8, 3\)"),
        (torch.rand(3, 8, 8).numpy(), ValueError, "is ndarray, expected a tensor"),
        (torch.full((3, 8, 8), torch.nan), FloatingPointError, "has values that are not finite"),
    ],
)
def test_what_is_no_picture_is_refused(picture, error, message):
    with pytest.raises(error, match=message):
        to_image(picture)
    assert to_image(torch.rand(3, 8, 4)).size == (4, 8)


def test_labels_of_a_grid_have_only_characters_of_the_font():
    assert pictures._lines("edit: café, concept:🐯 – 猫", 500) == ["edit: cafe, concept:tiger face - ?"]

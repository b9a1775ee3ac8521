"""Text accuracy, by its formula, and with the OCR engines that are installed."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from noisetilt import rewards
from noisetilt.rewards import ocr

INSTALLED = [
    name
    for name, there in (
        ("rapidocr", importlib.util.find_spec("rapidocr") and importlib.util.find_spec("onnxruntime")),
        ("tesseract", importlib.util.find_spec("pytesseract") and shutil.which("tesseract")),
        ("easyocr", importlib.util.find_spec("easyocr")),
    )
    if there
]


def image_of(text):
    image = Image.new("RGB", (256, 128), "white")
    ImageDraw.Draw(image).text((40, 40), text, fill="black", font_size=40)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    "read, wanted, accuracy",
    [
        ("OPEN", "open", 1.0),
        ("the OPEN sign", "Open", 1.0),
        ("OPAN", "OPEN", 0.75),
        ("", "OPEN", 0.0),
        ("xyzwv", "OPEN", 0.0),
    ],
)
def test_accuracy(read, wanted, accuracy):
    assert ocr.text_accuracy(read, wanted) == accuracy


def test_edit_distance():
    assert ocr.edit_distance("kitten", "sitting") == 3 and ocr.edit_distance("", "abc") == 3


def test_the_wanted_text_is_what_the_prompt_quotes():
    assert ocr.wanted_text('a sign "GO HOME" beside “left”') == "GO HOME left"
    assert ocr.wanted_text("the dog's collar says 'Rex'") == "Rex"
    assert ocr.wanted_text('a sign "OPEN" and a sign " "') == "OPEN"
    assert ocr.wanted_text('a 5" tall sign that says "ROOM 5" and two of 6"') == "ROOM 5"
    assert ocr.wanted_text("‘Joe’s Bar’, „Halt“, »zu« and «fin» ('OPEN')") == "Joe’s Bar Halt zu fin OPEN"
    assert ocr.wanted_text("'Joe's Bar' by the dogs' 'tis sign of 'Rex'") == "Joe's Bar Rex"
    for prompt in (
        "the dog's bone",
        'a 5" by 6" board',
        "the dogs’ bone",
        'a sign that says " "',
        "a sign that says “\t”",
    ):
        with pytest.raises(ValueError, match="quotes no text"):
            ocr.wanted_text(prompt)


def test_images_are_enlarged_and_evaluated_one_by_one():
    shapes = []
    score = ocr.TextAccuracy(lambda levels: shapes.append(levels.shape) or "OPEN")
    values = score(torch.rand(2, 3, 64, 96), ['"OPEN"', '"SHUT"'])
    assert shapes == [(512, 768, 3)] * 2 and values.tolist() == [1.0, ocr.text_accuracy("OPEN", "SHUT")]


@pytest.mark.parametrize("engine", INSTALLED)
def test_an_installed_engine_reads(engine):
    reward = rewards.load(f"ocr:{engine}")
    values = [reward(image_of(text), ['a sign that says "OPEN"']).item() for text in ("OPEN", "HOUSE")]
    assert values[0] == 1.0 and values[1] < 0.5 and not reward.differentiable


def test_engines_that_are_not_there():
    with pytest.raises(ValueError, match="unknown"):
        rewards.load("ocr:other")
    for name in set(ocr.ENGINES) - set(INSTALLED):
        with pytest.raises(ImportError, match=f"{name} .*pip install rapidocr"):
            rewards.load(f"ocr:{name}")

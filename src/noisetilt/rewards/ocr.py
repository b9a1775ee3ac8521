"""The text in an image, read by an installed OCR engine, against the text that the prompt asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .._messages import nearest_name
from .images import check_images
from .reward import Reward

Reader = Callable[[np.ndarray], str]
ENGINES = ("rapidocr", "tesseract", "easyocr")
# A mark after a digit is one of inches or minutes: a 5" board. A ' or ’ between letters is an apostrophe.
_QUOTED = re.compile(
    r"(?<!\d)\"([^\"]+)\"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|»([^«]+)«"
    r"|(?:(?<=[\s(\[{])|^)'((?:[^']|(?<=\w)'(?=\w))+)'(?!\w)|‘((?:[^’]|(?<=\w)’(?=\w))+)’(?!\w)"
)


def wanted_text(prompt: str) -> str:
    """The texts between quotation marks in a prompt, joined by spaces.

    Raises:
        ValueError: if there is none.
    """
    found = [next(filter(None, match.groups())) for match in _QUOTED.finditer(prompt)]
    found = [text for text in found if text.strip()]  # every image shows a text of spaces, so all would be rewarded
    if not found:
        raise ValueError(
            f'the prompt {prompt!r} quotes no text that the image should show; write it like: a sign that says "OPEN"'
        )
    return " ".join(found)


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises a ValueError for a prompt that quotes no text."""
    for prompt in prompts:
        wanted_text(prompt)


def edit_distance(one: str, other: str) -> int:
    """The Levenshtein distance: the least number of characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def text_accuracy(read: str, wanted: str) -> float:
    """1 − edit distance / length of the wanted text, at least 0; without spaces and case, as in Flow-GRPO (Liu et al.
    2025, arXiv 2505.05470). Text that contains the wanted text has accuracy 1."""
    read, wanted = (re.sub(r"\s+", "", text).lower() for text in (read, wanted))
    if wanted in read:
        return 1.0
    return 1.0 - min(edit_distance(read, wanted), len(wanted)) / len(wanted)


class TextAccuracy:
    """The reward function: the accuracy of the text that an engine reads.

    Args:
        reader: RGB levels (H, W, 3) uint8 → text.
        upscale: images are enlarged until the shorter side has this many pixels; engines miss small text.
    """

    def __init__(self, reader: Reader, upscale: int = 512) -> None:
        self.reader, self.upscale = reader, upscale

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1] and prompts that quote the wanted text."""
        check_images(images)
        levels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        values = [
            text_accuracy(self.reader(self._enlarged(picture)), wanted_text(prompt))
            for picture, prompt in zip(levels, prompts, strict=True)
        ]
        return torch.tensor(values, device=images.device, dtype=torch.promote_types(images.dtype, torch.float32))

    def _enlarged(self, levels: np.ndarray) -> np.ndarray:
        scale = self.upscale / min(levels.shape[:2])
        if scale <= 1:
            return levels
        size = (round(levels.shape[1] * scale), round(levels.shape[0] * scale))
        return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC))


def ocr(engine: str | None = None) -> Reward:
    """Accuracy, 0 to 1, of the text in the image that the prompt quotes: a black box.

    Args:
        engine: "rapidocr", "tesseract" (pytesseract and the program tesseract) or "easyocr"; the first that is
            installed if None. Models of easyocr are downloaded by it.
    Raises:
        ValueError: for an unknown engine.
        ImportError: if the engine is not installed, or none is.
    """
    if engine is not None and engine not in ENGINES:
        hint = nearest_name(engine, ENGINES)
        raise ValueError(f"OCR engine {engine!r} is unknown{hint}; use one of {', '.join(ENGINES)}")
    missing = []
    for name in (engine,) if engine else ENGINES:
        try:
            accuracy = TextAccuracy(_READERS[name]())
        except ImportError as error:
            missing.append(f"{name} ({error})")
            continue
        return Reward("ocr" if engine is None else f"ocr:{name}", accuracy, False, check_prompts=check_prompts)
    raise ImportError(
        f"ocr needs an OCR engine and none can be used: {'; '.join(missing)}; pip install rapidocr onnxruntime, which "
        "are noisetilt's extra ocr"
    )


def _rapidocr() -> Reader:
    try:
        from rapidocr import RapidOCR
    except ImportError:
        from rapidocr_onnxruntime import RapidOCR  # the name until 2025
    engine = RapidOCR()

    def read(levels: np.ndarray) -> str:
        result: Any = engine(levels[..., ::-1])  # BGR
        if isinstance(result, tuple):
            return " ".join(line[1] for line in result[0] or [])
        return " ".join(result.txts or [])

    return read


def _tesseract() -> Reader:
    import pytesseract

    try:
        pytesseract.get_tesseract_version()
    except pytesseract.TesseractNotFoundError as error:
        raise ImportError("the program tesseract is not installed") from error
    return lambda levels: pytesseract.image_to_string(Image.fromarray(levels))


def _easyocr() -> Reader:
    import easyocr

    engine = easyocr.Reader(["en"], gpu=torch.cuda.is_available())
    return lambda levels: " ".join(engine.readtext(levels, detail=0))


_READERS: dict[str, Callable[[], Reader]] = {"rapidocr": _rapidocr, "tesseract": _tesseract, "easyocr": _easyocr}

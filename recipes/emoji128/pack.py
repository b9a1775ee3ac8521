"""Write the images as small files in one array, which is a twentieth of the size, and the vocabulary.

    python recipes/emoji128/pack.py build/emoji128

reads images.npz in the folder and writes pack.npz and vocabulary.json beside it. In pack.npz `blob` has the image files
one after the other (3d as JPEG of quality 95, the others as lossless WebP), `size` their lengths in bytes, and `words`
all words as compressed JSON; the other arrays are those of images.npz.
"""

from __future__ import annotations

import argparse
import io
import json
import zlib
from pathlib import Path

import numpy as np
from captions import STYLES, Vocabulary, build_vocabulary
from PIL import Image


def compress(picture: np.ndarray, style: int) -> bytes:
    """The file of a picture (128, 128, 3) uint8."""
    file = io.BytesIO()
    if STYLES[style] == "3d":
        Image.fromarray(picture).save(file, "jpeg", quality=95, subsampling=0)
    else:
        Image.fromarray(picture).save(file, "webp", lossless=True, method=4)
    return file.getvalue()


def pack(build: Path) -> Vocabulary:
    """Writes pack.npz and vocabulary.json from images.npz; returns the vocabulary."""
    with np.load(build / "images.npz") as data:
        files = [compress(picture, style) for picture, style in zip(data["pictures"], data["style"], strict=True)]
        rows = [json.loads(line) for line in data["words"]]
        kept = {key: data[key] for key in data.files if key not in ("pictures", "words")}
    text = zlib.compress(json.dumps(rows, ensure_ascii=False).encode())
    np.savez(
        build / "pack.npz",
        blob=np.frombuffer(b"".join(files), np.uint8),
        size=np.array([len(file) for file in files]),
        words=np.frombuffer(text, np.uint8),
        **kept,
    )
    vocabulary = build_vocabulary(rows)
    (build / "vocabulary.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    return vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    build = parser.parse_args().build
    vocabulary = pack(build)
    size = (build / "pack.npz").stat().st_size
    print(f"{len(vocabulary['tokens'])} tokens, {len(vocabulary['same_as'])} of them plurals; {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

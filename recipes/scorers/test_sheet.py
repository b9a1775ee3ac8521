"""Write the small sheet of held-out pictures that the tests look at: tests/data/heldout_emoji.{png,json}."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from noisetilt.rewards.scorers.words64 import STYLES

FOLDER = Path("tests/data")


def main() -> None:
    data = np.load("build/emoji64/data.npz")
    random = np.random.default_rng(2)
    base = data["heldout"] & (data["weight"] >= 0.4)
    rows = np.concatenate([random.permutation(np.flatnonzero(base & (data["style"] == s)))[:8] for s in range(3)])
    sheet = data["pictures"][rows].reshape(3, 8, 64, 64, 3).transpose(0, 2, 1, 3, 4).reshape(192, 512, 3)
    FOLDER.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(FOLDER / "heldout_emoji.png", optimize=True)
    labels = [
        dict(
            name=" ".join(json.loads(data["words"][i])[0]),
            style=STYLES[data["style"][i]],
            kind=str(data["subcategory"][i]),
        )
        for i in rows
    ]
    (FOLDER / "heldout_emoji.json").write_text(json.dumps(labels, indent=1) + "\n")


if __name__ == "__main__":
    main()

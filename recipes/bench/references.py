"""Make what the benchmark compares with: features of held-out real emoji, and a sheet of a few of them.

    python recipes/emoji64/data.py && python recipes/bench/references.py

Writes src/noisetilt/bench/weights/real.safetensors (features of all 333 held-out pictures that are drawn for one style
alone), its checksum, and src/noisetilt/bench/real_emoji.png with real_emoji.json (four pictures a style).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from noisetilt.bench.features import features
from noisetilt.rewards.scorers.words64 import STYLES

BENCH = Path("src/noisetilt/bench")


def main() -> None:
    data = np.load("build/emoji64/data.npz")
    chosen = np.flatnonzero(data["heldout"] & (data["weight"] >= 0.5))
    pictures = torch.from_numpy(data["pictures"][chosen]).permute(0, 3, 1, 2).float() / 255
    file = BENCH / "weights" / "real.safetensors"
    save_file({"features": features(pictures).half()}, file)
    sums = BENCH / "weights" / "checksums.json"
    checksums = json.loads(sums.read_text()) | {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    sums.write_text(json.dumps(checksums, indent=1) + "\n")

    rng, rows, labels = np.random.default_rng(5), [], []
    for style, name in enumerate(STYLES):
        picked = rng.choice(chosen[data["style"][chosen] == style], 4, replace=False)
        rows.append(np.concatenate(data["pictures"][picked], axis=1))
        labels += [{"prompt": " ".join(itertools.chain(*json.loads(data["words"][i]))), "style": name} for i in picked]
    Image.fromarray(np.concatenate(rows)).save(BENCH / "real_emoji.png", optimize=True)
    (BENCH / "real_emoji.json").write_text(json.dumps(labels, indent=1) + "\n")


if __name__ == "__main__":
    main()

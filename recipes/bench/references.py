"""Write the features of real emoji that the benchmark compares with, and measure the judge on held-out emoji.

    python recipes/bench/references.py build/emoji128

build/emoji128 has pack.npz of `recipes/emoji128/pack.py`. Written: src/noisetilt/bench/weights/real.safetensors
(features of 3 000 real emoji, float16), the checksums, and measured.json: what the judge names right among held-out
emoji, clean and damaged, and the Fréchet distance and precision of their features against real.safetensors, from
which the held-out ones are left out for this.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from noisetilt.bench import judge
from noisetilt.bench.metrics import frechet_distance, precision_recall

WEIGHTS = Path("src/noisetilt/bench/weights")
REAL, MEASURED = 3000, 192


def read_images(data: np.lib.npyio.NpzFile, rows: np.ndarray) -> Tensor:
    """(len(rows), 3, 128, 128) in [0, 1]."""
    ends, blob = np.cumsum(data["size"]), data["blob"]
    files = (io.BytesIO(blob[ends[row] - data["size"][row] : ends[row]].tobytes()) for row in rows)
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def damaged(images: Tensor) -> dict[str, Tensor]:
    """The images, and with defects that guidance causes."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    small = F.interpolate(images, scale_factor=0.125, mode="bilinear", antialias=True)
    patches = images.unfold(2, 32, 32).unfold(3, 32, 32).flatten(2, 3)  # (n, 3, 16, 32, 32)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    mixed = patches[:, :, order].unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
    return {
        "clean": images,
        "noise 0.1": (images + 0.1 * noise).clamp(0, 1),
        "16×16 pixels": F.interpolate(small, size=images.shape[2:], mode="bilinear"),
        "parts in another order": mixed,
    }


def write_checksums() -> None:
    """Writes checksums.json of the networks and features that WEIGHTS has."""
    names = ("judge.safetensors", "style-judge.safetensors", "real.safetensors")
    files = [WEIGHTS / name for name in names if (WEIGHTS / name).is_file()]
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (WEIGHTS / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    build = parser.parse_args().build
    write_checksums()  # the judge may be a new one, and is not loaded with the checksum of the old one
    data = np.load(build / "pack.npz")
    data = {key: data[key] for key in data.files if key != "words"}
    concept = np.unique(data["concept"], return_inverse=True)[1]
    random, plain = np.random.default_rng(5), data["weight"].astype(np.float32) >= 0.5
    heldout = random.permutation(np.flatnonzero(plain & data["heldout"]))
    others = random.permutation(np.flatnonzero(plain & ~data["heldout"]))
    chosen = np.concatenate([heldout, others[: REAL - len(heldout)]])
    features = torch.cat([judge.features(read_images(data, rows)) for rows in np.array_split(chosen, 30)])
    save_file({"features": features.half()}, WEIGHTS / "real.safetensors")
    write_checksums()

    rows, real, table = heldout[:MEASURED], features[len(heldout) :], {}
    for name, images in damaged(read_images(data, rows)).items():
        found = judge.evaluate(images)
        right = [[int(concept[row])] for row in rows]
        table[name] = {
            "n": len(rows),
            "concept_top1": judge.names_concept(found.concepts, right, 1).float().mean().item(),
            "concept_top5": judge.names_concept(found.concepts, right).float().mean().item(),
            "style": (found.styles.argmax(1).numpy() == data["style"][rows]).mean().item(),
            "frechet": frechet_distance(found.features, real),
            "precision": precision_recall(real, found.features)[0],
        }
    (WEIGHTS / "measured.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(table, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

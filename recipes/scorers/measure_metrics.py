"""What the metrics say of held-out pictures, clean and worse, against as many pictures of the training set.

python recipes/scorers/measure_metrics.py    # writes recipes/scorers/measured_metrics.json
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from measure import corruptions
from noisetilt.bench.features import classify, features, textures
from pictures import Pictures, spoil

from noisetilt.bench.metrics import frechet_distance, precision_recall, total_variation, vendi_score

OUT = Path("recipes/scorers/measured_metrics.json")


def main() -> None:
    torch.manual_seed(0)
    pictures = Pictures("features", seed=0)
    rows = torch.from_numpy(pictures.heldout)
    x = pictures.pictures[rows] / 255.0
    others = torch.from_numpy(pictures.random.choice(pictures.rows, len(rows), replace=False, p=pictures.chance))
    real = pictures.pictures[others] / 255.0
    reference, grain = features(real), textures(real)
    measured = {}
    for name, y in (corruptions(x) | {"spoilt": spoil(x)}).items():
        seen = features(y)
        kind, style = classify(y)
        precision, recall = precision_recall(reference, seen)
        measured[name] = dict(
            frechet_distance=frechet_distance(reference, seen),
            frechet_distance_of_textures=frechet_distance(grain, textures(y)),
            precision=precision,
            recall=recall,
            vendi=vendi_score(seen),
            total_variation=total_variation(y).mean().item(),
            kind=(kind.argmax(1) == pictures.kind[rows]).float().mean().item(),
            style=(style.argmax(1) == pictures.style[rows]).float().mean().item(),
        )
    OUT.write_text(json.dumps(measured, indent=1) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()

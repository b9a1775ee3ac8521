"""Measure emoji64: Fréchet distance, precision, recall and what a classifier sees, against held-out pictures.

    python recipes/emoji64/evaluate.py

One sample is drawn for the words of each held-out picture (25 steps, η = 1, guidance 2). Beside it stand what the
figures are for real pictures (training pictures of the same emoji in another style, so a floor that is not zero) and
for the untrained network. Writes `evaluation.json` beside the weights and a sample grid to docs/images/emoji64.png.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from noisetilt import load, sample
from noisetilt.bench.features import classify, features, kinds
from noisetilt.bench.metrics import frechet_distance, precision_recall
from noisetilt.models.emoji64.model import FOLDER, Emoji64Model
from noisetilt.models.emoji64.network import Emoji64
from noisetilt.models.emoji64.words import GRID_PROMPTS, STYLES, vocabulary
from noisetilt.report import grid

DATA = Path("build/emoji64/data.npz")
BATCH = 64


def draw(model: Emoji64Model, prompts: list[str], name: str, steps: int = 25) -> Tensor:
    """One picture a prompt, with the prompt's place as seed."""
    parts = []
    for first in tqdm(range(0, len(prompts), BATCH), desc=name):
        some = prompts[first : first + BATCH]
        seeds = range(first, first + len(some))
        parts.append(sample(model, some, None, "base", steps, seeds=seeds, chunk=32).images)
    return torch.cat(parts)


def counterparts(data: np.lib.npyio.NpzFile, chosen: np.ndarray) -> np.ndarray:
    """For each held-out picture a training picture of the same emoji in another style, or of a random emoji."""
    random = np.random.default_rng(0)
    trained = np.flatnonzero(~data["heldout"] & (data["weight"] >= 0.5))
    same = [trained[data["concept"][trained] == data["concept"][i]] for i in chosen]
    return np.array([random.choice(s if len(s) else trained) for s in same])


def main() -> None:
    data = np.load(DATA)
    chosen = np.flatnonzero(data["heldout"] & (data["weight"] >= 0.5))
    names = [json.loads(data["words"][i]) for i in chosen]
    prompts = [
        " ".join([*name, *further, STYLES[data["style"][i]]]) for (name, further), i in zip(names, chosen, strict=True)
    ]
    kind = torch.tensor([kinds().index(data["subcategory"][i]) for i in chosen])
    style = torch.from_numpy(data["style"][chosen])

    def pictures(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(data["pictures"][rows]).permute(0, 3, 1, 2).float() / 255

    torch.manual_seed(0)
    model, untrained = load("emoji64"), Emoji64Model(network=Emoji64(len(vocabulary())))
    real = pictures(chosen)
    sets = {
        "emoji64, 25 steps": draw(model, prompts, "emoji64"),
        "real, another style": pictures(counterparts(data, chosen)),
        # It predicts grey from anything, in any number of steps.
        "untrained network": draw(untrained, prompts, "untrained", steps=1),
        "real, held out": real,
    }
    reference, figures = features(real), {}
    for name, images in sets.items():
        found = features(images)
        precision, recall = precision_recall(reference, found)
        seen_kind, seen_style = classify(images)
        figures[name] = {
            "count": len(images),
            "frechet_distance": frechet_distance(reference, found) if images is not real else 0.0,
            "precision": precision,
            "recall": recall,
            "kind_accuracy": (seen_kind.argmax(1) == kind).double().mean().item(),
            "kind_top5": (seen_kind.topk(5).indices == kind[:, None]).any(1).double().mean().item(),
            "style_accuracy": (seen_style.argmax(1) == style).double().mean().item(),
        }
        print(name, {k: round(v, 3) for k, v in figures[name].items()})
    (FOLDER / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")

    shown = [f"{p} {s}" for s in STYLES for p in GRID_PROMPTS]
    images = list(draw(model, shown, "grid"))
    rows = [(style, images[len(GRID_PROMPTS) * i : len(GRID_PROMPTS) * (i + 1)]) for i, style in enumerate(STYLES)]
    Path("docs/images").mkdir(parents=True, exist_ok=True)
    grid(rows, scale=1, per_line=12).save("docs/images/emoji64.png")


if __name__ == "__main__":
    main()

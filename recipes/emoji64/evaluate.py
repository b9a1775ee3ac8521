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
from noisetilt.bench.features import classify, features, kinds
from torch import Tensor
from tqdm.auto import tqdm

from noisetilt import load, sample
from noisetilt.bench.metrics import frechet_distance, precision_recall
from noisetilt.models.emoji64.model import FOLDER, Emoji64Model
from noisetilt.models.emoji64.network import Emoji64
from noisetilt.report import grid
from noisetilt.rewards.scorers.words64 import GRID_PROMPTS, STYLES, vocabulary

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


class HeldOut:
    """Held-out pictures (count, 3, 64, 64) in [0, 1], without skin-tone variants, and prompts of all their words."""

    def __init__(self) -> None:
        self.data = np.load(DATA)
        self.chosen = np.flatnonzero(self.data["heldout"] & (self.data["weight"] >= 0.5))
        styles = self.data["style"][self.chosen]
        names = [json.loads(self.data["words"][i]) for i in self.chosen]
        self.prompts = [" ".join([*n, *more, STYLES[s]]) for (n, more), s in zip(names, styles, strict=True)]
        self.kind = torch.tensor([kinds().index(k) for k in self.data["subcategory"][self.chosen]])
        self.style = torch.from_numpy(styles)
        self.pictures = self.take(self.chosen)
        self.reference = features(self.pictures)

    def take(self, rows: np.ndarray) -> Tensor:
        """Pictures by their rows in the data."""
        return torch.from_numpy(self.data["pictures"][rows]).permute(0, 3, 1, 2).float() / 255

    def counterparts(self) -> Tensor:
        """For each a training picture of the same emoji in another style, or of a random emoji."""
        random, concept = np.random.default_rng(0), self.data["concept"]
        trained = np.flatnonzero(~self.data["heldout"] & (self.data["weight"] >= 0.5))
        same = [trained[concept[trained] == concept[i]] for i in self.chosen]
        return self.take(np.array([random.choice(s if len(s) else trained) for s in same]))

    def figures(self, images: Tensor) -> dict[str, float]:
        """Fréchet distance, precision and recall, and how often a classifier sees the kind and the style asked for."""
        found = features(images)
        precision, recall = precision_recall(self.reference, found)
        seen_kind, seen_style = classify(images)
        return {
            "count": len(images),
            "frechet_distance": frechet_distance(self.reference, found),
            "precision": precision,
            "recall": recall,
            "kind_accuracy": (seen_kind.argmax(1) == self.kind).double().mean().item(),
            "kind_top5": (seen_kind.topk(5).indices == self.kind[:, None]).any(1).double().mean().item(),
            "style_accuracy": (seen_style.argmax(1) == self.style).double().mean().item(),
        }


def write_figures(sets: dict[str, Tensor], heldout: HeldOut, file: Path) -> None:
    """Measures sets of pictures, one for each held-out one, prints the figures and writes them as JSON."""
    figures = {}
    for name, images in sets.items():
        figures[name] = heldout.figures(images)
        print(name, {k: round(v, 3) for k, v in figures[name].items()})
    file.write_text(json.dumps(figures, indent=2) + "\n")


def sheet(model: Emoji64Model, file: Path, steps: int = 25) -> None:
    """A picture of each prompt of the grid in each of the three styles."""
    shown = [f"{p} {s}" for s in STYLES for p in GRID_PROMPTS]
    images, many = list(draw(model, shown, "grid", steps)), len(GRID_PROMPTS)
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [(style, images[many * i : many * (i + 1)]) for i, style in enumerate(STYLES)]
    grid(rows, scale=1, per_line=12).save(file)


def main() -> None:
    torch.manual_seed(0)
    heldout = HeldOut()
    model, untrained = load("emoji64"), Emoji64Model(network=Emoji64(len(vocabulary())))
    sets = {
        "emoji64, 25 steps": draw(model, heldout.prompts, "emoji64"),
        "real, another style": heldout.counterparts(),
        # It predicts grey from anything, in any number of steps.
        "untrained network": draw(untrained, heldout.prompts, "untrained", steps=1),
        "real, held out": heldout.pictures,
    }
    write_figures(sets, heldout, FOLDER / "evaluation.json")
    sheet(model, Path("docs/images/emoji64.png"))


if __name__ == "__main__":
    main()

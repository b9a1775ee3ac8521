"""Real images that were held out of emoji128's training, with their prompts, and the judge that names images: a concept
is named if it is among the first five. (In the benchmark, an image is named right if its concept is the first.)

Used by recipes/invert/measure.py and recipes/inverse/measure.py.
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from noisetilt.inversion.photos import fit
from noisetilt.rewards.scorers.network import ScorerNetwork, StyleNetwork

sys.path.insert(0, str(Path(__file__).parents[1] / "emoji128"))
from captions import STYLES, split_words
from training import load_weights


@dataclass(frozen=True)
class RealImages:
    """n images.

    Attributes:
        images: (n, 3, side, side) in [0, 1].
        labels, styles: what each shows, and in which style.
        concept_of: label → number of the concept, of all labels of the data.
    """

    images: Tensor
    labels: list[str]
    styles: list[str]
    concept_of: dict[str, int]

    @property
    def prompts(self) -> list[str]:
        return [f"{label} {style}" for label, style in zip(self.labels, self.styles, strict=True)]

    def part(self, rows: range | slice) -> RealImages:
        some = slice(rows.start, rows.stop)
        return RealImages(self.images[some], self.labels[some], self.styles[some], self.concept_of)


def read_real_images(build: Path, count: int, side: int, known: Callable[[str], bool]) -> RealImages:
    """Held-out images of pack.npz in a fixed random order, whose prompts are known."""
    with np.load(build / "pack.npz") as data:
        ends = np.cumsum(data["size"])
        starts, blob = ends - data["size"], data["blob"].tobytes()
        style, concept = torch.from_numpy(data["style"]), torch.from_numpy(data["concept"])
        held = torch.from_numpy(data["heldout"]) & (torch.from_numpy(data["weight"]) >= 0.5)
        words = json.loads(zlib.decompress(data["words"].tobytes()))
    names = [" ".join(split_words(row["label"])) for row in words]
    kinds = concept.unique(return_inverse=True)[1].tolist()
    rows = held.nonzero()[:, 0]
    chosen: list[int] = []
    for row in rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))].tolist():
        if len(chosen) < count and known(f"{names[row]} {STYLES[style[row]]}"):
            chosen.append(row)
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} held-out images have prompts that the model knows; expected {count}")
    images = []
    for row in chosen:
        image = Image.open(io.BytesIO(blob[starts[row] : ends[row]])).convert("RGB")
        images.append(fit(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, (side, side)))
    labels, styles = [names[row] for row in chosen], [STYLES[style[row]] for row in chosen]
    return RealImages(torch.stack(images), labels, styles, dict(zip(names, kinds, strict=True)))


class Judge:
    """Networks that nothing was optimised on; `folder` has judge.safetensors and style-judge.safetensors."""

    def __init__(self, folder: Path, concept_of: dict[str, int]) -> None:
        self.concept_of, kinds = concept_of, max(concept_of.values()) + 1
        self.concept = load_weights(ScorerNetwork("lite2", len(STYLES), kinds, 0), folder / "judge.safetensors")
        self.style = load_weights(StyleNetwork("lite2", len(STYLES)).fold(), folder / "style-judge.safetensors")
        for network in (self.concept, self.style):
            network.eval().requires_grad_(False)
        self.concept.backbone.fold()

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: list[str], styles: list[str]) -> tuple[list[bool], list[bool]]:
        """Whether the concept is among the first five of about 1 400, and whether the style is right, per image."""
        x = 2 * images - 1
        if x.shape[-1] != 128:
            x = F.interpolate(x, size=128, mode="bicubic").clamp(-1, 1)
        _, vectors = self.concept(x)
        top = self.concept.concept_logits(vectors).topk(5, 1).indices
        concepts = torch.tensor([self.concept_of[label] for label in labels])
        named = (top == concepts[:, None]).any(1)
        return named.tolist(), (self.style(x).argmax(1) == torch.tensor([STYLES.index(s) for s in styles])).tolist()

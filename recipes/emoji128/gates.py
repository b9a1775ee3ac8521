"""Measure emoji128 on held-out pairs of concept and style, and draw a sheet of 64.

    python recipes/emoji128/gates.py build/emoji128 out --judge recipes/emoji128/weights --backbones backbones

Each of 200 images has the prompt "label style" of a pair that was held out of all training. Figures:
- concept_top5: the judge (train_scorers.py) names the concept among its first five of about 1 400;
- style: the judge of styles (train_style.py) names the style;
- frechet: Fréchet distance of features of an untouched EfficientNet-Lite2 to the real images (Heusel 2017,
  arXiv 1706.08500); with few images its value is biased, so compare it at equal numbers only;
- precision: the fraction of images within the real images' manifold (Kynkäänniemi 2019, arXiv 1904.06991; k = 3).
The row "real" has the real images of the same pairs. With --compare emoji64, both models are measured on the prompts
that the older model knows. Written: gates.json, images.pt and sheet.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from captions import STYLES, split_words
from dataset import Dataset, load_dataset, save_grid
from torch import Tensor
from torch.nn import functional as F
from training import PROMPTS, load_weights, log

import noisetilt
from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite
from noisetilt.rewards.scorers.network import ScorerNetwork, StyleNetwork

NEIGHBOURS, REAL = 3, 3000
SHEET = (
    *PROMPTS,
    *(
        "dog face 3d|sad cat noto|birthday cake 3d|soccer ball flat|pumpkin 3d|snowman twemoji|penguin 3d|owl flat"
        "|bee noto|strawberry 3d|hamburger flat|doughnut 3d|mushroom noto|cactus blob|dolphin twemoji|elephant 3d"
        "|fox face 3d|frog flat|panda noto|unicorn 3d|hot beverage 3d|bicycle flat|sailboat twemoji|telescope 3d"
        "|light bulb noto|books flat|key 3d|lock noto|gem stone 3d|balloon twemoji|wrapped gift 3d|trophy flat"
        "|eyes blob|robot 3d|skull noto|clown face blob|nerd face 3d|star 3d|rainbow flat|snowflake noto"
    ).split("|"),
)


class Judges:
    """Networks that nothing was optimised on."""

    def __init__(self, judge: Path, backbones: Path, concepts: int) -> None:
        self.concept = load_weights(ScorerNetwork("lite2", len(STYLES), concepts, 0), judge / "judge.safetensors")
        self.style = load_weights(StyleNetwork("lite2", len(STYLES)).fold(), judge / "style-judge.safetensors")
        self.untouched = load_weights(EfficientNetLite("lite2"), backbones / "lite2.safetensors")
        for network in (self.concept, self.style, self.untouched):
            network.eval().requires_grad_(False)
        self.concept.backbone.fold()
        self.untouched.fold()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (n, 3, h, w) in [0, 1] to concept logits, style logits and features (n, 1280)."""
        found = []
        for part in (2 * images - 1).split(32):
            if part.shape[-1] != 128:
                part = F.interpolate(part, size=128, mode="bicubic").clamp(-1, 1)
            _, vectors = self.concept(part)
            found.append((self.concept.concept_logits(vectors), self.style(part), self.untouched.pooled(part)))
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between Gaussians of the mean and covariance of features (n, width) and (m, width)."""
    a, b = a.double(), b.double()
    first, second = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross).item()


def precision(images: Tensor, real: Tensor) -> float:
    """Fraction of features (n, width) within the k-th neighbour's distance of one of the real features (m, width)."""
    radius = torch.cdist(real, real).kthvalue(NEIGHBOURS + 1, dim=1).values
    return (torch.cdist(images, real) <= radius).any(1).float().mean().item()


def figures(found: tuple[Tensor, Tensor, Tensor], concept: Tensor, style: Tensor, real: Tensor) -> dict[str, float]:
    concepts, styles, features = found
    top = concepts.topk(5, 1).indices == concept[:, None]
    return {
        "n": len(concept),
        "concept_top1": top[:, 0].float().mean().item(),
        "concept_top5": top.any(1).float().mean().item(),
        "style": (styles.argmax(1) == style).float().mean().item(),
        "frechet": frechet_distance(features, real),
        "precision": precision(features, real),
    }


def draw(model, prompts: list[str], seed: int) -> Tensor:
    parts = []
    for begin in range(0, len(prompts), 25):
        some = prompts[begin : begin + 25]
        seeds = [seed + begin + i for i in range(len(some))]
        images = noisetilt.sample(model, some, None, "base", 25, seeds=seeds).images
        parts.append((255 * images).round() / 255)  # as files have them, and as the real images are
        log(f"{begin + len(some)} of {len(prompts)} images")
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--judge", type=Path, required=True, help="folder of judge and style-judge.safetensors")
    parser.add_argument("--backbones", type=Path, required=True)
    parser.add_argument("--compare", help="another model, such as emoji64")
    parser.add_argument("--n", type=int, default=200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data: Dataset = load_dataset(options.build)
    concept = data.concept.unique(return_inverse=True)[1]
    rows = (data.heldout & (data.weight >= 0.5)).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: options.n]]
    prompts = [" ".join([*split_words(data.words[i]["label"]), STYLES[data.style[i]]]) for i in rows]
    judges = Judges(options.judge, options.backbones, int(concept.max()) + 1)
    measured = torch.zeros_like(data.heldout)
    measured[rows] = True  # the row "real" would otherwise be compared with itself
    plain = ((data.weight >= 0.5) & ~measured).nonzero()[:, 0]
    plain = plain[torch.randperm(len(plain), generator=torch.Generator().manual_seed(1))[:REAL]]
    with torch.no_grad():
        real = torch.cat([judges.untouched.pooled(data.images(part)) for part in plain.split(64)])
    log("features of", len(real), "real images")
    model = noisetilt.load("emoji128")
    images = draw(model, prompts, 1000)
    torch.save({"images": (images * 255).round().byte(), "prompts": prompts}, options.out / "images.pt")
    table = {
        "emoji128": figures(judges(images), concept[rows], data.style[rows].long(), real),
        "real": figures(judges((data.images(rows) + 1) / 2), concept[rows], data.style[rows].long(), real),
    }
    if options.compare:
        other = noisetilt.load(options.compare)
        both = []
        for index, prompt in enumerate(prompts):
            try:
                other.denoiser([prompt])
                both.append(index)
            except ValueError:
                continue
        some = [prompts[i] for i in both]
        for name, pictures in ((options.compare, draw(other, some, 1000)), ("emoji128 on the same", images[both])):
            table[name] = figures(judges(pictures), concept[rows[both]], data.style[rows[both]].long(), real)
    log(json.dumps(table))
    (options.out / "gates.json").write_text(json.dumps(table, indent=1) + "\n")
    save_grid(2 * draw(model, list(SHEET), 0) - 1, 8, options.out / "sheet.png")


if __name__ == "__main__":
    main()

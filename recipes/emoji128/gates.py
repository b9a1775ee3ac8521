"""Measure emoji128 or emoji128-turbo on held-out pairs of concept and style, and draw a sheet of 64.

    python recipes/emoji128/gates.py build/emoji128 out --backbones build/emoji128/backbones
    python recipes/emoji128/gates.py build/emoji128 out --backbones build/emoji128/backbones --model emoji128-turbo \
        --steps 1 2 4
    python recipes/emoji128/gates.py build/emoji128 out --backbones build/emoji128/backbones \
        --model build/emoji128/distilled

--model is emoji128, emoji128-turbo, or a guidance-distilled folder of assemble.py, to be measured before it ships. Each
of 200 images has the prompt "label style" of a pair that was held out of all training. Figures:
- concept_top5: the judge (`noisetilt.bench.judge`) names the concept among its first five of 1 406;
- style: the judge names the style;
- frechet: Fréchet distance of features of an untouched EfficientNet-Lite2 to the real images (Heusel 2017,
  arXiv 1706.08500); with few images its value is biased, so compare it at equal numbers only;
- precision: the fraction of images within the real images' manifold (Kynkäänniemi 2019, arXiv 1904.06991; k = 3).
The row "real" has the real images of the same pairs. emoji128-turbo takes deterministic steps. Written: gates.json,
whose rows of other models and numbers of steps are kept, and for each number of steps images-N.pt and sheet-N.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from captions import STYLES, split_words
from dataset import Dataset, load_dataset, save_grid
from torch import Tensor
from training import PROMPTS, load_weights, log, write_whole

import noisetilt
from noisetilt.bench import judge
from noisetilt.bench.metrics import frechet_distance, precision_recall
from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite

REAL, GUIDANCE = 3000, 3.0
TURBO = "emoji128-turbo"
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


def untouched_features(network: EfficientNetLite, images: Tensor) -> Tensor:
    """(n, 1280) of images (n, 3, 128, 128) in [0, 1]."""
    with torch.no_grad():
        return torch.cat([network.pooled(2 * part - 1) for part in images.split(32)])


def figures(images: Tensor, features: Tensor, concept: Tensor, style: Tensor, real: Tensor) -> dict[str, float]:
    found = judge.evaluate(images)
    right = concept[:, None].tolist()
    return {
        "n": len(concept),
        "concept_top1": judge.names_concept(found.concepts, right, 1).float().mean().item(),
        "concept_top5": judge.names_concept(found.concepts, right).float().mean().item(),
        "style": (found.styles.argmax(1) == style).float().mean().item(),
        "frechet": frechet_distance(features, real),
        "precision": precision_recall(real, features)[0],
    }


def load_model(name: str) -> Any:
    """Of a folder too on the CPU, where the judge and the real images are."""
    return noisetilt.load(name, device="cpu", dtype="float32", guidance=None if name == TURBO else GUIDANCE)


def draw(model, prompts: list[str], seed: int, steps: int, **settings: float) -> Tensor:
    parts = []
    for begin in range(0, len(prompts), 25):
        some = prompts[begin : begin + 25]
        seeds = [seed + begin + i for i in range(len(some))]
        images = noisetilt.sample(model, some, None, "base", steps, seeds=seeds, **settings).images
        parts.append((255 * images).round() / 255)  # as files have them, and as the real images are
        log(f"{begin + len(some)} of {len(prompts)} images")
    return torch.cat(parts)


def add_row(file: Path, name: str, row: dict[str, float]) -> None:
    """Writes a row into a table, whose other rows are kept."""
    table = json.loads(file.read_text("utf-8")) if file.exists() else {}
    text = json.dumps(table | {name: row}, indent=1) + "\n"
    write_whole(file, lambda unfinished: unfinished.write_text(text, "utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbones", type=Path, required=True)
    parser.add_argument("--model", default="emoji128", help="emoji128, emoji128-turbo, or a pipeline's folder")
    parser.add_argument("--steps", type=int, nargs="+", default=[25])
    parser.add_argument("--n", type=int, default=200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data: Dataset = load_dataset(options.build)
    concept = data.concept.unique(return_inverse=True)[1]
    rows = (data.heldout & (data.weight >= 0.5)).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: options.n]]
    prompts = [" ".join([*split_words(data.words[i]["label"]), STYLES[data.style[i]]]) for i in rows]
    untouched = load_weights(EfficientNetLite("lite2"), options.backbones / "lite2.safetensors").eval()
    untouched.fold()
    measured = torch.zeros_like(data.heldout)
    measured[rows] = True  # the row "real" would otherwise be compared with itself
    plain = ((data.weight >= 0.5) & ~measured).nonzero()[:, 0]
    plain = plain[torch.randperm(len(plain), generator=torch.Generator().manual_seed(1))[:REAL]]
    real = torch.cat([untouched_features(untouched, data.images(part) / 2 + 0.5) for part in plain.split(64)])
    log("features of", len(real), "real images")
    model = load_model(options.model)
    settings = {"eta": 0.0} if options.model == TURBO else {}

    def measure(name: str, images: Tensor) -> None:
        features = untouched_features(untouched, images)
        row = figures(images, features, concept[rows], data.style[rows].long(), real)
        log(name, json.dumps(row))
        add_row(options.out / "gates.json", name, row)

    measure("real", data.images(rows) / 2 + 0.5)
    for steps in options.steps:
        images = draw(model, prompts, 1000, steps, **settings)
        stored = {"images": (images * 255).round().byte(), "prompts": prompts}
        torch.save(stored, options.out / f"images-{steps}.pt")
        measure(f"{options.model}, {steps} step{'s' * (steps > 1)}", images)
        save_grid(2 * draw(model, list(SHEET), 0, steps, **settings) - 1, 8, options.out / f"sheet-{steps}.png")


if __name__ == "__main__":
    main()

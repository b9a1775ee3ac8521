"""Teach the text encoders what words look like, before there is a flow model.

    python recipes/emoji128/pretrain_text.py build/emoji128 build/emoji128/text --seconds 240

From a caption each encoder predicts the image's ImageNet features (their first 256 principal components) and the image
in 8×8 pixels, both from features.py. It writes text.safetensors into the second folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from dataset import draw_captions, load_dataset
from networks import WORD_ROWS, TextEncoders, new_text_encoders
from torch import Tensor, nn
from torch.nn import functional as F
from training import TimeLimit, learning_rate_factor, log, read_features, save_weights, set_learning_rate, update

COMPONENTS, WIDTH, BATCH = 256, 128, 256


def targets(features: dict[str, Tensor]) -> Tensor:
    """(n, 256 + 192): whitened principal components, the first weighing more, and the small images, of unit size."""
    pooled = features["pooled"].float()
    centred = pooled - pooled.mean(0)
    count = min(COMPONENTS, *centred.shape)
    _, _, basis = torch.pca_lowrank(centred, count, center=False)
    components = centred @ basis
    components = components / components.std(0).clamp(min=1e-4) * torch.linspace(1, 0.3, count)
    small = features["small"].float().flatten(1)
    return torch.cat([components, (small - small.mean(0)) / small.std()], 1)


class Predictors(nn.Module):
    """Text encoders with one head each: token ids (n, 16) to two predictions (n, targets)."""

    def __init__(self, text: TextEncoders, outputs: int) -> None:
        super().__init__()
        self.text = text
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, outputs)) for _ in range(2)
        )

    def forward(self, ids: Tensor) -> list[Tensor]:
        sequence, pooled = self.text(ids)
        present = (ids > 0).unsqueeze(-1).float()
        mean = (sequence * present).sum(1) / present.sum(1)
        return [head(x) for head, x in zip(self.heads, (mean, pooled), strict=True)]

    def loss(self, ids: Tensor, target: Tensor) -> Tensor:
        return sum(F.mse_loss(prediction, target) for prediction in self(ids)) / 2


def optimizer_of(model: Predictors) -> torch.optim.Optimizer:
    words = [p for p in model.parameters() if len(p) > WORD_ROWS]
    others = [p for p in model.parameters() if len(p) <= WORD_ROWS]
    groups = [{"params": words, "peak": 5e-3}, {"params": others, "peak": 1e-3}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--limit", type=int, help="only the first images, as many as features.py had")
    parser.add_argument("--every", type=int, default=250, help="steps between two lines of the log")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data = load_dataset(options.build, options.limit)
    target, captions = targets(read_features(options.build, options.limit)), draw_captions(data, 32)
    model = Predictors(new_text_encoders(len(data.index)), target.shape[1])
    optimizers, heldout = [optimizer_of(model)], data.heldout.nonzero()[:, 0]
    limit, losses = TimeLimit(options.seconds), []
    while limit.progress < 1:
        set_learning_rate(optimizers, learning_rate_factor(limit.progress, len(losses), 100, 0.5))
        chosen = torch.multinomial(data.chance, BATCH, replacement=True)
        ids = captions[chosen, torch.randint(captions.shape[1], (BATCH,))].long()
        loss = model.loss(ids, target[chosen])
        update(loss, optimizers, model.text.parameters())
        losses.append(loss.item())
        if len(losses) % options.every == 0:
            with torch.no_grad():
                unseen = model.loss(captions[heldout, 0].long(), target[heldout]).item()
            log(f"{len(losses)} steps, loss {np.mean(losses[-options.every :]):.4f}, held out {unseen:.4f}")
    save_weights(model.text, options.out / "text.safetensors", torch.float32)


if __name__ == "__main__":
    main()

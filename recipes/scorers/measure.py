"""Measure the shipped scorers and features on the held-out pictures, and try to fool them.

    python recipes/scorers/measure.py            # writes recipes/scorers/measured.json

Fooling: 60 steps of normalised gradient ascent (each of L2 length 1) on a picture's pixels for the target scorer,
from noise or from a held-out picture of another style; then both scorers evaluate the result. A scorer that is easily
fooled climbs far while the other stays where it was.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from pictures import Pictures, jpeg_like, sampling_matrix, spoil
from torch import Tensor

from noisetilt.rewards import scorers
from noisetilt.rewards.scorers.words64 import STYLES

OUT = Path("recipes/scorers/measured.json")


def corruptions(x: Tensor) -> dict[str, Tensor]:
    """The pictures clean and in six worse conditions."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=random)
    n = len(x)

    def blurred(sigma: float) -> Tensor:
        line = sampling_matrix(torch.ones(n), torch.zeros(n), torch.full((n,), sigma))[:, None]
        return 1 - line @ (1 - x) @ line.transpose(-1, -2)

    return {
        "clean": x,
        "noise 0.05": x + 0.05 * noise,
        "noise 0.15": x + 0.15 * noise,
        "blur 1": blurred(1.0),
        "blur 2": blurred(2.0),
        "jpeg-like 0.2": jpeg_like(x, torch.full((n,), 0.2)),
        "contrast 0.7": 0.5 + 0.7 * (x - 0.5),
    }


@torch.no_grad()
def accuracy(scorer: scorers.Scorer, x: Tensor, pictures: Pictures, rows: Tensor) -> dict[str, float]:
    """Style among three, share called "not a good picture", and retrieval of the name among the bank's."""
    logits, seen = scorer.encode(x)
    similar = seen @ scorer.bank_vectors[:-1].T
    rank = (similar > similar.gather(1, pictures.name_row[rows][:, None])).sum(1)
    return dict(
        style=(logits[:, :-1].argmax(1) == pictures.style[rows]).float().mean().item(),
        called_bad=(logits.argmax(1) == len(STYLES)).float().mean().item(),
        top1=(rank < 1).float().mean().item(),
        top5=(rank < 5).float().mean().item(),
    )


def ascend(reward, x: Tensor, steps: int = 60) -> Tensor:
    """Pictures climbed by L2 steps of length 1, kept in [0, 1]."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward(x).sum(), x)
        x = x + gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        x = x.clamp(0, 1)
    return x.detach()


def fooling(x: Tensor, wanted: Tensor, prompts: list[str], both: dict[str, scorers.Scorer]) -> dict[str, dict]:
    """Mean margins of both scorers before and after ascending the target's, for style and for alignment."""
    rewards = {
        "style": lambda s: lambda y: s.style(y).gather(1, wanted[:, None])[:, 0],
        "alignment": lambda s: lambda y: s.alignment(y, prompts),
    }
    out = {}
    for name, make in rewards.items():
        climbed = ascend(make(both["target"]), x)
        with torch.no_grad():
            out[name] = {
                f"{which} {when}": make(scorer)(y).mean().item()
                for which, scorer in both.items()
                for when, y in (("before", x), ("after", climbed))
            }
    return out


def main() -> None:
    torch.manual_seed(0)
    pictures = Pictures("target", seed=0)
    rows = torch.from_numpy(pictures.heldout)
    x = pictures.pictures[rows] / 255.0
    both = {which: scorers.load_scorer(which) for which in scorers.ENCODERS}
    measured: dict[str, dict] = {}
    for which, scorer in both.items():
        measured[which] = {name: accuracy(scorer, y, pictures, rows) for name, y in corruptions(x).items()}
        with torch.no_grad():
            spoilt = scorer.encode(spoil(x))[0].argmax(1) == len(STYLES)
        measured[which]["spoilt called bad"] = spoilt.float().mean().item()

    names = [" ".join(pictures.names[i]) for i in rows]
    shown = [i for i, name in enumerate(names) if name]
    with torch.no_grad():
        style = torch.stack([s.style(x).flatten() for s in both.values()])
        one = names[shown[0]]
        content = torch.stack([s.alignment(x[shown], [names[i] for i in shown]) for s in both.values()])
        same_text = torch.stack([s.alignment(x, [one] * len(x)) for s in both.values()])
        choice = [s.style(x).argmax(1) for s in both.values()]
    measured["agreement"] = {
        "style margins, correlation": torch.corrcoef(style)[0, 1].item(),
        "same style chosen": (choice[0] == choice[1]).float().mean().item(),
        "alignment with own name, correlation": torch.corrcoef(content)[0, 1].item(),
        "alignment with one name, correlation": torch.corrcoef(same_text)[0, 1].item(),
    }

    take = torch.from_numpy(np.linspace(0, len(shown) - 1, 24).astype(int))
    picked = torch.tensor(shown)[take]
    wanted = (pictures.style[rows][picked] + 1) % 3
    prompts = [names[i] for i in picked.roll(5).tolist()]
    noise = torch.rand(x[picked].shape)
    measured["fooling"] = {
        "from noise": fooling(noise, wanted, prompts, both),
        "from a picture": fooling(x[picked], wanted, prompts, both),
    }
    with torch.no_grad():
        own = {w: s.style(x).gather(1, pictures.style[rows][:, None]).mean().item() for w, s in both.items()}
    measured["held-out pictures, margin of their own style"] = own
    measured["held-out pictures, margin of their own name"] = dict(zip(both, content.mean(1).tolist(), strict=True))
    OUT.write_text(json.dumps(measured, indent=1) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()

"""Train the layout of emoji64's text encoder alone: from the words of a picture to the mean of such pictures.

    python recipes/emoji64/layout.py --minutes 16

It costs a hundredth of a step of the whole network, so that the words of every picture are seen hundreds of times in
minutes; run it again and it goes on. Writes build/emoji64/layout.pt, from which train.py starts its layout, and
layout.png: pictures above, and below what the layout says of their names.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm.auto import tqdm
from train import BUILD, Pictures

from noisetilt.models.emoji64.network import Emoji64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    torch.manual_seed(0)
    pictures = Pictures(seed=1)
    layout = Emoji64(len(pictures.vocabulary)).layout
    file = BUILD / "layout.pt"
    if file.exists():
        layout.load_state_dict(torch.load(file, weights_only=True))
    rest = [p for p in layout.parameters() if p is not layout.words]
    groups = [{"params": rest, "factor": 1.0}, {"params": [layout.words], "factor": 10.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    start, seen = time.time(), 0
    losses: list[float] = []
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}") as bar:
        while (share := (time.time() - start) / (60 * args.minutes)) < 1:
            for group in optimiser.param_groups:
                group["lr"] = args.rate * min(1.0, 2 * (1 - share)) * group["factor"]
            x_0, bags = pictures.batch(args.batch)
            loss = F.mse_loss(layout.sketch(layout(bags)), x_0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen += args.batch
            losses.append(loss.item())
            bar.n = round(100 * share, 1)
            bar.set_postfix_str(f"{seen} pictures, loss {np.mean(losses[-200:]):.4f}")
    torch.save(layout.state_dict(), file)

    chosen = np.random.default_rng(3).choice(np.flatnonzero(pictures.chance > pictures.chance.max() / 3), 24)
    bags = torch.zeros(len(chosen), len(pictures.vocabulary))
    for row, i in enumerate(chosen):
        bags[row, pictures.name[i] + [pictures.style[i]]] = 1
    with torch.no_grad():
        x = torch.stack([pictures.pictures[chosen].float() / 127.5 - 1, layout.sketch(layout(bags))])
    shown = ((x.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 3, 1, 4, 2).reshape(128, -1, 3)
    Image.fromarray(shown.numpy()).save(BUILD / "layout.png")


if __name__ == "__main__":
    main()

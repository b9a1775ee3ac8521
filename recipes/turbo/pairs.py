"""Pairs for distilling emoji64: noise, words, and the picture that emoji64's own ODE makes of them.

    python recipes/turbo/pairs.py --count 6144

Ten deterministic steps with guidance 2. Shards of 128 pairs go to build/turbo; run it again and it goes on. A shard
holds the pictures and their words, and its noise is drawn again from its number.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from noisetilt import load

sys.path.insert(0, str(Path(__file__).parents[1] / "emoji64"))
from train import Pictures, draw

BUILD = Path("build/turbo")
SHARD = 128


def noise_of(shard: int) -> Tensor:
    return torch.randn(SHARD, 3, 64, 64, generator=torch.Generator().manual_seed(shard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6144)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", default="0/1", help="I/N: every Nth shard from the Ith on, for N processes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    BUILD.mkdir(parents=True, exist_ok=True)
    network = load("emoji64").network
    part, parts = map(int, args.part.split("/"))
    for shard in tqdm(range(part, args.count // SHARD, parts), unit="shard"):
        file = BUILD / f"pairs-{shard:04}.npz"
        if file.exists():
            continue
        pictures = Pictures(seed=10_000 + shard)
        _, bags = pictures.batch(SHARD)
        batches = zip(bags.split(32), noise_of(shard).split(32), strict=True)
        x_0 = torch.cat([draw(network, bag, noise, args.steps) for bag, noise in batches])
        new = file.with_suffix(".new.npz")
        np.savez(new, pictures=x_0.half().numpy(), bags=np.packbits(bags.numpy().astype(bool), axis=1))
        new.replace(file)


if __name__ == "__main__":
    main()

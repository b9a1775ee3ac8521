"""Draw the generator's own pictures, so that the scorers know how those look.

    python recipes/scorers/samples.py --count 1200

reads the training checkpoint of recipes/emoji64/train.py and leaves build/scorers/samples.npz:
    pictures  (n, 64, 64, 3) uint8, unguided samples with classifier-free guidance 2
    row       (n,) the row of data.npz whose name and style were the prompt; never a held-out one
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from pictures import DATA, SAMPLES, Pictures
from torch import Tensor
from tqdm.auto import tqdm

from noisetilt.models.emoji64.network import Emoji64
from noisetilt.rewards.scorers import words64 as words

CHECKPOINT = Path("build/emoji64/checkpoint.pt")
GUIDANCE = 2.0


@torch.no_grad()
def generate(network: Emoji64, prompts: list[str], steps: int) -> Tensor:
    """(n, 3, 64, 64), about in [-1, 1], by the deterministic sampler."""
    bags = words.bags(prompts)
    both_texts = network.encode_text(torch.cat([bags, bags * 0]))
    x = torch.randn(len(prompts), 3, 64, 64)
    times = torch.linspace(1, 0, steps + 1)
    for t, s in itertools.pairwise(times):
        with_text, without = network(x.repeat(2, 1, 1, 1), t.repeat(2 * len(x)), both_texts).chunk(2)
        x0_hat = without + GUIDANCE * (with_text - without)
        x = x0_hat + (s / t) * (x - x0_hat)
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Emoji64(len(words.vocabulary()))
    network.load_state_dict(torch.load(CHECKPOINT, weights_only=True)["average"])
    pictures = Pictures("features", seed=0)
    weight = np.load(DATA)["weight"][: len(pictures.names)]
    base = np.array([i for i in pictures.rows if i < len(weight) and weight[i] >= 0.4])
    rows = np.random.default_rng(5).permutation(base)[: args.count]
    kept = []
    for part in tqdm(np.split(rows, range(args.batch, len(rows), args.batch))):
        prompts = [" ".join([*pictures.names[i], words.STYLES[pictures.style[i]]]) for i in part]
        images = generate(network, prompts, args.steps)
        kept.append(((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    np.savez(SAMPLES, pictures=np.concatenate(kept), row=rows)


if __name__ == "__main__":
    main()

"""Train emoji64 on the pictures of data.py, with checkpoints; run it again and it goes on.

    python recipes/emoji64/layout.py                      # what words alone say, in minutes
    python recipes/emoji64/train.py --minutes 90          # first stretch
    python recipes/emoji64/train.py --minutes 60 --finish # go on, and lower the learning rate to the end
    python recipes/emoji64/train.py --minutes 12 --finish --only-last 3 --rate 5e-4  # seams, by the last blocks

The learning rate is constant until the last stretch (--finish), in which it falls linearly to zero, so that any
number of stretches can come before. Hidden matrices are trained by Muon, everything else by AdamW. A finished model
goes on from its weights by --init; the checkpoint before --finish is the better start, so keep a copy.

On Linux, half of the time can go into handing large tensors back to the kernel and asking for them again. This
stops it:

    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=64000000000 MALLOC_TOP_PAD_=1000000000 MALLOC_ARENA_MAX=1
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from muon import Muon
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from noisetilt.models.emoji64.network import PATCH, Emoji64
from noisetilt.rewards.scorers import words64 as words

BUILD = Path("build/emoji64")
TEXT_DROP = 0.1
SEAMS = 2.0


class Pictures:
    """Batches of (x_0 in [-1, 1], bags of words) with random subsets of each picture's words."""

    def __init__(self, seed: int) -> None:
        data = np.load(BUILD / "data.npz")
        lists = [json.loads(line) for line in data["words"]]
        self.vocabulary = words.vocabulary()
        index = {w: i for i, w in enumerate(self.vocabulary)}
        self.name = [[index[w] for w in name] for name, _ in lists]
        self.further = [[index[w] for w in further] for _, further in lists]
        self.style = [index[words.STYLES[s]] for s in data["style"]]
        self.pictures = torch.from_numpy(data["pictures"]).permute(0, 3, 1, 2).contiguous()
        self.heldout = np.flatnonzero(data["heldout"])
        self.chance = np.where(data["heldout"], 0, data["weight"])
        self.chance /= self.chance.sum()
        self.random = np.random.default_rng(seed)

    def bag(self, i: int) -> list[int]:
        """Word indices for picture i: nothing, its exact name, or a random part of all that is known of it."""
        kind = self.random.random()
        if kind < TEXT_DROP:
            return []
        if kind < 0.55:
            chosen = list(self.name[i])
        else:
            keep = self.random.random()
            chosen = [w for w in self.name[i] + self.further[i] if self.random.random() < keep]
        return chosen + [self.style[i]] * (self.random.random() < 0.7)

    def bags(self, chosen: np.ndarray) -> Tensor:
        bags = torch.zeros(len(chosen), len(self.vocabulary))
        for row, i in enumerate(chosen):
            bags[row, self.bag(i)] = 1
        return bags

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        chosen = self.random.choice(len(self.chance), size, p=self.chance)
        return self.pictures[chosen].float() / 127.5 - 1, self.bags(chosen)

    def validation(self, size: int) -> tuple[Tensor, Tensor]:
        """Held-out pictures with all their name words and the style."""
        chosen = self.heldout[np.linspace(0, len(self.heldout) - 1, size).astype(int)]
        bags = torch.zeros(size, len(self.vocabulary))
        for row, i in enumerate(chosen):
            bags[row, self.name[i] + [self.style[i]]] = 1
        return self.pictures[chosen].float() / 127.5 - 1, bags


def seam_loss(error: Tensor) -> Tensor:
    """Mean square of the jumps that an error makes across the borders of patches."""
    across = error[..., PATCH::PATCH] - error[..., PATCH - 1 : -1 : PATCH]
    down = error[..., PATCH::PATCH, :] - error[..., PATCH - 1 : -1 : PATCH, :]
    return (across.square().mean() + down.square().mean()) / 2


def flow_loss(network, x_0: Tensor, bags: Tensor, t: Tensor, noise: Tensor, seams: float = 0.0) -> Tensor:
    """Velocity-matching loss of an x_0 prediction: |x̂_0 - x_0|² / t², t kept off 0 (arXiv 2511.13720, eq. 6).

    Seams count equally at all t: those drawn early stay, because later steps take them for part of the picture.
    """
    t_ = t[:, None, None, None]
    error = network(x_0 + t_ * (noise - x_0), t, bags) - x_0
    return ((error / t_.clamp(min=0.05)) ** 2).mean() + seams * seam_loss(error)


def optimisers(network: Emoji64, rate: float) -> list[torch.optim.Optimizer]:
    def hidden(name: str) -> bool:
        return name.startswith("blocks.") and name.endswith(".weight") and "modulation" not in name

    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    matrices = [p for n, p in trained.items() if hidden(n)]
    words = [[p for n, p in trained.items() if n == w] for w in ("words", "layout.words")]
    taken = {id(p) for p in [*matrices, *words[0], *words[1]]}
    rest = [p for p in trained.values() if id(p) not in taken]
    # A rare word's vector has a gradient once in a thousand steps; at the common rate it would hardly leave its start.
    groups = [
        {"params": rest, "factor": 1.0},
        *({"params": w, "factor": f} for w, f in zip(words, (20.0, 2.0), strict=True) if w),
    ]
    return [
        Muon([{"params": matrices, "factor": 2.0}], lr=rate),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


@torch.no_grad()
def draw(network: Emoji64, bags: Tensor, x: Tensor, steps: int, guidance: float = 2.0) -> Tensor:
    """x_0 of noise x (n, 3, 64, 64) for bags of words (n, vocabulary), by `steps` steps of the ODE."""
    text, none = network.encode_text(bags), network.encode_text(torch.zeros_like(bags))
    for t, s in itertools.pairwise(torch.linspace(1, 0, steps + 1)):
        given, free = network(x.repeat(2, 1, 1, 1), t.repeat(2 * len(x)), torch.cat([text, none])).chunk(2)
        x0_hat = free + guidance * (given - free)
        x = x0_hat + (s / t) * (x - x0_hat)
    return x


def sample_grid(network: Emoji64, path: Path) -> None:
    """Deterministic 20-step samples of fixed prompts with guidance 2, in turns in the three styles."""
    prompts = [f"{p} {words.STYLES[i % 3]}" for i, p in enumerate(words.GRID_PROMPTS)]
    noise = torch.randn(len(prompts), 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = draw(network, words.bags(prompts), noise, 20)
    pictures = ((x.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
    rows = pictures.reshape(-1, 8, 64, 64, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 512, 3)
    Image.fromarray(rows).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="length of this stretch")
    parser.add_argument("--finish", action="store_true", help="lower the learning rate to zero in this stretch")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--init", type=Path, help="start from these weights where there is no checkpoint")
    parser.add_argument(
        "--only-last", type=int, metavar="BLOCKS", help="train these and what follows them, nothing else"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    checkpoint = BUILD / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {"images": 0, "seconds": 0.0}
    pictures = Pictures(seed=state["images"])
    network = Emoji64(len(pictures.vocabulary))
    if args.init and not checkpoint.exists():
        network.load_state_dict(load_file(args.init))
    if not state["images"] and (BUILD / "layout.pt").exists():
        network.layout.load_state_dict(torch.load(BUILD / "layout.pt", weights_only=True))
    if "network" in state:
        network.load_state_dict(state["network"])
    average = copy.deepcopy(network)
    if args.only_last:
        network.requires_grad_(False)
        for part in [*network.blocks[-args.only_last :], network.modulation, network.patch_out, network.head]:
            part.requires_grad_(True)
    optims = optimisers(network, args.rate)
    if "average" in state:
        average.load_state_dict(state["average"])
    if "optimisers" in state and not args.only_last:
        for optimiser, saved in zip(optims, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def run(x_t: Tensor, t: Tensor, bags: Tensor) -> Tensor:
        return network(x_t, t, network.encode_text(bags))

    compiled = torch.compile(run)

    def save(images: int, seconds: float) -> None:
        torch.save(
            {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimisers": [o.state_dict() for o in optims],
                "images": images,
                "seconds": seconds,
            },
            checkpoint.with_suffix(".new"),
        )
        checkpoint.with_suffix(".new").replace(checkpoint)

    x_val, bags_val = pictures.validation(192)
    t_val = torch.linspace(0.05, 0.99, 192)[torch.randperm(192, generator=torch.Generator().manual_seed(1))]
    noise_val = torch.randn(x_val.shape, generator=torch.Generator().manual_seed(2))

    start, images, saved_at, step = time.time(), state["images"], time.time(), 0
    recent: list[float] = []
    with (
        open(BUILD / "train.log", "a", buffering=1) as log,
        tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}") as bar,
    ):
        while (share := (time.time() - start) / (60 * args.minutes)) < 1:
            warm = min(1.0, (step + 1) / 100)
            factor = warm * (1 - share if args.finish else 1.0)
            for group in [g for optimiser in optims for g in optimiser.param_groups]:
                group["lr"] = args.rate * factor * group["factor"]
            x_0, bags = pictures.batch(args.batch)
            t = torch.sigmoid(0.6 + torch.randn(args.batch))
            loss = flow_loss(compiled, x_0, bags, t, torch.randn_like(x_0), SEAMS)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} after {images} pictures")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for optimiser in optims:
                optimiser.step()
                optimiser.zero_grad()
            step, images = step + 1, images + args.batch
            decay = min(0.996, (images / args.batch + 1) / (images / args.batch + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
            recent.append(loss.item())
            bar.n = round(100 * share, 1)
            bar.set_postfix_str(f"{images} pictures, loss {np.mean(recent[-50:]):.4f}")
            if step % 100 == 0:
                with torch.no_grad():

                    def averaged(x_t: Tensor, t: Tensor, bags: Tensor) -> Tensor:
                        return average(x_t, t, average.encode_text(bags))

                    held = flow_loss(averaged, x_val, bags_val, t_val, noise_val).item()
                line = dict(images=images, loss=np.mean(recent[-100:]), heldout=held, seconds=time.time() - start)
                log.write(json.dumps(line) + "\n")
            if time.time() - saved_at > 300:
                save(images, state["seconds"] + time.time() - start)
                saved_at = time.time()
    save(images, state["seconds"] + time.time() - start)
    sample_grid(average, BUILD / "grid.png")


if __name__ == "__main__":
    main()

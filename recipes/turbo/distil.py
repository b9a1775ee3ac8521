"""Distil emoji64 into a generator of one step; run it again and it goes on.

    python recipes/turbo/pairs.py
    python recipes/turbo/distil.py --minutes 40
    python recipes/turbo/distil.py --minutes 20 --finish

The student starts as emoji64 and keeps its text encoder and layout. Of a pair (noise, picture of the teacher's ODE) it
sees the noise at t = 1 in two thirds of the cases; in the others the picture re-noised to some t below 1, so that more
steps refine it. It follows the picture in L1 and in L1 between inner features of a scorer, and a discriminator that
knows the words pulls it towards real pictures (hinge loss; projection on the words, Miyato & Koyama 2018,
arXiv 1802.05637; a say at every scale, or flat areas stay blotchy), because the mean of what noise and words leave
open would be a blur.

On Linux the environment variables that recipes/emoji64/train.py names make it up to twice as fast.
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
from pairs import BUILD, SHARD, Pictures, noise_of
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from train import optimisers

from noisetilt import load
from noisetilt.models.emoji64.network import Emoji64
from noisetilt.report import grid
from noisetilt.rewards.scorers import words64 as words
from noisetilt.rewards.scorers.scorer import ConvEncoder, load_scorer


class Pairs:
    """All shards in memory: pictures (n, 3, 64, 64) about in [-1, 1], bags (n, vocabulary), noise by shard."""

    def __init__(self, vocabulary: int) -> None:
        shards = sorted(BUILD.glob("pairs-????.npz"))
        if not shards:
            raise FileNotFoundError(f"there are no pairs in {BUILD}; run recipes/turbo/pairs.py first")
        data = [np.load(s) for s in shards]
        self.pictures = torch.cat([torch.from_numpy(d["pictures"]) for d in data])
        self.bags = torch.cat([torch.from_numpy(np.unpackbits(d["bags"], axis=1, count=vocabulary)) for d in data])
        self.noise = torch.cat([noise_of(int(s.stem.split("-")[1])).half() for s in shards])
        assert len(self.noise) == len(shards) * SHARD == len(self.pictures)

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.randint(0, len(self.pictures), (size,))
        return self.pictures[rows].float(), self.noise[rows].float(), self.bags[rows].float()


class Discriminator(nn.Module):
    """Logits that a picture is real, one set for each scale (batch, places): a strided network whose every layer has
    its say, the fine ones of the paint, the last one, which knows the words, of the thing."""

    def __init__(self, vocabulary: int, width: int = 48) -> None:
        super().__init__()
        widths = [12, width, 2 * width, 4 * width, 4 * width]
        first = nn.Conv2d(widths[0], widths[1], 3, 1, 1)
        down = [nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths[1:])]
        self.body = nn.ModuleList([first, *down])
        self.out = nn.ModuleList(nn.Conv2d(w, 1, 1) for w in widths[1:])
        self.words = nn.Parameter(torch.zeros(vocabulary, 4 * width))

    def forward(self, x: Tensor, bags: Tensor) -> list[Tensor]:
        h, logits = F.pixel_unshuffle(x, 2), []
        for layer, out in zip(self.body, self.out, strict=True):
            h = F.leaky_relu(F.group_norm(layer(h), 8), 0.2)
            logits.append(out(h).flatten(1))
        words = (bags @ self.words) / bags.sum(1, keepdim=True).clamp(min=1).sqrt()
        logits[-1] = logits[-1] + (h.flatten(2) * words[:, :, None]).mean(1)
        return logits


def over_scales(values: list[Tensor]) -> Tensor:
    """The mean over scales of the mean over places."""
    return torch.stack([v.mean() for v in values]).mean()


def inner(encoder: ConvEncoder, x: Tensor) -> list[Tensor]:
    """Features of the scorer's early stages, where edges and textures are."""
    fine = encoder.fine(x)
    middle = encoder.middle(fine)
    return [encoder.grain(x), fine, middle, encoder.coarse(middle)]


def distances(encoder: ConvEncoder, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """L1 between pictures, and between the scorer's inner features of them relative to their size."""
    with torch.no_grad():
        wanted = inner(encoder, y)
    apart = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(inner(encoder, x), wanted, strict=True)]
    return (x - y).abs().mean(), torch.stack(apart).sum()


def student_input(x_0: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, t): the pair's own noise at t = 1, or the picture with fresh noise at a time below."""
    t = torch.where(torch.rand(len(x_0)) < 2 / 3, torch.ones(len(x_0)), torch.rand(len(x_0)))
    t_ = t[:, None, None, None]
    return torch.where(t_ == 1, noise, (1 - t_) * x_0 + t_ * torch.randn_like(x_0)), t


@torch.no_grad()
def sample_grid(student: Emoji64, path: Path) -> None:
    """Fixed prompts in one step, in turns in the three styles."""
    bags = words.bags([f"{p} {words.STYLES[i % 3]}" for i, p in enumerate(words.GRID_PROMPTS)])
    x = torch.randn(len(bags), 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = student(x, torch.ones(len(x)), student.encode_text(bags))
    grid([("one step", list((made.clamp(-1, 1) + 1) / 2))], scale=2, per_line=8).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--finish", action="store_true", help="lower the learning rates to zero in this stretch")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--rival-rate", type=float, default=3e-4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--features", type=float, default=0.2, help="weight of the distance of features")
    parser.add_argument(
        "--adversarial", type=float, default=0.5, help="size of the discriminator's gradient beside the distances'"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    checkpoint = BUILD / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {"images": 0, "seconds": 0.0}
    torch.manual_seed(state["images"])

    student: Emoji64 = copy.deepcopy(load("emoji64").network).requires_grad_(True)
    for fixed in (student.text, student.layout):
        fixed.requires_grad_(False)
    student.words.requires_grad_(False)
    vocabulary = student.config["vocabulary"]
    discriminator = Discriminator(vocabulary)
    average = copy.deepcopy(student)
    optims = optimisers(student, args.rate)
    rival = torch.optim.AdamW(discriminator.parameters(), lr=args.rival_rate, betas=(0.0, 0.98), weight_decay=0.0)
    parts = {"student": student, "discriminator": discriminator, "average": average, "rival": rival}
    if "student" in state:
        for name, part in parts.items():
            if name in state:
                part.load_state_dict(state[name])
        for optimiser, saved in zip(optims, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
    encoder = load_scorer("target").encoder
    pairs, pictures = Pairs(vocabulary), Pictures(seed=20_000 + state["images"])
    trained = [p for p in student.parameters() if p.requires_grad]
    start, saved_at, images = time.time(), time.time(), state["images"]
    recent: list[tuple[float, ...]] = []

    @torch.compile
    def draw(x_t: Tensor, t: Tensor, bags: Tensor) -> Tensor:
        return student(x_t, t, student.encode_text(bags))

    critic, apart = torch.compile(discriminator), torch.compile(distances)

    def save() -> None:
        seconds = state["seconds"] + time.time() - start
        kept = {k: v.state_dict() for k, v in parts.items()} | {"optimisers": [o.state_dict() for o in optims]}
        torch.save(kept | dict(images=images, seconds=seconds), checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        line = dict(images=images, seconds=seconds, l1=0.0, features=0.0, fooled=0.0, seen=0.0)
        line.update(zip(list(line)[2:], np.mean(recent[-200:], axis=0).tolist(), strict=True))
        with open(BUILD / "train.log", "a") as log:
            log.write(json.dumps(line) + "\n")
        sample_grid(average, BUILD / "grid.png")

    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}") as bar:
        while (share := (time.time() - start) / (60 * args.minutes)) < 1:
            factor = min(1.0, (images / args.batch + 1) / 50) * (1 - share if args.finish else 1)
            for group in [g for optimiser in optims for g in optimiser.param_groups]:
                group["lr"] = args.rate * factor * group["factor"]
            rival.param_groups[0]["lr"] = args.rival_rate * factor
            x_0, noise, bags = pairs.batch(args.batch)
            x_t, t = student_input(x_0, noise)
            made = draw(x_t, t, bags)

            shown = made.detach().requires_grad_()
            l1, features = apart(encoder, shown, x_0)
            (near,) = torch.autograd.grad(l1 + args.features * features, shown)
            (real,) = torch.autograd.grad(over_scales(critic(shown, bags)), shown)
            made.backward(near - args.adversarial * near.norm() / real.norm().clamp(min=1e-12) * real)
            size = nn.utils.clip_grad_norm_(trained, 1.0)
            if not torch.isfinite(size):
                raise FloatingPointError(f"the gradient is {size.item()} after {images} pictures")
            for optimiser in optims:
                optimiser.step()
                optimiser.zero_grad()

            theirs, their_bags = pictures.batch(args.batch)
            logits = critic(torch.cat([made.detach(), theirs]), torch.cat([bags, their_bags]))
            fooled, seen = zip(*(scale.chunk(2) for scale in logits), strict=True)
            rival.zero_grad()
            over_scales([F.relu(1 + f) + F.relu(1 - s) for f, s in zip(fooled, seen, strict=True)]).backward()
            rival.step()

            images += args.batch
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), 0.005)
            recent.append((l1.item(), features.item(), over_scales(fooled).item(), over_scales(seen).item()))
            bar.n = round(100 * share, 1)
            means = np.mean(recent[-50:], axis=0)
            bar.set_postfix_str(f"{images} pictures, " + " ".join(f"{m:.4f}" for m in means))
            if time.time() - saved_at > 300:
                save()
                saved_at = time.time()
    save()


if __name__ == "__main__":
    main()

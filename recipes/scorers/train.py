"""Train a scorer, or the features of the metrics, on the emoji pictures; run it again and it goes on.

    python recipes/emoji64/data.py
    python recipes/scorers/train.py --which target --minutes 30
    python recipes/scorers/train.py --which heldout --minutes 30
    python recipes/scorers/train.py --which features --minutes 20

Each stretch warms up, and lowers its learning rate to zero in its last half. The scorers' batches are used twice, the
second time moved by the gradient that the first use left in the pixels ("free" adversarial training, Shafahi et al.
2019, arXiv 1904.12843). The perturbations grow over the first half of the first stretch. Beside them runs a pool of
pictures that started as noise and only ever ascent the scorer's own logits: they are always labelled "not a good
picture" (as in energy-based training, Du & Mordatch 2019, arXiv 1903.08689).
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from pictures import Pictures, coloured_noise, each, gratings, some, spoil, uniform
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from noisetilt.rewards import scorers
from noisetilt.rewards.scorers import words64 as words

BUILD = Path("build/scorers")
SEEDS = {"target": 11, "heldout": 23, "features": 37}
GOOD, SPOILT, POOL, RIVALS = 40, 8, 6, 400
REPLAYS = 2
FURTHEST = 1.2
BAD = len(words.STYLES)


class FoolingPool:
    """Pictures that ascent the scorer's logits from noise; `draw` lends some, `put_back` stores them after a step."""

    def __init__(self, size: int = 160) -> None:
        self.pictures = torch.cat([coloured_noise(size // 2), gratings(size - size // 2)])

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(self.pictures))[:size]
        fresh = each(some(size, 0.08))
        return torch.where(fresh, coloured_noise(size), self.pictures[rows]), rows

    def put_back(self, pictures: Tensor, rows: Tensor) -> None:
        self.pictures[rows] = pictures.clamp(-0.1, 1.1)


def unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def perturb(delta: Tensor, gradient: Tensor, radius: Tensor) -> Tensor:
    """A step of one radius up the gradient, brought back into the ball of `radius` (n,)."""
    delta = delta + each(radius) * unit(gradient)
    norm = delta.flatten(1).norm(dim=1)
    return delta * each((radius / norm.clamp(min=1e-12)).clamp(max=1))


def against(own: Tensor, others: Tensor, allowed: Tensor) -> Tensor:
    """Cross-entropy of the logit `own` (n,) against the allowed ones of `others` (n, m)."""
    rivals = torch.logsumexp(others.masked_fill(~allowed, -math.inf), dim=1)
    return F.softplus(rivals - own)


def scorer_loss(network: scorers.Scorer, x: Tensor, pictures: Pictures, rows: Tensor, part: Tensor) -> Tensor:
    """Style cross-entropy, and contrastive losses picture → name and part of its words, words → picture.

    x: good pictures first, then bad ones; rows: of the good ones; part: (good, vocabulary) some of their words.
    Texts that are also true of a picture are never its negatives.
    """
    n, bad = len(rows), len(x) - len(rows)
    style_logits, seen = network.encode(x)
    style = torch.cat([pictures.style[rows], torch.full((bad,), BAD)])
    loss = F.cross_entropy(style_logits, style, label_smoothing=0.02)

    nothing = F.normalize(network.nothing, dim=1)
    some_names = pictures.bank_bags[torch.randint(0, len(pictures.bank), (RIVALS,))]
    candidate = torch.cat([pictures.bank_bags[pictures.name_row[rows]], part, some_names])
    logits = network.scale() * seen @ torch.cat([network.text(candidate), nothing]).T
    rival = candidate @ pictures.bags[rows].T < candidate.sum(1, keepdim=True) - 0.5
    rival = torch.cat([rival.T, torch.ones(n, 1, dtype=torch.bool)], dim=1)
    good = torch.arange(n)
    columns = n + good
    name = against(logits[good, good], logits[:n], rival)
    words_ = against(logits[good, columns], logits[:n], rival)
    other_pictures = torch.cat([rival[:, columns], torch.ones(bad, n, dtype=torch.bool)])
    pictures_ = against(logits[good, columns], logits[:, columns].T, other_pictures.T)
    none = against(logits[n:, -1], logits[n:, :-1], torch.ones(bad, logits.shape[1] - 1, dtype=torch.bool))
    contrast = (name.sum() + words_.sum() + none.sum()) / (2 * n + bad) + 0.4 * pictures_.mean()
    return 1.5 * loss + contrast


def scorer_step(network, loss, pictures: Pictures, pool: FoolingPool, update, strength: float) -> list[float]:
    """Draw a batch and use it REPLAYS times, each time further up the loss; `update` takes the optimiser's step.

    strength: of the perturbations, 0 … 1.
    """
    x, rows = pictures.draw(GOOD)
    fooling, lent = pool.draw(POOL)
    part = pictures.texts(rows)
    base = torch.cat([x, spoil(pictures.draw(SPOILT)[0])])
    radius = uniform(len(base), 0.0, FURTHEST * strength)
    delta, losses = torch.zeros_like(base), []
    for _ in range(REPLAYS):
        inputs = torch.cat([base + delta, fooling]).requires_grad_()
        value = loss(network, inputs, pictures, rows, part)
        value.backward()
        update()
        losses.append(value.item())
        fixed, climbing = inputs.grad[: len(base)], inputs.grad[len(base) :]
        delta = perturb(delta, fixed, radius)
        fooling = fooling + each(uniform(POOL, 0.5, 6.0)) * unit(climbing)
    pool.put_back(fooling, lent)
    return losses


def features_step(network, loss, pictures: Pictures, pool: None, update, strength: float) -> list[float]:
    """One clean batch."""
    x, rows = pictures.draw(64)
    value = loss(network, x, pictures, rows)
    value.backward()
    update()
    return [value.item()]


def features_loss(network: nn.Module, x: Tensor, pictures: Pictures, rows: Tensor) -> Tensor:
    kind, style = network(x)
    return F.cross_entropy(kind, pictures.kind[rows], label_smoothing=0.05) + F.cross_entropy(
        style, pictures.style[rows], label_smoothing=0.02
    )


@torch.no_grad()
def evaluate_scorer(network: scorers.Scorer, pictures: Pictures) -> dict[str, float]:
    """Accuracies on the held-out pictures: of style, and of finding the name among the bank's."""
    network = copy.deepcopy(network).eval()
    rows = torch.from_numpy(pictures.heldout)
    style_logits, seen = network.encode(pictures.pictures[rows] / 255.0)
    logits = seen @ network.text(pictures.bank_bags).T
    own = logits.gather(1, pictures.name_row[rows][:, None])
    rank = (logits > own).sum(1)
    return dict(
        style=(style_logits[:, :BAD].argmax(1) == pictures.style[rows]).float().mean().item(),
        called_bad=(style_logits.argmax(1) == BAD).float().mean().item(),
        top1=(rank < 1).float().mean().item(),
        top5=(rank < 5).float().mean().item(),
        scale=network.scale().item(),
    )


@torch.no_grad()
def evaluate_features(network: nn.Module, pictures: Pictures) -> dict[str, float]:
    """Accuracies on the held-out pictures: of style, and of the subcategory among 81."""
    network = copy.deepcopy(network).eval()
    rows = torch.from_numpy(pictures.heldout)
    kind, style = network(pictures.pictures[rows] / 255.0)
    return dict(
        kind=(kind.argmax(1) == pictures.kind[rows]).float().mean().item(),
        style=(style.argmax(1) == pictures.style[rows]).float().mean().item(),
    )


def write_weights(network: nn.Module, which: str, folder: Path, metadata: dict[str, str]) -> None:
    """Half-precision weights with their metadata, and the SHA-256 in the folder's checksums.json."""
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in network.state_dict().items()}
    path = folder / f"{which}.safetensors"
    save_file(state, path, metadata=metadata)
    path.chmod(0o644)
    sums = folder / "checksums.json"
    digests = json.loads(sums.read_text()) if sums.exists() else {}
    digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(json.dumps(digests, indent=1) + "\n")


def build(which: str) -> tuple[nn.Module, object, object, object, Path]:
    """The network, its loss, step and evaluation, and the folder of its weights."""
    if which == "features":
        from noisetilt.bench import features

        return features.FeatureNet(), features_loss, features_step, evaluate_features, Path(str(features.WEIGHTS))
    return scorers.Scorer(which), scorer_loss, scorer_step, evaluate_scorer, Path(str(scorers.WEIGHTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--which", required=True, choices=SEEDS)
    parser.add_argument("--minutes", type=float, default=20, help="length of this stretch")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    checkpoint = BUILD / f"{args.which}.pt"
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {"steps": 0, "seconds": 0.0}
    torch.manual_seed(SEEDS[args.which] + state["steps"])
    pictures = Pictures(args.which, SEEDS[args.which] + state["steps"])
    network, loss, step, evaluate, folder = build(args.which)
    average = copy.deepcopy(network)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    if "network" in state:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
    network = network.to(memory_format=torch.channels_last)
    compiled = loss if args.no_compile else torch.compile(loss)
    pool = FoolingPool() if args.which != "features" else None
    start, stretch, steps, recent = time.time(), 0, state["steps"], []

    def update() -> None:
        nonlocal steps, stretch
        share = (time.time() - start) / (60 * args.minutes)
        factor = min(1.0, (stretch + 1) / 100, max(0.0, 2 * (1 - share)))
        for group in optimiser.param_groups:
            group["lr"] = args.rate * factor
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        steps, stretch = steps + 1, stretch + 1
        decay = min(0.997, (steps + 1) / (steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
            for mean, now in zip(average.buffers(), network.buffers(), strict=True):
                mean.copy_(now)

    def save() -> None:
        seconds = state["seconds"] + time.time() - start
        kept = dict(network=network, average=average, optimiser=optimiser)
        torch.save(
            {k: v.state_dict() for k, v in kept.items()} | dict(steps=steps, seconds=seconds),
            checkpoint.with_suffix(".new"),
        )
        checkpoint.with_suffix(".new").replace(checkpoint)
        measured = evaluate(average, pictures)
        line = dict(which=args.which, steps=steps, seconds=round(seconds), loss=float(np.mean(recent[-100:])))
        with open(BUILD / f"{args.which}.log", "a") as log:
            log.write(json.dumps(line | measured) + "\n")
        if pool is None:
            (folder / "kinds.json").write_text(json.dumps(pictures.kinds.tolist()) + "\n")
        else:
            (folder / "bank.json").write_text(json.dumps(pictures.bank) + "\n")
        metadata = {k: str(v) for k, v in (line | measured).items()}
        write_weights(average, args.which, folder, metadata | {"vocabulary": scorers.vocabulary_digest()})

    saved_at = start
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}") as bar:
        while (share := (time.time() - start) / (60 * args.minutes)) < 1:
            strength = 1.0 if state["steps"] else min(1.0, 2 * share)
            recent += step(network, compiled, pictures, pool, update, strength)
            if not math.isfinite(recent[-1]):
                raise FloatingPointError(f"the loss is {recent[-1]} after {steps} steps")
            bar.n = round(100 * share, 1)
            bar.set_postfix_str(f"{steps} steps, loss {np.mean(recent[-90:]):.3f}")
            if time.time() - saved_at > 90:
                save()
                saved_at = time.time()
    save()


if __name__ == "__main__":
    main()

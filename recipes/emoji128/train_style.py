"""Train the networks that score the style, on a CPU: target (Lite0), heldout (Lite1) or judge (Lite2).

    python recipes/emoji128/train_style.py build/emoji128 out --kind target --backbones weights --seconds 900

The network has the first eight blocks of the ImageNet backbone. Target and heldout are trained whole, with half of each
batch attacked (L2, two steps), after the linear head has been fitted. The judge's backbone stays untouched: only its
head is fitted, on clean, blurred, noisy and moved images. Written: style-KIND.safetensors (float16, normalisation
folded) and style-KIND.json with its figures.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from dataset import Dataset, load_dataset, move, recolour
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from train_scorers import LEFT_OUT, NETWORKS, attack, damage
from training import TimeLimit, average_into, learning_rate_factor, log, save_weights

from noisetilt.rewards.scorers.network import StyleNetwork

STYLES, RADIUS = 5, 3.0


def new_network(kind: str, backbones: Path, start: Path | None) -> StyleNetwork:
    """A network with the first blocks of the ImageNet backbone, or of a scorer that train_scorers.py made from it."""
    network = StyleNetwork(NETWORKS[kind], STYLES)
    file = backbones / f"{NETWORKS[kind]}.safetensors" if start is None else start / f"{kind}.safetensors"
    state = {name.removeprefix("backbone."): value for name, value in load_file(file).items()}
    if not any("norm.running_mean" in name for name in state):
        network.fold()
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    mine = [name for name in network.state_dict() if name.startswith(("stem.", "blocks."))]
    network.load_state_dict({**network.state_dict(), **{name: state[name] for name in mine}})
    return network.eval().fold().to(memory_format=torch.channels_last)


def augmented(x: Tensor) -> Tensor:
    """Images moved and mirrored, an eighth of them with other colours, a quarter damaged."""
    parts = list(move(x, (0.75, 1.25), 0.12).chunk(8))
    parts[0] = recolour(parts[0])
    for index in (1, 5):
        parts[index] = damage(parts[index])
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def fit_head(network: StyleNetwork, data: Dataset, chance: Tensor, copies: int, steps: int = 2000) -> None:
    """Sets the mean and the standard deviation of the statistics, and the linear head, for the backbone as it is."""
    rows = (chance > 0).nonzero()[:, 0]
    found = []
    with torch.no_grad():
        for copy_number in range(copies):
            for part in rows.split(64):
                x = data.images(part)
                found.append(network.statistics(augmented(x) if copy_number else x))
            log(f"statistics of copy {copy_number + 1} of {copies}")
    features, style = torch.cat(found), data.style[rows].long().repeat(copies)
    network.mean.copy_(features.mean(0))
    network.std.copy_(features.std(0) + 1e-2)
    features = (features - network.mean) / network.std
    optimizer = torch.optim.AdamW(network.head.parameters(), lr=1e-2, weight_decay=0.1)
    chances = chance[rows].repeat(copies)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        chosen = torch.multinomial(chances, 512, replacement=True)
        loss = F.cross_entropy(network.head(features[chosen]), style[chosen], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    log(f"head: loss {loss.item():.3f}")


def evaluate(network: StyleNetwork, data: Dataset, most: int = 200) -> dict[str, float]:
    """Accuracies on held-out pairs: clean, and under an L2 attack of ten steps."""
    rows = (data.heldout & (data.weight >= 0.5)).nonzero()[:, 0]
    x, style = data.images(rows), data.style[rows].long()

    def predict(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([network(part) for part in x.split(64)]).argmax(1)

    found = predict(x)
    row = {
        "n": len(rows),
        "style": (found == style).float().mean().item(),
        "3d_or_not": ((found == 0) == (style == 0)).float().mean().item(),
    }
    x, style = x[:most], style[:most]
    if not most:
        return row
    for size in (0.5, 1.0, 2.0):
        radius = torch.full((len(x), 1, 1, 1), 2 * size)
        attacked = attack(lambda y, s=style: F.cross_entropy(network(y), s), x, radius, 10, 0.25)
        row[f"style_attacked_{size}"] = (predict(attacked) == style).float().mean().item()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=NETWORKS, required=True)
    parser.add_argument("--backbones", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900, help="of adversarial training; the judge has none")
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of train_scorers.py, or of the package's scorers: backbones that are robust already",
    )
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seed = list(NETWORKS).index(options.kind)
    torch.manual_seed(seed)
    data = load_dataset(options.build, options.limit)
    left_out = torch.rand(len(data.style), generator=torch.Generator().manual_seed(seed)) < LEFT_OUT
    chance = torch.where(data.heldout | left_out, 0.0, torch.where(data.weight >= 0.5, 1.0, 0.15))
    network, robust = new_network(options.kind, options.backbones, options.start), options.kind != "judge"
    fit_head(network, data, chance, 2 if robust else 4)
    log("the head alone:", json.dumps(evaluate(network, data, 0)))
    average = copy.deepcopy(network).requires_grad_(False)
    backbone = [p for name, p in network.named_parameters() if not name.startswith("head.")]
    groups = [
        {"params": network.head.parameters(), "peak": 1e-3, "weight_decay": 0.05},
        {"params": backbone, "peak": 5e-4, "weight_decay": 0.02},
    ]
    optimizer, limit, steps = torch.optim.AdamW(groups, lr=1e-3), TimeLimit(options.seconds), 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    while robust and limit.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_factor(limit.progress, steps, 50, 0.3)
        chosen = torch.multinomial(chance, options.batch, replacement=True)
        x, style = augmented(data.images(chosen)), data.style[chosen].long()
        half = slice(len(x) // 2, None)
        radius = 2 * RADIUS * min(1.0, 3 * limit.progress) * torch.rand(len(x[half]), 1, 1, 1)
        network.requires_grad_(False)
        x[half] = attack(lambda y, s=style[half]: F.cross_entropy(network(y), s), x[half], radius, 2, 0.7)
        network.requires_grad_(True)
        loss = F.cross_entropy(network(x), style, label_smoothing=0.03)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        average_into(average, network, steps, 0.995)
        steps += 1
        if steps % options.every == 0:
            rate = steps * options.batch / limit.elapsed
            log(f"{options.kind}: step {steps}, loss {loss.item():.3f}, {rate:.0f} images/s")
    save_weights(average, options.out / f"style-{options.kind}.safetensors")
    row = {"steps": steps, "images": steps * options.batch, "seconds": options.seconds, **evaluate(average, data)}
    (options.out / f"style-{options.kind}.json").write_text(json.dumps(row, indent=1) + "\n")
    log(json.dumps(row))


if __name__ == "__main__":
    main()

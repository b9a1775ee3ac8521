"""Train scorers of style, concept and text alignment on EfficientNet-Lite backbones, on one GPU.

    python recipes/emoji128/train_scorers.py build/emoji128 out --backbones weights --seconds 140 140 60

Three networks that share nothing: `target` (Lite0) and `heldout` (Lite1) for rewards, `judge` (Lite2) for evaluation
only. Each one leaves out another tenth of the training images, and all leave out the held-out pairs of concept and
style. Half of each batch of target and heldout is attacked (L2, two steps); the judge sees clean images, blurred, noisy
and half-denoised ones only. --backbones is what convert_backbones.py writes. --flow (a folder with flow.safetensors and
text.safetensors) makes half-denoised images with that model. Written: target.safetensors, heldout.safetensors,
judge.safetensors (float16, batch normalisation not folded) and scorers.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from captions import SPECIAL
from dataset import Dataset, draw_captions, load_dataset, move, recolour
from networks import TextEncoders, autoencoder, pack, transformer_like, unpack
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from training import (
    MODES,
    Precision,
    TimeLimit,
    Velocity,
    average_into,
    learning_rate_factor,
    load_weights,
    log,
    read_scale,
    save_weights,
)

from noisetilt.rewards.scorers.network import ScorerNetwork

NETWORKS = {"target": "lite0", "heldout": "lite1", "judge": "lite2"}
LEFT_OUT = 0.1  # of the training images, another part for every network
CONCEPT_WEIGHT, TEXT_WEIGHT = 1.0, 0.5


def damage(x: Tensor) -> Tensor:
    """Images (n, 3, h, w) made blurred, noisy or spotted: what unfinished images look like."""
    n, side, kind = len(x), x.shape[-1], int(torch.randint(3, ()))
    if kind == 0:
        small = int(torch.randint(side // 5, side * 4 // 5, ()))
        x = F.interpolate(F.interpolate(x, size=small, mode="area"), size=side, mode="bilinear")
    elif kind == 1:
        x = x + torch.rand(n, 1, 1, 1, device=x.device) * 0.3 * torch.randn_like(x)
    else:
        coarse = torch.randn(n, 3, *[2 ** int(torch.randint(2, 6, ()))] * 2, device=x.device)
        x = x + torch.rand(n, 1, 1, 1, device=x.device) * 0.4 * F.interpolate(coarse, size=side, mode="bilinear")
    return x.clamp(-1, 1)


@torch.no_grad()
def half_denoised(data: Dataset, flow: Path, vae: nn.Module, captions: Tensor, precision: Precision) -> Tensor:
    """(n, 3, 128, 128) uint8: what the flow model predicts of every image at a random time between 0.2 and 0.9."""
    device = precision.device
    network = transformer_like({k: v.float() for k, v in load_file(flow / "flow.safetensors").items()}).to(device)
    text = load_weights(TextEncoders(len(data.vocabulary["tokens"])), flow / "text.safetensors").to(device)
    shift, scale = read_scale(flow)
    velocity, parts = Velocity(network, precision), []
    for begin in range(0, len(data.pictures), 256):
        rows = slice(begin, begin + 256)
        with precision.autocast():
            latents = vae.encode(data.images(rows, device)).latent_dist.mean.float()
            given = text(captions[rows, 0].long())
        x_0 = pack((latents - shift) * scale)
        t = 0.2 + 0.7 * torch.rand(len(x_0), device=device)
        x_t = x_0 + t[:, None, None] * (torch.randn_like(x_0) - x_0)
        predicted = x_t - t[:, None, None] * velocity(x_t, t, *given, torch.ones_like(t))
        with precision.autocast():
            images = vae.decode(unpack(predicted) / scale + shift).sample.float()
        parts.append(((images.clamp(-1, 1) + 1) * 127.5).byte())
    return torch.cat(parts)


class Batches:
    """Random augmented images with their style, concept and caption."""

    def __init__(self, data: Dataset, captions: Tensor, denoised: Tensor | None, batch: int, seed: int) -> None:
        self.device, self.size = captions.device, batch
        self.images = torch.from_numpy(data.pictures).permute(0, 3, 1, 2).contiguous().to(self.device)
        self.denoised, self.captions = denoised, captions
        self.style = data.style.long().to(self.device)
        self.concept = data.concept.unique(return_inverse=True)[1].to(self.device)
        left_out = torch.rand(len(data.style), generator=torch.Generator().manual_seed(seed)) < LEFT_OUT
        chance = torch.where(data.weight >= 0.5, 1.0, 0.15)
        self.chance = torch.where(data.heldout | left_out, 0.0, chance).to(self.device)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(images (batch, 3, 128, 128), styles, concepts, captions (batch, 16)), in random order."""
        chosen, n = torch.multinomial(self.chance, self.size, replacement=True), self.size
        x = self.images[chosen]
        if self.denoised is not None:
            x = torch.where(torch.rand(n, 1, 1, 1, device=self.device) < 0.15, self.denoised[chosen], x)
        x = move(x.float() / 127.5 - 1, (0.75, 1.25), 0.12)
        # An attacked half of the batch has to have the same augmentations as the other: eighths, not halves.
        parts = list(x.chunk(8))
        for index in (0, 4):
            parts[index] = recolour(parts[index])
        for index in (1, 2, 5, 6):
            parts[index] = damage(parts[index])
        ids = self.captions[chosen, torch.randint(self.captions.shape[1], (n,), device=self.device)].long()
        return torch.cat(parts), self.style[chosen], self.concept[chosen], ids


class Losses:
    """Cross-entropies of a network."""

    def __init__(self, network: ScorerNetwork, precision: Precision) -> None:
        self.network, self.precision = network, precision

    def classes(self, x: Tensor, style: Tensor, concept: Tensor) -> tuple[Tensor, Tensor]:
        """(loss of style and concept, unit vectors)."""
        with self.precision.autocast():
            styles, vectors = self.network(x)
        concepts = self.network.concept_logits(vectors)
        loss = F.cross_entropy(styles.float(), style, label_smoothing=0.02)
        return loss + CONCEPT_WEIGHT * F.cross_entropy(concepts, concept, label_smoothing=0.05), vectors

    def all(self, x: Tensor, style: Tensor, concept: Tensor, ids: Tensor) -> Tensor:
        loss, vectors = self.classes(x, style, concept)
        if not len(self.network.words):
            return loss
        real = ids >= len(SPECIAL)
        logits = self.network.text_scale.exp() * vectors @ self.network.text(ids, real).T
        # Images of one concept may share their captions, and an image without a caption says nothing.
        same = (concept[:, None] == concept[None, :]) & (style[:, None] == style[None, :])
        target = same / same.sum(1, keepdim=True)
        told = real.any(1)
        both = F.cross_entropy(logits[told][:, told], target[told][:, told]) + F.cross_entropy(
            logits.T[told][:, told], target[told][:, told]
        )
        return loss + TEXT_WEIGHT * both


def unit(x: Tensor) -> Tensor:
    """Each image's array divided by its norm."""
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]


def attack(loss_of, x: Tensor, radius: Tensor, steps: int, rate: float) -> Tensor:
    """Images within an L2 distance of x at which the loss is higher (projected gradient, Madry 2018, arXiv 1706.06083).

    Args:
        loss_of: function of images that returns a scalar.
        x: (n, 3, h, w) in [-1, 1].
        radius: (n, 1, 1, 1), in units of [-1, 1].
        steps, rate: number of steps, and each one's length as a fraction of the radius.
    """
    delta = 0.3 * radius * unit(torch.randn_like(x))
    for _ in range(steps):
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss_of(x + delta), delta)
        with torch.no_grad():
            delta = delta + rate * radius * unit(gradient)
            norm = delta.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)
            delta = (x + delta * (radius / norm).clamp(max=1)).clamp(-1, 1) - x
    return (x + delta).detach()


class Trainer:
    """One network with its average and optimizer."""

    def __init__(self, kind: str, data: Dataset, backbones: Path, precision: Precision, radius: float) -> None:
        words = 0 if kind == "judge" else len(data.vocabulary["tokens"])
        network = ScorerNetwork(NETWORKS[kind], 5, len(data.concept.unique()), words)
        load_weights(network.backbone, backbones / f"{NETWORKS[kind]}.safetensors")
        self.network = network.to(precision.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        backbone = [p for name, p in network.named_parameters() if name.startswith("backbone.")]
        heads = [p for name, p in network.named_parameters() if not name.startswith("backbone.")]
        groups = [{"params": backbone, "peak": 1e-3}, {"params": heads, "peak": 3e-3}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.02, fused=precision.device.type == "cuda")
        self.losses, self.attacked, self.radius, self.steps = Losses(network, precision), kind != "judge", radius, 0

    def step(self, batches: Batches, progress: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_factor(progress, self.steps, 100, 0.2)
        x, style, concept, ids = batches.draw()
        x = x.contiguous(memory_format=torch.channels_last)
        if self.attacked:
            half = slice(len(x) // 2, None)
            # Images have a range of 2 here, while the radius is told for [0, 1].
            radius = 2 * self.radius * min(1.0, 3 * progress) * torch.rand(len(x[half]), 1, 1, 1, device=x.device)
            self.network.eval().requires_grad_(False)
            x[half] = attack(lambda y: self.losses.classes(y, style[half], concept[half])[0], x[half], radius, 2, 0.7)
            self.network.requires_grad_(True)
        self.network.train()
        loss = self.losses.all(x, style, concept, ids)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimizer.step()
        average_into(self.average, self.network, self.steps)
        self.steps += 1
        return loss.detach()


class Evaluation:
    """Accuracies on held-out pairs of concept and style."""

    def __init__(self, data: Dataset, batches: Batches) -> None:
        held = (data.heldout & (data.weight >= 0.5)).nonzero()[:, 0].to(batches.device)
        self.images = batches.images[held].float() / 127.5 - 1
        self.style, self.concept, self.captions = batches.style[held], batches.concept[held], batches.captions[held]

    @torch.no_grad()
    def _predict(self, network: ScorerNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
        styles, vectors = zip(*[network(part) for part in x.split(128)], strict=True)
        return torch.cat(styles), torch.cat(vectors)

    def __call__(self, network: ScorerNetwork, most: int = 200) -> dict[str, float]:
        styles, vectors = self._predict(network, self.images)
        found = network.concept_logits(vectors).topk(5, 1).indices == self.concept[:, None]
        row = {
            "n": len(self.images),
            "style": (styles.argmax(1) == self.style).float().mean().item(),
            "concept_top1": found[:, 0].float().mean().item(),
            "concept_top5": found.any(1).float().mean().item(),
        }
        if len(network.words):
            ids = self.captions[:, 0].long()
            scores = vectors @ network.text(ids, ids >= len(SPECIAL)).T
            row["retrieval_top1"] = (scores.argmax(1).cpu() == torch.arange(len(ids))).float().mean().item()
        x, style = self.images[:most], self.style[:most]
        for size in (0.5, 1.0, 2.0):
            radius = torch.full((len(x), 1, 1, 1), 2 * size, device=x.device)
            attacked = attack(lambda y, s=style: F.cross_entropy(network(y)[0].float(), s), x, radius, 10, 0.25)
            right = self._predict(network, attacked)[0].argmax(1) == style
            row[f"style_attacked_{size}"] = right.float().mean().item()
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbones", type=Path, required=True)
    parser.add_argument("--seconds", type=float, nargs=3, required=True, help="for target, heldout and judge")
    parser.add_argument("--flow", type=Path, help="folder with flow, text and scale.json, for half-denoised images")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--mode", default="bf16", choices=MODES)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--radius", type=float, default=3.0, help="largest L2 norm of an attack on images in [0, 1]")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    precision = Precision(options.mode, torch.device(options.device))
    data = load_dataset(options.build, options.limit)
    captions = draw_captions(data, 16, options.workers).to(options.device)
    same = torch.arange(len(data.vocabulary["tokens"]), device=options.device)
    for form, word in data.vocabulary["same_as"].items():
        same[int(form)] = word
    captions = same[captions.long()]  # a plural has the vector of its word
    denoised = None
    if options.flow:
        vae = load_weights(autoencoder(), options.build / "vae.safetensors").requires_grad_(False)
        vae.to(options.device, memory_format=torch.channels_last)
        denoised = half_denoised(data, options.flow, vae, captions, precision)
        log("half-denoised images", tuple(denoised.shape))
    figures = {}
    for seed, (kind, seconds) in enumerate(zip(NETWORKS, options.seconds, strict=True)):
        torch.manual_seed(seed)
        batches = Batches(data, captions, denoised, options.batch, seed)
        trainer, limit = Trainer(kind, data, options.backbones, precision, options.radius), TimeLimit(seconds)
        while limit.progress < 1:
            loss = trainer.step(batches, limit.progress)
            if trainer.steps % options.every == 0:
                log(f"{kind}: step {trainer.steps}, loss {loss.item():.3f}")
        save_weights(trainer.average, options.out / f"{kind}.safetensors")
        row = {"steps": trainer.steps, "images": trainer.steps * options.batch, "seconds": round(seconds)}
        figures[kind] = {**row, **Evaluation(data, batches)(trainer.average)}
        log(kind, json.dumps(figures[kind]))
        (options.out / "scorers.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

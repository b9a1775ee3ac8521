"""Train the autoencoder of emoji128 on a GPU.

    python recipes/emoji128/train_autoencoder.py build/emoji128 --seconds 90

writes vae.safetensors (float16), scale.json (shift and scale that give latents mean 0 and variance 1) and vae.png (held
out images above, reconstructions below) into the folder. Every fourth step latents and images are halved in size, which
makes latents smoother and easier for the flow model (EQ-VAE, arXiv 2502.09509).
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from dataset import Dataset, encode_images, load_dataset, move, recolour, save_grid
from networks import CHANNELS, SIDE, autoencoder
from torch import Tensor, nn
from torch.nn import functional as F
from training import (
    Precision,
    TimeLimit,
    average_into,
    learning_rate_factor,
    log,
    normalisation,
    save_weights,
    set_learning_rate,
    update,
)

RATE, KL_WEIGHT = 2e-3, 2e-3


def reconstruction_loss(error: Tensor) -> Tensor:
    """L1 and L2 of pixels, and L1 of their differences at three scales."""
    loss = error.abs().mean() + error.square().mean()
    for _ in range(3):
        loss = loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
        error = F.avg_pool2d(error, 2)
    return loss


def loss_of(vae: nn.Module, x: Tensor, halve: bool) -> Tensor:
    posterior = vae.encode(x).latent_dist
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn(len(x), CHANNELS, SIDE, SIDE, device=x.device)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    if halve:
        latents, x = F.avg_pool2d(latents, 2), F.avg_pool2d(x, 2)
    return reconstruction_loss(vae.decode(latents).sample.float() - x) + KL_WEIGHT * kl


def augmented(data: Dataset, chosen: Tensor, device: torch.device) -> Tensor:
    """Images with random zoom, shift and mirroring, a third of them with other colours."""
    x = move(data.images(chosen, device), (0.7, 1.3), 0.15)
    third = len(x) // 3
    return torch.cat([recolour(x[:third]), x[third:]]).contiguous(memory_format=torch.channels_last)


def train(data: Dataset, precision: Precision, options: argparse.Namespace) -> nn.Module:
    """The averaged autoencoder."""
    vae = autoencoder().to(precision.device, memory_format=torch.channels_last)
    average = copy.deepcopy(vae).requires_grad_(False)
    groups = [{"params": list(vae.parameters()), "peak": RATE}]
    optimizers = [torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3)]
    chance = torch.where(data.heldout, 0.0, 0.3 + 0.7 * data.weight)
    limit, step = TimeLimit(options.seconds), 0
    while limit.progress < 1:
        set_learning_rate(optimizers, learning_rate_factor(limit.progress, step, 50, 0.3))
        x = augmented(data, torch.multinomial(chance, options.batch, replacement=True), precision.device)
        with precision.autocast():
            loss = loss_of(vae, x, step % 4 == 3)
        update(loss, optimizers, vae.parameters())
        average_into(average, vae, step)
        step += 1
        if step % options.every == 0:
            log(f"{step} steps, loss {loss.item():.4f}")
    log(f"{step} steps of {options.batch} images")
    return average


@torch.no_grad()
def evaluate(vae: nn.Module, data: Dataset, device: torch.device, file: Path) -> None:
    """Logs the PSNR of held-out images and draws some of them."""
    x = data.images(data.heldout.nonzero()[:256, 0], device)
    again = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in x.split(64)])
    psnr = 10 * torch.log10(4 / (again - x).square().mean((1, 2, 3)))
    log(f"held-out PSNR: mean {psnr.mean():.2f} dB, worst {psnr.min():.2f} dB")
    count = min(24, len(x))
    save_grid(torch.cat([x[:count], again[:count]]), count, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--every", type=int, default=100, help="steps between two lines of the log")
    options = parser.parse_args()
    torch.manual_seed(0)
    data, precision = load_dataset(options.build, options.limit), Precision("bf16", torch.device(options.device))
    vae = train(data, precision, options)
    evaluate(vae, data, precision.device, options.build / "vae.png")
    save_weights(vae, options.build / "vae.safetensors")
    shift, scale = normalisation(encode_images(vae, data, precision.device))
    (options.build / "scale.json").write_text(json.dumps({"shift": shift, "scale": scale}) + "\n")


if __name__ == "__main__":
    main()

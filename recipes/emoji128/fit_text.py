"""Fit the text encoders to a finished velocity network, which stays as it is, on a CPU.

    python recipes/emoji128/fit_text.py build/emoji128 out --network guided.safetensors --text text.safetensors \
        --seconds 1800

It lowers the flow matching loss at guidance 1, at the times at which the caption matters most. `out` gets
text.safetensors (averaged weights, float16) every three minutes, and latents.pt and captions.pt, which are reused for
the same images.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from dataset import load_dataset
from networks import WORD_ROWS, TextEncoders, autoencoder, pack, transformer_like
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import (
    Precision,
    TimeLimit,
    Velocity,
    average_into,
    cached_captions,
    cached_latents,
    compiled,
    keep_freed_memory,
    learning_rate_factor,
    load_weights,
    log,
    read_scale,
    save_weights,
    set_learning_rate,
    update,
)

SAVE_EVERY, LEAST_TIME = 180, 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate; words have five times as much")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    torch.manual_seed(time.time_ns())
    data = load_dataset(options.build, options.limit)
    vae = load_weights(autoencoder(), options.build / "vae.safetensors").requires_grad_(False)
    vae.to(memory_format=torch.channels_last)
    latents = cached_latents(options.build, options.out, data, options.limit, vae)
    captions = cached_captions(options.build, options.out, data, options.limit)
    shift, scale = read_scale(options.network.parent, options.build)
    latents = ((latents.float() - shift) * scale).half()

    network = transformer_like({k: v.float() for k, v in load_file(options.network).items()}).requires_grad_(False)
    text = load_weights(TextEncoders(len(data.index)), options.text)
    average = copy.deepcopy(text).requires_grad_(False)
    velocity = Velocity(network, Precision("bf16", torch.device("cpu")))
    one = torch.ones(options.batch)
    words = [p for p in text.parameters() if p.ndim == 2 and len(p) > WORD_ROWS]
    rest = [p for p in text.parameters() if not (p.ndim == 2 and len(p) > WORD_ROWS)]
    groups = [{"params": rest, "peak": options.rate}, {"params": words, "peak": 5 * options.rate}]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0)

    def predict(x_t, t, ids):
        return velocity._network(x_t, t, *text(ids), one)

    fast = compiled(predict) if options.compile else predict

    def save() -> None:
        tied = copy.deepcopy(average)
        tied.tie_plurals(data.vocabulary["same_as"])
        save_weights(tied, options.out / "text.safetensors")

    limit, saved, losses = TimeLimit(options.seconds), time.time(), []
    with sdpa_kernel(SDPBackend.MATH):
        while limit.progress < 1:
            set_learning_rate([optimizer], learning_rate_factor(limit.progress, len(losses), 50, 0.5))
            chosen = torch.multinomial(data.chance, options.batch, replacement=True)
            x_0 = pack(latents[chosen, torch.randint(2, (options.batch,))].float())
            ids = captions[chosen, torch.randint(captions.shape[1], (options.batch,))].long()
            t = LEAST_TIME + (1 - LEAST_TIME) * torch.rand(options.batch)
            noise = torch.randn_like(x_0)
            with torch.autocast("cpu", torch.bfloat16):
                v = fast(x_0 + t[:, None, None] * (noise - x_0), t, ids)
            loss = F.mse_loss(v.float(), noise - x_0)
            update(loss, [optimizer], list(text.parameters()))
            average_into(average, text, len(losses), 0.995)
            losses.append(loss.item())
            if len(losses) % options.every == 0:
                rate = len(losses) * options.batch / limit.elapsed
                log(f"step {len(losses)}, loss {np.mean(losses[-options.every :]):.4f}, {rate:.1f} images/s")
            if time.time() - saved > SAVE_EVERY:
                save()
                saved = time.time()
    save()
    log(f"{len(losses) * options.batch} images, loss {np.mean(losses[-200:]):.4f}")


if __name__ == "__main__":
    main()

"""Distil emoji128 to one to four steps, on a CPU; run it again and it goes on.

    python recipes/emoji128/train_turbo.py build/emoji128 build/emoji128/turbo --model src/noisetilt/models/emoji128 \
        --backbones weights --seconds 2250

First it draws pairs of noise and the latents to which the guided model takes it, with their captions. Then it trains
the network on the straight lines between the two (Liu 2022, arXiv 2209.03003), most of the time from the noise itself,
with a loss on decoded images for a part of each batch. The folder gets:
    pairs-*.safetensors   the pairs, 2 048 in each; those that are there are not drawn again
    checkpoint.pt         where the next run goes on, at the learning rate of its --rate
    turbo.safetensors, text.safetensors  averaged weights in float16, for assemble.py, with scale.json
    samples-1.png, samples-2.png, samples-4.png
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from dataset import load_dataset, save_grid
from diffusers import FluxPipeline
from networks import TextEncoders, unpack
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import (
    PROMPTS,
    Precision,
    TimeLimit,
    Velocity,
    average_into,
    cached_captions,
    compiled,
    decode_packed,
    digest,
    encode_prompts,
    euler_sample,
    flow_optimizers,
    keep_freed_memory,
    learning_rate_factor,
    load_parts,
    load_weights,
    log,
    save_weights,
    set_learning_rate,
    update,
    write_scale,
    write_whole,
)

from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite

IN_A_FILE, BATCH, SAVE_EVERY = 2048, 128, 240
GUIDANCE, SHIFT, PERCEPTUAL_WEIGHT, FEATURE_BLOCKS = 3.0, 1.5, 0.3, (4, 10)


class Model:
    """The parts of a guidance-distilled pipeline's folder, in float32.

    Args:
        folder: of the pipeline.
        index: token → id of the captions, which have to be those of the pipeline's tokenizers.
    """

    def __init__(self, folder: Path, index: dict[str, int]) -> None:
        pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        if not pipe.transformer.config.guidance_embeds:
            raise ValueError(
                f"{folder} takes no guidance, expected a guidance-distilled model: one that assemble.py --distilled "
                "wrote, or src/noisetilt/models/emoji128"
            )
        if pipe.tokenizer_2.get_vocab() != index:
            raise ValueError(
                f"{folder} has another vocabulary than the images' vocabulary.json; train it on these images, or read "
                "the images with the package versions of recipes/emoji128/README.md"
            )
        self.network, self.vae = pipe.transformer, pipe.vae.to(memory_format=torch.channels_last)
        self.text = TextEncoders(pipe.text_encoder_2.config.vocab_size)
        self.text.sequence, self.text.pooled = pipe.text_encoder_2, pipe.text_encoder
        self.shift, self.scale = pipe.vae.config.shift_factor, pipe.vae.config.scaling_factor
        for module in (self.network, self.vae, self.text):
            module.eval().requires_grad_(False)

    def decode(self, tokens: Tensor) -> Tensor:
        return self.vae.decode(unpack(tokens) / self.scale + self.shift).sample


@torch.no_grad()
def draw_pairs(model: Model, ids: Tensor, velocity, steps: int) -> tuple[Tensor, Tensor]:
    """Noise (n, 64, 64) and where Euler steps of the guided model take it; the first steps are the shortest."""
    given = model.text(ids)
    noise = x = torch.randn(len(ids), 64, 64)
    strength = torch.full((len(ids),), GUIDANCE)
    times = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in (1 - number / steps for number in range(steps + 1))]
    for now, then in itertools.pairwise(times):
        with torch.autocast("cpu", torch.bfloat16):
            v = velocity(x, torch.full((len(ids),), now), *given, strength)
        x = x - (now - then) * v.float()
    return noise, x


def write_pairs(model: Model, captions: Tensor, chance: Tensor, inputs: str, options: argparse.Namespace) -> None:
    """Draws the pairs that are missing; `inputs` says what they depend on."""
    for file in sorted(options.out.glob("pairs-*.safetensors")):
        with safe_open(file, "pt") as pairs:
            if (pairs.metadata() or {}).get("inputs") != inputs:
                raise ValueError(
                    f"{file} was drawn with another --model, --teacher-steps or --limit, or of other images; delete "
                    "the pairs and checkpoint.pt of that folder, or write into another one"
                )
    network = Velocity(model.network, Precision("bf16", torch.device("cpu")))._network
    velocity = compiled(network) if options.compile else network
    for number in range(-(-options.pairs // IN_A_FILE)):
        file = options.out / f"pairs-{number:03d}.safetensors"
        if file.exists():
            continue
        parts = []
        for _ in range(IN_A_FILE // BATCH):
            chosen = torch.multinomial(chance, BATCH, replacement=True)
            ids = captions[chosen, torch.randint(captions.shape[1], (BATCH,))].long()
            parts.append((*draw_pairs(model, ids, velocity, options.teacher_steps), ids))
        noise, end, ids = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        pairs = {"noise": noise.half(), "end": end.half(), "ids": ids.short()}
        write_whole(file, lambda unfinished, pairs=pairs: save_file(pairs, unfinished, {"inputs": inputs}))
        log(f"{(number + 1) * IN_A_FILE} pairs")


class ImageLoss:
    """Differences of pixels, of their gradients at three scales, and of an ImageNet network's features."""

    def __init__(self, backbones: Path) -> None:
        network = load_weights(EfficientNetLite("lite0"), backbones / "lite0.safetensors").eval().fold()
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)

    def _features(self, images: Tensor) -> list[Tensor]:
        x, found = self.network.stem(images), []
        for number, block in enumerate(self.network.blocks[: FEATURE_BLOCKS[-1] + 1]):
            x = block(x)
            if number in FEATURE_BLOCKS:
                found.append(F.normalize(x, dim=1))
        return found

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = self._features(true)
        ours = self._features(made)
        loss = PERCEPTUAL_WEIGHT * sum((a - b).square().sum(1).mean() for a, b in zip(ours, theirs, strict=True))
        error = made - true
        loss = loss + error.abs().mean()
        for _ in range(3):
            loss = loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
            error = F.avg_pool2d(error, 2)
        return loss


class Trainer:
    """The network with its average and optimizers, and how far training is."""

    def __init__(self, model: Model, options: argparse.Namespace) -> None:
        self.model, self.network = model, copy.deepcopy(model.network).train().requires_grad_(True)
        self.average = copy.deepcopy(model.network)
        self.optimizers = flow_optimizers(self.network, None, options.rate)
        network = Velocity(self.network, Precision("bf16", torch.device("cpu")))._network
        self.velocity = compiled(network) if options.compile else network
        self.image_loss, self.decoded = ImageLoss(options.backbones), options.decoded
        self.one, self.images = torch.ones(BATCH), 0

    def step(self, noise: Tensor, end: Tensor, ids: Tensor) -> tuple[float, float]:
        """One step of training; (loss of the latents, loss of the images)."""
        n = len(noise)
        t = torch.where(torch.rand(n) < 0.6, 1.0, torch.randint(1, 5, (n,)) / 4)
        t[: self.decoded] = torch.where(torch.rand(self.decoded) < 0.8, 1.0, t[: self.decoded])
        x_t = end + t[:, None, None] * (noise - end)
        with torch.no_grad():
            given = self.model.text(ids)
        with torch.autocast("cpu", torch.bfloat16):
            v = self.velocity(x_t, t, *given, self.one)
        x_0 = x_t - t[:, None, None] * v.float()
        latent = (x_0 - end).square().mean()
        with torch.no_grad():
            true = self.model.decode(end[: self.decoded])
        image = self.image_loss(self.model.decode(x_0[: self.decoded]), true)
        update(latent + image, self.optimizers, list(self.network.parameters()))
        self.images += n
        average_into(self.average, self.network, self.images // n, 0.998)
        return latent.item(), image.item()

    def _parts(self) -> dict:
        muon, adamw = self.optimizers
        return {"network": self.network, "average": self.average, "muon": muon, "adamw": adamw}

    def save(self, out: Path) -> None:
        """Checkpoint and averaged weights."""
        state = {name: part.state_dict() for name, part in self._parts().items()} | {"images": self.images}
        write_whole(out / "checkpoint.pt", lambda unfinished: torch.save(state, unfinished))
        save_weights(self.average, out / "turbo.safetensors")
        save_weights(self.model.text, out / "text.safetensors")
        write_scale(out, self.model.shift, self.model.scale)

    def resume(self, file: Path) -> None:
        state = torch.load(file)
        load_parts(self._parts(), state)
        self.images = state["images"]


def train(trainer: Trainer, pairs: dict[str, Tensor], options: argparse.Namespace) -> None:
    limit, saved, losses = TimeLimit(options.seconds), time.time(), []
    while limit.progress < 1:
        set_learning_rate(trainer.optimizers, learning_rate_factor(limit.progress, len(losses), 100, options.flat))
        chosen = torch.randint(len(pairs["ids"]), (BATCH,))
        batch = (pairs[name][chosen] for name in ("noise", "end"))
        losses.append(trainer.step(*(tensor.float() for tensor in batch), pairs["ids"][chosen].long()))
        if len(losses) % options.every == 0:
            latent, image = np.mean(losses[-options.every :], 0)
            rate = len(losses) * BATCH / limit.elapsed
            log(f"{trainer.images} images, latents {latent:.4f}, decoded {image:.4f}, {rate:.1f} images/s")
        if time.time() - saved > SAVE_EVERY:
            trainer.save(options.out)
            saved = time.time()
    trainer.save(options.out)


def draw_samples(trainer: Trainer, index: dict[str, int], out: Path) -> None:
    model, velocity = trainer.model, Velocity(trainer.average, Precision("bf16", torch.device("cpu")))
    ids = encode_prompts([p for p in PROMPTS if all(word in index for word in p.split())], index)
    for steps in (1, 2, 4) if len(ids) else ():
        tokens = euler_sample(velocity, model.text, ids, index, steps=steps)
        save_grid(decode_packed(model.vae, tokens, model.shift, model.scale), 8, out / f"samples-{steps}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="folder of the guidance-distilled pipeline")
    parser.add_argument("--backbones", type=Path, required=True, help="folder of convert_backbones.py")
    parser.add_argument("--pairs", type=int, default=28672)
    parser.add_argument("--teacher-steps", type=int, default=12)
    parser.add_argument("--seconds", type=float, required=True, help="of training")
    parser.add_argument("--decoded", type=int, default=6, help="images of each batch of 128 that are decoded")
    parser.add_argument(
        "--rate", type=float, default=2.5e-4, help="learning rate of AdamW; Muon's is 1.5 times as large"
    )
    parser.add_argument("--flat", type=float, default=0.5, help="fraction of the time at a constant learning rate")
    parser.add_argument("--limit", type=int, help="only the first images' captions")
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    torch.manual_seed(time.time_ns())
    data = load_dataset(options.build, options.limit)
    model = Model(options.model, data.index)
    captions = cached_captions(options.build, options.out, data, options.limit)
    files = (*sorted(options.model.rglob("*.safetensors")), options.build / "pack.npz")
    inputs = digest(*files, options.limit, options.teacher_steps)
    with sdpa_kernel(SDPBackend.MATH):
        write_pairs(model, captions, data.chance, inputs, options)
        files = sorted(options.out.glob("pairs-*.safetensors"))
        loaded = [load_file(file) for file in files]
        pairs = {name: torch.cat([part[name] for part in loaded]) for name in loaded[0]}
        trainer = Trainer(model, options)
        if (options.out / "checkpoint.pt").exists():
            trainer.resume(options.out / "checkpoint.pt")
        train(trainer, pairs, options)
    draw_samples(trainer, data.index, options.out)
    log(f"{trainer.images} images of {len(pairs['ids'])} pairs")


if __name__ == "__main__":
    main()

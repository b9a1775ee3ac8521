"""What the projections cost beside an iteration of noise ascent: on emoji128-turbo in one step, and at FLUX's size.

    python recipes/ascent/cost.py [--device cuda]

An iteration is one forward pass of the generator and the reward, and one backward pass to the noise. A transformer of P
parameters on T tokens needs 4 P T multiplications for that (and more for its attention, which is left out, so that the
share comes out too large rather than too small); the time for each is measured on growing transformers. A projection is
measured at the size of FLUX's latent itself at 1024², N = 262 144. On the CPU the clock is the processor's own, on one
thread, so that other programs do not count.
"""

import argparse
import time

import torch
from torch import Tensor, nn

from noisetilt import load, rewards
from noisetilt.bench.one_step import MODEL
from noisetilt.noise import project_wgnc, whiten
from noisetilt.report import table

FLUX = {"parameters": 12e9, "tokens": 4096 + 512, "latent": (16, 128, 128)}
GROWTH = ((128, 2, 256), (256, 2, 256), (256, 4, 512), (512, 4, 512), (512, 6, 1024))


def seconds(function, device: str, repeats: int = 3) -> float:
    """The least of several runs, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        if device == "cpu":
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
        else:
            torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return min(times[1:])


def iteration(generator, noise: Tensor, reward):
    """Forward and backward, as one closure; the gradient is that by the noise alone."""

    def run() -> None:
        x = noise.detach().requires_grad_()
        torch.autograd.grad(reward(generator(x)).sum(), x)

    return run


class Transformer(nn.Module):
    """Layers of attention and a feed-forward net four times as wide on T tokens of 64 numbers."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, width), nn.Linear(width, 64)
        layer = {"nhead": width // 64, "dim_feedforward": 4 * width, "batch_first": True, "dropout": 0.0}
        self.body = nn.ModuleList(nn.TransformerEncoderLayer(width, **layer) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.enter(tokens)
        for layer in self.body:
            h = layer(h)
        return self.leave(h)


def on_turbo(device: str) -> None:
    model, reward = load(MODEL, device=device), rewards.load("style:3d")
    prompts, noise = ["cat face"] * 4, torch.randn(4, *model.shape, device=device)
    denoiser = model.denoiser(prompts)
    step = seconds(iteration(lambda x: model.decode(denoiser(x, 1.0)), noise, lambda i: reward(i, prompts)), device)
    rows = []
    for name, project in (("project_wgnc", project_wgnc), ("whiten", whiten)):
        cost = seconds(lambda project=project: project(noise), device)
        rows.append([name, step / 4 * 1000, cost / 4 * 1000, f"{cost / (cost + step):.2%}"])
    header = [f"{MODEL}, N = {noise[0].numel()}", "iteration, ms", "projection, ms", "share"]
    print(table(header, rows) + "\n")


def at_the_size_of_flux(device: str) -> None:
    rows, rates = [], []
    for width, layers, tokens in GROWTH:
        network = Transformer(width, layers).to(device).requires_grad_(False)
        parameters = sum(p.numel() for p in network.parameters())
        noise = torch.randn(1, tokens, 64, device=device)
        cost = seconds(iteration(network, noise, lambda y: y.square().mean((1, 2))), device)
        rates.append(cost / (parameters * tokens))
        rows.append([f"{width} × {layers}, {tokens} tokens", parameters / 1e6, cost * 1000, rates[-1] * 1e12])
    print(table(["transformer", "parameters, M", "iteration, ms", "ps per parameter and token"], rows) + "\n")

    whole = rates[-1] * FLUX["parameters"] * FLUX["tokens"]
    noise, rows = torch.randn(1, *FLUX["latent"], device=device), []
    for name, project in (("project_wgnc", project_wgnc), ("whiten", whiten)):
        cost = seconds(lambda project=project: project(noise), device)
        rows.append([name, whole, cost * 1000, f"{cost / (cost + whole):.4%}"])
    print(table(["FLUX's size, N = 262144", "iteration, s", "projection, ms", "share"], rows))
    print("\nThe iteration follows from the rate of the largest transformer above; the projection is measured.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.manual_seed(0)
    torch.set_num_threads(1)
    on_turbo(device)
    at_the_size_of_flux(device)


if __name__ == "__main__":
    main()

"""Where to compare rewards that have no gradient: around the picture, or around the noise. The reward is a small JPEG
file, the generator of the suite one-step.

    python recipes/ascent/black_box.py
"""

from noisetilt import load, optimize, rewards
from noisetilt.bench.one_step import MODEL
from noisetilt.methods import METHODS
from noisetilt.report import table

PROMPTS = ["cat face", "house"]


def main() -> None:
    model, reward, rows = load(MODEL), rewards.load("jpeg"), []
    for perturb, width in (("image", 0.1), ("noise", 0.05)):
        for name in ("gper", "gper-rotation"):
            method = METHODS[name].replace(iterations=10, draws=16, perturb=perturb, width=width)
            trace = optimize(model, PROMPTS, reward, method).trace
            first, last = (trace.rewards[i].mean().item() for i in (0, -1))
            rows.append([perturb, name, first, last, trace.nfe.mean().item()])
    print(table(["perturb", "method", "initial noise, kB", "after 10 iterations, kB", "NFE"], rows))


if __name__ == "__main__":
    main()

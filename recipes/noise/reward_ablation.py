"""What each part of W is worth to the sampler: its reward, what other scorers say, and whether the noise stays noise.

    python recipes/noise/reward_ablation.py build/noise/ablation [--rho 0.05 0.3] [--only W WGNC]

Noise-tilted sampling of emoji128 in 25 steps, from prompts in two flat styles towards `style:3d`, at equal seeds with
each variant of W (variants.py). Every run is kept in FOLDER as a .json file, so that the script goes on where it was
stopped; it prints what is there. Differences are to W, over pairs of equal prompt and seed, with their standard errors;
without W among `--only` there are none.
`p` is the median overall p-value of the audit of the injected noise, `rejected` the fraction of it rejected at 1 %.
"""

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from variants import CRUDE, VARIANTS, Apply

from noisetilt import METHODS, load, rewards, sample
from noisetilt.noise import audit, shuffled
from noisetilt.proposals import Step

PROMPTS = ["cat face noto", "house twemoji", "red apple noto", "automobile twemoji"]
SEEDS = 4
SCORES = {"target": ("style:3d", False), "held-out": ("style:3d", True), "alignment": ("alignment", True)}


@dataclass(frozen=True)
class Tilt:
    """The noise tilt at constant ρ with any W, which keeps the audit's p-values of what it injects."""

    rho: float
    white: Apply
    found: list = field(default_factory=list)
    needs_gradient: ClassVar[bool] = True

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        if self.rho == 0 or step.std == 0 or step.path.alpha(step.t) == 0:
            return step.mean + step.std * noise
        tilted = math.sqrt(self.rho) * self.white(step.gradient, shuffled(noise)) + math.sqrt(1 - self.rho) * noise
        self.found.extend(audit(tilted).p_value.tolist())
        return step.mean + step.std * tilted


def run(model: object, apply: Apply, rho: float) -> dict[str, list[float]]:
    """Scores (prompt × seed) of the pictures and p-values of the noise; rho 0 is plain sampling."""
    prompts = [prompt for prompt in PROMPTS for _ in range(SEEDS)]
    method = METHODS["ntrk"].replace(proposal=Tilt(rho=rho, white=apply))
    reward = rewards.load("style:3d")
    result = sample(model, prompts, reward, method, steps=25, seeds=list(range(len(prompts))), track=False)
    scores = {
        name: rewards.load(reward, heldout=other)(result.images, prompts).tolist()
        for name, (reward, other) in SCORES.items()
    }
    return scores | {"p": method.proposal.found}


def difference(a: list[float], b: list[float]) -> str:
    """Mean of a − b with its standard error."""
    off = torch.tensor(a) - torch.tensor(b)
    return f"{off.mean():+.2f} ± {off.std() / math.sqrt(len(off)):.2f}"


def table(found: dict[str, dict], rho: float, plain: dict) -> str:
    lines = [
        f"rho = {rho:g}",
        f"{'variant':<26}" + "".join(f"{n:>9}{'less W':>16}" for n in SCORES) + "       p  rejected",
    ]
    for name, scores in ({"plain sampling": plain} | found).items():
        line = f"{name:<26}"
        for key in SCORES:
            less = difference(scores[key], found["W"][key]) if "W" in found else ""
            line += f"{torch.tensor(scores[key]).mean():>9.2f}{less:>16}"
        p = torch.tensor(scores["p"]) if scores["p"] else torch.tensor([math.nan])
        lines.append(f"{line}{p.median():>8.1g}{(p < 0.01).double().mean():>6.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rho", type=float, nargs="+", default=[0.05, 0.3])
    parser.add_argument("--only", nargs="+", default=[*VARIANTS, *CRUDE])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    model = load("emoji128")

    def kept(name: str, apply: Apply, rho: float) -> dict:
        file = arguments.folder / f"{name.replace(' ', '-')}-{rho:g}.json"
        if not file.exists():
            file.write_text(json.dumps(run(model, apply, rho)))
        return json.loads(file.read_text())

    plain = kept("plain sampling", VARIANTS["W"], 0.0)
    for rho in arguments.rho:
        found = {name: kept(name, (VARIANTS | CRUDE)[name], rho) for name in arguments.only}
        print(table(found, rho, plain), "\n", flush=True)


if __name__ == "__main__":
    main()

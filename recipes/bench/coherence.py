"""How far the tilts of a path add up on emoji128, against what a path of tilts that never turn would add up to.

    python recipes/bench/coherence.py

Prints, for two rewards and two strengths, the energy of Σ_i w_i W_i over that of one W (the greatest over the
variances of `noisetilt.path.strength`), the same for W_i all alike and for unrelated ones, and the mean cosine of
neighbouring W_i.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from noisetilt import METHODS, load, rewards, sample
from noisetilt.noise import shuffled, whiten
from noisetilt.path.strength import ReverseProcess
from noisetilt.proposals import NoiseTilt, Step
from noisetilt.report import table

PROMPTS = ["cat face flat", "house blob", "red apple noto", "dog face twemoji"]
STEPS = 25


def whitened_gradients(model: object, reward: str, rho: float) -> Tensor:
    """W_i of all steps that have a gradient and noise, (step, image, number)."""
    seen = []

    class Recorder(NoiseTilt):
        def __call__(self, step: Step, noise: Tensor) -> Tensor:
            if self.rho_at(step) > 0 and step.std > 0:
                seen.append(whiten(step.gradient, noise=shuffled(noise)))
            return super().__call__(step, noise)

    method = METHODS["ntrk"].replace(proposal=Recorder(rho))
    sample(model, PROMPTS, rewards.load(reward), method, STEPS, track=False, chunk=len(PROMPTS))
    return torch.stack(seen).flatten(2)


def main() -> None:
    model = load("emoji128")
    # The first step of a flow has no gradient, the last no noise.
    weights = torch.tensor(
        ReverseProcess(model.path, tuple(model.path.grid(STEPS))).weights[:, 1:-1], dtype=torch.float32
    )
    rows = []
    for reward in ("style:3d", "redness"):
        for rho in (0.01, 0.05):
            w = whitened_gradients(model, reward, rho)
            energy = torch.einsum("vs,sin->vin", weights, w).square().mean((1, 2)).max().item()
            cosine = F.cosine_similarity(w[:-1], w[1:], dim=-1).mean().item()
            alike, unrelated = weights.sum(1).square().max().item(), weights.square().sum(1).max().item()
            rows.append([reward, rho, energy, alike, unrelated, cosine])
    print(table(["reward", "rho", "accumulated", "all alike", "unrelated", "cosine of neighbours"], rows))


if __name__ == "__main__":
    main()

"""Real reward gradients of emoji128 during sampling, and its pictures, as input for the other scripts.

    python recipes/noise/gradients.py build/noise/gradients.safetensors

Runs the noise tilt on the embedded model for three rewards and keeps ∇_{x_t} r(x̂_0) at four of 25 steps, 16 states each
(of emoji128: (16, 16, 16, 16)), under a name such as "redness, step 3"; "pictures" are what plain sampling ends with,
(16, 3, 128, 128) in [0, 1].
"""

import sys
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save_file

from noisetilt import METHODS, load, rewards, sample
from noisetilt.proposals import NoiseTilt

PROMPTS = ["cat face", "red apple", "house", "grinning face", "dog", "airplane", "rose", "guitar"] * 2
STEPS = (3, 8, 15, 23)
REWARDS = ("redness", "style:3d", "alignment")


class Watch(NoiseTilt):
    """The noise tilt, keeping the gradients of some steps."""

    kept: ClassVar[dict] = {}

    def __call__(self, step, noise):
        if step.number in STEPS:
            Watch.kept[step.number] = step.gradient.clone()
        return super().__call__(step, noise)


def main() -> None:
    model, found = load("emoji128"), {}
    for name in REWARDS:
        method = METHODS["ntrk"].replace(proposal=Watch())
        sample(model, PROMPTS, reward=rewards.load(name), method=method, steps=25, seeds=list(range(16)))
        found |= {f"{name}, step {number}": g.contiguous() for number, g in Watch.kept.items()}
    found["pictures"] = sample(model, PROMPTS, method="base", steps=25, seeds=list(range(16))).images.contiguous()
    Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    save_file(found, sys.argv[1])


if __name__ == "__main__":
    main()

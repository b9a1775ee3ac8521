"""A model in closed form, and rewards that fail, for tests of batches; importable by worker processes."""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from noisetilt.models.exact import GaussianModel

KNOWN = ("cat", "dog", "fox", "red")


class TinyModel(GaussianModel):
    """A Gaussian model that knows a few words, and images in [0, 1]."""

    steps = 2

    def __init__(self, seconds=0.0):
        super().__init__(torch.full((3, 8, 8), 0.5), torch.full((1, 8, 8), 0.05))
        self.seconds = seconds

    def denoiser(self, prompts):
        for prompt in prompts:
            unknown = [word for word in prompt.split() if word not in KNOWN]
            if unknown:
                raise ValueError(f"the model does not know the word {unknown[0]!r} of the prompt {prompt!r}")
        time.sleep(self.seconds)
        return super().denoiser(prompts)

    def decode(self, x_0):
        return x_0.clamp(0, 1)


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def nan_for_dogs(images, prompts):
    values = redness(images, prompts)
    return torch.where(torch.tensor(["dog" in prompt for prompt in prompts]), torch.nan, values)


def raises_for_dogs(images, prompts):
    if any("dog" in prompt for prompt in prompts):
        raise RuntimeError("the server\nis away")
    return redness(images, prompts)


def away_for_dogs(images, prompts):
    if any("dog" in prompt for prompt in prompts):
        raise ConnectionError("no route to the server")
    return redness(images, prompts)


@dataclass(frozen=True)
class Blend:
    """A proposal of a user: part of the noise is replaced by the sign of the gradient."""

    omega: float = 0.1
    needs_gradient: ClassVar[bool] = True

    def __call__(self, step, noise):
        return step.mean + step.std * ((1 - self.omega) * noise + self.omega * step.gradient.sign())


class Flaky:
    """Raises at the first evaluation of each prompt."""

    name = "flaky"

    def __init__(self):
        self.seen = set()

    def __call__(self, images, prompts):
        if prompts[0] not in self.seen:
            self.seen.add(prompts[0])
            raise ConnectionError("try again")
        return redness(images, prompts)

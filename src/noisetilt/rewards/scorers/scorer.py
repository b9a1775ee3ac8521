"""Learned scorers of 64×64 emoji images: the style, and the alignment with a prompt.

There are two scorers: `target` is optimised and `heldout` evaluates the result. Their networks, seeds and training
images differ, so that an adversarial image for one has a low score by the other. Both are contrastive image–text models
(Radford et al. 2021, arXiv 2103.00020) with a style head. They are trained on corrupted and adversarially perturbed
images (Shafahi et al. 2019, arXiv 1904.12843), which makes their gradients follow the image content (Engstrom et al.
2019, arXiv 1906.00945). They were trained by `recipes/scorers/train.py`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checksums import read_verified
from . import words64 as words
from .concepts import same_meaning
from .encoders import EMBEDDING, ENCODERS, TextTower
from .style import logit_margin

SIZE = 64
MAX_SCALE = 16.0
WEIGHTS = resources.files(__package__) / "weights"


def content_words(prompt: str) -> list[str]:
    """The words of the prompt, without the style words.

    Raises:
        ValueError: if a word is unknown, or the prompt has style words only.
    """
    content = [w for w in words.known_words(prompt) if w not in words.STYLES]
    if not content:
        raise ValueError(
            f"the prompt {prompt!r} names no content to align with; add at least one word besides the styles "
            f"{', '.join(words.STYLES)}, or use a style reward"
        )
    return content


@functools.cache
def bank() -> tuple[str, ...]:
    """The texts that a prompt is compared with: the names of all emoji."""
    return tuple(json.loads((WEIGHTS / "bank.json").read_text("utf-8")))


def checked_images(images: Tensor) -> Tensor:
    """The images, if they are a float batch (n, 3, 64, 64).

    Raises:
        ValueError: if they are not.
    """
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE) or not images.is_floating_point():
        raise ValueError(
            f"the images are {images.dtype} of shape {tuple(images.shape)}; the scorers of emoji64 expect a float "
            f"batch (n, 3, {SIZE}, {SIZE}) in [0, 1]: convert with .float() and torch.nn.functional.interpolate"
        )
    return images


class Scorer(nn.Module):
    """An image tower and a text tower with a joint embedding, and a style head with the class "not a good image".

    Args:
        which: "target" or "heldout"; determines the image tower.
    """

    def __init__(self, which: str) -> None:
        super().__init__()
        self.which = which
        self.encoder = ENCODERS[which]()
        features, texture = self.encoder.features, self.encoder.texture
        self.style_head = nn.Sequential(
            nn.LayerNorm(features + texture),
            nn.Linear(features + texture, 96),
            nn.SiLU(),
            nn.Linear(96, len(words.STYLES) + 1),
        )
        self.image_head = nn.Linear(features, EMBEDDING)
        self.text = TextTower(len(words.vocabulary()))
        self.nothing = nn.Parameter(torch.randn(1, EMBEDDING))
        self.log_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        self.register_buffer("bank_bags", torch.zeros(0, len(words.vocabulary())), persistent=False)
        self.register_buffer("bank_vectors", torch.zeros(0, EMBEDDING), persistent=False)

    def scale(self) -> Tensor:
        """The factor from cosines to logits; bounded, so that the margins stay smooth."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (batch, 3, 64, 64) in [0, 1] to style logits (batch, 4) and unit vectors (batch, EMBEDDING)."""
        features, texture = self.encoder(2 * images - 1)
        return self.style_head(torch.cat([features, texture], dim=1)), F.normalize(self.image_head(features), dim=1)

    def freeze(self) -> Scorer:
        """Evaluation mode without parameter gradients, with the texts of the bank encoded."""
        self.eval().requires_grad_(False)
        with torch.no_grad():
            self.bank_bags = words.bags(bank()).to(self.nothing)
            self.bank_vectors = torch.cat([self.text(self.bank_bags), F.normalize(self.nothing, dim=1)])
        return self

    def style(self, images: Tensor) -> Tensor:
        """The style scores of images.

        Args:
            images: (batch, 3, 64, 64) float in [0, 1]; not clamped.

        Returns:
            (batch, 3) log odds of the styles 3d, noto, twemoji against the other two and "not a good image",
            on the images' device and in their dtype; typically −12 … 8.

        Raises:
            ValueError: if the images have another shape or are not float.
        """
        logits, _ = self.encode(checked_images(images).to(self.nothing))
        return logit_margin(logits)[:, : len(words.STYLES)].to(images)

    def alignment(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """How well each image matches the content of its prompt; style words in a prompt are ignored.

        Args:
            images: (batch, 3, 64, 64) float in [0, 1]; not clamped.
            prompts: one per image, of words in the vocabulary of emoji64.

        Returns:
            (batch,) log odds of the prompt against the names of all other emoji and "nothing", on the images' device
            and in their dtype; typically −20 … 5. Names with the same meaning as the prompt are left out.

        Raises:
            ValueError: if shapes do not fit, a word is unknown, or a prompt has only style words.
        """
        if isinstance(prompts, str) or len(prompts) != len(checked_images(images)):
            raise ValueError(
                f"alignment was given {len(images)} images and the prompts {prompts!r}; "
                "pass a list with one prompt per image"
            )
        _, embedding = self.encode(images.to(self.nothing))
        bags = words.bags([" ".join(content_words(p)) for p in prompts]).to(self.nothing)
        scale = self.scale()
        own = scale * (embedding * self.text(bags)).sum(1)
        others = scale * embedding @ self.bank_vectors.T
        excluded = F.pad(same_meaning(bags, self.bank_bags), (0, 1), value=False)
        return (own - torch.logsumexp(others.masked_fill(excluded, -math.inf), dim=1)).to(images)


@functools.cache
def load_scorer(
    which: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, folder: Path | None = None
) -> Scorer:
    """A trained scorer without parameter gradients; one copy per device and dtype is cached.

    Args:
        which: "target" (to optimise) or "heldout" (to evaluate).
        device, dtype: in which it computes. Images of other dtypes are converted; gradients have the images' dtype.
        folder: of the weights and their checksums.json; the package's own if None.

    Raises:
        ValueError: if there is no such scorer, or its file or the vocabulary differs from the published one.
    """
    if which not in ENCODERS:
        raise ValueError(f"there is no scorer {which!r}; expected one of {', '.join(ENCODERS)}")
    folder = Path(str(WEIGHTS)) if folder is None else Path(folder)
    digests = json.loads((folder / "checksums.json").read_text("utf-8"))
    state, metadata = read_verified(folder / f"{which}.safetensors", digests[f"{which}.safetensors"])
    if metadata["vocabulary"] != vocabulary_digest():
        raise ValueError(
            f"the scorer {which!r} was trained with another vocabulary than emoji64's present one; "
            "train it again with recipes/scorers/train.py"
        )
    scorer = Scorer(which)
    scorer.load_state_dict({k: v.float() for k, v in state.items()})
    return scorer.to(device=device, dtype=dtype).freeze()


def vocabulary_digest() -> str:
    """SHA-256 of the vocabulary."""
    return hashlib.sha256("\n".join(words.vocabulary()).encode()).hexdigest()

"""What an emoji shows: `concept:NAME`, and the alignment with a prompt.

There are two networks: `target` is optimised and `heldout` evaluates the result. Their backbones (EfficientNet-Lite0
and Lite1, pretrained on ImageNet) and their training images differ. Both were trained against adversarial perturbations
(Madry 2018, arXiv 1706.06083). Concepts are classes of a cosine classifier; texts are sums of word vectors, trained
with images as in CLIP (Radford 2021, arXiv 2103.00020). `recipes/emoji128/train_scorers.py` made them.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from .images import in_float32, prepared
from .network import BACKBONES, ScorerNetwork
from .pretrained import check_version, frozen, one_per_device, read_state
from .words import STYLES, VARIATION_SELECTOR, bags, base_form, concepts, content_words, split_words

WEIGHTS = resources.files(__package__) / "concepts"


def concept_row(name: str) -> int:
    """The row of a concept, by its emoji or its name, whose words may come in any order.

    Raises:
        ValueError: if there is no such concept; the message has the nearest names.
    """
    wanted, words = name.strip().lower().replace(VARIATION_SELECTOR, ""), sorted(split_words(name))
    for row, (emoji, known) in enumerate(concepts()):
        if wanted == emoji or words == sorted(known.split()):
            return row
    wanted = base_form(wanted)
    words, names = split_words(wanted), [known for _, known in concepts()]
    close = [known for known in names if set(words) & set(known.split())]
    near = [known for emoji, known in concepts() if base_form(emoji) == wanted]
    near = near or difflib.get_close_matches(" ".join(words), close, n=4, cutoff=0.3)
    near = near or difflib.get_close_matches(wanted, names, n=4, cutoff=0.5)
    hint = f"; nearest names: {', '.join(near)}" if near else "; use the name of an emoji, such as 'cat face'"
    raise ValueError(f"there is no concept {name!r}{hint}")


@one_per_device
def load_concept_network(which: str, device: str | torch.device = "cpu", folder: Path | None = None) -> ScorerNetwork:
    """A trained network without parameter gradients; one copy per device is cached.

    Args:
        which: "target" (to optimise) or "heldout" (to evaluate).
        device: on which it computes, in float32.
        folder: of the weights and their checksums.json; the package's own if None.

    Raises:
        ValueError: if there is no such network, or its file differs from the published one.
    """
    check_version(which, "scorer")
    state = read_state(Path(str(WEIGHTS)) if folder is None else folder, which)
    network = ScorerNetwork(BACKBONES[which], len(STYLES), len(state["concepts"]), len(state["words"]))
    network.backbone.fold()
    return frozen(network, state, device)


def log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log odds (n,) of the chosen classes (n, classes) bool against all others, from logits (n, classes)."""
    own, others = (logits.masked_fill(mask, -math.inf).logsumexp(1) for mask in (~chosen, chosen))
    return own - others


@in_float32
def concept_scores(images: Tensor, row: int, which: str = "target") -> Tensor:
    """How surely each image shows a concept.

    Args:
        images: (batch, 3, height, width) float in [0, 1]; other sizes than 128×128 are resized with antialiasing.
        row: of the concept, from `concept_row`.
        which: "target" or "heldout".

    Returns:
        (batch,) log odds of the concept against the others, on the images' device and in their dtype.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    network = load_concept_network(which, images.device)
    logits = network.concept_logits(network(prepared(images))[1])
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    chosen[:, row] = True
    return log_odds(logits, chosen).to(images)


def same_meaning(bags: Tensor, bank_bags: Tensor) -> Tensor:
    """(prompts, texts) bool: True where one text's words include all words of the other, or most words are shared."""
    shared = bags @ bank_bags.T
    prompt_words, text_words = bags.sum(1, keepdim=True), bank_bags.sum(1)
    union = prompt_words + text_words - shared
    return (shared >= torch.minimum(prompt_words, text_words)) | (shared >= 0.6 * union)


@functools.cache
@torch.inference_mode(False)
def _bank() -> Tensor:
    """Bags (texts, words) of the words of all concepts' names that have content words."""
    return torch.unique(bags([name for _, name in concepts() if _has_content(name)]), dim=0)


@functools.cache
@torch.inference_mode(False)
def _bank_vectors(which: str, device: torch.device) -> Tensor:
    """Unit vectors (texts, dimension) of the bank."""
    return F.normalize(_bank().to(device) @ load_concept_network(which, device).words, dim=1)


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
def _prompt_words(prompt: str) -> tuple[Tensor, Tensor]:
    """A prompt's bag (words,), and which texts of the bank have the same meaning (texts,)."""
    bag = bags([prompt])
    return bag[0], same_meaning(bag, _bank())[0]


def _has_content(name: str) -> bool:
    try:
        return bool(content_words(name))
    except ValueError:
        return False


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises a ValueError for a prompt with an unknown word, or of style words alone, which has no alignment."""
    for prompt in prompts:
        content_words(prompt)


@in_float32
def alignment(images: Tensor, prompts: Sequence[str], which: str = "target") -> Tensor:
    """How well each image matches the content of its prompt; style words in a prompt are ignored.

    Args:
        images: (batch, 3, height, width) float in [0, 1]; other sizes than 128×128 are resized with antialiasing.
        prompts: one per image, of words that the scorer knows.
        which: "target" or "heldout".

    Returns:
        (batch,) log odds of the prompt against the names of all other emoji, on the images' device and in their dtype.
        Names with the same meaning as the prompt are left out.

    Raises:
        ValueError: if shapes do not fit, a word is unknown, or a prompt has only style words.
    """
    x = prepared(images)
    if isinstance(prompts, str) or len(prompts) != len(images):
        raise ValueError(
            f"alignment was given {len(images)} images and the prompts {str(prompts)[:60]!r}; "
            "pass a list with one prompt per image"
        )
    network = load_concept_network(which, images.device)
    wanted, same = (torch.stack(part).to(images.device) for part in zip(*map(_prompt_words, prompts), strict=True))
    embedding = network.text_scale.exp() * network(x)[1]
    own = (embedding * F.normalize(wanted @ network.words, dim=1)).sum(1)
    others = (embedding @ _bank_vectors(which, images.device).T).masked_fill(same, -math.inf)
    return (own - others.logsumexp(1)).to(images)

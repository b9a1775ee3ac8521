"""The rewards that ship, by name, and weighted sums of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

from ..models.emoji64.words import STYLES
from .colour import CHANNELS, brightness, channel_excess, darkness, nearness_to, parse_colour, saturation
from .jpeg import jpeg_size
from .reward import Reward, weighted_sum

CATALOGUE = {
    "alignment": "how well an emoji shows its prompt: logit minus log-sum-exp of other texts (learned)",
    "style:3d": "margin of the style 3d over the other styles, in logits (learned); also style:noto, style:twemoji",
    "redness": "mean red minus the mean of green and blue, -1 to 1; also greenness, blueness",
    "brightness": "mean luma, 0 to 1; darkness is one minus it",
    "saturation": "mean chroma, 0 to 1",
    "colour:#rrggbb": "minus the mean squared distance of the pixels to a colour",
    "jpeg": "minus the size as a JPEG file in kB: small files (black box); jpeg:large rewards large ones",
}

_CLOSED_FORMS: dict[str, Callable[[Tensor, Sequence[str]], Tensor]] = {
    **{name: channel_excess(channel) for name, channel in CHANNELS.items()},
    "brightness": brightness,
    "darkness": darkness,
    "saturation": saturation,
}
_BLACK_BOXES = {"jpeg": jpeg_size(-1.0), "jpeg:small": jpeg_size(-1.0), "jpeg:large": jpeg_size(1.0)}
_TERM = re.compile(r"\s*(?:(?P<weight>[+-]?\d*\.?\d+(?:e[+-]?\d+)?)\s*\*)?\s*(?P<name>[a-z][\w:#-]*)\s*", re.I)


LEARNED = ("alignment", *(f"style:{style}" for style in STYLES))


def _learned(name: str, heldout: bool) -> Reward:
    from .scorers import load_scorer

    which = "heldout" if heldout else "target"
    load_scorer(which)  # damaged weights are refused here, not in the middle of sampling
    if name == "alignment":
        return Reward(name, lambda images, prompts: load_scorer(which, images.device).alignment(images, prompts))
    style = STYLES.index(name.removeprefix("style:"))
    return Reward(name, lambda images, prompts: load_scorer(which, images.device).style(images)[:, style])


def _single(name: str, heldout: bool) -> Reward:
    if name in LEARNED:
        return _learned(name, heldout)
    if name in _CLOSED_FORMS:
        return Reward(name, _CLOSED_FORMS[name])
    if name in _BLACK_BOXES:
        return Reward(name, _BLACK_BOXES[name], differentiable=False)
    if name.startswith("colour:"):
        return Reward(name, nearness_to(parse_colour(name.removeprefix("colour:"))))
    raise ValueError(f"reward {name!r} is unknown; the rewards are: {', '.join(CATALOGUE)}")


def _split_terms(text: str) -> list[tuple[float, str]]:
    """ "0.7*a - 2*b" as [(0.7, "a"), (-2.0, "b")]; a sign between terms has a space before it."""
    terms, sign = [], 1.0
    for piece in re.split(r"(\s*\+\s*|\s+-\s+)", text):
        if piece.strip() in ("+", "-") and terms:
            sign = -1.0 if piece.strip() == "-" else 1.0
            continue
        match = _TERM.fullmatch(piece)
        if match is None:
            raise ValueError(
                f"cannot read {piece.strip()!r} in the reward {text!r}; write it like 0.7*alignment + 0.3*redness"
            )
        terms.append((sign * float(match["weight"] or 1.0), match["name"].lower()))
    return terms


def has_heldout(spec: str) -> bool:
    """Whether the reward has a learned part, and so a held-out version that differs from it."""
    return any(name in LEARNED for _, name in _split_terms(spec))


def load(spec: str, heldout: bool = False) -> Reward:
    """A reward by name ("style:3d"), or a weighted sum of names ("0.7*alignment + 0.3*redness").

    Args:
        spec: names of CATALOGUE, each with an optional weight, joined by + or −.
        heldout: learned rewards come in a second, independently trained version that nothing should be optimised for:
            a target that rises while the held-out one falls is being hacked. Closed forms have one version only.
    Raises:
        ValueError: if a name is unknown or the sum cannot be read.
    """
    terms = [(weight, _single(name, heldout)) for weight, name in _split_terms(spec)]
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    return weighted_sum(terms, spec)

"""The catalogue of rewards by name, and weighted sums of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .._messages import nearest_name
from .._python_files import file_of, imported_files, is_in_file
from .colour import (
    CHANNELS,
    brightness,
    channel_excess,
    colourfulness,
    darkness,
    nearness_to,
    parse_colour,
    saturation,
)
from .from_file import function_names, load_from_file
from .hub import HELDOUT, HUB_NAMES, check_hub, heldout_name, heldout_names, is_hub, load_hub, network_name
from .hub.files import shared_networks
from .hub.imscore import IMSCORE
from .images import checked
from .jpeg import jpeg_size
from .ocr import ocr
from .reward import Normalise, Reward, check_normalise, weighted_sum
from .scorers.words import STYLES

CATALOGUE = {
    "alignment": "how well an emoji matches its prompt: logit minus log-sum-exp of other texts (learned)",
    "style:3d": "log odds of the style 3d against the others (learned); also noto, twemoji, flat, blob",
    "concept:NAME": "log odds of an emoji, such as concept:tiger face or concept:🐯, against 1 405 others (learned)",
    "classifier:imagenet:LABEL": "the logit of a label of ImageNet, such as teapot, by EfficientNet-Lite0 (learned)",
    "redness": "mean red minus the mean of green and blue, -1 to 1; also greenness, blueness",
    "brightness": "mean luma, 0 to 1; darkness is one minus it",
    "saturation": "mean chroma, 0 to 1",
    "colourfulness": "spread and mean of the opponent colours, 0 on grey (Hasler and Süsstrunk 2003)",
    "colour:#rrggbb": "minus the mean squared distance of the pixels to a colour",
    "jpeg": "minus the size as a JPEG file in kB: small files (black box); jpeg:large rewards large ones",
    "aesthetic": "LAION's aesthetic score on CLIP, about 1 to 10; aesthetic-v2.5 is its successor on SigLIP (hub)",
    "clipscore": "2.5 times the cosine of image and prompt in CLIP ViT-B/32 (hub)",
    "pickscore": "human preference for a prompt, a cosine of CLIP ViT-H/14, such as 0.22 (hub)",
    "hpsv2": "human preference for a prompt, a cosine of CLIP ViT-H/14, such as 0.28; also hpsv2.1 (hub)",
    "hpsv3": "human preference for a prompt, by Qwen2-VL-7B, about 0 to 15 (hub)",
    "imagereward": "human preference for a prompt, by BLIP, about -2 to 2 (hub)",
    "mps": "human preference for a prompt, Multi-dimensional Preference Score (package imscore)",
    "vqascore": "probability that a model says yes to: does the image show the prompt? (package imscore)",
    "imscore:MODULE.CLASS": "any other scorer of the package imscore, with path=; also aesthetic-shadow, evalmuse, "
    "cyclereward and pickscore-siglip",
    "clip:MODEL": "cosine of image and prompt in any CLIP or SigLIP of transformers (hub)",
    "objects:LABEL": "log-odds of the most certain object with a label, by a detector; count:LABEL:N rewards N (hub)",
    "ocr": "accuracy of the text that the prompt quotes, 0 to 1, by an OCR engine (black box); also ocr:tesseract",
    "classifier:MODEL:LABEL": "a logit of an image classifier of transformers (hub)",
    "video:pickscore": "mean of an image reward over 8 frames; video-consistency: similarity of the frames (hub)",
    "FILE.py:FUNCTION": "your own function of images, or of images and prompts, in a Python file",
    "videoreward": "human preference for videos, by Qwen2-VL; videoreward:vq, :mq, :ta are its three scores (folder)",
}

_CLOSED_FORMS: dict[str, Callable[[Tensor, Sequence[str]], Tensor]] = {
    **{name: channel_excess(channel) for name, channel in CHANNELS.items()},
    "brightness": brightness,
    "darkness": darkness,
    "saturation": saturation,
    "colourfulness": colourfulness,
}
_BLACK_BOXES = {"jpeg": jpeg_size(-1.0), "jpeg:small": jpeg_size(-1.0), "jpeg:large": jpeg_size(1.0)}
_MINUS = "−-"  # the one of typography too; the hyphen is last, as a class of characters needs it
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_WEIGHT = rf"\s*(?P<sign>[+{_MINUS}]?)\s*(?:(?P<weight>{_NUMBER}(?:e[+{_MINUS}]?\d+)?)\s*\*)?\s*"
_PLUS_OR_MINUS = re.compile(rf"\s*\+\s*|\s+[{_MINUS}]\s+")
# A weight up to the + of its exponent, such as 1e+3, and no colour or name that ends in the same way.
_EXPONENT = re.compile(rf"(?:^|[\s+{_MINUS}]){_NUMBER}e$", re.I)
# Labels may have spaces and emoji; other names have neither, except for files that exist.
_NAME = r"(?P<name>(?:concept|(?:video:)?(?:classifier|objects|count)):.*?|(?:[^\W\d]|[~./])[\w:#@~./\\-]*)\s*"
_TERM = re.compile(_WEIGHT + _NAME, re.I)
# Where the part of a name begins whose case matters.
_KEPT = re.compile(
    r"@|(?<=classifier:imagenet:)|(?<=classifier:)(?!imagenet:)|(?<=clip:)|(?<=objects:)|(?<=count:)|(?<=imscore:)",
    re.I,
)
_FILE_TERMS = [
    re.compile(start + r"(?P<name>.+\.py:\w+)\s*", re.I) for start in (r"\s*(?P<sign>)(?P<weight>)", _WEIGHT)
]


LEARNED = ("alignment", *(f"style:{style}" for style in STYLES))
_CONCEPT, _IMAGENET = "concept:", "classifier:imagenet:"


def is_learned(name: str) -> bool:
    """Whether a reward is learned and has a second, separately trained version in this package."""
    return name in LEARNED or name.startswith(_CONCEPT)


def _learned(name: str, heldout: bool) -> Reward:
    from .scorers import concepts
    from .scorers.style import load_style_network, style_scores

    which = "heldout" if heldout else "target"
    if name.startswith("style:"):
        load_style_network(which)  # damaged weights raise here, not in the middle of sampling
        column = STYLES.index(name.removeprefix("style:"))
        return _of_images(name, lambda images, prompts: style_scores(images, which)[:, column])
    concepts.load_concept_network(which)
    if name == "alignment":
        score = lambda images, prompts: concepts.alignment(images, prompts, which)  # noqa: E731
        return Reward(name, score, check_prompts=concepts.check_prompts)
    row = _concept_row(name.removeprefix(_CONCEPT))
    return _of_images(name, lambda images, prompts: concepts.concept_scores(images, row, which))


def _of_images(name: str, function: Callable[[Tensor, Sequence[str]], Tensor], differentiable: bool = True) -> Reward:
    """A reward that ignores the prompts."""
    return Reward(name, function, differentiable, uses_prompts=False)


def _concept_row(name: str) -> int:
    from .scorers.concepts import concept_row

    return concept_row(name)


def _label_row(label: str) -> int:
    from .scorers.imagenet import label_row

    return label_row(label)


def _imagenet(name: str) -> Reward:
    from .scorers import imagenet

    row = _label_row(name.removeprefix(_IMAGENET))
    imagenet.load_imagenet_network()
    return _of_images(name, lambda images, prompts: imagenet.label_scores(images, row))


Place = str | Path | None


def _hub(name: str, path: Place | Mapping[str, Place], dtype: torch.dtype | None) -> Reward:
    name, _, place = name.partition("@")
    return load_hub(name, place or (path.get(name) if isinstance(path, Mapping) else path), dtype)


def _places(path: Place | Mapping[str, Place], terms: Sequence[tuple[float, str]]) -> Place | Mapping[str, Place]:
    """The argument `path` of `load`, with the names of a mapping as `split_terms` has them.

    Raises:
        ValueError: if a name of a mapping is none of a hub reward, or none of them is that of a term without a place.
    """
    if not isinstance(path, Mapping) or not path:
        return path
    for name in path:
        if not isinstance(name, str) or not is_of_hub(_lower(name)) or "@" in name:
            hint = nearest_name(str(name), HUB_NAMES)
            raise ValueError(f"path has the name {name!r}, which is no reward of the hub{hint}; mend or leave it out")
    places = {_lower(name): place for name, place in path.items()}
    loaded = [name for _, name in terms if is_of_hub(name) and "@" not in name]
    if not places.keys() & set(loaded):
        raise ValueError(
            f"path has places for {', '.join(path)} and the loaded rewards without a place are "
            f"{', '.join(loaded) or 'none'}; give the place of one of them, or leave path out"
        )
    return places


# Rewards that people look for and that are not offered, with the reason.
REFUSED = {
    "face": "a face-identity reward makes images of a particular person, which needs their consent, and the published "
    "face encoders (ArcFace of insightface) are licensed for non-commercial research only; if you have both, write "
    "the reward as a function of images",
    "unifiedreward": "no package carries UnifiedReward, and its published form writes its score as text, which has no "
    "gradient; use hpsv3, or write a function of images and prompts that calls it, with ntrk-black-box",
}
_REFUSED_NAMES = {"face": "face", "arcface": "face", "insightface": "face", "unifiedreward": "unifiedreward"}


def _single(name: str, heldout: bool) -> Reward:
    if is_in_file(name):
        return load_from_file(name)
    refused = next((reason for start, reason in _REFUSED_NAMES.items() if name.startswith(start)), None)
    if refused is not None:
        raise ValueError(f"the reward {name!r} is not offered: {REFUSED[refused]}")
    if name.partition(":")[0] == "ocr":
        return ocr(name.partition(":")[2] or None)
    if is_learned(name):
        return _learned(name, heldout)
    if name.startswith(_IMAGENET):
        return _imagenet(name)
    if name in _CLOSED_FORMS:
        return _of_images(name, checked(_CLOSED_FORMS[name]))
    if name in _BLACK_BOXES:
        return _of_images(name, checked(_BLACK_BOXES[name]), differentiable=False)
    if name.startswith("colour:"):
        return _of_images(name, checked(nearness_to(parse_colour(name.removeprefix("colour:")))))
    raise _unknown(name)


def _unknown(name: str) -> ValueError:
    """The error for a reward that does not exist."""
    image = name.removeprefix("video:") or name
    example = EXAMPLES.get(image.removesuffix(":"))
    if example is not None and (image == name or is_of_hub(f"video:{example}")):
        of_videos = name.removesuffix(image)
        return ValueError(f"the reward {name!r} needs a further part; write it like {of_videos}{example}")
    if name.startswith("style:"):
        style = name.removeprefix("style:")
        hint = nearest_name(name, complete_names()) if nearest_name(style, STYLES) else ""
        return ValueError(f"style {style!r} is unknown{hint}; the styles are: {', '.join(STYLES)}")
    if name.endswith(".py"):
        names = ", ".join(function_names(name)) or "none that can be read"
        return ValueError(
            f"the reward {name!r} names no function of the file; write {name}:FUNCTION; the functions are: {names}"
        )
    if image != name and not image.startswith("video") and not _is_unknown(image):
        return ValueError(
            f"reward {name!r} is unknown: video: is for rewards of the hub; write {image}, whose value for a video is "
            "the mean over its frames"
        )
    kind = _with_kind(name)
    hint = f" (did you mean {kind!r}?)" if kind else nearest_name(name, [*complete_names(), *EXAMPLES])
    return ValueError(f"reward {name!r} is unknown{hint}; the rewards are: {', '.join(CATALOGUE)}")


def _with_kind(name: str) -> str:
    """A style or a concept with its kind before it: "style:3d" for "3d"; "" if it is neither."""
    name = name.strip().lower()
    if name in STYLES:
        return f"style:{name}"
    try:
        _concept_row(name)
    except ValueError:
        return ""
    return f"concept:{name}"


def _is_unknown(name: str) -> bool:
    try:
        find_entry(name)
    except ValueError:
        return True
    return False


def complete_names() -> list[str]:
    """The names of all rewards that need no further word, such as a colour or a model."""
    listed = (name for name in CATALOGUE if name == name.lower() and "#" not in name)
    return list(dict.fromkeys([*listed, *LEARNED, *_CLOSED_FORMS, *_BLACK_BOXES]))


def _concept_lines() -> list[str]:
    from .scorers.words import concepts

    return [f"concept:{name}  {emoji}" for emoji, name in concepts()]


def _label_lines() -> list[str]:
    from .scorers.imagenet import labels

    return [f"classifier:imagenet:{row}  {label}" for row, label in enumerate(labels())]


# Kinds of rewards with a list of names; the functions give a line for each.
GROUPS: dict[str, Callable[[], list[str]]] = {
    "style": lambda: [f"style:{style}" for style in STYLES],
    "concept": _concept_lines,
    "classifier:imagenet": _label_lines,
}


# Kinds of rewards whose names have a further part, with an example of each.
EXAMPLES = {
    "style": "style:3d",
    "concept": "concept:tiger face",
    "classifier:imagenet": "classifier:imagenet:teapot",
    "classifier": "classifier:google/vit-base-patch16-224:teapot",
    "colour": "colour:#ff8800",
    "imscore": "imscore:aesthetic.LAIONAestheticScorer",
    "clip": "clip:openai/clip-vit-large-patch14",
    "objects": "objects:cat",
    "count": "count:cat:2",
    "video": "video:pickscore",
}


# The keys of CATALOGUE that describe other names, or kinds of names: what is before a label, a model and the like.
_DESCRIBED_BY = {
    "style": "style:3d",
    "concept": "concept:NAME",
    "classifier:imagenet": "classifier:imagenet:LABEL",
    "greenness": "redness",
    "blueness": "redness",
    "darkness": "brightness",
    "colour": "colour:#rrggbb",
    "aesthetic-v2.5": "aesthetic",
    "hpsv2.1": "hpsv2",
    **dict.fromkeys(["imscore", *IMSCORE], "imscore:MODULE.CLASS"),
    "clip": "clip:MODEL",
    "objects": "objects:LABEL",
    "count": "objects:LABEL",
    "classifier": "classifier:MODEL:LABEL",
    "video-consistency": "video:pickscore",
    "video": "video:pickscore",
}


def find_entry(name: str) -> str:
    """The key of CATALOGUE whose line describes a reward, or a kind of rewards, such as "concept".

    Raises:
        ValueError: if there is no such reward. Models and labels of the hub are not looked up.
    """
    if name.strip() in CATALOGUE:
        return name.strip()
    name = _lower(name.strip())
    if is_in_file(name):
        return "FILE.py:FUNCTION"
    kind, part = _kind_and_part(name.partition("@")[0])
    if kind == "concept" and part:
        _concept_row(part)
    elif kind == "classifier:imagenet" and part:
        _label_row(part)
    elif kind == "colour" and part:
        parse_colour(part)
    elif part and name not in LEARNED and name not in _BLACK_BOXES and kind != "ocr" and not is_of_hub(name):
        raise _unknown(name)
    entry = _DESCRIBED_BY.get(kind, kind)
    if entry not in CATALOGUE or name == "video":
        raise _unknown(name)
    return entry


def _kind_and_part(name: str) -> tuple[str, str]:
    """ "concept:cat face" as ("concept", "cat face"); the part is empty if there is none."""
    kind = "classifier:imagenet" if f"{name}:".startswith(_IMAGENET) else name.partition(":")[0]
    return kind, name.removeprefix(kind).removeprefix(":")


def heldout_version(name: str) -> str | None:
    """The held-out reward of a reward or a kind of rewards: the name of another reward, "a second network" for the
    learned ones, or None if there is none."""
    name = _lower(name.partition("@")[0].strip())
    if is_learned(name) or name in ("style", "concept"):
        return "a second network"
    kind, _ = _kind_and_part(name.removeprefix("video:"))
    return heldout_name(name) if kind in HELDOUT else None


def split_terms(text: str) -> list[tuple[float, str]]:
    """The weights and names of a weighted sum: "0.7*a - 2*b" as [(0.7, "a"), (-2.0, "b")]; "-a" as [(-1.0, "a")].

    A minus between terms needs spaces around it. The path of a Python file that exists may have any character.

    Raises:
        ValueError: if a term cannot be read.
    """
    pieces = _split_at_signs(text.strip().removeprefix("+"))
    terms: list[tuple[float, str]] = []
    sign, start = 1.0, 0
    while start < len(pieces):
        # The longest file first: a + or - in its path does not end the term.
        ends = range(len(pieces), start, -2)
        found = next((end for end in ends if _match_file("".join(pieces[start:end]))), start + 1)
        piece = "".join(pieces[start:found])
        match = _match_file(piece) or _TERM.fullmatch(piece)
        if match is None:
            raise ValueError(f"cannot read {piece.strip()!r} in the reward {text!r}; {_advice(piece)}")
        weight = float((match["weight"] or "1").replace("−", "-")) * _sign(match["sign"])
        terms.append((sign * weight, _lower(match["name"])))
        sign = _sign("".join(pieces[found : found + 1]).strip())
        start = found + 1
    return terms


def _split_at_signs(text: str) -> list[str]:
    """The terms of a sum, with the signs between them: ["0.7*a", " + ", "b"]."""
    pieces, begin = [], 0
    for match in _PLUS_OR_MINUS.finditer(text):
        exponent = match[0] == "+" and text[match.end() : match.end() + 1].isdecimal()
        if exponent and _EXPONENT.search(text[: match.start()]):
            continue
        pieces += [text[begin : match.start()], match[0]]
        begin = match.end()
    return [*pieces, text[begin:]]


def _sign(text: str) -> float:
    return -1.0 if text and text in _MINUS else 1.0


def _advice(piece: str) -> str:
    """What to write instead of a term that cannot be read."""
    if "@" in piece and " " in piece.partition("@")[2].strip():
        return "a path after @ may have no spaces; pass it as path="
    if ".py:" in piece:
        return f"the file {piece.rpartition(':')[0].strip()} does not exist; give an existing Python file"
    if "(" in piece or ")" in piece:
        return "a sum has no parentheses; multiply the weights out, as in 0.35*alignment + 0.35*redness"
    weight, star, name = piece.rpartition("*")
    kind = _with_kind(name)
    return f"did you mean {weight}{star}{kind}?" if kind else "write it like 0.7*alignment + 0.3*redness"


def _match_file(text: str) -> re.Match[str] | None:
    """The weight and the name of a term that is a function in a Python file that exists."""
    matches = [pattern.fullmatch(text) for pattern in _FILE_TERMS if ".py:" in text]
    return next((m for m in matches if m and os.path.isfile(os.path.expanduser(m["name"].rpartition(":")[0]))), None)


def reward_files(spec: str) -> list[Path]:
    """The Python files of the terms of a reward, with the modules beside them that they import; none if it names none
    that exist, or cannot be read."""
    try:
        files = [file_of(name) for _, name in split_terms(spec) if is_in_file(name)]
    except ValueError:  # of which `load` tells
        return []
    return [each for file in files if file.is_file() for each in imported_files(file)]


def _lower(name: str) -> str:
    """The name in lower case, except for a path, a label or the name of a model of the hub."""
    if is_in_file(name):
        return name
    keep = _KEPT.search(name)
    return name.lower() if keep is None else name[: keep.start()].lower() + name[keep.start() :]


def is_of_hub(name: str) -> bool:
    """Whether the name is that of a hub reward, which may be followed by the path of its weights."""
    name = name.partition("@")[0]
    return is_hub(name) and not f"{name.removeprefix('video:')}:".startswith(_IMAGENET)


def has_heldout(spec: str) -> bool:
    """Whether a term of the reward is learned and has a second, separately trained version in this package, and no
    term lacks a held-out reward."""
    return any(is_learned(name) for _, name in split_terms(spec)) and missing_heldout(spec) is None


def heldout_spec(spec: str) -> str | None:
    """The part of a reward that has a held-out version: the sum of its learned terms and those of the hub; None if
    there is no such term. A closed form, a black box and a function of a file have none but themselves."""
    terms = split_terms(spec)
    paired = _paired(terms)
    if len(paired) == len(terms):
        return spec
    return sum_name(paired) or None


def _paired(terms: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The terms that have a held-out version."""
    return [(weight, name) for weight, name in terms if is_learned(name) or is_of_hub(name)]


def missing_heldout(spec: str) -> str | None:
    """Why `load(spec, heldout=True)` is an error: the terms leave no hub reward that is unrelated to all of them. None
    if they do."""
    terms = split_terms(spec)
    try:
        heldout_terms(terms)
    except ValueError as error:
        return str(error)
    return None


def heldout_terms(terms: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The terms with the names of their held-out rewards in place of those of hub rewards.

    Raises:
        ValueError: if no hub reward is unrelated to all terms.
    """
    hub = [(weight, name.partition("@")[0]) for weight, name in terms if is_of_hub(name)]
    others = iter(heldout_names(hub))
    return [(weight, next(others) if is_of_hub(name) else name) for weight, name in terms]


def load_terms(
    terms: Sequence[tuple[float, str]],
    heldout: bool = False,
    path: Place | Mapping[str, Place] = None,
    dtype: torch.dtype | None = None,
) -> list[tuple[float, Reward]]:
    """The rewards of a sum with their weights, from their names; the other arguments are those of `load`."""
    named = merged_terms(heldout_terms(terms) if heldout else terms)
    path = _places(path, named)
    _check_one_network(named, path)
    with shared_networks():
        return [(weight, load_term(name, heldout, path, dtype)) for weight, name in named]


def merged_terms(terms: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The terms with one term for each name, whose weight is the sum of its weights.

    Functions of files are left as they are, because two calls of one may have different values.
    """
    merged: dict[tuple[str, int], float] = {}
    for number, (weight, name) in enumerate(terms):
        key = (name, number if is_in_file(name) else -1)
        merged[key] = merged.get(key, 0.0) + weight
    return [(weight, name) for (name, _), weight in merged.items()]


def _check_one_network(terms: Sequence[tuple[float, str]], path: Place | Mapping[str, Place]) -> None:
    """Raises a ValueError if one path is given for several networks."""
    if path is None or isinstance(path, Mapping):
        return
    without_place = [name for _, name in terms if is_of_hub(name) and "@" not in name]
    if len({network_name(name) for name in without_place}) > 1:
        raise ValueError(
            f"path = {str(path)!r} is one place and the networks of {', '.join(without_place)} are several; pass a "
            f"mapping from names to paths, such as path={{{without_place[0]!r}: {str(path)!r}, ...}}"
        )


def check_names(spec: str) -> None:
    """Checks that the rewards of a sum exist, without loading those of the hub; all others are loaded.

    Raises:
        ValueError, ImportError: as `load`, but for the weights of hub rewards.
    """
    for _, name in split_terms(spec):
        if is_of_hub(name):
            find_entry(name)
            check_hub(name.partition("@")[0], placed="@" in name)
        else:
            load_term(name)


def load_term(
    name: str,
    heldout: bool = False,
    path: Place | Mapping[str, Place] = None,
    dtype: torch.dtype | None = None,
) -> Reward:
    """The reward of one name, as `split_terms` or `heldout_terms` has it; the other arguments are those of `load`."""
    return _hub(name, path, dtype) if is_of_hub(name) else _single(name, heldout)


@torch.inference_mode(False)
def load(
    spec: str,
    heldout: bool = False,
    *,
    path: Place | Mapping[str, Place] = None,
    dtype: torch.dtype | None = None,
    normalise: Normalise | None = None,
) -> Reward:
    """A reward by name ("style:3d"), or a weighted sum of names ("0.7*alignment + 0.3*redness").

    Args:
        spec: names of CATALOGUE, each with an optional weight, joined by + or −; "-redness" is -1*redness.
            "calm.py:calm" is the function `calm` of a Python file, which is executed. A hub reward may be followed by
            the path of its weights: "aesthetic@/models/aesthetic".
        heldout: whether to load the held-out version, which must not be optimised. A reward that increases while its
            held-out version decreases indicates reward hacking. For the learned rewards of this package it is a second,
            separately trained network; for a hub reward it is another reward with another network and other data
            than any term of the sum (`hub.HELDOUT`). Closed forms, black boxes and functions of a file have one version
            only: beside terms that have two they are left out of a held-out sum, and alone they are returned.
        path: hub id or local folder of the hub reward, instead of the published one; for a sum of several networks, a
            mapping from the names of the loaded rewards (of held-out ones their own names) to their paths. Rewards
            that it does not name have the published weights.
        dtype: in which hub rewards compute; if None, that of each one's publication: bfloat16 for hpsv3 and
            videoreward, float32 for all others.
        normalise: "base" divides each term of a sum by its standard deviation on images of the base model. `sample`
            and `optimize` make these images, which costs network calls; for a pipeline, pass its unguided images to
            `reward.normalised(images, prompts)`.
    Raises:
        ValueError: if a name is unknown, the sum cannot be read, weights cannot be loaded, one path is given for
            several networks, a mapping has a name that is no hub reward or none of a loaded one, or no held-out reward
            is unrelated to all terms.
        ImportError: if a hub reward is requested and transformers is not installed.
    """
    if not isinstance(spec, str):
        raise ValueError(f"the reward is {spec!r}, expected a name, such as 'style:3d'")
    if not isinstance(heldout, bool):
        raise ValueError(f"heldout = {heldout!r} must be True or False; load the held-out reward by a call of its own")
    check_normalise(normalise)
    names = split_terms(spec)
    if path is not None and not any(is_of_hub(name) for _, name in names):
        raise ValueError(f"path = {path} is for hub rewards and {spec!r} has none; leave it out")
    if heldout:
        names = _paired(names) or names
    terms = load_terms(names, heldout, path, dtype)
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]  # alone it has nothing to be normalised against
    # A held-out sum has the name of what is evaluated, which may be other rewards.
    name = sum_name([(weight, reward.name) for weight, reward in terms]) if heldout else spec
    return weighted_sum(terms, name, normalise)


@torch.inference_mode(False)
def load_named_heldout(spec: str) -> Reward:
    """The reward that a user names as the held-out one. A learned term is its second network, as the first one may be
    optimised; a hub reward, a closed form and a function of a file are themselves."""
    with shared_networks():
        terms = [(weight, load_term(name, heldout=True)) for weight, name in merged_terms(split_terms(spec))]
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1.0 else weighted_sum(terms, spec)


def named_heldout(spec: str) -> str:
    """The text of a held-out reward that a user names, with the terms of which it is the second network marked. Records
    have it, because runs of earlier versions evaluated the first network of such a name."""
    terms = split_terms(spec)
    if not any(is_learned(name) for _, name in terms):
        return spec
    return sum_name([(weight, f"{name} (second network)" if is_learned(name) else name) for weight, name in terms])


def check_named_heldout(heldout: str, reward: str) -> None:
    """Raises a ValueError if a held-out reward that a user names is the optimised reward, or a multiple of it."""
    try:
        optimised, held = ({name: w for w, name in merged_terms(split_terms(spec))} for spec in (reward, heldout))
    except ValueError:  # of which `load` tells
        return
    if held.keys() != optimised.keys() or any(map(is_learned, held)):
        return
    factors = {held[name] / weight if weight else None for name, weight in optimised.items()}
    if len(factors) == 1:
        raise ValueError(
            f"the held-out reward {heldout!r} is the optimised reward {reward!r} itself, which cannot show "
            "reward hacking; give another held-out reward, such as alignment, or none"
        )


def sum_name(terms: Sequence[tuple[float, str]]) -> str:
    """The text of a weighted sum, as `split_terms` reads it."""
    text = ""
    for weight, name in terms:
        sign = (" - " if weight < 0 else " + ") if text else ("-" if weight < 0 else "")
        text += sign + (name if abs(weight) == 1 else f"{abs(weight):g}*{name}")
    return text

"""Read five open emoji sets and write 128×128 images on white, with their words.

    python recipes/emoji128/data.py build/emoji128

needs these packages, and Noto Color Emoji as a font (Debian: fonts-noto-color-emoji):

    npm install --prefix build/emoji128 @lobehub/fluent-emoji-3d@1.1.0 @lobehub/fluent-emoji-flat@1.1.0 \\
        @twemoji/svg@15.0.0 @iconify-json/noto-v1@1.2.5 emojibase-data@17.0.0
    pip install resvg-py==0.5.0

Which images are held out follows from the order of emojibase's table, so another version of it holds out others.
It writes images.npz into the folder:
    pictures  (n, 128, 128, 3) uint8, on white
    style     (n,) index into STYLES
    concept   (n,) which emoji (a base emoji and its skin tones are one concept)
    weight    (n,) how often the image is drawn in training, relative to 1
    heldout   (n,) True for the images that nothing is trained on
    flippable (n,) False where a mirror image would be wrong (text, clocks, left and right)
    words     (n,) JSON objects {char, label, name, further}, see captions.Words
"""

from __future__ import annotations

import argparse
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from captions import STYLES
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

SIDE = 128
TWEMOJI_SIDE = 116  # their drawings touch the border of their canvas
NOTO_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STOP_WORDS = frozenset("a an and at for from in no of on or s symbol sign the to with without mark".split())
SKIN_TONES = {
    1: ("light", ["light", "skin"]),
    2: ("medium-light", ["medium", "light", "skin"]),
    3: ("medium", ["medium", "skin"]),
    4: ("medium-dark", ["medium", "dark", "skin"]),
    5: ("dark", ["dark", "skin"]),
}
NOT_FLIPPABLE = {"time", "book-paper", "computer", "office", "award-medal", "money", "phone", "place-map"}
LEFT_OUT = {"flags", "symbols", "component"}
HELD_OUT_CHANCE = 0.25  # of a concept, to have one style held out
# What the versions above give; the networks of the package were trained on these images.
EXPECTED = {"images": 9702, "concepts": 1406, "held out": 504}
TONE_WEIGHT, TONE_CHANCE, PEOPLE_WEIGHT = 0.1, 0.5, 0.5


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, without stop words, in order, each once."""
    found = re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("’", ""))
    return [word for word in dict.fromkeys(found) if word not in STOP_WORDS]


def on_white(image: Image.Image) -> np.ndarray:
    """An image with transparency as (height, width, 3) uint8 on white."""
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return np.asarray(ground.convert("RGB"))


def fit(image: Image.Image, inner: int = SIDE) -> Image.Image:
    """The image in the centre of a transparent canvas of SIDE × SIDE, its longer side `inner` pixels."""
    if image.size != (inner, inner):
        scale = inner / max(image.size)
        size = tuple(round(side * scale) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    if image.size == (SIDE, SIDE):
        return image
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return canvas


def render_svg(text: str, side: int) -> Image.Image:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=text, width=side, height=side)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def render_glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """An emoji of the Noto font, or None if the font has no single glyph for it."""
    image = Image.new("RGBA", (136, 128))
    draw = ImageDraw.Draw(image)
    left, top, right, _ = draw.textbbox((0, 0), character, font=font, embedded_color=True)
    if not 100 <= right - left <= 140:
        return None
    draw.text((-left, -top), character, font=font, embedded_color=True)
    box = (4, 0, 132, 128)
    return image.crop(box) if np.asarray(image)[..., 3].any() else None


def find_file(folder: Path, code: str, suffix: str) -> Path | None:
    """The file of a code point sequence, with or without the variation selector in its name."""
    names = (code.lower(), code.lower().replace("-fe0f", ""))
    return next((file for name in names if (file := folder / f"{name}.{suffix}").exists()), None)


def slug(label: str, tone: int) -> str:
    """The name that the Iconify set gives to an emoji with this label and skin tone (0 for none)."""
    plain = re.sub("['’“”]", "", label.lower())
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return f"{name}-{SKIN_TONES[tone][0]}-skin-tone" if tone else name


def colour_words(picture: np.ndarray) -> list[str]:
    """The colour that covers most of what is not white, if one does; pictures are (128, 128, 3) uint8."""
    hsv = np.asarray(Image.fromarray(picture).convert("HSV")).reshape(-1, 3).astype(float)
    hue, saturation, value = hsv[:, 0] * 360 / 255, hsv[:, 1] / 255, hsv[:, 2] / 255
    ink = (saturation > 0.12) | (value < 0.9)
    if ink.sum() < 400:
        return ["white"]
    hue, saturation, value = hue[ink], saturation[ink], value[ink]
    grey = saturation < 0.18
    kinds = (
        ("black", (value < 0.25) | (grey & (value < 0.45))),
        ("gray", grey),
        ("brown", (value < 0.62) & (hue >= 12) & (hue < 48)),
        ("red", (hue < 12) | (hue >= 345)),
        ("orange", hue < 36),
        ("yellow", hue < 66),
        ("green", hue < 165),
        ("blue", hue < 255),
        ("purple", hue < 290),
        ("pink", hue < 345),
    )
    names = np.select([where for _, where in kinds], [name for name, _ in kinds], "red")
    found, counts = np.unique(names, return_counts=True)
    most = counts.argmax()
    return [str(found[most])] if counts[most] > 0.5 * ink.sum() else []


@dataclass(frozen=True)
class Variant:
    """An emoji, or one with a skin tone (1 to 5; 0 is none)."""

    code: str
    character: str
    label: str
    tone: int = 0

    @property
    def tone_words(self) -> list[str]:
        return SKIN_TONES[self.tone][1] if self.tone else []


class EmojiSets:
    """The five sets, one function from a Variant to an image (or None) for each of STYLES."""

    def __init__(self, packages: Path) -> None:
        self.packages = packages
        self.font = ImageFont.truetype(NOTO_FONT, 109)
        self.icons = json.loads((packages / "@iconify-json/noto-v1/icons.json").read_text("utf-8"))
        flat = partial(self._svg_file, "@lobehub/fluent-emoji-flat/assets", SIDE)
        twemoji = partial(self._svg_file, "@twemoji/svg", TWEMOJI_SIDE)
        self.render: tuple[Callable[[Variant], Image.Image | None], ...] = (
            self._fluent_3d,
            self._noto,
            twemoji,
            flat,
            self._blob,
        )

    def _fluent_3d(self, variant: Variant) -> Image.Image | None:
        file = find_file(self.packages / "@lobehub/fluent-emoji-3d/assets", variant.code, "webp")
        return file and fit(Image.open(file).convert("RGBA"))

    def _noto(self, variant: Variant) -> Image.Image | None:
        return render_glyph(self.font, variant.character)

    def _svg_file(self, folder: str, side: int, variant: Variant) -> Image.Image | None:
        file = find_file(self.packages / folder, variant.code, "svg")
        return file and fit(render_svg(file.read_text("utf-8"), side), side)

    def _blob(self, variant: Variant) -> Image.Image | None:
        name = slug(variant.label, variant.tone)
        icon = self.icons["icons"].get(self.icons.get("aliases", {}).get(name, {}).get("parent", name))
        if icon is None:
            return None
        width, height = (icon.get(side, self.icons.get(side, 128)) for side in ("width", "height"))
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return fit(render_svg(f'<svg {spaces} viewBox="0 0 {width} {height}">{icon["body"]}</svg>', SIDE))


def variants_of(emoji: dict[str, Any]) -> Iterator[Variant]:
    """An emoji of emojibase's table, then its skin tones."""
    yield Variant(emoji["hexcode"], emoji["emoji"], emoji["label"])
    for skin in emoji.get("skins", []):
        if isinstance(skin.get("tone"), int):
            yield Variant(skin["hexcode"], skin["emoji"], emoji["label"], skin["tone"])


def rows_of_emoji(
    emoji: dict[str, Any], group: str, subgroup: str, sets: EmojiSets, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """One row of the data (without `concept`) for each style and skin tone that there is of an emoji."""
    name = split_words(emoji["label"])
    further = split_words(" ".join(emoji.get("tags", []))) + split_words(subgroup.replace("-", " "))
    held_style = int(random.choice(5)) if random.random() < HELD_OUT_CHANCE else -1
    flippable = subgroup not in NOT_FLIPPABLE and not {"left", "right"} & {*name, *further}
    for variant in variants_of(emoji):
        kept = random.random(len(STYLES)) < (TONE_CHANCE if variant.tone else 1)
        for style in np.flatnonzero(kept).tolist():
            image = sets.render[style](variant)
            if image is None:
                continue
            picture = on_white(image)
            more = dict.fromkeys(further + variant.tone_words + colour_words(picture))
            words = {
                "char": emoji["emoji"],
                "label": " ".join([emoji["label"], *variant.tone_words]),
                "name": name,
                "further": [word for word in more if word not in name],
            }
            yield {
                "pictures": picture,
                "style": style,
                "weight": (TONE_WEIGHT if variant.tone else 1) * (PEOPLE_WEIGHT if group == "people-body" else 1),
                "heldout": style == held_style,
                "flippable": flippable,
                "words": json.dumps(words),
            }


def check(style: np.ndarray, concept: np.ndarray, heldout: np.ndarray, complete: bool = True) -> dict[str, int]:
    """The number of images, concepts and held-out images; warns if these are not what a complete run gives.

    Raises:
        ValueError: if a style has no image.
    """
    counts = np.bincount(style, minlength=len(STYLES))
    missing = [name for name, count in zip(STYLES, counts, strict=True) if not count]
    if missing:
        raise ValueError(
            f"the styles {', '.join(missing)} have no images, expected some of each style; install the packages and "
            "the font in the versions of recipes/emoji128/README.md"
        )
    found = {"images": len(style), "concepts": len(np.unique(concept)), "held out": int(heldout.sum())}
    if complete and found != EXPECTED:
        warnings.warn(
            f"read {found}, expected {EXPECTED}; other images are held out than from the networks of the package, "
            "so install the versions of recipes/emoji128/README.md to compare with them",
            stacklevel=2,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="folder with node_modules; images.npz is written into it")
    parser.add_argument("--limit", type=int, help="read only so many emoji")
    options = parser.parse_args()
    packages = options.build / "node_modules"
    table, messages = (
        json.loads((packages / f"emojibase-data/en/{name}.json").read_text("utf-8")) for name in ("data", "messages")
    )
    groups, subgroups = ({entry["order"]: entry["key"] for entry in messages[kind]} for kind in ("groups", "subgroups"))
    sets, random, rows = EmojiSets(packages), np.random.default_rng(0), []
    for concept, emoji in enumerate(tqdm(table[: options.limit])):
        if "group" in emoji and groups[emoji["group"]] not in LEFT_OUT:
            found = rows_of_emoji(emoji, groups[emoji["group"]], subgroups[emoji["subgroup"]], sets, random)
            rows += [{"concept": concept, **row} for row in found]
    arrays = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    counts = check(*(arrays[key] for key in ("style", "concept", "heldout")), complete=options.limit is None)
    np.savez(options.build / "images.npz", **arrays)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()

"""Fetch the three emoji sets, put them on white at 64×64 and write down the words of every picture.

    python recipes/emoji64/data.py

needs `npm` to fetch the packages; it leaves `build/emoji64/data.npz`:
    pictures  (n, 64, 64, 3) uint8, on white
    style     (n,) index into STYLES
    concept   (n,) which emoji (a base emoji and its skin tones are one concept)
    weight    (n,) how often the picture is drawn in training, relative to 1
    heldout   (n,) True for the pictures that nothing is trained on
    flippable (n,) False where a mirror image would be wrong (text, clocks, left and right)
    words     (n,) JSON lists [name words, further words]
and the vocabulary, beside the model's code
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from noisetilt.rewards.scorers.words64 import STYLES, split_words

BUILD = Path("build/emoji64")
VOCABULARY = Path("src/noisetilt/rewards/scorers/vocabulary.json")
PACKAGES = [
    "@lobehub/fluent-emoji-3d@1.1.0",
    "emoji-datasource-google@16.0.0",
    "emoji-datasource-twitter@16.0.0",
]
LEFT_OUT = {"Flags", "Symbols", "Component"}
SKIN_TONES = {
    "1F3FB": ["light", "skin"],
    "1F3FC": ["medium", "light", "skin"],
    "1F3FD": ["medium", "skin"],
    "1F3FE": ["medium", "dark", "skin"],
    "1F3FF": ["dark", "skin"],
}
NOT_FLIPPABLE = {"time", "book-paper", "computer", "office", "award-medal", "money", "phone", "place-map"}
HELD_OUT_SHARE = 0.08


def colour_word(picture: np.ndarray) -> list[str]:
    """The colour that covers most of what is not white, if one does; pictures are (64, 64, 3) uint8."""
    hsv = np.asarray(Image.fromarray(picture).convert("HSV")).reshape(-1, 3).astype(float)
    hue, saturation, value = hsv[:, 0] * 360 / 255, hsv[:, 1] / 255, hsv[:, 2] / 255
    ink = (saturation > 0.12) | (value < 0.9)
    if ink.sum() < 100:
        return ["white"]
    hue, saturation, value = hue[ink], saturation[ink], value[ink]
    grey = saturation < 0.18
    dark_orange = (value < 0.62) & (hue >= 12) & (hue < 48)
    names = np.select(
        [
            value < 0.25,
            grey & (value < 0.45),
            grey,
            dark_orange,
            (hue < 12) | (hue >= 345),
            hue < 36,
            hue < 66,
            hue < 165,
            hue < 255,
            hue < 290,
            hue < 345,
        ],
        ["black", "black", "gray", "brown", "red", "orange", "yellow", "green", "blue", "purple", "pink"],
        "red",
    )
    found, counts = np.unique(names, return_counts=True)
    best = counts.argmax()
    return [str(found[best])] if counts[best] > 0.5 * ink.sum() else []


def fetch(package: str) -> tarfile.TarFile:
    """The package's archive from the npm registry, kept in the build folder."""
    BUILD.mkdir(parents=True, exist_ok=True)
    pattern = package.strip("@").replace("/", "-").replace("@", "-") + ".tgz"
    if not (BUILD / pattern).exists():
        subprocess.run(["npm", "pack", package, "--silent"], cwd=BUILD, check=True)
    return tarfile.open(BUILD / pattern)


def on_white(data: bytes) -> np.ndarray:
    """A picture file with transparency as (64, 64, 3) uint8 on white."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return np.asarray(ground.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS))


def read_pictures(archive: tarfile.TarFile, folder: str) -> dict[str, np.ndarray]:
    """Pictures of one folder by code point, without the variation selector FE0F."""
    pictures = {}
    for member in tqdm(archive.getmembers(), desc=folder):
        path = Path(member.name)
        if str(path.parent) == folder and path.suffix in {".png", ".webp"}:
            code = path.stem.upper().replace("-FE0F", "")
            pictures[code] = on_white(archive.extractfile(member).read())
    return pictures


def main() -> None:
    archives = [fetch(package) for package in PACKAGES]
    table = json.load(archives[1].extractfile("package/emoji.json"))
    sets = [
        read_pictures(archives[0], "package/assets"),
        read_pictures(archives[1], "package/img/google/64"),
        read_pictures(archives[2], "package/img/twitter/64"),
    ]
    rows: dict[str, list] = {k: [] for k in "pictures style concept weight heldout flippable words subcategory".split()}
    random = np.random.default_rng(0)
    for concept, emoji in enumerate(tqdm(table, desc="words")):
        if emoji["category"] in LEFT_OUT:
            continue
        name = split_words(emoji["name"]) or split_words(emoji["short_name"])
        further = split_words(" ".join(emoji["short_names"])) + split_words(emoji["subcategory"])
        base = emoji["unified"].replace("-FE0F", "")
        variants = {base: (1.0, [])}
        tones = emoji.get("skin_variations", {})
        for tone, words in SKIN_TONES.items():
            if tone in tones:
                variants[tones[tone]["unified"].replace("-FE0F", "")] = (0.08, words)
        people = emoji["category"] == "People & Body"
        held_style = random.choice(3) if random.random() < 3 * HELD_OUT_SHARE else -1
        flips = emoji["subcategory"] not in NOT_FLIPPABLE and not {"left", "right"} & set(name + further)
        for code, (weight, tone_words) in variants.items():
            for style, pictures in enumerate(sets):
                if code not in pictures:
                    continue
                rows["pictures"].append(pictures[code])
                rows["style"].append(style)
                rows["concept"].append(concept)
                rows["weight"].append(weight * (0.5 if people else 1.0))
                rows["heldout"].append(style == held_style)
                rows["flippable"].append(flips)
                rows["subcategory"].append(emoji["subcategory"])
                extra = dict.fromkeys(further + tone_words + colour_word(pictures[code]))
                rows["words"].append(json.dumps([name, [w for w in extra if w not in name]]))
    arrays = {k: np.array(v) for k, v in rows.items()}
    np.savez(BUILD / "data.npz", **arrays)
    vocabulary = sorted({w for line in rows["words"] for part in json.loads(line) for w in part} | set(STYLES))
    VOCABULARY.write_text(json.dumps(vocabulary))
    print(
        f"{len(arrays['style'])} pictures, {arrays['heldout'].sum()} held out, {len(vocabulary)} words, "
        f"{len(set(rows['concept']))} concepts"
    )


if __name__ == "__main__":
    main()

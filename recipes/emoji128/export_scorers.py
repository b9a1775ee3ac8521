"""Write the scorers that the package ships, from what train_scorers.py and train_style.py made.

    python recipes/emoji128/export_scorers.py build/emoji128 build/emoji128/scorers build/emoji128/backbones \
        build/emoji128/exported

Written: concepts/ with target.safetensors and heldout.safetensors (float16, batch normalisation folded, one vector for
each word), words.json and concepts.json; style/ with target.safetensors and heldout.safetensors; imagenet/ with an
untouched EfficientNet-Lite0 with its classifier, and the labels of its 1 000 classes: those of the package, or with
--labels those of a file, one per line. They are the folders of src/noisetilt/rewards/scorers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from captions import SPECIAL, VARIATION_SELECTOR, split_words
from dataset import Dataset, load_dataset
from safetensors.torch import save_file
from torch import Tensor
from training import load_weights

from noisetilt.rewards.scorers.imagenet import ImageNetClassifier, labels
from noisetilt.rewards.scorers.network import BACKBONES, ScorerNetwork

STYLES, VERSIONS = 5, ("target", "heldout")


def word_rows(data: Dataset) -> dict[str, int]:
    """The row of each word's vector; the forms of a word share one."""
    same = {int(form): word for form, word in data.vocabulary["same_as"].items()}
    rows: dict[str, int] = {}
    for number, token in enumerate(data.vocabulary["tokens"]):
        if number >= len(SPECIAL) and number not in same:
            rows[token] = len(rows)
    tokens = data.vocabulary["tokens"]
    return {**rows, **{tokens[form]: rows[tokens[word]] for form, word in same.items()}}


def concepts(data: Dataset) -> list[list[str]]:
    """[emoji, label's words ...] of each concept, in the order of the network's rows."""
    numbers = data.concept.unique(return_inverse=True)[1].tolist()
    found: dict[int, list[str]] = {}
    for number, words in zip(numbers, data.words, strict=True):
        found.setdefault(number, [words["char"].replace(VARIATION_SELECTOR, ""), *split_words(words["label"])])
    return [found[number] for number in range(len(found))]


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.half() if v.is_floating_point() else v).contiguous().clone() for k, v in state.items()}


def export(file: Path, kind: str, data: Dataset, rows: dict[str, int], number: int) -> dict[str, Tensor]:
    network = ScorerNetwork(BACKBONES[kind], STYLES, number, len(data.vocabulary["tokens"]))
    load_weights(network, file)
    network.backbone.fold()
    state = network.state_dict()
    state["words"] = torch.stack([state["words"][data.index[token]] for token in list(rows)[: max(rows.values()) + 1]])
    return half(state)


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")


def write_checksums(folder: Path) -> None:
    files = sorted(f for f in folder.iterdir() if f.suffix in {".safetensors", ".json"} and f.name != "checksums.json")
    write_json(folder / "checksums.json", {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("build", "scorers", "backbones", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--labels", type=Path, help="names of ImageNet's classes, one per line")
    options = parser.parse_args()
    names = labels() if options.labels is None else options.labels.read_text("utf-8").splitlines()
    folders = texts, styles, photographs = [options.out / name for name in ("concepts", "style", "imagenet")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset(options.build)
    rows, known = word_rows(data), concepts(data)
    for kind in VERSIONS:
        state = export(options.scorers / f"{kind}.safetensors", kind, data, rows, len(known))
        save_file(state, texts / f"{kind}.safetensors")
        shutil.copy(options.scorers / f"style-{kind}.safetensors", styles / f"{kind}.safetensors")
    write_json(texts / "words.json", rows)
    write_json(texts / "concepts.json", known)
    classifier = ImageNetClassifier()
    load_weights(classifier.backbone, options.backbones / "lite0.safetensors")
    load_weights(classifier.classifier, options.backbones / "lite0-classifier.safetensors")
    classifier.backbone.fold()
    save_file(half(classifier.state_dict()), photographs / "network.safetensors")
    write_json(photographs / "labels.json", names)
    for folder in folders:
        write_checksums(folder)


if __name__ == "__main__":
    main()

"""Write the scorers of concept and text that the package ships, from what train_scorers.py made.

    python recipes/emoji128/export_scorers.py build/emoji128 build/emoji128/scorers build/emoji128/backbones \
        build/emoji128/labels.txt src/noisetilt/rewards/scorers

Written: concepts/ with target.safetensors and heldout.safetensors (float16, batch normalisation folded, one vector for
each word), words.json and concepts.json; imagenet/ with an untouched EfficientNet-Lite0 with its classifier. labels.txt
has the names of ImageNet's 1 000 classes in the order of the classifier, one per line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from captions import SPECIAL, VARIATION_SELECTOR, split_words
from dataset import Dataset, load_dataset
from safetensors.torch import save_file
from torch import Tensor
from training import load_weights

from noisetilt.rewards.scorers.imagenet import ImageNetClassifier
from noisetilt.rewards.scorers.network import BACKBONES, ScorerNetwork

STYLES = 5


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


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")


def write_checksums(folder: Path) -> None:
    files = sorted(f for f in folder.iterdir() if f.suffix in {".safetensors", ".json"} and f.name != "checksums.json")
    write_json(folder / "checksums.json", {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("build", "scorers", "backbones", "labels", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    texts, photographs = options.out / "concepts", options.out / "imagenet"
    for folder in (texts, photographs):
        folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset(options.build)
    rows, names = word_rows(data), concepts(data)
    for kind in ("target", "heldout"):
        state = export(options.scorers / f"{kind}.safetensors", kind, data, rows, len(names))
        save_file(state, texts / f"{kind}.safetensors")
    write_json(texts / "words.json", rows)
    write_json(texts / "concepts.json", names)
    classifier = ImageNetClassifier()
    load_weights(classifier.backbone, options.backbones / "lite0.safetensors")
    load_weights(classifier.classifier, options.backbones / "lite0-classifier.safetensors")
    classifier.backbone.fold()
    save_file(half(classifier.state_dict()), photographs / "network.safetensors")
    write_json(photographs / "labels.json", options.labels.read_text("utf-8").splitlines())
    for folder in (texts, photographs):
        write_checksums(folder)


if __name__ == "__main__":
    main()

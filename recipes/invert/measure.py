"""Measure noise inversion and its edits on real images that were held out of emoji128's training.

    python recipes/invert/measure.py build/emoji128 --out build/emoji128/invert.jsonl
    python recipes/invert/measure.py --table

The folder has pack.npz and vocabulary.json of recipes/emoji128/pack.py. Three stages, each resumed from the rows that
`--out` has, which must have been measured with the same model, judge and iterations:

1. cost: CPU seconds of one iteration of every method, interleaved, so that all methods can be given the same time.
2. tune: the rate of every method, by steps of about three from its own while the distance falls, on four images that
   are not used afterwards.
3. test: every method at its best rate, for the time of `--iterations` iterations of gper, from the same seeds. The
   noise is audited, and used for two edits: another concept, and another style. The judge names the edited images.
   The row "random noise" has the same prompts from fresh noise.

The layout of an edit is compared with the real image: correlation of the luma at 8×8 pixels, and intersection over
union of the silhouettes (pixels that are not white).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import noisetilt
from noisetilt import noise
from noisetilt.bench.judge import WEIGHTS
from noisetilt.bench.statistics import bootstrap, paired
from noisetilt.inversion.distances import feature_maps
from noisetilt.inversion.invert import inversion_method
from noisetilt.report import table

sys.path.insert(0, str(Path(__file__).parent))
from real_images import STYLES, Judge, RealImages, read_real_images
from stored import Row, Rows, climb, keep_options, rows_file, write_tensor

METHOD_NAMES = ("none", "reno", "prno", "mpgr", "gper", "gper-both")
RATE_OF = {"gper-both": "gper"}
OURS = ("gper", "gper-both")
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TUNING = 4
ITERATIONS = 20
COST_RUNS = 6
STORED_EVERY = 10  # iterations between the distances of a row
MODEL = "emoji128-turbo"
RANDOM = "random noise"
PUBLISHED = Path(__file__).with_name("measured.jsonl")


def known(model: Any, prompt: str) -> bool:
    try:
        model.denoiser([prompt])
    except ValueError:
        return False
    return True


def edits(real: RealImages, model: Any) -> dict[str, tuple[list[str], list[str]]]:
    """Kind of edit → labels and styles: the label of the next image, and the next style that the model knows."""
    labels = [*real.labels[1:], real.labels[0]]
    styles = [style for style in STYLES if known(model, f"cat face {style}")]
    other = [styles[(styles.index(style) + 1) % len(styles)] for style in real.styles]
    return {"concept": (labels, real.styles), "style": (real.labels, other)}


def layout(images: Tensor, originals: Tensor) -> tuple[list[float], list[float]]:
    """Correlation of the luma at 8×8 pixels, and intersection over union of the silhouettes, per image."""
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    a, b = (F.adaptive_avg_pool2d((x * weights).sum(1), 8).flatten(1) for x in (images, originals))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    correlation = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-9)
    first, second = ((1 - x).amax(1) > 0.1 for x in (images, originals))
    union = (first | second).sum((1, 2)).clamp(min=1)
    return correlation.tolist(), ((first & second).sum((1, 2)) / union).tolist()


def feature_distance(images: Tensor, targets: Tensor) -> list[float]:
    """By the held-out network's features, which no method minimises."""
    with torch.no_grad():
        return (feature_maps(images, "heldout") - feature_maps(targets, "heldout")).square().mean(1).tolist()


def run(model: Any, name: str, factor: float, targets: Tensor, prompts: list[str], seeds: list[int], iterations: int):
    method = inversion_method(name)
    method = method.replace(rate=method.initial.rate * factor)
    return noisetilt.invert(model, targets, prompts, method, iterations, seeds=seeds, chunk=16)


def measure_cost(model: Any, targets: Tensor, prompts: list[str], store: Rows) -> dict[str, float]:
    """CPU seconds of one iteration and image: the least of interleaved runs, as other programs only slow it."""
    if not store.where(stage="cost"):
        spent: dict[str, list[float]] = {name: [] for name in METHOD_NAMES}
        for name in METHOD_NAMES * COST_RUNS:
            begin = time.process_time()
            run(model, name, 1.0, targets, prompts, list(range(len(prompts))), 2)
            spent[name].append((time.process_time() - begin) / 3 / len(prompts))
        store.add({"stage": "cost", "seconds": {name: min(values) for name, values in spent.items()}})
    return store.where(stage="cost")[0]["seconds"]


def tune(
    model: Any, methods: list[str], targets: Tensor, prompts: list[str], iterations: dict[str, int], store: Rows
) -> dict[str, float]:
    """Method → the factor of its own rate with the smallest mean distance."""

    def mean(name: str, place: int) -> float:
        factor = FACTORS[place]
        if not store.where(stage="tune", method=name, factor=factor):
            seeds = [1000 + i for i in range(len(prompts))]
            result = run(model, name, factor, targets, prompts, seeds, iterations[name])
            row = {"stage": "tune", "method": name, "factor": factor, "iterations": iterations[name]}
            store.add({**row, "mse": result.distances.tolist()})
        values = store.where(stage="tune", method=name, factor=factor)[0]["mse"]
        print(name, factor, f"{sum(values) / len(values):.4f}", flush=True)
        return sum(values) / len(values)

    for name in {RATE_OF.get(name, name): None for name in methods}:
        climb(len(FACTORS), FACTORS.index(1.0), lambda place, name=name: -mean(name, place))
    best = {}
    for name in methods:
        rows = store.where(stage="tune", method=RATE_OF.get(name, name))
        best[name] = min(rows, key=lambda row: sum(row["mse"]))["factor"]
    return best


def edit_fields(
    images: Tensor, originals: Tensor, labels: list[str], styles: list[str], judge: Judge, kind: str
) -> list[Row]:
    correlation, overlap = layout(images, originals)
    named, styled = judge(images, labels, styles)
    keys = (f"{kind}_correlation", f"{kind}_overlap", f"{kind}_named", f"{kind}_styled")
    return [dict(zip(keys, values, strict=True)) for values in zip(correlation, overlap, named, styled, strict=True)]


def measure_batch(
    model: Any, judge: Judge, name: str, factor: float, iterations: int, part: range, real: RealImages
) -> Iterator[tuple[Row, Tensor]]:
    """One row per image, and its images: found and edited."""
    originals, prompts = real.part(part).images, real.part(part).prompts
    begin = time.process_time()
    if name == RANDOM:
        found = noisetilt.invert(model, originals, prompts, iterations=0, seeds=[5000 + i for i in part])
    else:
        found = run(model, name, factor, originals, prompts, list(part), iterations)
    seconds = (time.process_time() - begin) / len(part)
    audited = noise.audit(found.noise)
    failed = torch.stack([p < 0.01 for p in audited.tests.values()]).float().mean(0)
    features, shown, edited = feature_distance(found.images, originals), [found.images], []
    for kind, wanted in edits(real, model).items():
        labels, styles = (values[part.start : part.stop] for values in wanted)
        images = found.edit([f"{label} {style}" for label, style in zip(labels, styles, strict=True)]).images
        edited.append(edit_fields(images, originals, labels, styles, judge, kind))
        shown.append(images)
    for i, number in enumerate(part):
        row = {"stage": "test", "method": name, "image": number, "prompt": prompts[i], "factor": factor}
        row |= {"iterations": iterations, "seconds": seconds, "mse": float(found.distances[i]), "feature": features[i]}
        row |= {"p_value": float(audited.p_value[i]), "failed_tests": float(failed[i])}
        row |= {"mean_square": float(found.noise[i].square().mean())}
        row |= {"curve": [round(float(value), 5) for value in found.curve[::STORED_EVERY, i]]}
        yield row | {k: v for fields in edited for k, v in fields[i].items()}, torch.stack([x[i] for x in shown])


def digest(judge: Path) -> str:
    """The first digits of the SHA-256 of the judge's network in a folder."""
    return hashlib.sha256((judge / "judge.safetensors").read_bytes()).hexdigest()[:12]


def measure(options: argparse.Namespace, store: Rows) -> None:
    given = {"model": options.model, "iterations": options.iterations, "judge": digest(options.judge)}
    keep_options(store, {"model": MODEL, "iterations": ITERATIONS, "judge": digest(WEIGHTS)}, given)
    model = noisetilt.load(options.model, device="cpu", dtype="float32")  # where the judge and the real images are
    side = model.decode(torch.zeros(1, *model.shape)).shape[-1]
    real = read_real_images(options.build, TUNING + options.n, side, lambda prompt: known(model, prompt))
    judge = Judge(options.judge, real.concept_of)
    tuning, real = real.part(range(TUNING)), real.part(range(TUNING, TUNING + options.n))
    images, prompts = tuning.images, tuning.prompts
    cost = measure_cost(model, images, prompts, store)
    iterations = {name: round(options.iterations * cost["gper"] / cost[name]) for name in METHOD_NAMES}
    factors = tune(model, options.methods, images, prompts, iterations, store)
    pictures = options.out.with_suffix("")
    pictures.mkdir(exist_ok=True)
    for part in (range(i, min(i + options.batch, options.n)) for i in range(0, options.n, options.batch)):
        for name in (RANDOM, *options.methods):
            measured = {row["image"] for row in store.where(stage="test", method=name)}
            if measured.issuperset(part):
                continue
            arguments = (factors.get(name, 1.0), iterations.get(name, 0), part, real)
            found = list(measure_batch(model, judge, name, *arguments))
            # Before the rows, because a run that goes on does not measure the images of rows again.
            write_tensor(
                torch.stack([shown for _, shown in found]), pictures / f"{name.replace(' ', '-')}-{part.start}.pt"
            )
            for row, _ in found:
                if row["image"] not in measured:
                    store.add(row)
            rows = store.where(stage="test", method=name)
            mean = sum(row["mse"] for row in rows if row["image"] in part) / len(part)
            print(name, part, f"{mean:.4f}", flush=True)
        write_tensor(real.part(part).images, pictures / f"targets-{part.start}.pt")


def leads(groups: dict[str, list[Row]]) -> str:
    """The table of differences of gper and gper-both to others on the same images, with 95 % bootstrap intervals: in
    PSNR to the best other method, by the mean PSNR, and in the edits with the right concept to random noise."""
    rows = {name: [{**row, "psnr": decibels(row["mse"])} for row in some] for name, some in groups.items()}
    others = [name for name in rows if name not in (*OURS, RANDOM)]
    if not others or RANDOM not in rows:
        return "No differences: the rows of random noise or of other methods than gper are missing."
    best = max(others, key=lambda name: sum(row["psnr"] for row in rows[name]))
    columns = {"psnr": best, "concept_named": RANDOM, "style_named": RANDOM}
    header = ["method", f"PSNR dB minus that of {best}"]
    header += [f"another {kind}: named, minus {RANDOM}" for kind in ("concept", "style")]
    lines = [
        [name, *(str(bootstrap(paired(rows[name], rows[base], key, ("image",)))) for key, base in columns.items())]
        for name in OURS
        if name in rows
    ]
    return table(header, lines)


def decibels(mse: float) -> float:
    """PSNR of images in [0, 1]."""
    return -10 * math.log10(mse)


def show(store: Rows) -> str:
    """The tables of the stored rows: means with 95 % bootstrap intervals over the images that all methods have."""
    test = store.where(stage="test")
    names = [name for name in (RANDOM, *METHOD_NAMES) if any(row["method"] == name for row in test)]
    common = set.intersection(*({row["image"] for row in test if row["method"] == name} for name in names))
    groups = {name: [r for r in test if r["method"] == name and r["image"] in common] for name in names}

    def column(rows: list[Row], key: str) -> str:
        return str(bootstrap([float(row[key]) for row in rows]))

    first = ("mse", "feature", "mean_square", "failed_tests")
    lines = []
    for name, rows in groups.items():
        psnr = bootstrap([decibels(row["mse"]) for row in rows])
        cells = [rows[0]["iterations"], round(rows[0]["factor"], 2), *(column(rows, k) for k in first), str(psnr)]
        lines.append([name, *cells])
    header = ["method", "iterations", "rate ×", "MSE", "feature distance", "mean square", "tests failed", "PSNR dB"]
    text = f"{len(common)} images\n\n" + table(header, lines)
    for kind in ("concept", "style"):
        keys = [f"{kind}_{what}" for what in ("correlation", "overlap", "named", "styled")]
        lines = [[name, *(column(rows, key) for key in keys)] for name, rows in groups.items()]
        text += f"\n\nedits: another {kind}\n\n"
        text += table(["method", "luma correlation", "silhouette IoU", "concept among five", "style named"], lines)
    return f"{text}\n\npaired differences\n\n{leads(groups)}\n\nPSNR dB along the ascent\n\n{progress(groups)}"


def progress(groups: dict[str, list[Row]]) -> str:
    """The table of the mean PSNR at every tenth iteration, and when each method first has the best mean of the others:
    the iteration is interpolated between those that are stored."""
    curves = {
        name: np.array([[decibels(mse) for mse in row["curve"]] for row in rows]).mean(0)
        for name, rows in groups.items()
        if name != RANDOM
    }
    stored = range(0, STORED_EVERY * max(map(len, curves.values())), STORED_EVERY)
    lines = []
    for name, curve in curves.items():
        values = [f"{value:.1f}" for value in curve] + [""] * (len(stored) - len(curve))
        lines.append([name, *values, *(reached(curve, other.max()) for other in curves.values())])
    return table(["method", *(str(i) for i in stored), *(f"reaches {other}" for other in curves)], lines)


def reached(curve: np.ndarray, level: float) -> str:
    """The first iteration of a stored curve that has a level; "" if none has."""
    found = np.flatnonzero(curve >= level)
    if len(found) == 0:
        return ""
    last = found[0]
    if last == 0:
        return "0"
    before = curve[last - 1]
    return f"{STORED_EVERY * (last - 1 + (level - before) / (curve[last] - before)):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, nargs="?")
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, help="the file of the rows (default with --table: the published rows)")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--methods", nargs="+", default=list(METHOD_NAMES))
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--table", action="store_true", help="only print the tables of the stored rows")
    options = parser.parse_args()
    options.out = rows_file(parser, options, PUBLISHED)
    store = Rows(options.out)
    if not options.table:
        measure(options, store)
    print(show(store))


if __name__ == "__main__":
    main()

"""Does averaging a reward over random views lower reward hacking? Target, held-out reward and judge by strength.

    python recipes/bench/robust.py out/robust [--rewards style:3d alignment] [--strengths 0.015 0.03 0.06 0.12]

NTRK in 25 steps on emoji128 with the plain reward and with its mean over views, on the benchmark's tuning prompts.
`rows.jsonl` gets one row per image; a finished setting is not run again. Printed: means per setting, and the held-out
reward and the judge's accuracy of both at equal target reward, by linear interpolation between strengths.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from noisetilt import METHODS, load, rewards, sample
from noisetilt.bench import judge
from noisetilt.bench.paper_plan import FLAT_STYLES, TUNING_PROMPTS
from noisetilt.report import table
from noisetilt.report.pictures import grid, save_image
from noisetilt.rewards.robust import robust
from noisetilt.rewards.scorers.concepts import concept_row

STEPS, BATCH = 25, 8
PLAIN = "plain"


def measure(model, name: str, kind: str, rho: float, options: argparse.Namespace) -> list[dict]:
    target, heldout = rewards.load(name), rewards.load(name, heldout=True)
    reward = target if kind == PLAIN else robust(target, **json.loads(kind))
    names = [TUNING_PROMPTS[i % len(TUNING_PROMPTS)] for i in range(options.images)]
    prompts = [f"{concept} {FLAT_STYLES[i % len(FLAT_STYLES)]}" for i, concept in enumerate(names)]
    method = METHODS["ntrk"].replace(rho=rho) if rho else METHODS["base"]
    rows, made = [], []
    for begin in range(0, len(prompts), BATCH):
        some = prompts[begin : begin + BATCH]
        seeds = [100 + begin + i for i in range(len(some))]
        images = sample(model, some, reward if rho else None, method, STEPS, seeds=seeds).images
        found = judge.evaluate(images)
        log_chance = found.concepts.log_softmax(1)
        with torch.no_grad():
            values, theirs = target(images, some), heldout(images, some)
        for i, prompt in enumerate(some):
            right = concept_row(names[begin + i])
            rows.append(
                {
                    "reward": name, "kind": kind, "rho": rho, "prompt": prompt, "seed": seeds[i],
                    "target": float(values[i]), "heldout": float(theirs[i]),
                    "named": bool(judge.names_concept(found.concepts[i : i + 1], [[right]], 1)),
                    "log_chance": float(log_chance[i, right]),
                }
            )  # fmt: skip
        made.append(images)
    number = ["plain", *options.kinds].index(kind)
    save_image(
        grid([(f"{name}, {kind}, rho {rho:g}", list(torch.cat(made)))]),
        options.out / f"{name.replace(':', '-')}-{number}-{rho:g}.png",
    )
    return rows


FIELDS = ("target", "heldout", "named", "log_chance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rewards", nargs="+", default=["style:3d", "alignment"])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.015, 0.03, 0.06, 0.12])
    parser.add_argument("--kinds", nargs="+", default=['{"views": 4}'], help="arguments of `robust` as JSON")
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    model = load("emoji128")
    for name in options.rewards:
        for kind, rho in [(PLAIN, 0.0), *((k, s) for s in options.strengths for k in (PLAIN, *options.kinds))]:
            if any((row["reward"], row["kind"], row["rho"]) == (name, kind, rho) for row in rows):
                continue
            more = measure(model, name, kind, rho, options)
            rows += more
            with file.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in more)
            print(
                name,
                kind,
                rho,
                *(f"{field} {np.mean([row[field] for row in more]):.3f}" for field in FIELDS),
                flush=True,
            )
    for name in options.rewards:
        print(table(["setting", "n", *FIELDS], _means(rows, name)))
        print(table(["at equal target", *FIELDS], _at_equal_target(rows, name)))


def _curve(rows: list[dict], name: str, kind: str) -> list[tuple[float, int, list[float]]]:
    chosen = [row for row in rows if row["reward"] == name and row["kind"] == kind]
    found = []
    for rho in sorted({row["rho"] for row in chosen}):
        some = [row for row in chosen if row["rho"] == rho]
        found.append((rho, len(some), [float(np.mean([row[field] for row in some])) for field in FIELDS]))
    return found


def _means(rows: list[dict], name: str) -> list[list]:
    kinds = dict.fromkeys(row["kind"] for row in rows if row["reward"] == name)
    return [[f"{kind}, rho {rho:g}", n, *means] for kind in kinds for rho, n, means in _curve(rows, name, kind)]


def _at_equal_target(rows: list[dict], name: str) -> list[list]:
    """Each kind's figures at the target values of the plain reward's strengths, where its own curve reaches them."""
    base, *plain = _curve(rows, name, PLAIN)
    lines = []
    for rho, _, means in plain:
        lines.append([f"{PLAIN}, rho {rho:g}", *means])
        for kind in dict.fromkeys(row["kind"] for row in rows if row["reward"] == name and row["kind"] != PLAIN):
            curve = np.array([base[2], *(point[2] for point in _curve(rows, name, kind))])
            if curve[:, 0].min() <= means[0] <= curve[:, 0].max():
                order = curve[:, 0].argsort()
                lines.append(
                    [kind, *(float(np.interp(means[0], curve[order, 0], column)) for column in curve[order].T)]
                )
    return lines


if __name__ == "__main__":
    main()

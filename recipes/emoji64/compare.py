"""Compare methods on emoji64: base, DPS and NTRK at 25 network calls a picture, Best-of-N and SVDD at 500.

    python recipes/emoji64/compare.py            # tunes, runs, prints the table; resumes where it stopped
    python recipes/emoji64/compare.py --quick    # two prompts, a tenth of the candidates, a few minutes

The strength of DPS and NTRK is tuned for each target on other prompts: of the strengths whose pictures still show what
was asked for (held-out alignment, a log odds, at most KEEP below base's), the one with the highest target reward is
taken. Every finished picture is a line of build/compare/pictures.jsonl, and a sheet for each target shows two seeds of
every prompt.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from noisetilt.bench.features import features
from PIL import Image
from tqdm.auto import tqdm

from noisetilt import METHODS, Method, load, rewards, sample
from noisetilt.bench.metrics import frechet_distance, total_variation
from noisetilt.report import grid, save_picture, table

OUT = Path("build/compare")
TARGETS = {
    # target: words added to each prompt, its held-out reward, images of each prompt
    "style:3d": (["noto", "twemoji"], "style:3d", 8),
    "alignment": (["", "3d"], "alignment", 4),
    "redness": (["", "noto"], "alignment", 4),
}
PROMPTS = ["cat face", "house", "grinning face", "red apple", "automobile", "flower", "dog", "ship"]
TUNING_PROMPTS = ["bear face", "tree", "clock", "fish"]
KEEP = 1.5
HEADER = ["target", "method", "pictures", "NFE", "reward", "held-out", "alignment", "Fréchet", "TV", "s/picture"]
STRENGTHS = {
    "dps": ("scale", [1.0, 3.0, 10.0, 30.0, 100.0]),
    "ntrk": ("rho", [0.03, 0.1, 0.3, 0.6, 1.0]),
}


class Compare:
    """Pictures of (target, method, prompt, seed), each made once and kept on disk."""

    def __init__(self, out: Path) -> None:
        self.out, self.model = out, load("emoji64")
        out.mkdir(parents=True, exist_ok=True)
        self.file = out / "pictures.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.done = {self.key(row): row for row in map(json.loads, lines)}

    @staticmethod
    def key(row: dict) -> tuple:
        return row["target"], row["label"], row["prompt"], row["seed"]

    def picture(self, row: dict) -> Path:
        name = "-".join(str(part) for part in self.key(row))
        return self.out / f"{name}.png".replace(":", "-").replace(" ", "-")

    def run(self, target: str, label: str, method: Method, prompts: list[str], seeds: range) -> list[dict]:
        """The rows of all prompts × seeds; makes the pictures that are missing."""
        words, heldout_name, _ = TARGETS[target]
        wanted = [(f"{p} {words[s % len(words)]}".strip(), s) for p in prompts for s in seeds]
        missing = [(p, s) for p, s in wanted if (target, label, p, s) not in self.done]
        reward, heldout = rewards.load(target), rewards.load(heldout_name, heldout=True)
        alignment = rewards.load("alignment", heldout=True)
        batch = max(1, 64 // method.selection.particles)
        for first in tqdm(range(0, len(missing), batch), desc=f"{target} {label}", leave=False):
            texts, numbers = map(list, zip(*missing[first : first + batch], strict=True))
            result = sample(self.model, texts, reward, method, 25, numbers, chunk=32, track=False)
            with torch.no_grad():
                heldout_values, aligned = heldout(result.images, texts), alignment(result.images, texts)
            for i, (prompt, seed) in enumerate(zip(texts, numbers, strict=True)):
                row = {
                    "target": target,
                    "label": label,
                    "prompt": prompt,
                    "seed": seed,
                    "reward": result.rewards[i].item(),
                    "heldout": heldout_values[i].item(),
                    "aligned": aligned[i].item(),
                    "tv": total_variation(result.images[i : i + 1]).item(),
                    "nfe": result.trace.nfe,
                    "seconds": result.trace.seconds / len(texts),
                    "features": features(result.images[i : i + 1])[0].tolist(),
                }
                save_picture(result.images[i], self.picture(row), {k: row[k] for k in ("prompt", "seed", "label")})
                with self.file.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                self.done[self.key(row)] = row
        return [self.done[(target, label, p, s)] for p, s in wanted]

    def best_strength(self, target: str, name: str, seeds: range) -> float:
        """The strength with the highest target reward among those that keep to the prompt, on the tuning prompts."""
        option, values = STRENGTHS[name]
        base = self.run(target, "base", METHODS["base"], TUNING_PROMPTS, seeds)
        bound, best = np.mean([row["aligned"] for row in base]) - KEEP, {}
        for value in values:
            rows = self.run(target, f"{name} {value}", METHODS[name].replace(**{option: value}), TUNING_PROMPTS, seeds)
            if np.mean([row["aligned"] for row in rows]) >= bound:
                best[value] = np.mean([row["reward"] for row in rows])
        return max(best, key=best.get) if best else values[0]


def heldout_features() -> torch.Tensor:
    data = np.load("build/emoji64/data.npz")
    chosen = data["heldout"] & (data["weight"] >= 0.5)
    return features(torch.from_numpy(data["pictures"][chosen]).permute(0, 3, 1, 2).float() / 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    compare = Compare(OUT / "quick" if args.quick else OUT)
    prompts = PROMPTS[:2] if args.quick else PROMPTS
    particles = 2 if args.quick else 20
    reference, lines = heldout_features(), []
    for target, (_, _, count) in TARGETS.items():
        seeds = range(2 if args.quick else count)
        chosen = {name: compare.best_strength(target, name, range(100, 102)) for name in STRENGTHS}
        methods = {
            "base": METHODS["base"],
            f"dps {chosen['dps']}": METHODS["dps"].replace(scale=chosen["dps"]),
            f"ntrk {chosen['ntrk']}": METHODS["ntrk"].replace(rho=chosen["ntrk"]),
            f"best-of-{particles}": METHODS["best-of-n"].replace(particles=particles),
            f"svdd K={particles}": METHODS["svdd"].replace(particles=particles),
        }
        sheet = []
        for label, method in methods.items():
            rows = compare.run(target, label, method, prompts, seeds)
            shown = [np.array(Image.open(compare.picture(row))) for row in rows if row["seed"] < 2]
            sheet.append((label, [torch.from_numpy(x).permute(2, 0, 1) / 255 for x in shown]))
            column = defaultdict(list)
            for row in rows:
                for name, value in row.items():
                    column[name].append(value)
            error = np.std(column["reward"]) / len(rows) ** 0.5
            lines.append(
                [
                    target,
                    label,
                    len(rows),
                    int(np.mean(column["nfe"])),
                    f"{np.mean(column['reward']):+.3f} ± {error:.3f}",
                    f"{np.mean(column['heldout']):+.3f}",
                    f"{np.mean(column['aligned']):+.3f}",
                    frechet_distance(torch.tensor(column["features"]), reference),
                    float(np.mean(column["tv"])),
                    float(np.mean(column["seconds"])),
                ]
            )
            print(table(HEADER, lines[-1:]))
        grid(sheet, scale=1, per_line=16).save(compare.out / f"{target.replace(':', '-')}.png")
    text = table(HEADER, lines)
    (compare.out / "table.txt").write_text(text + "\n")
    print("\n" + text)


if __name__ == "__main__":
    main()

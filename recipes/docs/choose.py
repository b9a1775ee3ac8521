"""The table of docs/choose.md: methods and strengths on emoji128, with the same prompts and seeds.

    python recipes/docs/choose.py            # measures what is missing in choose.json, writes table and figure
    python recipes/docs/choose.py --report   # writes table and figure from choose.json, measures nothing

16 images for each row: eight prompts, in the styles noto and twemoji. `style:3d` is optimised; its
held-out version is evaluated on the final images. Each finished row is saved in choose.json at once.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisetilt import METHODS, load, rewards, sample
from noisetilt.report import grid, save_image

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
ROWS, PAGE, FIGURE = HERE / "choose.json", ROOT / "docs/choose.md", ROOT / "docs/images/choose.png"
IMAGES = ROOT / "build/docs"  # of the figure
TARGET, STEPS = "style:3d", 25
PROMPTS = ("bird", "fruit", "building", "vehicle", "monster", "hat", "drink", "bug")
STYLES = ("noto", "twemoji")  # of seeds 0 and 1: the reward's style contradicts the prompt's
SHOWN = 6  # images of each method in the figure
# The method, its options, and whether the figure shows it.
SETTINGS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("base", {}, True),
    ("ntrk", {"rho": 0.015}, True),
    ("dps", {"scale": 1.0}, True),
    ("ntrk", {"rho": 0.005}, False),
    ("ntrk", {"rho": 0.05}, True),
    ("dps", {"scale": 3.0}, True),
    ("freedom", {"scale": 0.05}, True),
    ("mpgd", {}, False),
    ("best-of-n", {"particles": 4}, True),
    ("svdd", {"particles": 4}, True),
    ("ntrk-svdd", {"rho": 0.015, "particles": 4}, False),
    ("ntrk-best-of-n", {"rho": 0.015, "particles": 4}, True),
    ("ntrk-black-box", {"rho": 0.1}, True),
)
CAPTION = "The first six images of some rows: bird, fruit, building, vehicle, monster and hat, all with the word noto."
STRENGTH_FIGURE = FIGURE.with_name("ntrk-strength.png")  # figures.py draws it
STRENGTH_CAPTION = (
    "`bird noto`, `hat twemoji` and `fruit noto`, guided by `style:3d` with NTRK in 25 steps.\n"
    "Above each column: rho and the mean rewards of the three images."
)
TABLE = re.compile(r"(?<=<!-- table: start -->\n).*(?=<!-- table: end -->)", re.S)


def label(method: str, options: dict[str, Any]) -> str:
    return ", ".join([method, *(f"{name}={value:g}" for name, value in options.items())])


def measure(model: Any, method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Rewards, network calls, seconds and the first images of one setting."""
    prompts, seeds = map(
        list, zip(*[(f"{p} {style}", seed) for seed, style in enumerate(STYLES) for p in PROMPTS], strict=True)
    )
    started = time.process_time()
    result = sample(model, prompts, rewards.load(TARGET), METHODS[method].replace(**options), STEPS, seeds, track=False)
    seconds = time.process_time() - started
    with torch.no_grad():
        heldout = rewards.load(TARGET, heldout=True)(result.images, prompts)
    levels = (result.images[:SHOWN] * 255).round().to(torch.uint8)
    IMAGES.mkdir(parents=True, exist_ok=True)
    np.save(IMAGES / f"{label(method, options)}.npy", levels.numpy())
    return {
        "method": method,
        "options": options,
        "rewards": [round(v, 4) for v in result.rewards.tolist()],
        "heldout": [round(v, 4) for v in heldout.tolist()],
        "nfe": float(torch.as_tensor(result.trace.nfe).float().mean()),
        "seconds": round(seconds / len(prompts), 3),
    }


def cell(values: list[float]) -> str:
    mean, error = np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.2f} ± {error:.2f}".replace("-", "−")


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown table, by network calls and then in the order of SETTINGS."""
    lines = ["| method | network calls | `style:3d` | held-out `style:3d` | CPU seconds |", "|---|---:|---:|---:|---:|"]
    for row in sorted(rows, key=lambda row: row["nfe"]):
        name = f"`{label(row['method'], row['options'])}`"
        lines.append(
            f"| {name} | {row['nfe']:.0f} | {cell(row['rewards'])} | {cell(row['heldout'])} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def figure_text() -> str:
    """The figures that exist, with their captions."""
    text = ""
    if FIGURE.exists():
        text += f"\n![The same prompts with each method and strength](images/{FIGURE.name})\n\n*{CAPTION}*\n"
    if STRENGTH_FIGURE.exists():
        text += (
            f"\n![The same three seeds at five values of rho](images/{STRENGTH_FIGURE.name})\n\n*{STRENGTH_CAPTION}*\n"
        )
    return text


def write_report(rows: list[dict[str, Any]]) -> None:
    shown = []
    for method, options, in_figure in SETTINGS:
        file = IMAGES / f"{label(method, options)}.npy"
        if in_figure and file.exists():
            shown.append((label(method, options), list(torch.from_numpy(np.load(file)) / 255)))
    if shown:
        save_image(grid(shown, scale=1, gap=6), FIGURE)
    PAGE.write_text(TABLE.sub(lambda _: table(rows) + figure_text(), PAGE.read_text("utf-8")), "utf-8")
    print(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="write table and figure from choose.json")
    args = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    model = None if args.report else load("emoji128")
    for method, options, _ in () if args.report else SETTINGS:
        if any(row["method"] == method and row["options"] == options for row in rows):
            continue
        rows.append(measure(model, method, options))
        ROWS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        print(table(rows[-1:]), flush=True)
    write_report(rows)


if __name__ == "__main__":
    main()

"""The rule of fairness as a curve: target reward, held-out reward and the judge's accuracy by strength, as a plot.

    noisetilt bench --suite paper --methods ntrk --targets style:3d --out out/curve
    python recipes/bench/curve.py out/curve docs/images/strength-curve.png [--target style:3d] [--method ntrk]

Reads the tuning rows of a run of the suite `paper` and prints their table; nothing is generated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from noisetilt.bench.ledger import Row
from noisetilt.bench.paper_plan import METHODS_OF_SUITE, TOLERANCE
from noisetilt.bench.statistics import bootstrap, paired
from noisetilt.report import table
from noisetilt.report.plotting import Panel, Series, draw_panels, save_figure

PAIR = ("prompt", "seed")
FIELDS = {"reward": "target reward", "heldout": "held-out reward", "named": "named right", "is_3d": "judge: style 3d"}


def figures(rows: list[Row]) -> list[float]:
    return [float(np.mean([row[field] for row in rows])) for field in FIELDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("image", type=Path)
    parser.add_argument("--target", default="style:3d")
    parser.add_argument("--method", default="ntrk")
    args = parser.parse_args()
    lines = (args.run / "rows.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["stage"] == "tuning" and row["target"] == args.target]
    rows = [{**row, "is_3d": row["judged_style"] == "3d"} for row in rows]
    base = [row for row in rows if row["method"] == "base"]
    strengths = sorted({row["value"] for row in rows if row["method"] == args.method})
    cells = {
        value: [row for row in rows if (row["method"], row["value"]) == (args.method, value)] for value in strengths
    }
    option = METHODS_OF_SUITE[args.method].option
    printed = [["base", len(base), *figures(base), ""]]
    for value, some in cells.items():
        printed.append(
            [f"{option} = {value:g}", len(some), *figures(some), str(bootstrap(paired(some, base, "named", PAIR)))]
        )
    print(table(["", "n", *FIELDS.values(), "named right minus base's"], printed))
    means = {value: dict(zip(FIELDS, figures(some), strict=True)) for value, some in cells.items()}
    at_base, x = dict(zip(FIELDS, figures(base), strict=True)), list(means)
    ends = [x[0], x[-1]]

    def panel(ylabel: str, *fields: str, least: bool = False) -> Panel:
        series = {FIELDS[field]: Series(x, [mean[field] for mean in means.values()]) for field in fields}
        guides = {"base": (ends, [at_base[fields[0]]] * 2)}
        if least:
            guides[f"base minus {TOLERANCE:.0%}"] = (ends, [at_base["named"] - TOLERANCE] * 2)
        return Panel(option, ylabel, series, guides=guides, scales=("log", "linear"))

    panels = [panel(args.target, "reward", "heldout"), panel("fraction of images", "named", "is_3d", least=True)]
    counts = sorted({len(some) for some in cells.values()})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    save_figure(draw_panels(panels, f"{args.method}, n = {count} images per strength"), args.image)


if __name__ == "__main__":
    main()

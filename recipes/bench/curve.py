"""The rule of fairness as a curve: target reward, held-out reward and the judge's probability by strength, as a plot.

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
from noisetilt.bench.paper_plan import METHODS_OF_SUITE, POINTS, TOLERANCE
from noisetilt.bench.statistics import PAIR, paired, paired_interval
from noisetilt.report import table
from noisetilt.report.plotting import Panel, Series, draw_panels, save_figure
from noisetilt.runs import make_folder

FIELDS = {
    "reward": "target reward",
    "heldout": "held-out reward",
    "probability": "probability of the right concept",
    "is_3d": "fraction named 3d",
}


def mean(rows: list[Row], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))


def figures(rows: list[Row]) -> list[float]:
    return [mean(rows, field) for field in FIELDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("image", type=Path)
    parser.add_argument("--target", default="style:3d")
    parser.add_argument("--method", default="ntrk")
    parser.add_argument("--least", type=int, default=16, help="images of a strength; those with fewer are left out")
    args = parser.parse_args()
    make_folder(args.image.parent)
    lines = (args.run / "rows.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["stage"] == "tuning" and row["target"] == args.target]
    rows = [{**row, "is_3d": row["judged_style"] == "3d"} for row in rows]
    base = [row for row in rows if row["method"] == "base"]
    strengths = sorted({row["value"] for row in rows if row["method"] == args.method})
    cells = {
        value: [row for row in rows if (row["method"], row["value"]) == (args.method, value)] for value in strengths
    }
    cells = {value: some for value, some in cells.items() if len(some) >= args.least}
    option = METHODS_OF_SUITE[args.method].option
    printed = [["base", len(base), *figures(base), ""]]
    for value, some in cells.items():
        printed.append(
            [
                f"{option} = {value:g}",
                len(some),
                *figures(some),
                str(paired_interval(some, base, "probability")),
            ]
        )
    print(table(["", "n", *FIELDS.values(), "probability minus base's"], printed))
    x = list(cells)
    ends = [x[0], x[-1]]

    def panel(ylabel: str, values: dict[str, list[float]], guides: dict[str, float]) -> Panel:
        series = {name: Series(x, y) for name, y in values.items()}
        lines = {name: (ends, [y, y]) for name, y in guides.items()}
        return Panel(option, ylabel, series, guides=lines, scales=("log", "linear"))

    def more(field: str) -> list[float]:
        return [float(np.mean(paired(some, base, field, PAIR))) for some in cells.values()]

    reached = {FIELDS[field]: [mean(some, field) for some in cells.values()] for field in ("reward", "heldout")}
    changed = {FIELDS[field]: more(field) for field in ("probability", "is_3d")}
    panels = [
        panel(
            args.target,
            reached,
            {f"base, {name}": mean(base, field) for field, name in FIELDS.items() if field in ("reward", "heldout")},
        ),
        panel(
            "judge, minus base's at the same seeds", changed, {f"limit of the rule: {POINTS} below base": -TOLERANCE}
        ),
    ]
    counts = sorted({len(some) for some in cells.values()})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    save_figure(draw_panels(panels, f"{args.method}, n = {count} images per strength"), args.image)


if __name__ == "__main__":
    main()

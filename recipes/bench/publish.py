"""Puts a finished run of the suite `paper` into the documentation.

    noisetilt bench --suite paper --report --out build/bench/paper
    python recipes/bench/publish.py build/bench/paper docs/paper

Copies report.md with its plots and images, reduced to 256 colours, and writes rows.jsonl.gz, from which `--report`
makes the report again, without its image grids: the single images of the folder pictures are not published.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, with its report")
    parser.add_argument("folder", type=Path, help="where it goes")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    report = (args.run / "report.md").read_text("utf-8")
    (args.folder / "report.md").write_text(report, "utf-8")
    for file in sorted(args.run.glob("*.png")):
        if f"({file.name})" in report:
            small = Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            small.save(args.folder / file.name, optimize=True)
    rows = [json.loads(line) for line in (args.run / "rows.jsonl").read_text("utf-8").splitlines()]
    kept = [{**row, "features": [round(value, 2) for value in row["features"]]} for row in rows]
    # A time of 0 keeps the file the same where the rows are.
    with (args.folder / "rows.jsonl.gz").open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
    size = sum(file.stat().st_size for file in args.folder.iterdir())
    print(f"{len(rows)} rows, {size / 1e6:.1f} MB in {args.folder}")


if __name__ == "__main__":
    main()

"""Puts a finished run of the suite `paper` into the documentation.

    noisetilt bench --suite paper --report --out build/bench/paper
    python recipes/bench/publish.py build/bench/paper build/bench/published

Writes the rows to docs/bench/rows.jsonl.gz, from which `--report` makes the report again, without its image grids: the
single images of the folder pictures are not published. Copies report.md with its plots and images, reduced to 256
colours, to a folder that is not below docs, where every document is a page of the site.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, with its report")
    parser.add_argument("folder", type=Path, help="where the report goes")
    parser.add_argument("--rows", type=Path, default=DOCS / "bench" / "rows.jsonl.gz", help="where the rows go")
    args = parser.parse_args()
    if args.folder.resolve().is_relative_to(DOCS):
        parser.error(
            f"the folder {args.folder} is below {DOCS}, where the site would have a page of the report that no other "
            "page leads to; give a folder elsewhere, such as build/bench/published"
        )
    for folder in (args.folder, args.rows.parent):
        folder.mkdir(parents=True, exist_ok=True)
    report = (args.run / "report.md").read_text("utf-8")
    (args.folder / "report.md").write_text(report, "utf-8")
    for file in sorted(args.run.glob("*.png")):
        if f"({file.name})" in report:
            small = Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            small.save(args.folder / file.name, optimize=True)
    rows = [json.loads(line) for line in (args.run / "rows.jsonl").read_text("utf-8").splitlines()]
    kept = [{**row, "features": [round(value, 2) for value in row["features"]]} for row in rows]
    # A time of 0 keeps the file the same where the rows are.
    with args.rows.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
    print(f"{len(rows)} rows, {args.rows.stat().st_size / 1e6:.1f} MB in {args.rows}; the report is in {args.folder}")


if __name__ == "__main__":
    main()

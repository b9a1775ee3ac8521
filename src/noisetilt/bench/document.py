"""A report in two formats: Markdown with image files, and one HTML file with embedded images."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .._messages import counted
from ..report import grid
from ..runs import write_bytes, write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
@media (max-width: 40rem) { p:has(img) { overflow-x: auto; } img { max-width: none; width: 56rem; } }
"""


def load_image(file: Path) -> Tensor:
    """An image file as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float() / 255


def picture_bytes(picture: Image.Image) -> bytes:
    """A PIL image as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    """A text in which Markdown sees no emphasis, as in the reward 0.5*alignment + 0.5*redness; code stays as it is."""
    return re.sub(r"(`[^`]*`)|([*_])", lambda found: found[1] or "\\" + found[2], text)


@dataclass
class Document:
    """A document of headings, paragraphs, lists, tables and images."""

    title: str
    markdown: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    grids_left_out: int = 0

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self.markdown.append(f"{'#' * level} {_escaped(text)}")
        self.body.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.markdown.append(_escaped(text))
        self.body.append(f"<p>{html.escape(text)}</p>")

    def items(self, lines: Sequence[str]) -> None:
        """A list; nothing if it is empty."""
        if lines:
            self.markdown.append("\n".join(f"- {_escaped(line)}" for line in lines))
            self.body.append("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; numbers have three significant digits and None is a dash."""
        lines = [[_cell(value) for value in row] for row in rows]
        rule = ["---", *["---:"] * (len(header) - 1)]
        safe = [[_escaped(cell).replace("|", "\\|") for cell in line] for line in [list(header), rule, *lines]]
        self.markdown.append("\n".join("| " + " | ".join(line) + " |" for line in safe))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>" for line in lines)
        self.body.append(f"<table><tr>{head}</tr>{body}</table>")

    def picture(self, name: str, png: bytes, caption: str) -> None:
        """An image as PNG, its file name and its caption."""
        self.pictures[name] = png
        self.markdown.append(f"![{_escaped(caption)}]({name})\n\n*{_escaped(caption)}*")
        source = base64.b64encode(png).decode()
        alt = html.escape(caption)
        self.body.append(f'<p><img alt="{alt}" src="data:image/png;base64,{source}"><br><em>{alt}</em></p>')

    def images(self, name: str, rows: Sequence[tuple[str, Sequence[Path]]], caption: str, scale: int = 2) -> None:
        """A grid of image files with a label above each row. Rows of which a file is missing are left out, and a
        sentence names them. A grid without a row, as in a run whose images were not published, is left out; the
        document says at its end how many are."""
        lacking = [label for label, files in rows if not all(file.is_file() for file in files)]
        shown = [(label, [load_image(file) for file in files]) for label, files in rows if label not in lacking]
        if shown:
            self.picture(name, picture_bytes(grid(shown, scale=scale)), caption)
        if lacking and shown:
            self.text(f"Without images, whose files are not in the folder pictures of the run: {', '.join(lacking)}.")
        self.grids_left_out += bool(lacking) and not shown

    def write(self, folder: Path) -> None:
        """Writes report.md with its images, and report.html, to a folder."""
        if self.grids_left_out:
            count = counted(self.grids_left_out, "grid")
            self.text(f"Without {count} of images, whose files are not in the folder pictures of the run.")
        for name, png in self.pictures.items():
            write_bytes(folder / name, png)
        write_text(folder / "report.md", f"# {_escaped(self.title)}\n\n" + "\n\n".join(self.markdown) + "\n")
        title = html.escape(self.title)
        write_text(
            folder / "report.html",
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
            f"<style>{STYLE}</style></head><body><h1>{title}</h1>{''.join(self.body)}</body></html>\n",
        )

"""A hook of MkDocs: documents that lie beside the code (model cards, README of the ComfyUI nodes) become pages, and
links to them are followed."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/noisetilt"
IMAGE = re.compile(r"!\[[^]]*\]\(([^)\s]+)\)")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def card_page(card: Path) -> str:
    """The page of a model card: src/noisetilt/models/emoji128/CARD.md → cards/models-emoji128.md."""
    name = "-".join([*card.parent.relative_to(SOURCE).parts, *card.stem.split("-")[1:]])
    return f"cards/{name}.md"


# Path in the repository → path in the site.
PAGES = {
    "integrations/comfyui/README.md": "comfyui.md",
    **{card.relative_to(ROOT).as_posix(): card_page(card) for card in sorted(SOURCE.rglob("CARD*.md"))},
}
SITE_TO_SOURCE = {page: source for source, page in PAGES.items()}


def title_of(page: str) -> str:
    return next(
        line[2:] for line in (ROOT / SITE_TO_SOURCE[page]).read_text("utf-8").splitlines() if line.startswith("# ")
    )


def on_config(config: Any) -> Any:
    """Adds the pages to the navigation."""
    cards = [{title_of(page): page} for page in PAGES.values() if page.startswith("cards/")]
    config.nav.append({"Model cards": cards})
    for section in config.nav:
        if "Guides" in section:
            section["Guides"].append({"ComfyUI nodes": "comfyui.md"})
    return config


def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=text))
        for name in IMAGE.findall(text):  # images that lie beside the document
            image = (ROOT / source).parent / name
            if image.is_file() and ROOT / "docs" not in image.resolve().parents:
                path = image.resolve().relative_to(ROOT).as_posix()
                files.append(File.generated(config, path, content=image.read_bytes()))
    return files


def site_path(path: str) -> str:
    """The path in the site of a path in the repository; that path itself if it is no page."""
    return PAGES.get(path, path.removeprefix("docs/"))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between documents of the repository become links between pages."""
    here = page.file.src_uri
    source = SITE_TO_SOURCE.get(here, f"docs/{here}")

    def replace(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / match[2])
        if target not in PAGES and here not in SITE_TO_SOURCE:
            return match[0]
        return match[1] + os.path.relpath(site_path(target), PurePosixPath(here).parent) + match[3]

    return LINK.sub(replace, markdown)

"""Makes the screenshots of docs/studio.md: the page during a run of the sampler, wide, narrow and dark.

    pip install ".[studio]" playwright; apt-get install chromium
    python recipes/docs/studio_screenshots.py [--method ntrk-x0] [--step 20]

Each image is of a run of its own. The seconds on the page are those of this machine.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from noisetilt.cli.generate import GenerateJob
from noisetilt.studio.serve import start
from noisetilt.studio.session import Session

IMAGES = Path(__file__).parents[2] / "docs/images"
VIEWS = {"wide": (1280, "light"), "dark": (1280, "dark"), "narrow": (390, "light")}
MINUTES = 10 * 60_000


def run(page: Page, method: str, images: int) -> None:
    """Fills in the form and starts the run."""
    page.get_by_label("Prompt").fill("red heart")
    page.get_by_role("spinbutton", name="Images").fill(str(images))
    dropdown = page.get_by_role("listbox", name="Method").or_(page.get_by_label("Method")).first
    dropdown.click()
    dropdown.fill(method)
    dropdown.press("Enter")
    page.get_by_role("button", name="Generate").click()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ntrk-x0")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--step", type=int, default=20, help="of the guided run's 25, from which on the image is taken")
    args = parser.parse_args()
    session = Session(GenerateJob(prompt="", reward="style:3d", model="emoji128"), allow_code=False)
    served, address = start(session, "127.0.0.1", 0)
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, scheme) in VIEWS.items():
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            context.set_default_timeout(MINUTES)
            page = context.new_page()
            page.goto(address)
            page.get_by_role("button", name="Generate").wait_for()
            run(page, args.method, args.images)
            steps = "|".join(str(step) for step in range(args.step, 25))
            page.get_by_text(re.compile(rf"Guided by {args.method}: step ({steps}) of 25")).first.wait_for()
            page.screenshot(path=IMAGES / f"studio-{name}.png", full_page=True)
            expect(page.locator("#nt-generate-status")).to_contain_text("Done", timeout=MINUTES)
            context.close()
        browser.close()
    served.close(verbose=False)
    session.close()


if __name__ == "__main__":
    main()

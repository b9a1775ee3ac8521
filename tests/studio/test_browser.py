"""The page in headless Chromium: one server and one browser for all tests."""

import io
import json
import os
import shutil

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium is installed, so the browser tests do not run", allow_module_level=True)
pytestmark = pytest.mark.long
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

SECONDS = 1000 * float(os.environ.get("NOISETILT_BROWSER_TIMEOUT", "120"))
# Rules of axe that gradio's own components break where this package cannot mend them: rule → why.
EXCEPTIONS: dict[str, str] = {}

# Records what the page shows with each change: the state and the first image.
RECORD = """() => {
  window.seen = new Set();
  new MutationObserver(() => {
    const image = document.querySelector("#nt-generate-result img");
    if (image) window.seen.add(document.querySelector("#nt-generate-status").innerText.trim() + image.src);
  }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
}"""


@pytest.fixture(scope="module")
def address(session):
    from noisetilt.studio.serve import start

    page, url = start(session, "127.0.0.1", 0)
    yield url
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        playwright.expect.set_options(timeout=SECONDS)
        yield browser
        browser.close()


@pytest.fixture()
def visit(browser, address):
    """Opens the page as a new visitor, whose contexts end with the test."""
    contexts = []

    def open_page(width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        page.goto(address)
        page.get_by_role("button", name="Generate").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


def fill(page, steps=2, images=1, prompt="cat face"):
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("spinbutton", name="Steps").fill(str(steps))
    page.get_by_role("spinbutton", name="Images").fill(str(images))
    page.get_by_role("spinbutton", name="First seed").fill("5")


def wait_for_status(page, tab, word):
    """Waits until the status contains a word; the page may replace the element right after."""
    playwright.expect(page.locator(f"#nt-{tab}-status")).to_contain_text(word, timeout=SECONDS)


def open_tab(page, name):
    tab = page.get_by_role("tab", name=name)
    if tab.count() and tab.first.is_visible():
        return tab.first.click()
    page.locator(".overflow-menu > button").click()  # a narrow page has no room for all tabs
    page.locator(".overflow-dropdown button", has_text=name).click()


def sources(page, tab):
    return page.eval_on_selector_all(f"#nt-{tab}-result img", "images => images.map(image => image.src)")


def violations(page):
    """The serious and critical violations that axe finds, without the named exceptions."""
    found = axe.Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical") and v["id"] not in EXCEPTIONS]
    return [(v["id"], [node["html"][:200] for node in v["nodes"]][:4]) for v in serious]


def test_the_page_opens_without_the_network(browser, address):
    context = browser.new_context()
    requests, errors = [], []
    page = context.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_role("button", name="Generate").wait_for(timeout=SECONDS)
    outside = [url for url in requests if not url.startswith((address.partition("?")[0], "data:", "blob:"))]
    assert "token" not in page.url and page.title() == "noisetilt studio" and outside == [] and errors == []
    context.close()


def test_generate_fills_in_live_and_downloads(visit, tmp_path):
    page = visit()
    fill(page, steps=6, images=2)
    page.evaluate(RECORD)
    page.get_by_role("button", name="Generate").click()
    result = page.locator("#nt-generate-result")
    wait_for_status(page, "generate", "Done")
    text = page.locator("#nt-generate-status").inner_text()
    assert "24 network calls" in text
    seen = page.evaluate("[...window.seen]")
    assert len([entry for entry in seen if entry.startswith("Running")]) >= 3
    assert len(sources(page, "generate")) == 4 and len(set(sources(page, "generate"))) == 4
    assert result.locator("svg").count() == 2 and result.locator(".nt-gauge").count() == 1
    assert page.locator("#nt-generate-downloads textarea").first.input_value().startswith("noisetilt generate")
    links = page.locator("#nt-generate-downloads a[download]")
    names = [name for name in links.evaluate_all("links => links.map(link => link.download)") if name]
    assert {"run.json", "repeat.py", "repeat.sh", "cat-face-5-guided.png"} <= set(names)
    with page.expect_download() as download:
        page.locator('#nt-generate-downloads a[download="cat-face-5-guided.png"]').first.click()
    file = tmp_path / "given.png"
    download.value.save_as(file)
    with Image.open(file) as image:
        assert image.size == (128, 128) and json.loads(image.text["noisetilt"])["prompt"] == "cat face"
    fill(page, steps=9, images=3, prompt="house")
    page.locator("#nt-restore input[type=file]").set_input_files(file)
    playwright.expect(page.locator("#nt-restored")).to_contain_text("restored")
    assert page.get_by_label("Prompt").input_value() == "cat face"
    assert (
        page.get_by_role("spinbutton", name="Steps").input_value() == "6"
        and page.get_by_role("spinbutton", name="Images").input_value() == "2"
    )
    assert violations(page) == []


def test_a_png_without_settings_is_refused(visit, tmp_path):
    page, stream = visit(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    page.locator("#nt-restore input[type=file]").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": stream.getvalue()}
    )
    playwright.expect(page.locator("#nt-restored")).to_contain_text("carries no settings")


def test_a_wrong_value_is_refused_beside_its_field(visit):
    page = visit()
    fill(page, steps=0, prompt="cat fce")
    page.get_by_role("button", name="Generate").click()
    playwright.expect(page.locator("#nt-prompt")).to_contain_text("does not know the word")
    playwright.expect(page.locator("#nt-steps")).to_contain_text("from 1 to 200")
    wait_for_status(page, "generate", "Not started")  # a narrow page does not show the fields beside the button
    wait_for_status(page, "generate", "from 1 to 200")
    fill(page, steps=1)
    page.get_by_role("button", name="Generate").click()
    wait_for_status(page, "generate", "Done")
    playwright.expect(page.locator("#nt-steps")).not_to_contain_text("from 1 to 200")


def test_the_message_of_a_slider_covers_nothing(visit):
    """It is drawn above the first slider, whose label and number stay visible, and it is not cut."""
    page = visit(width=390, height=844)
    fill(page)
    for name in ("style:3d", "alignment"):
        page.get_by_label(f"number input for {name}").fill("0")
    page.get_by_role("button", name="Generate").click()
    shown = page.locator(".nt-sliders .validation-error")
    playwright.expect(shown).to_contain_text("move at least one slider")
    block = page.locator(".nt-sliders .block").first
    message, head = shown.bounding_box(), block.locator(".head").bounding_box()
    assert message["y"] + message["height"] <= head["y"] + 1
    assert block.evaluate("block => block.scrollHeight <= block.clientHeight + 1")


def test_the_message_of_a_method_covers_nothing(visit):
    page = visit()
    fill(page)
    open_tab(page, "Compare")
    page.get_by_role("spinbutton", name="Network calls per image").fill("2")
    page.get_by_label("gper-ntrk", exact=True).check()
    page.locator("#nt-compare").click()
    shown = page.locator("#nt-methods .validation-error")
    playwright.expect(shown).to_contain_text("raise the budget")
    message, label = shown.bounding_box(), page.locator("#nt-methods [data-testid=block-info]").bounding_box()
    assert message["y"] + message["height"] <= label["y"] + 1


def test_a_press_on_cancel_without_a_run_is_answered(visit):
    page = visit()
    page.locator("#nt-generate-cancel").click()
    wait_for_status(page, "generate", "No run of yours is running")


def test_two_visitors_queue_and_cancel(visit):
    first, second = visit(), visit()
    fill(first, steps=200)
    fill(second, steps=1)
    first.get_by_role("button", name="Generate").click()
    wait_for_status(first, "generate", "Running")
    second.get_by_role("button", name="Generate").click()
    wait_for_status(second, "generate", "1 run is before yours")
    first.locator("#nt-generate-cancel").click()
    wait_for_status(first, "generate", "Cancelled")
    wait_for_status(second, "generate", "Done")


def test_a_failed_run_says_why(visit):
    page = visit()
    open_tab(page, "My reward")
    code = "calls = []\ndef reward(images):\n    calls.append(1)\n    assert len(calls) < 2, 'no more'\n"
    page.get_by_label("Python").fill(code + "    return images.mean((1, 2, 3))\n")
    page.get_by_role("button", name="Use").click()
    wait_for_status(page, "own", "The reward works")
    open_tab(page, "Generate")
    fill(page, steps=1)
    page.get_by_label("number input for my reward").fill("1")
    page.get_by_role("button", name="Generate").click()
    wait_for_status(page, "generate", "Failed")
    wait_for_status(page, "generate", "no more")
    page.get_by_label("number input for my reward").fill("0")
    page.get_by_role("button", name="Generate").click()
    wait_for_status(page, "generate", "Done")


def test_compare_shows_the_steps_of_an_image(visit):
    page = visit()
    fill(page)
    open_tab(page, "Compare")
    for name in ("dps", "ntrk-x0"):
        page.get_by_label(name, exact=True).uncheck()
    page.get_by_role("spinbutton", name="Network calls per image").fill("4")
    page.locator("#nt-compare").click()
    wait_for_status(page, "compare", "Done")
    assert page.locator("#nt-compare-result .nt-method").count() == 2
    page.get_by_role("button", name="Show the steps of ntrk, seed 5").click()
    steps = page.get_by_role("dialog", name="ntrk, seed 5")
    assert steps.is_visible() and steps.locator("img").count() == 3
    box, size = steps.bounding_box(), page.viewport_size
    assert abs(box["x"] + box["width"] / 2 - size["width"] / 2) < 20  # the window may have a scroll bar
    assert abs(box["y"] + box["height"] / 2 - size["height"] / 2) < 20
    assert violations(page) == []
    page.keyboard.press("Escape")
    assert not steps.is_visible()


def test_optimise_has_a_scrubber(visit):
    page = visit()
    fill(page)
    open_tab(page, "Optimise")
    page.get_by_role("spinbutton", name="Iterations").fill("3")
    page.locator("#nt-optimise").click()
    wait_for_status(page, "optimise", "Done")
    image = page.locator("#nt-optimise-images img").first
    last = image.get_attribute("src")
    assert "iteration 3" in image.get_attribute("alt")
    page.get_by_label("range slider for Iteration").press("Home")
    playwright.expect(image).to_have_attribute("alt", "seed 5, iteration 0")
    assert image.get_attribute("src") != last


def test_the_keyboard_is_enough(visit):
    page = visit()
    fill(page, steps=1)
    page.get_by_label("Prompt").focus()
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "nt-generate":
            break
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    outline = page.evaluate(
        "(style => style.outlineStyle !== 'none' && style.outlineWidth !== '0px' || style.boxShadow !== 'none')"
        "(getComputedStyle(document.activeElement))"
    )
    assert page.evaluate("document.activeElement.id") == "nt-generate" and outline
    page.keyboard.press("Enter")
    wait_for_status(page, "generate", "Done")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_fits_and_axe_finds_nothing(visit, scheme):
    page = visit(width=390, height=844, color_scheme=scheme, reduced_motion="reduce")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background.removeprefix("rgb(").rstrip(")").split(",")[:3]) / 3
    assert (brightness > 200) == (scheme == "light")
    for tab in ("Generate", "Compare", "Optimise", "My reward"):
        open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page) == []
    moving = page.evaluate(
        "[...document.querySelectorAll('*')].filter(element => (style => style.animationName !== 'none' || "
        "parseFloat(style.transitionDuration) > 0)(getComputedStyle(element))).length"
    )
    assert moving == 0

"""The files of a run, and the settings in a PNG."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..cli.comparison import Variant, image_name, run_record, save_image
from ..cli.generate import GenerateJob
from ..cli.optimize import PATIENCE, OptimizeJob
from ..rewards import has_heldout
from ..runs import finite_json, write_json, write_text
from .mix import slider_values
from .repeat import generate_code, generate_command, optimize_code, optimize_command
from .session import OWN, OwnReward
from .settings import MAX_IMAGES, MAX_ITERATIONS, MAX_PROMPT, MAX_STEPS, Settings, check_whole
from .strengths import ASCENTS, SAMPLERS, options_for, strength_of
from .views import View

MAX_BYTES = 50_000_000
MAX_TEXT = 100_000
# All files of a run in one.
ARCHIVE = "all-files.zip"
# Settings that images depend on and for which the page has no field.
FIXED = ("eta", "gradient_at", "heldout", "patience", "guidance", "dtype", "height", "width", "frames", "lora")


def write_generated(folder: Path, own: OwnReward | None, view: View, job: GenerateJob, settings: Settings) -> None:
    """Writes the files of a run of the tab Generate into a folder, and puts their names into the view."""
    job = replace(job, out=folder)
    variants = [row.variant for row in view.rows]
    write_json(job.out / "run.json", run_record(job, variants[1].method, variants, view.heldout_name, True))
    for variant in variants:
        _save_images(job, variant, settings)
    _finish(own, view, job.out, job.reward, generate_command(job), generate_code({job.method: job}))


def write_comparison(
    folder: Path,
    own: OwnReward | None,
    view: View,
    jobs: Mapping[str, GenerateJob],
    settings: Settings,
    budget: int,
) -> None:
    """Writes the files of a run of the tab Compare into a folder, and puts their names into the view."""
    records = {}
    for row, job in zip(view.rows, jobs.values(), strict=True):
        job, variant = replace(job, out=folder), row.variant
        record = run_record(job, variant.method, [variant], view.heldout_name, True)
        records[variant.name] = {"settings": record["settings"], **record.pop(variant.name), "images": record["images"]}
        _save_images(job, variant, settings)
    kept = {name: record[name] for name in ("complete", "heldout_reward", "versions", "time")}
    write_json(folder / "run.json", {"command": "compare", "budget": budget, **kept, "methods": records})
    commands = "\n".join(generate_command(job) for job in jobs.values())
    _finish(own, view, folder, settings.reward, commands, generate_code(jobs))


def write_optimised(
    folder: Path, own: OwnReward | None, view: View, job: OptimizeJob, settings: Settings, best: Sequence[int]
) -> None:
    """Writes the files of a run of the tab Optimise into a folder, and puts their names into the view."""
    job, variant = replace(job, out=folder), view.rows[0].variant
    write_json(job.out / "run.json", run_record(job, variant.method, [variant], view.heldout_name, True))
    _save_images(job, variant, settings, best)
    _finish(own, view, job.out, job.reward, optimize_command(job), optimize_code(job))


def _save_images(job: Any, variant: Variant, settings: Settings, best: Sequence[int] | None = None) -> None:
    for i, image in enumerate(variant.images):
        page = {"strength": settings.strength, "n": settings.n, "seed": settings.seed}
        results = {"reward_value": variant.rewards[i], "heldout_value": variant.heldout[i], "studio": page}
        if best is not None:
            results["iteration"] = best[i]
        save_image(job, variant, i, image, **results)
        assert (job.out / image_name(job, i, variant)).is_file()


def _finish(own: OwnReward | None, view: View, folder: Path, reward: str, command: str, code: str) -> None:
    write_text(folder / "repeat.sh", command + "\n")
    write_text(folder / "repeat.py", code)
    if own is not None and OWN in reward:
        write_text(folder / OWN.partition(":")[0], own.code)
    view.command, view.code = command, code
    files = sorted(folder.iterdir(), key=lambda file: (file.suffix == ".png", file.name))
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    view.files = [str(file) for file in (folder / ARCHIVE, *files)]


class Restored(NamedTuple):
    """Settings that were read from a PNG, by field of the page; `notes` says what the page has no field for."""

    fields: dict[str, Any]
    notes: list[str]


def read_settings(file: str | Path) -> dict[str, Any]:
    """The settings that a PNG of noisetilt carries. They are data: nothing in them is executed or loaded.

    Raises:
        ValueError: if the file is no PNG, or carries no settings.
    """
    if Path(file).stat().st_size > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES // 10**6} MB, expected a PNG that noisetilt wrote")
    try:
        with Image.open(file, formats=["PNG"]) as image:
            text = getattr(image, "text", {}).get("noisetilt")
    except Image.DecompressionBombError:
        raise ValueError("the image has too many pixels to be read; drop a PNG that noisetilt wrote") from None
    except (OSError, SyntaxError, ValueError):
        raise ValueError("the file is not a PNG image; drop a PNG that noisetilt wrote") from None
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ValueError('the PNG carries no settings of noisetilt (a text chunk "noisetilt")')
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError("the settings in the PNG are damaged: they are not a JSON object")
    return settings


def restore(file: str | Path, names: Sequence[str], job: GenerateJob, one_step: str) -> Restored:
    """The fields of the page from a PNG, each checked as if it was typed.

    Args:
        file: the PNG.
        names: the rewards that have a slider. No other reward is accepted, so that a PNG cannot name a Python file.
        job: of the page, with its model.
        one_step: name of the page's model of the tab Optimise.

    Raises:
        ValueError: if the file has no settings, or a setting is missing or invalid.
    """
    settings = read_settings(file)
    ascent, page = "iterations" in settings, settings.get("studio")
    # Images of `optimize` without an update carry the method that they were not made with.
    base = settings.get("method") == "base" or settings.get("iterations") == 0
    page = page if isinstance(page, dict) else {}
    method, options = settings.get("method"), settings.get("options")
    if not isinstance(method, str) or method not in ("base", *(ASCENTS if ascent else SAMPLERS)):
        raise ValueError(f"the PNG has the method {str(method)[:40]!r}, which the page does not offer")
    if not isinstance(options, dict):
        raise ValueError("the PNG has no options of its method")
    reward, prompt = settings.get("reward"), settings.get("prompt")
    if not isinstance(reward, str) or not isinstance(prompt, str) or not 0 < len(prompt) <= MAX_PROMPT:
        raise ValueError("the PNG has no prompt or no reward")
    fields: dict[str, Any] = {
        "tab": "optimise" if ascent else "generate",
        "prompt": prompt,
        "sliders": slider_values(reward, names),
        "n": check_whole("the number of images", page.get("n", settings.get("n")), 1, MAX_IMAGES),
        "seed": check_whole("the seed", page.get("seed", settings.get("seed")), 0, 2**53 - MAX_IMAGES),
    }
    if ascent and not base:
        fields["iterations"] = check_whole("the number of iterations", settings["iterations"], 1, MAX_ITERATIONS)
    elif not ascent:
        fields["steps"] = check_whole("the number of steps", settings.get("steps"), 1, MAX_STEPS)
    if base:
        kept = "the method, the strength and the iterations" if ascent else "the method and the strength"
        notes = [f"It was made without guidance; {kept} stay as they are."]
    else:
        notes = _restore_strength(fields, method, options, page.get("strength"))
    expected = one_step if ascent else str(job.model)
    if settings.get("model") != expected:
        notes.append(f"It was made with the model {str(settings.get('model'))[:80]!r}; this page has {expected!r}.")
    notes += _other_settings(settings, ascent_job(prompt, reward) if ascent else job)
    return Restored(fields, notes)


def _other_settings(settings: dict[str, Any], page: Any) -> list[str]:
    """What the settings in a PNG have otherwise than the job of the page, of that for which it has no field."""
    own, notes = page.settings(), []
    for name in FIXED:
        value, expected = (finite_json(each.get(name, own.get(name))) for each in (settings, own))
        # The guidance and the dtype None are those of the model.
        if name in own and value != expected and not (name in ("guidance", "dtype") and None in (value, expected)):
            shown = ["the default" if each in (None, []) else str(each)[:60] for each in (value, expected)]
            notes.append(f"It was made with {name} = {shown[0]}; this page has {shown[1]}.")
    return notes


def ascent_job(prompt: str, reward: str) -> OptimizeJob:
    """The job of the tab Optimise, with the guidance and the dtype of its model."""
    patience = PATIENCE if has_heldout(reward) else 0
    return OptimizeJob(prompt=prompt, reward=reward, patience=patience, guidance=1.0, dtype="float32")


def _restore_strength(fields: dict[str, Any], method: str, options: dict[str, Any], given: Any) -> list[str]:
    """Adds the method and its strength to the fields; returns what the page cannot represent."""
    number = isinstance(given, (int, float)) and not isinstance(given, bool) and 0 <= given <= 1
    exact = number and options_for(method, given).items() <= options.items()
    strength = given if exact else strength_of(method, options)
    fields["method"] = method
    if strength is None:
        return [f"The strength of {method} stays as it is: the PNG has no option that sets it."]
    fields["strength"] = strength
    shown = options_for(method, strength)
    different = [f"{name} = {options[name]!r}"[:60] for name in options if options[name] != shown.get(name)]
    return [f"The page has no field for {', '.join(different)}."] if different else []

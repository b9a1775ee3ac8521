"""The command `noisetilt invert`: the noise from which a generator makes given photographs, and edits of it."""

from __future__ import annotations

import argparse
import functools
import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from .. import __version__
from .._files import checksums, sha256
from .._messages import counted
from .._progress import progress_bar
from ..inversion import EditResult, InversionResult, invert, read_noise, read_photo
from ..inversion.distances import DISTANCES, check_distance
from ..inversion.invert import ascent_for, image_size, inversion_method
from ..inversion.noise_files import as_noise
from ..methods import Method
from ..report import file_stem, save_picture, table
from ..report import save_image as save_image_file
from ..rewards import Reward
from ..rewards import load as load_reward
from ..rewards.reward import evaluate_any
from ..runs import Interrupts, append_line, to_json, write_bytes, write_json
from ..sampling import AscentReport, GradientAt, check_reward
from ..sampling.noise_ascent import check_optimizable
from .comparison import comparison_grid, requested, thumbnails, write_start
from .console import filled, given_columns, line_width
from .early_checks import check_counts, check_numbers
from .job import Job
from .job_model import dtype_name, explained_memory, load_job_model, warn_of_memory, with_checksums, with_defaults
from .progress import (
    check_run,
    claim_run,
    explained_interrupts,
    read_image,
    read_progress,
    settings_digest,
    start_progress,
)

Row = dict[str, Any]
ITERATIONS = 100
P_VALUE = "A p-value below 0.01 says that the noise found is not white Gaussian noise, which edits need."


@dataclass(kw_only=True)
class InvertJob(Job):
    """The arguments of `invert`; `noisetilt invert --help` describes them.

    `run` fills in sha256, the photographs' checksums.
    """

    photos: list[Path]
    prompt: list[str]
    edit: list[str] = field(default_factory=list)
    reward: str | None = None
    method: str = "gper-both"
    iterations: int | None = None
    noise: list[Path] = field(default_factory=list)
    distance: str = "pixels"
    steps: int = 1
    edit_iterations: int = 20
    keep: float = 1.0
    layout: float = 0.0
    model: str = "emoji128-turbo"
    gradient_at: GradientAt = "x_t"
    sha256: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.iterations is None:
            self.iterations = 0 if self.noise else ITERATIONS

    @property
    def n(self) -> int:
        return len(self.photos)

    @property
    def prompts(self) -> list[str]:
        """One prompt per photograph."""
        return self.prompt * self.n if len(self.prompt) == 1 else self.prompt

    @property
    def edited(self) -> list[str | None]:
        """The prompts of the edits; None is the photograph's own."""
        return [*self.edit] or ([None] if self.edits_ascend else [])

    def settings(self) -> dict[str, Any]:
        """The fields, which determine the images."""
        settings = {**super().settings(), "photos": [str(photo) for photo in self.photos]}
        noise = [str(file) for file in settings.pop("noise")]
        return settings | ({"noise": noise} if noise else {})

    @property
    def edits_ascend(self) -> bool:
        """Whether the edits are made by an ascent."""
        return self.reward is not None or self.layout > 0

    @property
    def iterates(self) -> int:
        """The iterates of a batch, with those of its edits."""
        return self.iterations + 1 + (len(self.edited) * (self.edit_iterations + 1) if self.edits_ascend else 0)

    def ascent(self) -> Method:
        """The method with the job's options."""
        for option, name in (("iterations", "--iterations"), ("chain_steps", "--steps")):
            if option in self.options:
                raise ValueError(f"the option {option} is given by {name}; leave it out of --set")
        method = inversion_method(self.method)
        ascent_for(method, self.iterations, self.steps)
        return method.replace(**self.options)

    def name(self, number: int) -> str:
        """The start of the names of a photograph's files."""
        return f"{file_stem(self.photos[number].stem)}-{number}"

    def kinds(self) -> list[str]:
        """The images of a photograph: "target", "found", "edit-1", …"""
        return ["target", "found", *(f"edit-{i + 1}" for i in range(len(self.edited)))]

    def files(self, number: int) -> dict[str, str]:
        """The file names of a photograph's images, and of the noise."""
        images = {kind: f"{self.name(number)}-{kind}.png" for kind in self.kinds()}
        return images | {"noise": f"{self.name(number)}-noise.safetensors"}

    def outputs(self) -> list[str]:
        return [*(name for number in range(self.n) for name in self.files(number).values()), "grid.png"]


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    run(InvertJob.from_arguments(args))


def run(job: InvertJob) -> dict[str, Any]:
    """Inverts the photographs batch by batch, writes all files, prints the table and returns the content of run.json.

    After Ctrl-C, which lets the current batch finish, or an error, the finished photographs are kept, and run.json has
    "complete": false. `resume` continues such a run.

    Raises:
        ValueError, FileNotFoundError: for invalid input, in one sentence.
    """
    job = with_defaults(job)
    method = _check(job)
    job = replace(job, sha256=[sha256(photo) for photo in job.photos])
    job = with_checksums(job)
    job = replace(job, checksums=job.checksums | checksums(job.noise))
    check_run(job, "invert", job.photos)
    reward = None if job.reward is None else load_reward(job.reward)
    warn_of_memory(job, method)
    model = load_job_model(job)
    check_optimizable(model)
    check_distance(job.distance, model)
    job = replace(job, guidance=model.guidance, dtype=job.dtype or dtype_name(model))
    model.denoiser([*job.prompt, *job.edit])  # raises for unknown words, before a file is written
    if reward is not None:
        check_reward(method, reward)
    size = image_size(model)
    noise = _read_noise(job, model.shape)
    rows: list[Row] = []
    with (
        claim_run(job, "invert", job.photos) as continued,
        Interrupts() as interrupts,
        explained_interrupts(job, lambda: len(rows), job.n, "photograph"),
    ):
        progress, digest = start_progress(job, continued), settings_digest(job)
        finished = {tuple(line["photos"]): line["rows"] for line in read_progress(progress, ("photos", "rows"))}
        write_start(job, "invert")
        try:
            with progress_bar(len(list(batches(job))) * job.iterates, "iteration", columns=given_columns()) as bar:
                for part in batches(job):
                    made = finished.get(tuple(part))
                    if made and _has_files(job, part):
                        bar.update(job.iterates)
                    else:
                        targets = _read_targets(job, part, size)
                        with explained_memory(job, model, method):
                            made = _run_batch(job, method, model, reward, targets, noise, part, bar)
                        append_line(progress, to_json({"digest": digest, "photos": list(part), "rows": made}))
                    rows += made
                    if len(rows) < job.n:
                        interrupts.check()
        finally:
            if rows:
                with interrupts.deferred():
                    record = _write_summary(job, method, rows)
    _print_summary(job, rows)
    return record


def _check(job: InvertJob) -> Method:
    """The job's method; raises a ValueError for invalid arguments, before a model is loaded."""
    if not job.photos:
        raise ValueError("there is no photograph; give at least one file")
    check_counts(job.n, job.batch or 1, job.seed)
    check_numbers(job)
    if len(job.prompt) not in (1, job.n):
        raise ValueError(f"{len(job.prompt)} prompts for {job.n} photographs; give one --prompt for all, or one each")
    if not all(text.strip() for text in (*job.prompt, *job.edit)):
        raise ValueError("a prompt is empty; write what the photograph shows, such as 'cat face'")
    if len(job.noise) not in (0, job.n):
        times = counted(len(job.noise), "time")
        raise ValueError(f"--noise is given {times} for {job.n} photographs; give it for each of them")
    if job.distance not in DISTANCES:
        raise ValueError(f"distance = {job.distance!r} is unknown; use one of {', '.join(DISTANCES)}")
    for name in ("keep", "layout"):
        if not 0 <= getattr(job, name) < math.inf:
            raise ValueError(f"{name} = {getattr(job, name)} must be a finite number, 0 or more")
    if job.edit_iterations < 0:
        raise ValueError(f"edit_iterations = {job.edit_iterations} must be 0 or more")
    folders = [photo for photo in job.photos if photo.is_dir()]
    if folders:
        raise ValueError(f"{folders[0]} is a folder; give the files of photographs, such as {folders[0]}/*.png")
    for photo in job.photos:  # decoded once more when it is inverted, so that no damaged one ends the run late
        read_photo(photo, (8, 8))
    for file in job.noise:
        read_noise(file)
    return job.ascent()


def _read_noise(job: InvertJob, shape: tuple[int, ...]) -> Tensor | None:
    """The noise that the photographs start from, (photograph, *shape); None: that of the seeds.

    Raises:
        ValueError, FileNotFoundError, FloatingPointError: if a file is missing, damaged or of another model.
    """
    parts = []
    for file in job.noise:
        try:
            parts.append(as_noise(file, 1, shape))
        except (ValueError, FloatingPointError) as error:
            raise type(error)(str(error) if str(file) in str(error) else f"{file}: {error}") from None
    return torch.cat(parts) if parts else None


def _read_targets(job: InvertJob, part: range, size: tuple[int, int]) -> Tensor:
    """The photographs of a batch, (image, 3, *size) in [0, 1].

    Raises:
        ValueError, FileNotFoundError: if one is damaged or missing, or has changed since the run began.
    """
    targets = torch.stack([read_photo(job.photos[number], size) for number in part])
    for number in part:
        if sha256(job.photos[number]) != job.sha256[number]:
            raise ValueError(f"{job.photos[number]} has changed since the run began; start another run with --out")
    return targets


def batches(job: InvertJob) -> Iterator[range]:
    """The numbers of the job's photographs, batch by batch."""
    assert job.batch is not None
    for first in range(0, job.n, job.batch):
        yield range(first, min(first + job.batch, job.n))


def _run_batch(
    job: InvertJob,
    method: Method,
    model: Any,
    reward: Reward | None,
    targets: Tensor,
    noise: Tensor | None,
    part: range,
    bar: Any,
) -> list[Row]:
    done = 0

    def show(text: str) -> None:
        nonlocal done
        done += 1
        bar.set_postfix_str(text, refresh=False)
        bar.update()

    def show_found(report: AscentReport) -> None:
        show(f"distance {-report.rewards.mean() / 100:.4f}")

    def show_edit(number: int, report: AscentReport) -> None:
        show(f"edit {number} objective {report.rewards.mean():+.3f}")

    prompts = job.prompts[part.start : part.stop]
    seeds = [job.seed + number for number in part]
    options: dict[str, Any] = dict(distance=job.distance, steps=job.steps, seeds=seeds, chunk=job.chunk)
    options["gradient_at"] = job.gradient_at
    options["noise"] = None if noise is None else noise[part.start : part.stop]
    found = invert(model, targets, prompts, method, job.iterations, **options, callback=show_found)
    ascent: dict[str, Any] = dict(iterations=job.edit_iterations, keep=job.keep, layout=job.layout)
    edits = [
        found.edit(text, reward, **ascent, callback=functools.partial(show_edit, number))
        for number, text in enumerate(job.edited, 1)
    ]
    bar.update(job.iterates - done)  # those that an early stop left out
    return _write_batch(job, found, edits, _rewards_of(reward, found), part)


@torch.no_grad()
def _rewards_of(reward: Reward | None, found: InversionResult) -> list[float] | None:
    """The rewards of the found images; None without a reward."""
    if reward is None:
        return None
    images = zip(found.images.split(1), found.prompts, strict=True)
    return [float(evaluate_any(reward, image, [prompt])) for image, prompt in images]


def _write_batch(
    job: InvertJob, found: InversionResult, edits: list[EditResult], rewards: list[float] | None, part: range
) -> list[Row]:
    """Writes the images and the noise of a batch, and returns one row of figures per photograph; `rewards` are those of
    the found images."""
    rows, p_values, psnr = [], found.p_values() or [None] * len(part), found.finite_psnr()
    images = [found.targets.cpu(), found.images.cpu(), *(edit.images.cpu() for edit in edits)]
    texts = [None, None, *job.edited]
    for i, number in enumerate(part):
        files = job.files(number)
        row = {"photo": str(job.photos[number]), "prompt": found.prompts[i], "seed": found.seeds[i]}
        row |= {"distance": float(found.distances[i]), "psnr": psnr[i], "p_value": p_values[i]}
        row |= {"iteration": int(found.iterations[i]), "nfe": float(found.trace.nfe[i])}
        row |= {"curve": [float(value) for value in found.curve[:, i]]}
        of_edits = [None if edit.rewards is None else float(edit.rewards[i]) for edit in edits]
        values = [None, None if rewards is None else rewards[i], *of_edits]
        for kind, shown, text, value in zip(job.kinds(), images, texts, values, strict=True):
            settings = {**row, "kind": kind, "edit": text, "curve": None, "reward_value": value}
            save_picture(shown[i], job.out / files[kind], settings)
        write_bytes(job.out / files["noise"], to_safetensors({"noise": found.noise[i].cpu().contiguous()}))
        named = zip(edits, of_edits, strict=True)
        row |= {"reward_value": values[1]}
        row |= {"edits": [{"prompt": edit.prompts[i], "reward_value": value} for edit, value in named]}
        rows.append(row | {"files": files})
    return rows


def _has_files(job: InvertJob, part: range) -> bool:
    """Whether the images and the noise of a batch are in the folder."""
    return all((job.out / name).is_file() for number in part for name in job.files(number).values())


def _write_summary(job: InvertJob, method: Method, rows: list[Row]) -> dict[str, Any]:
    """Writes run.json and grid.png of the photographs finished so far."""
    record = {
        "command": "invert",
        "complete": len(rows) == job.n,
        "requested": requested(job),
        "checksums": job.checksums,
        "settings": {
            **job.settings(),
            "options": {**method.options(), "iterations": job.iterations, "chain_steps": job.steps},
        },
        "distance_mean": sum(row["distance"] for row in rows) / len(rows),
        "images": rows,
        "versions": {"noisetilt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    record = json.loads(json.dumps(record))
    write_json(job.out / "run.json", record)
    labels = ["target", f"found ({job.method}, {counted(job.iterations, 'iteration')})"]
    labels += [f"edit: {text or 'same prompt'}" + (f", {job.reward}" if job.reward else "") for text in job.edited]
    shown = [
        (label, thumbnails([read_image(job.out / row["files"][kind]) for row in rows[:64]]))
        for label, kind in zip(labels, job.kinds(), strict=True)
    ]
    save_image_file(comparison_grid(shown), job.out / "grid.png")
    return record


def _print_summary(job: InvertJob, rows: list[Row]) -> None:
    """Prints the tables of the photographs and of their edits, what the p-values say, and which image to open."""
    print(_table(rows) + "\n")
    if any(row["p_value"] is not None for row in rows):
        print(filled(P_VALUE) + "\n")
    if job.edited:
        print(_edit_table(job, rows) + "\n")
    below = ", the found images and the edits" if job.edited else " and the found images"
    print(
        filled(
            f"Open {job.out / 'grid.png'}: the targets{below}, in rows. The images, the noise and run.json are in the "
            "same folder."
        )
    )


def _table(rows: list[Row]) -> str:
    lines = [[Path(row["photo"]).name, row["prompt"], row["distance"], row["psnr"], row["p_value"]] for row in rows]
    titles = ["photograph", "prompt", "distance", "PSNR (dB)", "p-value of the noise"]
    return table(titles, lines, line_width(), ".3g")


def _edit_table(job: InvertJob, rows: list[Row]) -> str:
    """The edits of each photograph; with a reward also its values, and that of the image from the found noise."""
    lines: list[list[Any]] = []
    for row in rows:
        name, files = Path(row["photo"]).name, row["files"]
        if job.reward is not None:
            lines.append([name, "found", files["found"], row.get("reward_value")])
        # Rows of earlier versions have no edits.
        for i, edit in enumerate(row.get("edits", [])):
            lines.append([name, f"edit: {edit['prompt']}", files[f"edit-{i + 1}"], edit["reward_value"]])
    titles = ["photograph", "image", "file", *([] if job.reward is None else [job.reward])]
    return table(titles, [line[: len(titles)] for line in lines], line_width(), ".3g")

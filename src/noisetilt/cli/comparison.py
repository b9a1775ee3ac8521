"""What `generate` and `optimize` share: two variants at the same seeds, their rewards, and the files of a run."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from .._messages import missing_extra, shown
from ..integrations.load import is_pipeline
from ..methods import Method
from ..report import grid, save_picture, table
from ..report.terminal import show
from ..rewards import Reward, has_heldout
from ..rewards import load as load_reward
from ..rewards.catalogue import (
    check_named_heldout,
    check_names,
    heldout_spec,
    load_named_heldout,
    missing_heldout,
    named_heldout,
)
from ..rewards.reward import check_prompts_of, evaluate_reward, mean_over_frames, reward_name
from ..runs import write_json
from .console import filled, line_width, print_error, warn
from .early_checks import MAX_IMAGES

# Fields of a job that the images do not depend on, except for rounding errors.
NOT_SETTINGS = ("out", "batch", "chunk", "resume", "overwrite", "animate", "show", "checksums")
# Images of a variant in grid.png; Pillow does not open files of more than 179 million pixels.
MAX_GRID = 256
MISSING_PLOT = missing_extra("plot", "the plot rewards.png")


@dataclass
class Variant:
    """One of the two compared variants, "base" or "guided"; its results are added batch by batch.

    Attributes:
        images: in the commands thumbnails of the first MAX_GRID images, in the studio all images.
        rewards, heldout: of each image so far.
    """

    name: str
    method: Method
    images: list[torch.Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    heldout: list[Any] = field(default_factory=list)
    curves: list[torch.Tensor] = field(default_factory=list)
    nfe: float = 0.0
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Number of images so far."""
        return len(self.rewards)

    @property
    def missing(self) -> int:
        """How many more images grid.png shows."""
        return MAX_GRID - len(self.images)

    def keep(self, images: Tensor | Sequence[Tensor]) -> None:
        """Keeps thumbnails of the next images, as long as grid.png has room for them."""
        kept = [image.cpu() for image in images[: self.missing]]
        self.images += [image.clone() for image in thumbnails(kept)]  # a view would keep the whole batch in memory

    def statistics(self) -> dict[str, float | None]:
        """Mean rewards of the images so far, network evaluations per image, total seconds and number of images."""
        count = self.count
        return {
            "reward_mean": sum(self.rewards) / count if count else None,
            "heldout_mean": None if None in self.heldout or not count else sum(self.heldout) / count,
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
            "count": count,
        }


def check_prompts(job: Any) -> None:
    """Raises a ValueError for a prompt that is given twice, or too many images; warns if all prompts are single words,
    as those of a prompt without quotes are."""
    repeated = [prompt for prompt, count in Counter(job.prompt).items() if count > 1]
    if repeated:
        raise ValueError(f"the prompt {shown(repeated[0])} is given twice; for more images of it give --n")
    if len(job.prompts) > MAX_IMAGES:
        raise ValueError(
            f"{len(job.prompt)} prompts with n = {job.n} are {len(job.prompts)} images, expected at most {MAX_IMAGES}; "
            "for more use `noisetilt batch`"
        )
    if not is_pipeline(job.model) and not all(prompt.strip() for prompt in job.prompt):
        warn("a prompt is empty; write what the image shows, such as 'cat face'")
    if len(job.prompt) > 1 and not any(" " in prompt.strip() for prompt in job.prompt):
        names = ", ".join(job.prompt)[:200]
        warn(f"these are {len(job.prompt)} prompts: {names}; put a prompt of several words in quotes")


def check_heldout(job: Any) -> None:
    """Raises a ValueError for a held-out reward that does not exist, or is the optimised reward."""
    if job.heldout not in (None, "none"):
        check_names(job.heldout)
        check_named_heldout(job.heldout, job.reward)


class ImageBatch(NamedTuple):
    """The prompts and seeds of images that are made together; the first of them has the index `first` in the run."""

    first: int
    prompts: list[str]
    seeds: list[int]


def image_batches(job: Any) -> Iterator[ImageBatch]:
    """The images of a job, batch by batch."""
    prompts, seeds = job.prompts, job.seeds
    for first in range(0, len(prompts), job.batch):
        part = slice(first, first + job.batch)
        yield ImageBatch(first, prompts[part], seeds[part])


def choose_heldout_reward(job: Any, model: Any) -> tuple[str, Reward | None]:
    """The held-out reward of a run, with its name; "none" and None if there is none.

    Of a learned reward that the user names it is the second network, any other named reward is itself.

    By default it is the held-out version of the reward, or of those terms of a sum that have one. A closed-form reward,
    such as a colour, has none; there it is the held-out alignment with the prompt, if it is defined for all prompts,
    which detects images that lost their content. Pipelines from a folder or the hub have a held-out reward only if the
    reward is one of this package's learned ones, or the user names one. A warning says so if there is none because all
    of them are related to a term of the reward.

    Raises:
        ValueError: if the reward is unknown or cannot be evaluated for a prompt.
    """
    if job.heldout == "none":
        return "none", None
    if job.heldout is not None:
        named = load_named_heldout(job.heldout)
        check_prompts_of(named, job.prompt)
        return job.heldout, named
    if is_pipeline(job.model) and not has_heldout(job.reward):
        return _no_heldout_reward(job.reward)
    # The size of a pipeline's images is not known before a run; the scorers resize.
    blank = torch.zeros(1, 3, 128, 128)
    if hasattr(model, "decode"):
        blank = model.decode(torch.zeros(1, *model.shape, device=model.device))
    if not has_heldout(job.reward):
        heldout = load_reward("alignment", heldout=True)
        try:
            _check_prompts(heldout, blank, job.prompt)
            return "alignment", heldout
        except ValueError:  # a prompt of style words alone has no alignment
            if missing_heldout(job.reward) is not None:
                return _no_heldout_reward(job.reward)
    if heldout_spec(job.reward) is None:
        return "none", None
    heldout = load_reward(job.reward, heldout=True)
    if hasattr(model, "decode"):
        _check_prompts(heldout, blank, job.prompt)
    return heldout.name, heldout


def _no_heldout_reward(reward: str) -> tuple[str, None]:
    """No held-out reward, with a warning if all of them are related to a term of the reward."""
    missing = missing_heldout(reward)
    if missing is not None:
        warn(missing)
    return "none", None


def _check_prompts(reward: Reward, blank: Tensor, prompts: Sequence[str]) -> None:
    """Raises a ValueError if a reward cannot be evaluated for one of the prompts."""
    for prompt in prompts:
        evaluate_reward(reward, blank, [prompt])


@torch.no_grad()
def heldout_values(heldout: Reward | None, images: Tensor, prompts: Sequence[str]) -> list[float | None]:
    """The held-out rewards of images or videos (image, …); None for each if there is no held-out reward.

    Raises:
        FloatingPointError: if one is not finite.
    """
    if heldout is None:
        return [None] * len(images)
    evaluate = mean_over_frames if images.ndim == 5 and not heldout.video else evaluate_reward
    values = evaluate(heldout, images, prompts)
    if not values.isfinite().all():
        name, numbers = reward_name(heldout), values.tolist()
        raise FloatingPointError(
            f"the held-out reward {name!r} is {numbers}; it must be finite; or give --heldout none"
        )
    return values.tolist()


def thumbnails(images: Sequence[Tensor], side: int = 256) -> list[Tensor]:
    """Images (3, H, W) no larger than `side` in both directions; the middle frame of videos (frame, 3, H, W)."""
    stills = [image[len(image) // 2] if image.ndim == 4 else image for image in images]
    return [_shrunk(still, side) for still in stills]


def _shrunk(image: Tensor, side: int) -> Tensor:
    factor = side / max(image.shape[-2:])
    if factor >= 1:
        return image
    size = [max(1, round(factor * length)) for length in image.shape[-2:]]
    return torch.nn.functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]


def variant_rows(variants: Sequence[Variant], methods: Mapping[str, str]) -> list[tuple[str, list[Tensor]]]:
    """The rows of grid.png: labels and images of the variants that have some, at most MAX_GRID of each."""
    rows = []
    for variant in (variant for variant in variants if variant.count):
        label = grid_label(variant, methods[variant.name])
        label += f"; the first {MAX_GRID} of {variant.count} images" if variant.count > MAX_GRID else ""
        rows.append((label, thumbnails(variant.images[:MAX_GRID])))
    return rows


def comparison_grid(rows: Sequence[tuple[str, Sequence[Tensor]]]) -> Image.Image:
    """Labelled rows of images, enlarged if they are small."""
    return grid(rows, scale=scale_of(rows[0][1][0]))


def scale_of(image: Tensor) -> int:
    """By which an image (3, H, W) is enlarged in a grid."""
    return 2 if max(image.shape[-2:]) <= 128 else 1


def image_name(job: Any, index: int, variant: Variant) -> str:
    """The file name of the image with an index in the run."""
    return job.image_file(index, variant.name)


def save_image(job: Any, variant: Variant, index: int, image: torch.Tensor, **results: Any) -> None:
    """Writes an image with the settings that reproduce it, and its results, in the PNG's text."""
    prompt, seed = job.image(index)
    settings = {**job.settings(), "prompt": prompt, "seed": seed, "n": 1, "variant": variant.name, **results}
    if variant.name == "base":  # made without the job's method, or with none of its updates
        settings |= {"iterations": 0} if hasattr(job, "iterations") else {"method": "base", "options": {}}
    save_picture(image, job.out / image_name(job, index, variant), settings)


def write_start(job: Any, command: str) -> None:
    """Writes run.json of a run that begins or continues, if it has none."""
    if not (job.out / "run.json").exists():
        inputs = {"requested": requested(job), "checksums": job.checksums}
        record = {"command": command, "complete": False, **inputs, "settings": job.settings()}
        write_json(job.out / "run.json", json.loads(json.dumps(record)))


def requested(job: Any) -> dict[str, Any]:
    """The settings that the images of a run depend on, as JSON has them."""
    settings = {**job.settings(), "batch": job.batch, "chunk": job.chunk}
    if settings.get("heldout") not in (None, "none"):
        settings["heldout"] = named_heldout(settings["heldout"])
    return json.loads(json.dumps(settings))


def run_record(
    job: Any, method: Method, variants: Sequence[Variant], heldout_name: str, complete: bool
) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "command": "optimize" if hasattr(job, "patience") else "generate",
        "complete": complete,
        "requested": requested(job),
        "checksums": job.checksums,
        "heldout_reward": heldout_name,
        "settings": {**job.settings(), "options": method.options()},
        **{variant.name: variant.statistics() for variant in variants},
        "images": [
            {"file": image_name(job, i, variant), "prompt": job.image(i)[0], "reward": reward, "heldout": heldout}
            for variant in variants
            for i, (reward, heldout) in enumerate(zip(variant.rewards, variant.heldout, strict=True))
        ],
        "versions": {"noisetilt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_record(job: Any, variants: Sequence[Variant], heldout_name: str, complete: bool) -> dict[str, Any]:
    """Writes run.json of the images finished so far, and returns its content."""
    done = [variant for variant in variants if variant.count]
    record = run_record(job, variants[-1].method, done, heldout_name, complete)
    write_json(job.out / "run.json", record)
    return record


def grid_label(variant: Variant, method: str) -> str:
    """The line above a variant's images in grid.png: the method and its mean rewards."""
    means = variant.statistics()
    text = f"{method}: reward {means['reward_mean']:+.3f}"
    return text if means["heldout_mean"] is None else text + f", held-out {means['heldout_mean']:+.3f}"


def comparison_table(job: Any, variants: Sequence[Variant], heldout_name: str) -> str:
    """The table printed at the end of a run, one row per variant."""
    titles = {"reward_mean": job.reward, "heldout_mean": f"held-out {heldout_name}", "nfe": "NFE", "seconds": "seconds"}
    if heldout_name == "none":
        del titles["heldout_mean"]
    rows = [[variant.name, *(variant.statistics()[column] for column in titles)] for variant in variants]
    return table(["", *titles.values()], rows, line_width())


def comparison_sentence(job: Any, variants: Sequence[Variant], heldout_name: str) -> str:
    """How the mean rewards differ between the variants, in a sentence; a second one if the reward may be exploited: it
    rises and the held-out reward falls, both by more than two standard errors of the differences at equal seeds. If one
    of them changes by less, and for one image, which has no such error, the second one says that it cannot tell. For
    one variant, its mean rewards."""
    before, after = (variant.statistics() for variant in (variants[0], variants[-1]))
    changes = {job.reward: (before["reward_mean"], after["reward_mean"])}
    if after["heldout_mean"] is not None:
        changes[f"held-out {heldout_name}"] = (before["heldout_mean"], after["heldout_mean"])
    if len(variants) == 1:
        return ", ".join(f"{name} is {_three_decimals(mean)}" for name, (mean, _) in changes.items()) + "."
    texts = [f"{name} {_change(a, b)}" for name, (a, b) in changes.items()]
    second = _exploitation(job, variants, *changes.values()) if len(changes) == 2 else ""
    return ", ".join(texts) + "." + second


def _exploitation(
    job: Any, variants: Sequence[Variant], reward: tuple[float, float], heldout: tuple[float, float]
) -> str:
    """Whether the reward may be exploited, for a reader of a comparison with a held-out reward; empty if not.

    Args:
        job: of the run.
        variants: the two compared ones.
        reward, heldout: their means of the reward and of the held-out reward.
    """
    count = variants[1].count
    if count == 1:
        return " One image cannot tell whether the reward is exploited; give --n 4 or more."
    if _direction(*reward) <= 0 or _direction(*heldout) >= 0:
        return ""
    if _change_in_errors(variants, "rewards") > 2 and _change_in_errors(variants, "heldout") < -2:
        return " The reward rises and the held-out reward falls: the images may exploit errors of the reward."
    return (
        f" {count} images are too few to tell whether the reward is exploited; look at them, and give "
        f"--n {max(4, 2 * job.n)} or more."
    )


def _change_in_errors(variants: Sequence[Variant], name: str) -> float:
    """The mean difference between the second and the first variant at equal seeds, in its standard errors; 0 with one
    image, of which no spread is known."""
    before, after = (getattr(variant, name) for variant in variants)
    changes = [b - a for a, b in zip(before, after, strict=False)]
    if len(changes) < 2:
        return 0.0
    mean, error = statistics.fmean(changes), statistics.stdev(changes) / math.sqrt(len(changes))
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


def _direction(before: float, after: float) -> int:
    """1 if a number rises, -1 if it falls, and 0 if it stays the same to the three decimals that are printed."""
    old, new = round(before, 3), round(after, 3)
    return (new > old) - (new < old)


def _three_decimals(number: float) -> str:
    return f"{round(number, 3) + 0.0:.3f}"  # + 0.0: -0.0 is printed as 0


def _change(before: float, after: float) -> str:
    direction, (old, new) = _direction(before, after), map(_three_decimals, (before, after))
    return f"{'rises' if direction > 0 else 'falls'} from {old} to {new}" if direction else f"stays at {new}"


def print_summary(job: Any, variants: Sequence[Variant], heldout_name: str, drawings: Sequence[str]) -> None:
    """Prints the table, what it says, which image to open, and which of the drawings were made; shows the image if the
    job says so."""
    first, second = ("the initial noise" if hasattr(job, "patience") else "base"), job.method
    print(comparison_table(job, variants, heldout_name) + "\n")
    print(filled(comparison_sentence(job, variants, heldout_name)))
    picture = Path(job.out) / "grid.png"
    made = [name for name in drawings if (Path(job.out) / name).is_file()]  # rewards.png needs matplotlib
    files = f"{', '.join(['The images', *made])} and run.json"
    rows = f"{first} above, {second} below" if len(variants) > 1 else first
    print(filled(f"Open {picture}: {rows}. {files} are in the same folder."))
    if job.show:
        with Image.open(picture) as image:
            reason = show(image)
        if reason is not None:
            print_error(f"{reason}; open {picture}")

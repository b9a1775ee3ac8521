"""The arguments that the commands `generate`, `optimize` and `invert` share."""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..report import file_stem
from ..sampling.check_inputs import GradientAt
from .comparison import NOT_SETTINGS

JobType = TypeVar("JobType", bound="Job")


@dataclass(kw_only=True)
class Job:
    """The model, where it runs, the seeds and the folder; `noisetilt generate --help` describes them.

    The commands fill in checksums, those of the Python files of rewards and of the LoRA files.
    """

    seed: int = 0
    out: Path = Path("out")
    model: str = "emoji128"
    guidance: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    offload: str | None = None
    height: int | None = None
    width: int | None = None
    lora: list[str] = field(default_factory=list)
    checkpointing: bool = False
    frames: int | None = None
    batch: int | None = None
    chunk: int | None = None
    resume: bool = False
    overwrite: bool = False
    checksums: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The fields that determine the images."""
        return {name: value for name, value in vars(self).items() if name not in NOT_SETTINGS}

    def outputs(self) -> list[str]:
        """The names of the files that the run writes, besides its record."""
        raise NotImplementedError

    @classmethod
    def from_arguments(cls: type[JobType], args: argparse.Namespace) -> JobType:
        """The job of a parsed command line."""
        fields = {name: value for name, value in vars(args).items() if name not in ("command", "options")}
        return cls(**fields, options=dict(args.options))


@dataclass(kw_only=True)
class ComparisonJob(Job):
    """The arguments that `generate` and `optimize` share: the prompts, with `n` images each, and their rewards.

    A prompt that is one string becomes a list of it.
    """

    prompt: Sequence[str]
    reward: str
    n: int = 8
    gradient_at: GradientAt = "x_t"
    heldout: str | None = None
    show: bool = False

    def __post_init__(self) -> None:
        self.prompt = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def prompts(self) -> list[str]:
        """The prompt of every image."""
        return [prompt for prompt in self.prompt for _ in range(self.n)]

    @property
    def seeds(self) -> list[int]:
        """The seed of every image; the images of every prompt have the same seeds."""
        return list(range(self.seed, self.seed + self.n)) * len(self.prompt)

    def image(self, index: int) -> tuple[str, int]:
        """The prompt and the seed of the image with an index in the run."""
        number, i = divmod(index, self.n)
        return self.prompt[number], self.seed + i

    def image_file(self, index: int, variant: str) -> str:
        """The file name of a variant's image with an index in the run."""
        prompt, seed = self.image(index)
        return f"{self.stem(prompt)}-{seed}-{variant}.png"

    def drawings(self) -> list[str]:
        """The names of the files that are drawn from all images."""
        raise NotImplementedError

    def outputs(self) -> list[str]:
        images = (self.image_file(i, name) for i in range(len(self.prompts)) for name in ("base", "guided"))
        return [*images, *self.drawings()]

    def stem(self, prompt: str) -> str:
        """The first part of the file names of a prompt's images, different for different prompts."""
        return _file_stems(tuple(self.prompt))[prompt]


@functools.lru_cache(maxsize=4)
def _file_stems(prompts: tuple[str, ...]) -> dict[str, str]:
    """Prompt → the first part of the names of its files."""
    stems = {prompt: file_stem(prompt) for prompt in prompts}
    counts = Counter(stems.values())
    taken = {stem for stem, count in counts.items() if count == 1}
    for number, (prompt, stem) in enumerate(stems.items(), 1):
        if counts[stem] > 1:
            while (name := f"{stem}-prompt{number}") in taken:  # another prompt may read like a number of this one
                number += len(prompts)
            taken.add(name)
            stems[prompt] = name
    return stems

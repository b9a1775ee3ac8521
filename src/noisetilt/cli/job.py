"""The arguments that the commands `generate`, `optimize` and `invert` share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .comparison import NOT_SETTINGS

JobType = TypeVar("JobType", bound="Job")


@dataclass(kw_only=True)
class Job:
    """The model, where it runs, the seeds and the folder; `noisetilt generate --help` describes them."""

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

    def settings(self) -> dict[str, Any]:
        """The fields that determine the images."""
        return {name: value for name, value in vars(self).items() if name not in NOT_SETTINGS}

    @classmethod
    def from_arguments(cls: type[JobType], args: argparse.Namespace) -> JobType:
        """The job of a parsed command line."""
        fields = {name: value for name, value in vars(args).items() if name not in ("command", "options")}
        return cls(**fields, options=dict(args.options))

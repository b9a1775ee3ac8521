"""The state of a running page: the models, the queue, the folder of its files, and its visitors."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..cli.generate import GenerateJob
from ..cli.job_model import dtype_name, load_job_model, with_defaults
from ..cli.optimize import OptimizeJob
from ..integrations.load import is_pipeline, load
from ..rewards import Reward, has_heldout, weighted_sum
from ..rewards import load as load_reward
from ..rewards.catalogue import heldout_spec, heldout_terms, merged_terms, split_terms, sum_name
from ..rewards.hub.files import shared_networks
from ..rewards.reward import evaluate_any
from .mix import OFFERED, slider_name, supported
from .reward_cache import RewardCache
from .run_queue import RunQueue
from .runs import Run

# The one-step generator of the tab Optimise, the default of `noisetilt optimize`.
ONE_STEP_MODEL = OptimizeJob.model
# The name of the reward that a visitor types, which is also the file that it is downloaded as.
OWN = "my_reward.py:reward"


class OwnReward(NamedTuple):
    """The reward of the name OWN, with the Python that defines it."""

    code: str
    reward: Reward


@dataclass
class Visitor:
    """A browser tab: its runs, the reward that it typed, the images of its last noise ascent, and its files."""

    runs: list[Run] = field(default_factory=list)
    own: OwnReward | None = None
    iterates: Any = None
    folder: Path | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run of the visitor is running or waiting."""
        return any(not run.finished for run in self.runs)

    def cancel(self) -> bool:
        """Cancels the visitor's runs; returns whether there were any."""
        running = [run for run in self.runs if not run.finished]
        for run in running:
            run.cancel()
        return bool(running)


class Session:
    """A started page.

    Args:
        job: the model and its options; the other fields are replaced by each run.
        rewards: names of rewards that get a slider besides those of `mix.OFFERED`, such as "calm.py:calm".
        allow_code: whether code that a visitor types may be executed.

    Raises:
        ValueError, OSError, ImportError, MemoryError: if the model or a reward cannot be loaded.
    """

    def __init__(self, job: GenerateJob, rewards: Sequence[str] = (), allow_code: bool = False) -> None:
        self._rewards = RewardCache()
        loaded = {name: self._rewards.load(name) for name in map(slider_name, rewards)}
        code = Path(OWN.partition(":")[0])
        self.own = OwnReward(code.read_text("utf-8"), loaded[OWN]) if OWN in loaded else None
        self.allow_code, self.queue = allow_code, RunQueue()
        job = with_defaults(job)
        self.model = load_job_model(job)
        self.job = replace(job, guidance=self.model.guidance, dtype=job.dtype or dtype_name(self.model))
        offered = [] if is_pipeline(job.model) else list(OFFERED)
        self.names = supported(offered or ["redness", "saturation", "brightness"], self._size(), "cat")
        self.names += [name for name in loaded if name not in self.names]
        self.one_step = job.model if job.model == ONE_STEP_MODEL else ONE_STEP_MODEL
        self._one_step_model: Any = None
        self._loading = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="noisetilt-studio-")
        self.folder = Path(self._folder.name)
        self._visitors: dict[str, Visitor] = {}
        self._making_folder = threading.Lock()

    def _size(self) -> tuple[int, int]:
        """Height and width of the model's images; 256 where that is known during a run only."""
        blank = self.blank()
        return (256, 256) if blank is None else (blank.shape[-2], blank.shape[-1])

    @torch.no_grad()
    def blank(self) -> Any:
        """An image (1, 3, H, W) of the model, of a state of zeros; None if its size is known during a run only."""
        if not hasattr(self.model, "decode"):
            return None
        return self.model.decode(torch.zeros(1, *self.model.shape, device=self.model.device))

    def visitor(self, key: str) -> Visitor:
        """The visitor of a browser tab."""
        return self._visitors.setdefault(key, Visitor(own=self.own))

    def leave(self, key: str) -> None:
        """Forgets a visitor, cancels its runs, and deletes its files."""
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.cancel()
            if visitor.folder is not None:
                # A run that writes at this moment may leave a file behind, which is deleted when the page ends.
                shutil.rmtree(visitor.folder, ignore_errors=True)

    def folder_of(self, visitor: Visitor) -> Path:
        """The folder of a visitor's files."""
        with self._making_folder:
            if visitor.folder is None:
                visitor.folder = Path(tempfile.mkdtemp(dir=self.folder))
            return visitor.folder

    def new_folder(self, visitor: Visitor) -> Path:
        """A new folder for the files of a run of a visitor."""
        return Path(tempfile.mkdtemp(prefix=time.strftime("%H%M%S-"), dir=self.folder_of(visitor)))

    def one_step_model(self) -> Any:
        """The one-step generator, loaded when it is first needed."""
        with self._loading:
            if self._one_step_model is None:
                same = self.one_step == self.job.model
                self._one_step_model = self.model if same else load(self.one_step, device=self.job.device)
            return self._one_step_model

    def load_mix(self, spec: str, own: OwnReward | None, heldout: bool = False) -> Reward:
        """The reward of a weighted sum, which may have a visitor's own reward as a term.

        Raises:
            ValueError: if a reward cannot be loaded, or the visitor has no own reward.
        """
        named = split_terms(heldout_spec(spec) or spec if heldout else spec)
        if own is None and any(name == OWN for _, name in named):
            raise ValueError('there is no reward of your own yet; type one in the tab "My reward" and press Use')
        others = [(weight, name) for weight, name in named if name != OWN]
        # Together, because the held-out reward of a term may be that of no other.
        others = merged_terms(heldout_terms(others) if heldout else others)
        with shared_networks():
            terms = [(weight, self._rewards.load(name, heldout)) for weight, name in others]
        terms += [(weight, own.reward) for weight, name in named if name == OWN]
        if len(terms) == 1 and terms[0][0] == 1:
            return terms[0][1]
        name = sum_name([(weight, reward.name) for weight, reward in terms]) if heldout else spec
        return weighted_sum(terms, name)

    def choose_heldout(self, spec: str, own: OwnReward | None, prompt: str, blank: Any) -> tuple[str, Reward | None]:
        """The held-out reward of a mix with its name; "none" and None if there is none.

        It is the held-out version of the mix if a term of it is learned; otherwise the held-out alignment with the
        prompt, where the images have one.
        """
        if has_heldout(spec):
            mix = self.load_mix(spec, own, heldout=True)
            return mix.name, mix
        if blank is None or is_pipeline(self.job.model):
            return "none", None
        try:
            heldout = load_reward("alignment", heldout=True)
            evaluate_any(heldout, blank, [prompt])
        except ValueError:
            return "none", None
        return "alignment", heldout

    def cancel(self) -> None:
        """Cancels the runs of all visitors."""
        for visitor in list(self._visitors.values()):
            visitor.cancel()

    def close(self) -> None:
        """Cancels all runs and deletes all files."""
        for key in list(self._visitors):
            self.leave(key)
        self._folder.cleanup()

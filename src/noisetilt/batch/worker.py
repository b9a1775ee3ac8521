"""A worker: loads models and rewards once, and makes the images of rows."""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import torch
from torch import Tensor

from ..integrations.load import is_pipeline
from ..integrations.load import load as load_model
from ..methods import Method, find_method
from ..models import MODELS
from ..report import encode_picture
from ..rewards import has_heldout
from ..rewards import load as load_reward
from ..rewards.catalogue import load_named_heldout, missing_heldout
from ..rewards.reward import RewardFunction, evaluate_reward, mean_over_frames, reward_name
from ..sampling import Result, sample
from .settings import Settings
from .table import Row

# Errors that are the same at every attempt.
LASTING = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, AssertionError, ImportError)
MODELS_KEPT, REWARDS_KEPT = 2, 8
# Seconds before the second attempt; each further pause is twice as long, up to the longest one.
PAUSE, LONGEST_PAUSE = 1.0, 30.0


@dataclass(frozen=True)
class WorkerOptions:
    """What all workers of a run have in common.

    Args:
        device: torch device.
        threads: of each worker; None: torch's own number.
        chunk: rows per network call; None: 8, and on a CPU and for pipelines every image is sampled in a call of its
            own.
        retries: how often an image is tried again after an error that may pass, such as a lack of memory.
        heldout: whether to evaluate the held-out version of each image's reward; a name: this reward instead, by
            its second network if it is learned.
        model_options: further arguments of `load`, such as dtype, for models by name.
        models: name → model, or a function without arguments that loads it, besides those of `load`.
        rewards: name → reward, besides those of `rewards.load`.
        methods: name → method, besides those of `find_method`.
        pause: seconds before the second attempt after an error of a server or a disk that may be away.
    """

    device: str = "cpu"
    threads: int | None = None
    chunk: int | None = None
    retries: int = 2
    heldout: bool | str = True
    model_options: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    rewards: Mapping[str, RewardFunction] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)
    pause: float = field(default_factory=lambda: PAUSE)  # set where the run starts, so that workers of Ray have it too

    def together(self, settings: Settings) -> int:
        """How many images of these settings are sampled in one call.

        One image a call gives the same bits whatever the other rows of the batch are.
        """
        pipeline = is_pipeline(settings.model) or hasattr(self.models.get(settings.model), "sample")
        if self.chunk is None and (torch.device(self.device).type == "cpu" or pipeline):
            return 1
        particles = find_method(settings.method).replace(**settings.options).selection.particles
        return max(1, (self.chunk or 8) // particles)


@dataclass(frozen=True)
class Outcome:
    """What became of a row: an image as PNG, or an error.

    Args:
        index: of the row.
        results: fields of the record of the row.
        image: the bytes of the PNG; empty after an error.
        error: one sentence; empty if the row is done.
    """

    index: int
    results: Mapping[str, Any]
    image: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class Failure:
    """What is kept of an error: the error itself would keep the tensors of the failed call, through its traceback.

    Args:
        sentence: the error in one line.
        lasting: whether it is the same at every attempt.
        away: whether a server or a disk may be away for a while, so that an attempt at once would fail too.
    """

    sentence: str
    lasting: bool
    away: bool = False


def is_away(error: BaseException) -> bool:
    """Whether an error may come from a server or a disk that is away for a while. The errors of requests are OSErrors;
    those of httpx and of clients of services are known by their names only."""
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
    names = [kind.__name__ for kind in type(error).__mro__]
    return any(word in name for name in names for word in ("Connect", "Timeout", "TransportError"))


class Worker:
    """Makes the images of groups of rows.

    Args:
        options: of the run.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._models: dict[str, Any] = {}
        self._rewards: dict[tuple[str, str], RewardFunction] = {}

    def model(self, settings: Settings) -> Any:
        """The model of some settings, with their guidance; the last two models are kept."""
        name = settings.model
        if name in self._models:
            self._models[name] = self._models.pop(name)
            self._set_guidance(self._models[name], settings)
        else:
            while len(self._models) >= MODELS_KEPT:
                del self._models[next(iter(self._models))]
            self._models[name] = self._load_model(settings)
        return self._models[name]

    def _load_model(self, settings: Settings) -> Any:
        given = self.options.models.get(settings.model)
        if given is None:
            options = dict(self.options.model_options)
            return load_model(settings.model, guidance=settings.guidance, device=self.options.device, **options)
        self._set_guidance(given, settings)
        made = (hasattr(given, "denoiser") or hasattr(given, "sample")) and not isinstance(given, type)
        return given if made else given()

    def _set_guidance(self, model: Any, settings: Settings) -> None:
        """Gives a model the guidance of a row, with the checks that loading it makes.

        Raises:
            ValueError: if the model takes no other guidance.
        """
        if settings.model not in self.options.models:
            model.set_guidance(settings.guidance)
        elif settings.guidance is not None:
            raise ValueError(f"guidance = {settings.guidance} is for models by name; set it in the model that you pass")

    def reward(self, name: str, version: str = "optimised") -> RewardFunction:
        """The reward of a name; the last eight are kept.

        Args:
            name: of the reward.
            version: "optimised", its "held-out" version, or the reward "named" as the held-out one of all rows.
        """
        key = (name, version)
        if key in self._rewards:
            self._rewards[key] = self._rewards.pop(key)
        else:
            while len(self._rewards) >= REWARDS_KEPT:
                del self._rewards[next(iter(self._rewards))]
            self._rewards[key] = self._load_reward(name, version)
        return self._rewards[key]

    def _load_reward(self, name: str, version: str) -> RewardFunction:
        if version == "named":
            return load_named_heldout(name)
        if version == "optimised" and name in self.options.rewards:
            return self.options.rewards[name]
        return load_reward(name, heldout=version == "held-out")

    def heldout(self, settings: Settings) -> tuple[str, RewardFunction] | None:
        """The held-out reward of some settings, with its name.

        For a learned reward it is its held-out version; for any other, the held-out alignment with the prompt, which
        only the models of this package have.
        """
        name = self.options.heldout
        if name is False or settings.reward is None:
            return None
        if isinstance(name, str):
            return name, self.reward(name, "named")
        if settings.reward not in self.options.rewards and has_heldout(settings.reward):
            heldout = self.reward(settings.reward, "held-out")
            return reward_name(heldout), heldout
        if settings.model in MODELS and settings.model not in self.options.models:
            return "alignment", self.reward("alignment", "held-out")
        return None

    def __call__(self, rows: Sequence[Row]) -> Iterator[Outcome]:
        """The outcomes of rows that are sampled in one call. If the call fails, each row is tried alone."""
        made = self._try(rows, 1)
        if not isinstance(made, Failure):
            yield from made
        elif len(rows) == 1:
            yield self._alone(rows[0], made)
        else:
            for row in rows:
                yield self._alone(row, None)

    def _alone(self, row: Row, failure: Failure | None) -> Outcome:
        """The outcome of a row whose first attempt failed, in a group of rows if there is no failure of its own."""
        attempt = 1
        while failure is None or (attempt <= self.options.retries and not failure.lasting):
            if failure is not None and failure.away:
                sleep(min(self.options.pause * 2 ** min(attempt - 1, 30), LONGEST_PAUSE))
            attempt += 1
            made = self._try([row], attempt)
            if not isinstance(made, Failure):
                return made[0]
            failure = made
        return Outcome(row.index, {"attempts": attempt}, error=failure.sentence)

    def _try(self, rows: Sequence[Row], attempt: int) -> list[Outcome] | Failure:
        """The outcomes of an attempt; if it fails, its memory is free when this returns."""
        try:
            return self._attempt(rows, attempt)
        except Exception as error:
            failure = Failure(error_sentence(error), isinstance(error, LASTING), is_away(error))
            if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                self._drop_others(rows[0].made())
        _free_memory()
        return failure

    def _drop_others(self, settings: Settings) -> None:
        """Drops the models and rewards that are not of some settings."""
        self._models = {name: model for name, model in self._models.items() if name == settings.model}
        own = (settings.reward, self.options.heldout)
        self._rewards = {key: reward for key, reward in self._rewards.items() if key[0] in own}

    def _attempt(self, rows: Sequence[Row], attempt: int) -> list[Outcome]:
        settings = rows[0].made()
        model, reward = self.model(settings), None if settings.reward is None else self.reward(settings.reward)
        prompts = [row.made().prompt for row in rows]
        steps = getattr(model, "steps", 25) if settings.steps is None else settings.steps
        result = sample(
            model,
            prompts,
            reward,
            method_of(settings),
            steps,
            [row.made().seed for row in rows],
            eta=settings.eta,
            gradient_at="x0" if settings.gradient_at == "x0" else "x_t",
            chunk=self.options.chunk or (1 if is_pipeline(settings.model) or hasattr(model, "sample") else 8),
            track=False,
        )
        heldout = [self._heldout_results(settings, result, i, prompt) for i, prompt in enumerate(prompts)]
        seconds = result.trace.seconds / len(rows)
        shared = {"nfe": result.trace.nfe, "seconds": seconds, "attempts": attempt, "together": len(rows)}
        heldout_name = self.options.heldout if isinstance(self.options.heldout, str) else None
        named = "none" if self.options.heldout is False else heldout_name
        how = {"steps": steps, "n": 1, "heldout": named}
        return [_outcome(row, result, i, how, {**heldout[i], **shared}) for i, row in enumerate(rows)]

    def _missing_heldout(self, settings: Settings) -> str | None:
        """Why no held-out reward is left for the terms of a sum, if one was asked for."""
        if self.options.heldout is not True or settings.reward is None or settings.reward in self.options.rewards:
            return None
        return missing_heldout(settings.reward)

    def _heldout_results(self, settings: Settings, result: Result, i: int, prompt: str) -> dict[str, Any]:
        """The held-out reward of an image and its name; with a warning where it is not defined, as alignment is for
        style words alone, or where none is left for the terms of a sum.

        Raises:
            FloatingPointError: if it is not finite.
        """
        heldout = self.heldout(settings)
        if heldout is None:
            missing = self._missing_heldout(settings)
            return {"heldout": None, "heldout_reward": None, **({} if missing is None else {"warning": missing})}
        name, function = heldout
        try:
            with torch.no_grad():
                value = float(_evaluate(function, result.images[i : i + 1], [prompt]))
        except ValueError as error:
            reason = f"no value of the held-out reward {name!r}: {error_sentence(error)}"
            return {"heldout": None, "heldout_reward": name, "warning": reason}
        if not math.isfinite(value):
            raise FloatingPointError(f"the held-out reward {name!r} is {value}; it must be a finite number")
        return {"heldout": value, "heldout_reward": name}


def _evaluate(reward: RewardFunction, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The rewards of images or videos; for videos and a reward of images, the means over the frames."""
    of_frames = images.ndim == 5 and not getattr(reward, "video", False)
    return (mean_over_frames if of_frames else evaluate_reward)(reward, images, prompts)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def method_of(settings: Settings) -> Method:
    """The method of some settings, with its options."""
    return find_method(settings.method).replace(**settings.options)


def _outcome(row: Row, result: Result, i: int, how: Mapping[str, Any], results: Mapping[str, Any]) -> Outcome:
    """The outcome of the image i of a call.

    Args:
        row: of the image.
        result: of the call.
        i: the image's place in it.
        how: settings for the PNG's text besides those of the row, under the names that `noisetilt generate` has.
        results: fields of the record besides the reward.
    """
    reward = None if result.rewards is None else float(result.rewards[i])
    values = {"reward_value": reward, "heldout_value": results["heldout"]}
    image = encode_picture(result.images[i], {**row.made().as_json(), **how, **values})
    return Outcome(row.index, {"reward": reward, **results, "sha256": hashlib.sha256(image).hexdigest()}, image)


def error_sentence(error: Exception) -> str:
    """An error in one line; unexpected errors with their type."""
    text = " ".join(str(error).split())[:1000]
    return text if isinstance(error, (ValueError, FloatingPointError)) else f"{type(error).__name__}: {text}"


Groups = Sequence[Sequence[Row]]
RunGroups = Callable[[Groups, WorkerOptions], Iterator[Outcome]]

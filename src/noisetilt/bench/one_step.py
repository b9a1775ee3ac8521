"""The suite `one-step`: what noise ascent gains, how fast, and what it does to the picture and to the noise.

Each method's knobs are tuned on other prompts, the same number of settings and network calls for each; what is then
measured on the test prompts is a row a picture, with the whole way of its rewards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..ascend import ascend
from ..generate import file_stem
from ..methods import METHODS, Method
from ..models import load as load_model
from ..noise import audit
from ..report import save_picture
from ..rewards import load as load_reward
from ..sampling import reward_of
from ..streams import Streams
from .ledger import Ledger, Row

KEY = ("reward", "phase", "method", "knobs", "prompt", "seed")
# A learned reward and what looks on besides its own held-out version.
REWARDS = {"style:3d": "alignment", "alignment": "style:3d"}
TUNING_PROMPTS = ("bear face", "clock", "fish", "red apple")
PROMPTS = ("cat face", "house", "grinning face", "automobile", "flower", "dog", "ship", "tree")
DRAWN = "as drawn"
CHUNK = 8


def _crossed(**knobs: tuple[float, ...]) -> list[dict[str, float]]:
    return [dict(zip(knobs, values, strict=True)) for values in itertools.product(*knobs.values())]


# As many settings for each: soft penalties share them out between rate and weight.
SETTINGS = {
    "none": _crossed(rate=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
    "reno": _crossed(rate=(1.25, 5.0, 20.0), penalty_weight=(0.01, 0.1)),
    "prno": _crossed(rate=(0.02, 0.05, 0.1), penalty_weight=(0.01, 0.1)),
    "mpgr": _crossed(rate=(0.02, 0.05, 0.1), penalty_weight=(0.01, 0.1)),
    "gper": _crossed(rate=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
    "gper-latent": _crossed(rate=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
    "gper-both": _crossed(rate=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
    "gper-w": _crossed(rate=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
    "gper-rotation": _crossed(rate=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rewards: tuple[str, ...]
    tuning_prompts: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: int
    iterations: int
    settings: int


FULL = Size(tuple(REWARDS), TUNING_PROMPTS, PROMPTS, 4, 60, 6)
QUICK = Size(("style:3d",), TUNING_PROMPTS[:1], PROMPTS[:3], 2, 12, 2)


def settings_of(method: str, count: int) -> list[dict[str, float]]:
    """`count` settings of a method, from the middle of its list."""
    every = SETTINGS[method]
    first = (len(every) - count) // 2
    return every[first : first + count]


def picture_file(out: Path, row: Row) -> Path:
    """Where the picture of a test row lies."""
    return out / "pictures" / f"{file_stem(row['reward'])}-{file_stem(row['method'])}-{_place(row)}.png"


def _place(row: Row) -> str:
    return f"{file_stem(row['prompt'])}-{row['seed']}"


def picture_of(out: Path, row: Row) -> Tensor:
    """The picture of a test row, (3, H, W) in [0, 1]."""
    levels = np.asarray(Image.open(picture_file(out, row)).convert("RGB"))
    return torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 255


class Run:
    """One run of the suite: rows on disk, and how to measure what is missing.

    Args:
        out: folder of the run.
        quick: one reward, few prompts, seeds, iterations and settings.
        methods: names of SETTINGS; pictures as drawn are always made.
        model: a one-step generator that `load` knows.
        device: where it runs.
        size: how much is measured, in place of `quick`.
    Raises:
        ValueError: if a name is unknown, or the folder holds another run.
    """

    def __init__(
        self,
        out: Path,
        quick: bool = False,
        methods: Sequence[str] | None = None,
        model: str = "emoji64",
        device: str = "cpu",
        size: Size | None = None,
    ) -> None:
        unknown = sorted(set(methods or ()) - {*SETTINGS, "base"})
        if unknown:
            raise ValueError(f"method {unknown[0]!r} is not in the suite one-step; it has: {', '.join(SETTINGS)}")
        self.size = size or (QUICK if quick else FULL)
        self.out, self.methods = out, [m for m in SETTINGS if not methods or m in methods]
        self.model = load_model(model, device=device)
        self.settings = {"suite": "one-step", "model": model, "noisetilt": __version__, **vars(self.size)}
        self.ledger = Ledger(out, KEY, self.settings)

    def measure(self) -> None:
        """Measures what is missing; after Ctrl-C it goes on where it was."""
        size = self.size
        with tqdm(total=len(size.rewards) * (len(self.methods) + 1), unit="method") as bar:
            for reward in size.rewards:
                for prompt in size.prompts:
                    self._measure(reward, "test", DRAWN, {}, prompt)
                bar.update()
                for method in self.methods:
                    for knobs, prompt in itertools.product(settings_of(method, size.settings), size.tuning_prompts):
                        self._measure(reward, "tune", method, knobs, prompt)
                    best = chosen_knobs(self.ledger, reward, method)
                    for prompt in size.prompts:
                        self._measure(reward, "test", method, best, prompt)
                    bar.update()

    def _measure(self, reward: str, phase: str, method: str, knobs: dict[str, float], prompt: str) -> None:
        label = json.dumps(knobs, sort_keys=True)
        seeds = range(self.size.seeds)
        missing = [s for s in seeds if (reward, phase, method, label, prompt, s) not in self.ledger]
        if not missing:
            return
        made = METHODS["none" if method == DRAWN else method]
        made = made.replace(iterations=0 if method == DRAWN else self.size.iterations, **knobs)
        what = {"reward": reward, "phase": phase, "method": method, "knobs": label, "prompt": prompt}
        self.ledger.add(self._rows(what, made, missing))

    def _rows(self, what: Row, method: Method, seeds: list[int]) -> list[Row]:
        prompts, reward = [what["prompt"]] * len(seeds), what["reward"]
        result = ascend(
            self.model,
            prompts,
            load_reward(reward),
            method,
            seeds,
            heldout=load_reward(reward, heldout=True),
            chunk=CHUNK,
        )
        start = Streams(seeds, 1, self.model.shape).normal()[:, 0].to(result.noise)
        cosine = torch.cosine_similarity(result.noise.flatten(1), start.flatten(1))
        with torch.no_grad():
            other = reward_of(load_reward(REWARDS[reward], heldout=True), result.images, prompts)
        p, trace = audit(result.noise).p_value, result.trace
        seconds = [round(s / len(seeds), 4) for s in trace.seconds]
        rows = []
        for i, seed in enumerate(seeds):
            row = {
                **what,
                "seed": seed,
                "target": result.rewards[i].item(),
                "heldout": result.heldout[i].item(),
                "other": other[i].item(),
                "cosine": cosine[i].item(),
                "energy": result.noise[i].square().mean().item(),
                "p_value": p[i].item(),
                "iteration": int(result.iterations[i]),
                "nfe": trace.nfe[i].item(),
                "seconds": seconds,
                "targets": [round(v, 4) for v in trace.rewards[:, i].tolist()],
                "heldouts": [round(v, 4) for v in trace.heldout[:, i].tolist()],
            }
            rows.append(row)
            if what["phase"] == "test":
                file = picture_file(self.out, row)
                file.parent.mkdir(exist_ok=True)
                save_picture(result.images[i], file, row)
        return rows


def chosen_knobs(ledger: Ledger, reward: str, method: str) -> dict[str, float]:
    """The setting whose pictures of the tuning prompts have the highest mean held-out reward of the target."""
    rows = ledger.where(reward=reward, phase="tune", method=method)
    every = dict.fromkeys(row["knobs"] for row in rows)
    means = {knobs: np.mean([row["heldout"] for row in rows if row["knobs"] == knobs]) for knobs in every}
    return json.loads(max(means, key=means.get))

"""What each part of W is worth to the sampler: reward, the judge's probability, and whether the noise stays noise.

    python recipes/noise/reward_ablation.py build/noise/ablation [--rho 0.02 0.1] [--only W WGNC] [--images 32]

Noise-tilted sampling of emoji128 in 25 steps towards `style:3d`, on the tuning prompts of the suite `paper`, at equal
seeds with each variant of W (variants.py). Every run is kept in FOLDER as a .json file, so that the script goes on
where it was stopped. Prints a table for each ρ. In brackets: the paired difference to W at the same ρ, with a 95 %
bootstrap interval in which the images of a concept are drawn together. *At equal reward*: the probability of the right
concept minus that of W at the ρ at which W has the reward of the variant, interpolated between the values of ρ of W
(`--line` adds some); empty if W does not reach that reward. *Rejected*: the fraction of the injected noise
√ρ W + √(1−ρ) ε that the audit rejects at 1 %.
"""

import argparse
import functools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from variants import CRUDE, VARIANTS, Apply

from noisetilt import METHODS, load, rewards, sample
from noisetilt.bench.paper_plan import TARGETS
from noisetilt.bench.paper_suite import judged_figures, prompt_seeds
from noisetilt.bench.statistics import Interval, bootstrap, prompted_concept, value_at
from noisetilt.noise import audit, shuffled
from noisetilt.proposals import Step

TARGET = TARGETS[0]
PLAIN = "plain sampling"
BATCH = 8
# The columns of a run's scores, and the factor and the digits with which they are printed.
SCORES = {"reward": (1, 2), "held-out": (1, 2), "probability": (100, 0)}
Found = dict[str, list[Any]]


@dataclass(frozen=True)
class Tilt:
    """The noise tilt at constant ρ with any W, which keeps the audit's p-values of what it injects."""

    rho: float
    white: Apply
    found: list = field(default_factory=list)
    needs_gradient: ClassVar[bool] = True

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        if self.rho == 0 or step.std == 0 or step.path.alpha(step.t) == 0:
            return step.mean + step.std * noise
        tilted = math.sqrt(self.rho) * self.white(step.gradient, shuffled(noise)) + math.sqrt(1 - self.rho) * noise
        self.found.extend(audit(tilted).p_value.tolist())
        return step.mean + step.std * tilted


def run(model: Any, apply: Apply, rho: float, images: int) -> Found:
    """SCORES of each image, its concept, and the p-values of the injected noise; ρ = 0 is plain sampling."""
    scored: Found = {name: [] for name in (*SCORES, "concept", "p")}
    pairs = prompt_seeds(TARGET, False, images)
    reward = rewards.load(TARGET.reward)
    heldout = rewards.load(TARGET.heldout, heldout=True)
    for first in range(0, len(pairs), BATCH):
        prompts, seeds = zip(*pairs[first : first + BATCH], strict=True)
        tilt = Tilt(rho=rho, white=apply)
        method = METHODS["ntrk"].replace(proposal=tilt)
        result = sample(model, list(prompts), reward, method, steps=25, seeds=list(seeds), track=False)
        scored["reward"] += result.rewards.tolist()
        scored["held-out"] += heldout(result.images, list(prompts)).tolist()
        scored["probability"] += [row["probability"] for row in judged_figures(TARGET, result.images, prompts)]
        scored["concept"] += map(prompted_concept, prompts)
        scored["p"] += tilt.found
    return scored


def text(found: Interval, factor: float, digits: int, sign: str = "") -> str:
    """A value with its interval, as Markdown."""
    # Adding 0 makes −0 a 0.
    value, low, high = (f"{round(factor * part, digits) + 0.0:{sign}.{digits}f}".replace("-", "−") for part in found)
    return f"{value} [{low.replace('+', '')}, {high.replace('+', '')}]"


def points_of(found: Found) -> np.ndarray:
    """Reward and probability of each image, (image, 2)."""
    return np.array([found["reward"], found["probability"]]).T


def at_equal_reward(variant: Found, line: Sequence[Found]) -> Interval | None:
    """The probability of a variant minus that of W at the same mean reward.

    Args:
        variant: the variant's scores.
        line: W's scores, from no guidance to the strongest ρ.

    Returns:
        the interval; None if W does not reach the variant's reward.
    """
    both = np.stack([points_of(variant), *map(points_of, line)], axis=1)
    if both[:, 0, 0].mean() > both[:, 1:, 0].mean(0).max():
        return None

    def difference(mean: np.ndarray) -> float:
        return mean[0, 1] - value_at(mean[1:], mean[0, 0])

    return bootstrap(both, difference, groups=variant["concept"])


def table(found: dict[str, Found], line: Sequence[Found], rho: float) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield f"|ρ = {rho:g}|`{TARGET.reward}`|held-out|probability, %|at equal reward|rejected|"
    yield "|---|" + "---:|" * 5
    reference = found.get("W")
    for name, scores in found.items():
        cells = [name]
        for column, (factor, digits) in SCORES.items():
            values = np.array(scores[column])
            cell = f"{factor * values.mean():.{digits}f}".replace("-", "−")
            if reference is not None and name != "W" and column != "held-out":
                less = bootstrap(values - np.array(reference[column]), groups=scores["concept"])
                cell += f" ({text(less, factor, digits, '+')})"
            cells.append(cell)
        equal = at_equal_reward(scores, line) if name not in ("W", PLAIN) else None
        cells.append("" if equal is None else text(equal, 100, 0, "+"))
        cells.append(f"{np.mean(np.array(scores['p']) < 0.01):.2f}" if scores["p"] else "")
        yield "|" + "|".join(cells) + "|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rho", type=float, nargs="+", default=[0.02, 0.1])
    parser.add_argument("--line", type=float, nargs="*", default=[0.01, 0.05, 0.2], help="further values of ρ for W")
    parser.add_argument("--only", nargs="+", default=[*VARIANTS, *CRUDE], choices=[*VARIANTS, *CRUDE])
    parser.add_argument("--images", type=int, default=32)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    model = load("emoji128")

    @functools.cache
    def kept(name: str, rho: float) -> Found:
        file = arguments.folder / f"{name.replace(' ', '-')}-{rho:g}-{arguments.images}.json"
        if not file.exists():
            print(name, rho, flush=True)
            file.write_text(json.dumps(run(model, (VARIANTS | CRUDE).get(name, VARIANTS["W"]), rho, arguments.images)))
        found: Found = json.loads(file.read_text())
        return found

    plain = kept(PLAIN, 0.0)
    line = [plain, *(kept("W", rho) for rho in sorted({*arguments.rho, *arguments.line}))]
    for rho in arguments.rho:
        found = {PLAIN: plain} | {name: kept(name, rho) for name in arguments.only}
        print("\n".join(table(found, line, rho)), "\n", flush=True)


if __name__ == "__main__":
    main()

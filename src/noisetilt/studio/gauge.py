"""Whether a run starts to be hacked: a rule on the target reward and a held-out reward, in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FIRST = 0.5  # the fraction of the steps before which x̂_0 is too blurred for a reward model
WINDOW = 0.2  # the fraction of the steps over which rising and falling are measured
ERRORS = 2  # standard errors of the mean gain that a rise or a fall exceeds
LEVELS = ("unknown", "none", "warning", "hacked")


class Gauge(NamedTuple):
    """A level of LEVELS, and a sentence."""

    level: str
    text: str


def gauge_of_curves(
    base_target: np.ndarray,
    base_heldout: np.ndarray | None,
    target: np.ndarray,
    heldout: np.ndarray | None,
    steps: int,
) -> Gauge:
    """Compare the gains of a guided run over the unguided one of the same seeds, up to now.

    The gain of an image at a step is its reward minus that of the unguided image with the same seed at the same
    fraction of the run. Δr is the gain in the target reward, Δh that in the held-out reward, as means over the images;
    SE is the standard error of each over the images. The rule, from half of the steps on:

    - hacked: Δr > 2 SE and Δh < −2 SE: the target is higher than without guidance, and the held-out reward, which
      measures the same quality but is not optimised, is lower. The command line has the same rule.
    - warning: over the last fifth of the steps, Δr has risen and Δh has fallen, both by more than 2 SE. What is gained
      now is gained for the target only (the point at which early stopping would stop).
    - none: otherwise.
    - unknown: with one image, which has no standard error.

    This is the definition of over-optimisation by Gao et al. 2022 (arXiv 2210.10760): the proxy rises while the gold
    reward falls, with the held-out reward in place of the gold one. It cannot detect what both reward models miss.

    Args:
        base_target, base_heldout: (steps, image), of the complete unguided run.
        target, heldout: (steps so far, image), of the guided run.
        steps: number of all steps of the guided run.
    """
    if heldout is None or base_heldout is None:
        return Gauge("unknown", "Cannot tell: this reward has no held-out version. Check the images yourself.")
    if target.shape[1] == 1:
        return Gauge("unknown", "One image cannot tell whether the reward is exploited; make 4 or more.")
    done = len(target)
    if done < max(2, FIRST * steps):
        return Gauge("unknown", "Too early to tell: the images are still blurred.")
    gain = target - _at_same_fraction(base_target, done, steps)
    heldout_gain = heldout - _at_same_fraction(base_heldout, done, steps)
    margin, heldout_margin = (
        ERRORS * gains[-1].std(ddof=1) / np.sqrt(gains.shape[1]) for gains in (gain, heldout_gain)
    )
    by_step, heldout_by_step = gain.mean(1), heldout_gain.mean(1)
    if by_step[-1] > margin and heldout_by_step[-1] < -heldout_margin:
        return Gauge(
            "hacked",
            "Reward hacking: the target reward is higher than without guidance, and the held-out reward is lower. "
            "Lower the strength.",
        )
    before = -1 - min(done - 1, max(1, round(WINDOW * steps)))
    rise, fall = by_step[-1] - by_step[before], heldout_by_step[before] - heldout_by_step[-1]
    if rise > margin and fall > heldout_margin:
        return Gauge(
            "warning",
            "Reward hacking may begin: the target reward still rises and the held-out reward falls. "
            "Lower the strength or use fewer steps.",
        )
    if heldout_by_step[-1] > heldout_margin:
        return Gauge("none", "No sign of reward hacking: the held-out reward rises with the target reward.")
    return Gauge("none", "No sign of reward hacking: the held-out reward has not fallen.")


def _at_same_fraction(base: np.ndarray, done: int, steps: int) -> np.ndarray:
    """Rows of an unguided curve (steps', image) at the fractions 1/steps, …, done/steps of the run."""
    fractions = np.arange(1, done + 1) / steps
    rows = np.ceil(fractions * len(base)).astype(int) - 1
    return base[np.clip(rows, 0, len(base) - 1)]


def gauge_of_ascent(target: np.ndarray, heldout: np.ndarray | None) -> Gauge:
    """The same rule for noise ascent: gains (iteration, image) over the first iterate.

    Here there is no unguided run, and every iterate is a complete image, so that the rule holds from the first
    iteration on.
    """
    none = None if heldout is None else heldout[:1]
    if len(target) < 2 and heldout is not None:
        return Gauge("unknown", "Too early to tell: there is one iterate.")
    return gauge_of_curves(target[:1], none, target, heldout, max(2, len(target)))

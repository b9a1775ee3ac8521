"""W without each of its parts in turn, and cruder ways from a gradient to noise: what the ablations compare.

Each is (gradient, noise), both (batch, *event) → (batch, *event) of RMS 1.
"""

import functools
from collections.abc import Callable
from unittest import mock

from torch import Tensor

from noisetilt.noise import project_wgnc, whiten
from noisetilt.noise import whitening as w

Apply = Callable[[Tensor, Tensor], Tensor]
SPECTRUM = (w.whiten_field_spectrum, w.whiten_flat_field_spectrum)


def changed(first: tuple = w.FIRST_PASS, again: tuple = w.SECOND_PASS, **replaced) -> Apply:
    """W with other projections, or with names of its module replaced."""
    field = functools.partial(w.whiten_field, first_pass=first, second_pass=again)

    def apply(g: Tensor, noise: Tensor) -> Tensor:
        with mock.patch.multiple(w, whiten_field=field, **replaced):
            return whiten(g, noise=noise)

    return apply


def without(*projections: Callable) -> Apply:
    return changed(*(tuple(p for p in part if p not in projections) for part in (w.FIRST_PASS, w.SECOND_PASS)))


def only(*projections: Callable) -> Apply:
    """These projections once, and nothing else of W."""
    return changed(
        projections, (), dilute=lambda x, start, noise: x, clip_values=lambda x, alpha: x, REPLACED_FRACTION=0.0
    )


VARIANTS: dict[str, Apply] = {
    "W": changed(),
    "without values": without(w.whiten_values),
    "without channels": without(w.whiten_channels),
    "without spectrum": without(*SPECTRUM),
    "without tiles": without(w.whiten_tiles),
    "without order statistics": changed(clip_values=lambda x, alpha: x),
    "half of a second pass": changed(again=w.SECOND_PASS[4:]),
    "without a second pass": changed(again=()),
    "without noise given back": changed(REPLACED_FRACTION=0.0),
    "without dilution": changed(dilute=lambda x, start, noise: x),
}
CRUDE: dict[str, Apply] = {
    "values only": only(w.whiten_values),
    "spectrum only": only(w.whiten_field_spectrum),
    "WGNC": lambda g, noise: project_wgnc(g),
    "the raw gradient": lambda g, noise: w.to_unit_rms(g),
}

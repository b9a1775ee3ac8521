"""Method = initial noise × proposal × selection, and the table of named methods."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from .initial_noise import Gaussian
from .proposals import Base, MeanShift, NoiseTilt, Proposal
from .selection import Independent, Search, Selection


@dataclass(frozen=True)
class Method:
    """An answer to the question how x_s is drawn, given the pretrained reverse kernel.

    Args:
        initial: where x_T comes from.
        proposal: how one particle moves from x_t to x_s.
        selection: which particles go on, and which one is returned.
        summary: one line for people.
    """

    initial: Gaussian = field(default_factory=Gaussian)
    proposal: Proposal = field(default_factory=Base)
    selection: Selection = field(default_factory=Independent)
    summary: str = ""

    def knobs(self) -> dict[str, Any]:
        """The values of all knobs of the three parts, by name."""
        return {f.name: getattr(part, f.name) for part in self._parts().values() for f in dataclasses.fields(part)}

    def _parts(self) -> dict[str, Any]:
        return {"initial": self.initial, "proposal": self.proposal, "selection": self.selection}

    def replace(self, **changes: Any) -> Method:
        """A copy with other parts (`proposal=NoiseTilt(0.1)`) or other knobs of its parts (`rho=0.1`).

        Raises:
            ValueError: if no part has a knob of that name.
        """
        own = {f.name for f in dataclasses.fields(self)}
        changed = dataclasses.replace(self, **{k: v for k, v in changes.items() if k in own})
        for knob, value in changes.items():
            if knob in own:
                continue
            for name, part in changed._parts().items():
                if knob in {f.name for f in dataclasses.fields(part)}:
                    changed = dataclasses.replace(changed, **{name: dataclasses.replace(part, **{knob: value})})
                    break
            else:
                known = ", ".join(self.knobs()) or "none"
                raise ValueError(f"this method has no knob {knob!r}; its knobs are: {known}")
        return changed


METHODS: dict[str, Method] = {
    "base": Method(summary="the pretrained sampler, unguided (DDPM / DDIM)"),
    "best-of-n": Method(
        selection=Independent(particles=20), summary="N trajectories, the best final reward is returned"
    ),
    "dps": Method(proposal=MeanShift(), summary="mean shifted along the reward's gradient (Chung 2023)"),
    "svdd": Method(selection=Search(particles=20), summary="the best of K candidates at every step (Li 2024)"),
    "ntrk": Method(proposal=NoiseTilt(), summary="whitened reward gradient as the noise (arXiv 2606.18066)"),
    "ntrk-best-of-n": Method(
        proposal=NoiseTilt(), selection=Independent(particles=20), summary="NTRK†: the best of N NTRK trajectories"
    ),
}


def find_method(method: str | Method) -> Method:
    """The method of that name, or the method itself.

    Raises:
        ValueError: if no method has that name; names all of them.
    """
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; the methods are: {', '.join(METHODS)}")
    return METHODS[method]

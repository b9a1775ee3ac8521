"""Method = initial noise × proposal × selection, and METHODS, the table of named methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._messages import nearest_name, unknown_name
from ._options import check_option, type_hints
from ._python_files import execute_named, file_of, imported_files, is_in_file
from .initial_noise import PCNL, Ascent, Gaussian, InitialNoise, Langevin
from .path.time_travel import TimeTravel
from .proposals import (
    Base,
    BlackBoxTilt,
    ColouredNoise,
    ManifoldShift,
    ManifoldTilt,
    MeanShift,
    MonteCarloShift,
    NoiseTilt,
    NormalisedMeanShift,
    Proposal,
    SphericalGaussian,
    TrainingFreeGuidance,
    TwistedShift,
    UniversalGuidance,
)
from .selection import SMC, Independent, RolloverBudget, Search, Selection

# What a part of each role has, besides being a dataclass, and an example.
_ROLES = {
    "initial": (("needs_reward",), "Gaussian()"),
    "proposal": (("needs_gradient",), "NoiseTilt(0.1)"),
    "selection": (("choose", "particles"), "Independent(particles=4)"),
    "times": (("expand",), "TimeTravel(repeats=2)"),
}


def _check_part(role: str, part: Any) -> None:
    """Check that a part of a method can have this role."""
    names, example = _ROLES[role]
    missing = [name for name in names if not hasattr(part, name)]
    if isinstance(part, type) and not missing:
        reason = f"; it is a class, so give an object of it: {part.__name__}()"
    elif isinstance(part, type) or not dataclasses.is_dataclass(part):
        reason = "; a part is an object of a dataclass (@dataclass(frozen=True))"
    else:
        reason = f"; it has no attribute {missing[0]}" if missing else ""
    if reason:
        raise ValueError(f"{role} = {part!r} must be a part of a method, such as {example}{reason}")


@dataclass(frozen=True)
class Method:
    """An alignment method: how x_T and each x_s are drawn, given the pretrained reverse kernel.

    Args:
        initial: the initial noise x_T.
        proposal: how one particle moves from x_t to x_s.
        selection: which particles continue, and which one is returned.
        times: which steps of the time grid are repeated.
        summary: a one-line description.
    """

    initial: InitialNoise = field(default_factory=Gaussian)
    proposal: Proposal = field(default_factory=Base)
    selection: Selection = field(default_factory=Independent)
    times: TimeTravel = field(default_factory=TimeTravel)
    summary: str = ""

    def __post_init__(self) -> None:
        for role, part in self.parts().items():
            _check_part(role, part)

    def options(self) -> dict[str, Any]:
        """Name → value of all options of its parts."""
        return {f.name: getattr(part, f.name) for part in self.parts().values() for f in dataclasses.fields(part)}

    def parts(self) -> dict[str, Any]:
        """Role → part."""
        return {
            "initial": self.initial,
            "proposal": self.proposal,
            "selection": self.selection,
            "times": self.times,
        }

    def replace(self, **changes: Any) -> Method:
        """A copy with other parts (`proposal=NoiseTilt(0.1)`) or other options of its parts (`rho=0.1`).

        Raises:
            ValueError: if no part has an option of that name, its value is invalid, or `best_of` would replace a given
                rho.
        """
        own = {f.name for f in dataclasses.fields(self)}
        for role in own & set(_ROLES) & set(changes):
            _check_part(role, changes[role])
        changed = dataclasses.replace(self, **{k: v for k, v in changes.items() if k in own})
        for option, value in changes.items():
            if option in own:
                continue
            for name, part in changed.parts().items():
                if option in {f.name for f in dataclasses.fields(part)}:
                    check_option(part, option, value)
                    changed = dataclasses.replace(changed, **{name: dataclasses.replace(part, **{option: value})})
            if option not in self.options():
                known = ", ".join(self.options()) or "none"
                hint = nearest_name(option, self.options())
                raise ValueError(f"this method has no option {option!r}{hint}; its options are: {known}")
        best_of = changed.options().get("best_of")
        if "rho" in changes and best_of is not None:
            raise ValueError(
                f"rho = {changes['rho']} has no effect beside best_of = {best_of:g}, which sets rho; give one of them"
            )
        return changed


class NamedMethods(dict[str, Method]):
    """Name → method; the KeyError of an unknown name has the nearest known one."""

    def __missing__(self, name: object) -> Method:
        raise KeyError(unknown_name("method", str(name), self))


# The paper's rate for FLUX-schnell. With its 0.1 for SDXL-Turbo, images of emoji128-turbo break in ten iterations.
GPER_RATE = 0.02

_METHODS = {
    "base": Method(summary="the pretrained sampler, unguided (DDPM / DDIM)"),
    "best-of-n": Method(
        selection=Independent(particles=20),
        summary="N independent trajectories, returns the one with the best final reward",
    ),
    "dps": Method(proposal=MeanShift(), summary="mean shift along the reward gradient (Chung 2023)"),
    "lgd": Method(
        proposal=MonteCarloShift(), summary="mean shift along the gradient of a Monte-Carlo smoothed reward (Song 2023)"
    ),
    "mpgd": Method(proposal=ManifoldShift(), summary="shift of x̂_0 without the network Jacobian (He 2024)"),
    "ugd": Method(
        proposal=UniversalGuidance(),
        times=TimeTravel(repeats=2),
        summary="universal guidance: forward, backward and recurrence (Bansal 2023)",
    ),
    "freedom": Method(
        proposal=NormalisedMeanShift(),
        times=TimeTravel(repeats=2, after=0.3, before=0.7),
        summary="mean shift with time travel in the middle steps (Yu 2023)",
    ),
    "tfg": Method(
        proposal=TrainingFreeGuidance(),
        summary="training-free guidance, which unifies dps, lgd, mpgd, ugd and freedom (Ye 2024)",
    ),
    "dsg": Method(proposal=SphericalGaussian(), summary="noise turned towards the gradient, norm kept (Yang 2024)"),
    "svdd": Method(selection=Search(particles=20), summary="the best of K candidates at every step (Li 2024)"),
    "rbf": Method(
        selection=RolloverBudget(), summary="candidates until the reward improves; unused calls roll over (Kim 2025)"
    ),
    "fk": Method(
        selection=SMC(particles=4, temperature=0.1, interval=5),
        summary="Feynman-Kac steering: SMC with the base kernel at intervals (Singhal 2025)",
    ),
    "das": Method(
        proposal=TwistedShift(),
        selection=SMC(particles=16, tempering=0.008),
        summary="tempered SMC with mean-shifted proposals (Kim 2025)",
    ),
    "psi": Method(
        initial=PCNL(),
        proposal=TwistedShift(tempering=None),
        selection=SMC(particles=10, tilted_start=True),
        summary="Ψ-Sampler: initial noise from pCNL chains, then DAS (Yoon 2025)",
    ),
    "cns": Method(
        proposal=ColouredNoise(),
        summary="noise coloured towards frequencies that are not yet formed, without a reward (Davidson 2026)",
    ),
    "ntrk": Method(
        proposal=NoiseTilt(),
        summary="noise tilting: the whitened reward gradient replaces part of the noise (arXiv 2606.18066)",
    ),
    "ntrk-x0": Method(
        proposal=ManifoldTilt(),
        summary="NTRK with the gradient at x̂_0, without the network's backward pass, and the path whitened",
    ),
    "ntrk-best-of-n": Method(
        proposal=NoiseTilt(), selection=Independent(particles=20), summary="NTRK†: best of N NTRK trajectories"
    ),
    "ntrk-svdd": Method(
        proposal=NoiseTilt(),
        selection=Search(particles=20),
        summary="NTRK with the best of K candidates at every step",
    ),
    "ntrk-smc": Method(
        proposal=NoiseTilt(),
        selection=SMC(particles=16, correct=False),
        summary="NTRK with SMC, without the density ratio in the weights",
    ),
    "ntrk-black-box": Method(
        proposal=BlackBoxTilt(rho=0.2), summary="NTRK with a gradient estimated from reward values alone"
    ),
    "none": Method(initial=Ascent(), summary="noise ascent without regularisation"),
    "reno": Method(
        initial=Ascent(penalty="reno", penalty_weight=0.01, optimiser="sgd", rate=5.0, clip=0.1),
        summary="noise ascent with a penalty on the norm (Eyring 2024)",
    ),
    "prno": Method(
        initial=Ascent(penalty="prno", penalty_weight=0.01, block_size=4, rate=0.01, clip=1.0),
        summary="noise ascent with a penalty on block means and covariances (DNO, Tang 2024)",
    ),
    "mpgr": Method(
        initial=Ascent(penalty="mpgr", penalty_weight=0.01),
        summary="noise ascent with a penalty on moments and spectrum (Hwang 2025)",
    ),
    "gper": Method(
        initial=Ascent(gradient="wgnc", rate=GPER_RATE, clip=0.03),
        summary="noise ascent along the gradient projected onto WGNC (arXiv 2602.08646)",
    ),
    "gper-latent": Method(
        initial=Ascent(latent="wgnc", rate=GPER_RATE, clip=0.03),
        summary="noise ascent with the noise projected onto WGNC (arXiv 2602.08646v1)",
    ),
    "gper-both": Method(
        initial=Ascent(gradient="wgnc", latent="wgnc", rate=GPER_RATE, clip=0.03),
        summary="noise ascent with gradient and noise projected onto WGNC (arXiv 2602.08646, released settings)",
    ),
    "gper-w": Method(
        initial=Ascent(gradient="whiten", rate=GPER_RATE, clip=0.03),
        summary="noise ascent along the gradient whitened by W",
    ),
    "gper-rotation": Method(
        initial=Ascent(gradient="wgnc", optimiser="rotation", rate=GPER_RATE, momentum=0.0),
        summary="noise rotated towards the gradient projected onto WGNC, with constant norm",
    ),
    "langevin": Method(
        initial=Langevin(), summary="initial noise from reward-guided Langevin dynamics (ORIGEN, Min 2025)"
    ),
    "gper-ntrk": Method(
        initial=Ascent(gradient="wgnc", rate=GPER_RATE, clip=0.03),
        proposal=NoiseTilt(),
        summary="GPER for the initial noise, then NTRK",
    ),
}
METHODS: dict[str, Method] = NamedMethods(_METHODS)
"""Name → method of all named methods. `METHODS["ntrk"].replace(rho=0.01)` is a copy with another option.

An unknown name raises a KeyError with the nearest known one. `noisetilt methods` lists the names.
"""


def find_method(method: str | Method) -> Method:
    """The method with this name in METHODS, or in a Python file: "file.py:NAME" is the Method `NAME` of the file, which
    is executed. A Method is returned unchanged.

    Raises:
        ValueError: if no method has this name, with all names; if there is no such file, the file raises an error, or
            its object of that name is no Method.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise ValueError(f"method = {method!r} is no method; give a name of METHODS, or Method(proposal=...)")
    if is_in_file(method):
        return _method_of_file(method)
    if method.endswith(".py"):
        raise ValueError(f"the method {method!r} is a file; give also the name of a Method in it: {method}:NAME")
    if method not in METHODS:
        if method.lower() in METHODS:
            return METHODS[method.lower()]
        raise ValueError(unknown_name("method", method, METHODS))
    return METHODS[method]


def method_files(method: str | Method) -> list[Path]:
    """The Python file of a method named "file.py:NAME", with the modules beside it that it imports; else none."""
    if not isinstance(method, str) or not is_in_file(method) or not file_of(method).is_file():
        return []
    return imported_files(file_of(method))


# "file.py:NAME" with the absolute path → the method, and the times and sizes of the files that it was read from.
_READ: dict[tuple[Path, str], tuple[Method, Mapping[Path, tuple[int, int]]]] = {}


def _method_of_file(name: str) -> Method:
    """The method "file.py:NAME". The file is executed again after a change only, as a batch asks for every row."""
    key = file_of(name).absolute(), name.rpartition(":")[2]
    if key in _READ and _READ[key][1] == _stamps(_READ[key][1]):
        return _READ[key][0]
    stamps = _stamps(method_files(name))
    module, imports = execute_named("method", name)
    method = _as_method(name, vars(module))
    with imports.allowed():  # afterwards annotations that are texts cannot be read, and options not be checked
        for part in method.parts().values():
            type_hints(part)
    _READ[key] = method, stamps
    return method


def _stamps(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """File → time of the last change and size; without files that do not exist."""
    found = {file: file.stat() for file in map(Path.absolute, files) if file.is_file()}
    return {file: (status.st_mtime_ns, status.st_size) for file, status in found.items()}


def _as_method(name: str, objects: Mapping[str, Any]) -> Method:
    """The object of a file that is named as a method.

    Args:
        name: "file.py:NAME".
        objects: name → object of the file.

    Raises:
        ValueError: if it is no Method.
    """
    found = objects.get(name.rpartition(":")[2])
    if isinstance(found, Method):
        return found
    names = [each for each, value in objects.items() if isinstance(value, Method)]
    if found is None:
        known = ", ".join(names) or "none"
        hint = nearest_name(name.rpartition(":")[2], names)
        raise ValueError(f"{file_of(name)} has no method {name.rpartition(':')[2]!r}{hint}; its methods are: {known}")
    if isinstance(found, type):
        what, mend = "a class", f"MINE = Method(proposal={found.__name__}())"
    else:
        what, mend = f"of the type {type(found).__name__}", "MINE = Method(proposal=...)"
    raise ValueError(
        f"the method {name!r} is {what}, expected an object of the class Method; write {mend} in the file, and give "
        f"{file_of(name)}:MINE"
    )

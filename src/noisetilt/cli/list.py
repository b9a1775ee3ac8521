"""The commands `noisetilt methods`, `rewards` and `models`: what there is, one line each, or one of them in detail."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from typing import Any

from .._python_files import is_in_file
from ..methods import METHODS, Method, find_method
from ..models import MODELS
from ..rewards import CATALOGUE
from ..rewards.catalogue import (
    GROUPS,
    check_names,
    find_entry,
    heldout_spec,
    heldout_terms,
    heldout_version,
    missing_heldout,
    named_heldout,
    split_terms,
    sum_name,
)
from .console import filled

# Models that have no name of their own.
PIPELINES = {
    "FOLDER, HUB/ID": "any diffusers pipeline that `align` supports, for generate; a FluxPipeline also for optimize"
}


def main(args: argparse.Namespace) -> None:
    """Prints the list that the command names."""
    if args.command == "rewards" and args.name:
        _describe_reward(args.name)
    elif args.command == "rewards":
        versions = {name: heldout_version(name) for name in CATALOGUE}
        ends = {name: f"  [held-out: {version}]" if version else "" for name, version in versions.items()}
        _print_lines({name: line + ends[name] for name, line in CATALOGUE.items()})
    elif args.command == "models":
        _print_vocabulary() if args.words else _print_lines({**MODELS, **PIPELINES})
    elif args.name:
        _describe_method(args.name)
    else:
        for name, method in METHODS.items():
            options = ", ".join(f"{k}={v}" for k, v in _own_options(method).items())
            print(filled(f"{name:16} {method.summary}" + (f"  [{options}]" if options else ""), "    "))
        _print_lines({"FILE.py:NAME": "your own Method, the object NAME of a Python file, which is executed"})
        common = ", ".join(f"{k}={v}" for k, v in Method().options().items())
        print(
            "\n"
            + filled(f"Left out, where a method has them: {common}. `noisetilt methods NAME` explains all options.")
        )


def _own_options(method: Method) -> dict[str, Any]:
    """The options of a method that the unguided sampler lacks, or has with another value."""
    plain = Method().options()
    return {name: value for name, value in method.options().items() if name not in plain or plain[name] != value}


def _print_lines(descriptions: dict[str, str]) -> None:
    for name, line in descriptions.items():
        print(filled(f"{name:16} {line}", "    "))


def _print_vocabulary() -> None:
    from ..rewards.scorers.words import rows

    print(filled(" ".join(rows())))


def _describe_reward(text: str) -> None:
    """Prints what a reward, a kind of rewards or a sum is, as --reward reads it."""
    terms = [(1.0, text)] if text.strip() in CATALOGUE else split_terms(text)
    entries = [_entry_of(name) for _, name in terms]
    if len(terms) > 1:
        heldout = _heldout_of_sum(text)
        for term, entry in zip(terms, entries, strict=True):
            print(filled(f"{sum_name([term])} is {entry}: {CATALOGUE[entry]}", "    "))
            print(f"  held-out version: {heldout_version(term[1]) or 'none'}")
        print(f"\nheld-out version of the sum: {heldout}")
        return
    ((_, name),), (entry,) = terms, entries
    print(filled(f"{entry}: {CATALOGUE[entry]}", "    "))
    print(f"\nheld-out version: {heldout_version(name) or 'none'}")
    group = GROUPS.get(name.strip().lower())
    if group is not None:
        print("", *group(), sep="\n")


def _entry_of(name: str) -> str:
    """The key of CATALOGUE that describes a reward; raises an error if --reward would not read it."""
    if is_in_file(name) and name not in CATALOGUE:
        check_names(name)  # the file and the function exist
    return find_entry(name)


def _heldout_of_sum(text: str) -> str:
    """What is evaluated as the held-out reward of a sum."""
    spec = heldout_spec(text)
    if spec is None:
        return "none"
    return missing_heldout(text) or named_heldout(sum_name(heldout_terms(split_terms(spec))))


def _describe_method(name: str) -> None:
    method = find_method(name)
    print(f"{name}: {method.summary}\n" if method.summary else f"{name}\n")
    for role, part in method.parts().items():
        options = ", ".join(f"{f.name}={getattr(part, f.name)}" for f in dataclasses.fields(part))
        print(f"{role}: {type(part).__name__}({options})\n{inspect.getdoc(type(part))}\n")

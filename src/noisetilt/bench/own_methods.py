"""Methods of the user in a suite: an `Entry` with a name, or "FILE.py:NAME" with the option that is its strength.

Their rows hold what the report needs, so that rows of several folders can be joined, and a checksum of the code, so
that images of two versions of a method are not mixed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from .._messages import nearest_name
from .._python_files import file_of, is_in_file
from ..method_identity import class_checksums, describe_method
from ..methods import METHODS, Method, find_method, method_files
from .ledger import Ledger, Row
from .paper_plan import Entry

# The option and its five values from the weakest to the strongest; (None, ()): nothing is tuned.
Strength = tuple[str | None, Sequence[float]]
# The field of rows of a method that is not in the suite.
OWN = "own"
VALUES = 5
EXAMPLE = "omega=0.01,0.02,0.05,0.1,0.2"


def short_name(name: str) -> str:
    """The name of a method in rows: "FILE.py:NAME" without the folders of the file."""
    return f"{file_of(name).name}:{name.rpartition(':')[2]}" if is_in_file(name) else name


def split_own(
    methods: Sequence[str | Entry] | None, strength: Strength | None, known: Sequence[str]
) -> tuple[list[str] | None, dict[str, Entry]]:
    """The names of all methods that are given, and the entries of those that are not in the suite.

    Args:
        methods: names of the suite, "FILE.py:NAME", and entries.
        strength: of the methods "FILE.py:NAME".
        known: the names of the suite.

    Raises:
        ValueError: if a method is no such thing, its strength is not given or wrong, or two have the same name.
    """
    names: list[str] = []
    own: dict[str, Entry] = {}
    for given in methods or ():
        if isinstance(given, str) and not is_in_file(given) and not given.endswith(".py"):
            names.append(given)
            continue
        entry = _entry_of(given, strength)
        _check_entry(entry, known)
        if entry.name in own and own[entry.name] != entry:
            raise ValueError(f"two methods have the name {entry.name!r}; give one of them another name")
        names.append(entry.name)
        own[entry.name] = entry
    if strength is not None and not any(isinstance(given, str) and is_in_file(given) for given in methods or ()):
        raise ValueError("strength is for methods given as FILE.py:NAME and none is given; leave it out")
    return (names if methods else None), own


def _entry_of(given: Any, strength: Strength | None) -> Entry:
    if isinstance(given, Entry):
        return given
    if isinstance(given, Method):
        raise ValueError(
            "a Method is given without the name and the strength that a suite needs; give Entry(method, 'omega', "
            "(0.01, 0.02, 0.05, 0.1, 0.2), name='mine')"
        )
    if not isinstance(given, str):
        raise ValueError(f"method = {given!r} is unknown; give the name of a method, FILE.py:NAME, or an Entry")
    method = find_method(given)
    if strength is None:
        options = ", ".join(method.options())
        raise ValueError(
            f"the method {given} needs the option that is its strength, with five values to try from the weakest to "
            f"the strongest: --strength {EXAMPLE}; its options are: {options}; if nothing is tuned, --strength none"
        )
    option, values = strength
    return Entry(method, option, tuple(values), name=short_name(given))


def _check_entry(entry: Entry, known: Sequence[str]) -> None:
    """Raises a ValueError for an entry that cannot be measured."""
    name = entry.name
    if not isinstance(entry.method, Method):
        raise ValueError(f"the method of the entry {name!r} is {entry.method!r}, expected a Method")
    if not name or name in (*known, "base"):
        what = "has no name" if not name else f"has the name {name!r} of a method of the suite"
        raise ValueError(f"an entry {what}; give it a name of its own, such as name='mine'")
    if entry.option is None:
        if entry.values or entry.like:
            raise ValueError(f"the entry {name!r} has values and no option that they are of; give the option")
        return
    if entry.option not in entry.method.options():
        hint = nearest_name(entry.option, entry.method.options())
        raise ValueError(
            f"the method {name} has no option {entry.option!r}{hint}; its options are: "
            f"{', '.join(entry.method.options())}"
        )
    if not entry.like:
        _check_values(name, entry)


def _check_values(name: str, entry: Entry) -> None:
    values, shown = entry.values, ", ".join(map(str, entry.values)) or "none"
    numbers = all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if len(values) != VALUES or not numbers or len(set(values)) != VALUES:
        raise ValueError(
            f"the strength {entry.option} of {name} has the values {shown}; give five different numbers, such as "
            f"{EXAMPLE}"
        )
    # Further values are tried in the ratio of the last two, or of the first two.
    if sorted(values) not in (list(values), list(reversed(values))) or min(values[:-1]) <= 0 or values[-1] < 0:
        raise ValueError(
            f"the strength {entry.option} of {name} has the values {shown}; give positive numbers from the weakest to "
            "the strongest, rising or falling; only the last one may be 0"
        )
    for value in values:
        entry.at(value)  # raises for a value that the method refuses


def code_of(entry: Entry, files: Sequence[Path] = ()) -> str:
    """A checksum of a method: of its files, if it is from a file, else of its options and the source of its classes."""
    if files:
        return hashlib.sha256(b"".join(sorted(file.read_bytes() for file in files))).hexdigest()[:16]
    described = [describe_method(entry.method), class_checksums(entry.method)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def codes(methods: Sequence[str | Entry], own: Mapping[str, Entry]) -> dict[str, str]:
    """Name → checksum of the code, of the entries that `split_own` made of these methods."""
    files = {short_name(given): method_files(given) for given in methods if isinstance(given, str)}
    return {name: code_of(entry, files.get(name, ())) for name, entry in own.items()}


def record_of(entry: Entry, code: str) -> Row:
    """What the rows of a method that is not in the suite hold of it."""
    values = {"option": entry.option, "values": list(entry.values), "like": entry.like, "search": entry.is_search}
    return {"code": code, **values, "calls": entry.calls}


def entries_of_rows(ledger: Ledger) -> dict[str, Entry]:
    """Name → entry of the methods of rows that are not in the suite, as the last row of each has it. Their code is not
    known, so that they can be read only: the method is the pretrained sampler.

    Raises:
        ValueError: if rows of a method are of two versions of its code.
    """
    found: dict[str, Row] = {}
    for row in ledger.where():
        if OWN in row:
            before = found.setdefault(row["method"], row[OWN])
            if before["code"] != row[OWN]["code"]:
                raise ValueError(
                    f"{ledger.file} has rows of two versions of the method {row['method']}; keep those of one, by "
                    'their "code"'
                )
            found[row["method"]] = row[OWN]
    return {
        name: Entry(
            METHODS["base"],
            record["option"],
            tuple(record["values"]),
            record["like"],
            calls=record["calls"],
            name=name,
            search=record["search"],
        )
        for name, record in found.items()
    }


def check_code(ledger: Ledger, codes: Mapping[str, str]) -> None:
    """Raises a ValueError if a folder has rows of a method that were measured with other code."""
    for name, code in codes.items():
        others = [row for row in ledger.where() if row["method"] == name and row.get(OWN, {}).get("code") != code]
        if others:
            raise ValueError(
                f"the code of {name} has changed since {len(others)} of its rows in {ledger.folder} were measured; "
                "restore it, give the new version another name, or choose another --out"
            )

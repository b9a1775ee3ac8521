"""What identifies a method in the records of a run: its name or the call that makes it, and its code."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from .methods import METHODS, Method

PACKAGE = __name__.partition(".")[0]


def describe_method(method: Method) -> str:
    """A method's name in METHODS, or the call that makes it, with the parts and the options that are not the defaults;
    functions and objects among these without their place in memory."""
    for name, known in METHODS.items():
        same = all(type(one) is type(method.parts()[role]) for role, one in known.parts().items())
        if same and _call_of(known) == _call_of(method):
            return name
    return _call_of(method)


def _call_of(method: Method) -> str:
    plain = Method().parts()
    calls = {role: _part_call(part) for role, part in method.parts().items()}
    shown = [f"{role}={call}" for role, call in calls.items() if call != _part_call(plain[role])]
    return f"Method({', '.join(shown)})"


def _part_call(part: Any) -> str:
    options = [(f, _text_of(getattr(part, f.name))) for f in dataclasses.fields(part) if f.init]
    shown = [f"{f.name}={text}" for f, text in options if text != _text_of(f.default)]
    return f"{type(part).__name__}({', '.join(shown)})"


def _text_of(value: Any) -> str:
    return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).split())


def class_checksums(method: Method) -> dict[str, str]:
    """Class → SHA-256 of its source and of those of its bases, of a method's parts that are not of this package. A
    class whose source is not known, as in an interactive session, is left out."""
    kinds = dict.fromkeys(type(part) for part in method.parts().values())
    sources = {kind: "".join(_sources(kind)) for kind in kinds}
    return {
        f"the class {kind.__qualname__}": hashlib.sha256(source.encode()).hexdigest()
        for kind, source in sources.items()
        if source
    }


def _sources(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] not in (PACKAGE, "builtins", "typing", "abc"):
            with contextlib.suppress(OSError, TypeError):
                yield inspect.getsource(each)

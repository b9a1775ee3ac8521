"""The arguments of a pipeline's call by name."""

from __future__ import annotations

import ast
import functools
import inspect
from typing import Any

from ..._messages import nearest_name
from .continuation import source_of

# Arguments of an aligned pipeline's call besides those of the pipeline's own.
ADDED = ("seeds", "reward_prompts", "eta")


def bound_arguments(kind: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of an aligned pipeline by name, without defaults.

    Args:
        kind: the class of the pipeline.
        args, kwargs: of the call, without `seeds` and `reward_prompts`.
    Raises:
        TypeError: if the call of the pipeline does not have an argument, or has it twice. The pipeline itself ignores
            an unknown one if its call has `**kwargs`.
    """
    signature = inspect.signature(kind.__call__)
    _check_known(kind, signature, kwargs)
    own = {name: value for name, value in kwargs.items() if name != "eta" or "eta" in signature.parameters}
    try:
        call = signature.bind(None, *args, **own).arguments
    except TypeError as error:
        raise TypeError(f"{kind.__name__} cannot be called so: {error}") from None
    further = call.pop("kwargs", {})
    return {name: value for name, value in {**kwargs, **call, **further}.items() if name != "self"}


def _check_known(kind: Any, signature: inspect.Signature, kwargs: dict[str, Any]) -> None:
    """Raises a TypeError for a keyword that the call of a class does not read."""
    further = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    read = frozenset() if further is None else keywords_read(kind, further)
    if read is None:
        return
    known = [name for name in (*ADDED, *signature.parameters, *sorted(read)) if name not in ("self", further)]
    for name in kwargs:
        if name not in known:
            raise TypeError(f"the call of an aligned {kind.__name__} has no argument {name!r}{_advice(name, known)}")


def _advice(name: str, known: list[str]) -> str:
    if name == "seed":
        return "; give seeds=[0], one number per image"
    return nearest_name(name, known) or f"; it has: {', '.join(known)}"


@functools.cache
def keywords_read(kind: Any, variable: str) -> frozenset[str] | None:
    """The keywords that a class's `__call__` reads from the dictionary of further ones; None if it may read any, as
    where it passes the dictionary on."""
    function = source_of(inspect.unwrap(kind.__call__).__code__)
    named = {id(use): name for node in ast.walk(function) for use, name in _named_use(node)}
    uses = [id(node) for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == variable]
    return frozenset(named[use] for use in uses) if named.keys() >= set(uses) else None


def _named_use(node: ast.AST) -> list[tuple[ast.expr, str]]:
    """The dictionary and the constant key of `d.pop("key", …)`, `d.get("key")`, `d["key"]` or `"key" in d`."""
    match node:
        case ast.Call(func=ast.Attribute(value=owner, attr="pop" | "get"), args=[ast.Constant(value=str(key)), *_]):
            return [(owner, key)]
        case ast.Subscript(value=owner, slice=ast.Constant(value=str(key))):
            return [(owner, key)]
        case ast.Compare(left=ast.Constant(value=str(key)), comparators=[owner]):
            return [(owner, key)]
    return []

"""The arguments of a pipeline's call of which a batch needs one per row, or one per prompt."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .continuation import IMAGE_COUNTS, source_of
from .support import PREPARE

# The videos of a condition, of which pipelines take one per prompt.
CONDITION_VIDEOS = ("control_video", "control_video_latents")
OF_IMAGES = "additional_image_per_prompt"  # the variable of pipelines for the number of copies of their images


def expand_inputs(call: dict[str, Any], kind: type, rows: int, repeats_prompts: bool) -> None:
    """Replaces the images and videos of a call, one or several, by one per row where pipelines of a class need this.

    Args:
        call: the arguments of the call; they are changed.
        kind: the class of the pipeline.
        rows: of its batch, each with a generator of its own.
        repeats_prompts: whether rows are made by repeating prompts (`repeat_entries`).
    """
    names = inspect.signature(kind.__call__).parameters
    expansions: dict[str, Callable[[Any, int], Any]] = {}
    if repeats_prompts:
        expansions |= dict.fromkeys(CONDITION_VIDEOS, videos_per_row)
    # With a crop of the mask, a pipeline takes one image, and repeats it itself.
    if "strength" in names and call.get("padding_mask_crop") is None:
        expansions |= dict.fromkeys(("image", "mask_image"), per_row)
    of_generators = {"image": images_per_row, "video": videos_per_row}
    expansions |= {name: of_generators[name] for name in indexed_inputs(kind)}
    for name, expand in expansions.items():
        if call.get(name) is not None:
            call[name] = expand(call[name], rows)


def repeat_entries(call: dict[str, Any], pipe: Any, entries: int, times: int) -> None:
    """Repeats what a call has for each of its prompts, class labels or images, so that there is one for each row.

    Args:
        call: the arguments of the call; they are changed.
        pipe: the pipeline.
        entries: the number of prompts, or of what there is in their place.
        times: the number of rows for each.
    """
    # Several ControlNets or adapters take a list with an image for each of them.
    several = any(type(part).__name__.startswith("Multi") for part in pipe.components.values())
    for name, value in call.items():
        if isinstance(value, str) and name in ("prompt", "negative_prompt"):
            call[name] = [value] * (entries * times)
        elif "prompt" in name or name == "class_labels" or (_is_image(name) and entries > 1 and not several):
            call[name] = _repeated(value, entries, times)


def _is_image(name: str) -> bool:
    return ("image" in name or "video" in name) and not name.startswith(("num_", "ip_adapter"))


def _repeated(value: Any, entries: int, times: int) -> Any:
    """A value with one entry for each of several, each repeated; other values are returned unchanged."""
    if torch.is_tensor(value) and value.ndim and len(value) == entries:
        return value.repeat_interleave(times, 0)
    if isinstance(value, (list, tuple)) and len(value) == entries:
        return [entry for entry in value for _ in range(times)]
    return value


@functools.cache
def misplaces_repeated(kind: Any, several_images: bool) -> bool:
    """Whether a class puts copies for several images per prompt in another order than the rows of its batch.

    Rows are those of the first prompt, then those of the second; `mask.repeat(num_images_per_prompt, 1)` alternates
    between the prompts, as does `[images] * additional_image_per_prompt` between several images. With several prompts
    some rows would have the mask or the image of another one.
    """
    functions = (inspect.unwrap(function) for _, function in inspect.getmembers(kind, inspect.isfunction))
    names = {*IMAGE_COUNTS, OF_IMAGES}
    counting = (function for function in functions if names & set(function.__code__.co_varnames))
    return any(_is_tiled(n, several_images) for f in counting for n in ast.walk(source_of(f.__code__)))


def _is_tiled(node: ast.AST, several_images: bool) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="repeat"), args=[ast.Name(id=count), *_]):
            return count in IMAGE_COUNTS
        case ast.BinOp(left=ast.List(), op=ast.Mult(), right=ast.Name(id=count)):
            return several_images and count == OF_IMAGES
    return False


def per_row(given: Any, rows: int) -> Any:
    """Repeats one or several input images so that there is one per row of the batch, in the order of the rows.

    Pipelines repeat input images in different orders; with one per row they do not repeat them.
    """
    if isinstance(given, list):
        return [image for image in given for _ in range(max(1, rows // len(given)))]
    if rows == 1 or getattr(given, "ndim", 4) < 4:
        return given
    if not hasattr(given, "ndim"):
        return [given] * rows
    times = max(1, rows // len(given))
    return given.repeat_interleave(times, 0) if torch.is_tensor(given) else given.repeat(times, 0)


def images_per_row(given: Any, rows: int) -> Any:
    """As `per_row`, also for a single image without an axis of the batch."""
    single = getattr(given, "ndim", None) == 3
    return [given] * rows if single else per_row(given, rows)


def videos_per_row(given: Any, rows: int) -> Any:
    """Repeats one or several videos so that there is one per row of the batch, in the order of the rows.

    A video is a list of frames or an array (frame, …) with four axes; several are a list of them or an array with five.
    """
    frames = isinstance(given, list) and not isinstance(given[0], list) and getattr(given[0], "ndim", 3) < 4
    if frames or getattr(given, "ndim", None) == 4:
        return [given] * rows
    return per_row(given, rows)


@functools.cache
def indexed_inputs(kind: Any) -> frozenset[str]:
    """The images and videos of which a class encodes the i-th one with the i-th generator of a list, so that there must
    be as many as generators."""
    prepare = next((getattr(kind, name) for name in PREPARE if hasattr(kind, name)), None)
    if prepare is None:
        return frozenset()
    function = source_of(inspect.unwrap(prepare).__code__)
    loops = (node for node in ast.walk(function) if isinstance(node, (ast.ListComp, ast.GeneratorExp)))
    found = [set(indexed_names(loop)) for loop in loops]
    together = {name for names in found if "generator" in names for name in names}
    return frozenset(together & {"image", "video"} & set(inspect.signature(kind.__call__).parameters))


def indexed_names(node: ast.AST) -> Iterator[str]:
    """The names of which a node takes an entry by the index i."""
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and ast.unparse(part.slice) == "i" and isinstance(part.value, ast.Name):
            yield part.value.id

"""Which pipelines can be guided, from the source of their `__call__`."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from typing import Any

from ...methods import Method
from .continuation import DRAW, bodies, source_of

# What cannot be read from the source: pipelines that make no images.
NOT_IMAGES = {
    "KandinskyPriorPipeline": "image embeddings; align the decoder's pipeline",
    "KandinskyV22PriorPipeline": "image embeddings; align the decoder's pipeline",
    "KandinskyV22PriorEmb2EmbPipeline": "image embeddings; align the decoder's pipeline",
    "StableCascadePriorPipeline": "image embeddings; align StableCascadeDecoderPipeline",
    "WuerstchenPriorPipeline": "image embeddings; align WuerstchenDecoderPipeline",
    "ShapEPipeline": "parameters of a renderer of 3D objects; pass an image pipeline",
    "ShapEImg2ImgPipeline": "parameters of a renderer of 3D objects; pass an image pipeline",
    "MarigoldDepthPipeline": "depth maps of a given image; pass an image pipeline",
    "MarigoldNormalsPipeline": "surface normals of a given image; pass an image pipeline",
    "MarigoldIntrinsicsPipeline": "intrinsic components of a given image; pass an image pipeline",
    "FluxPriorReduxPipeline": "embeddings of a given image; align FluxPipeline and pass them as prompt_embeds",
    "UniDiffuserPipeline": "images and texts from one joint tensor of both; pass an image pipeline",
    "RFD4ProteinaPipeline": "protein structures; pass an image pipeline",
    "LTXLatentUpsamplePipeline": "larger latents without noise; align the pipeline that makes the latents",
    "LTX2LatentUpsamplePipeline": "larger latents without noise; align the pipeline that makes the latents",
}
PREPARE = ("prepare_latents", "prepare_intermediate_images")
PIPELINES = ("_pipe", "_pipeline")  # the ends of names of attributes that are pipelines
# Methods of schedulers that change the state in the loop, besides or in place of `step`.
FURTHER_STEPS = ("undo_step", "step_pred", "step_correct", "add_noise_to_input", "batch_step_no_noise")


def prepare_name(pipe: Any) -> str | None:
    """The name of the pipeline's method that makes its initial latents; None if it has none."""
    return next((name for name in PREPARE if hasattr(pipe, name)), None)


def reason_against(pipe: Any) -> str | None:
    """Why a pipeline cannot be guided and what to pass instead, in one sentence; None if it may be guided."""
    name = type(pipe).__name__
    parts = [part for part in getattr(pipe, "components", {}) if part.endswith(PIPELINES)]
    inner = [part for part in vars(pipe) if part.endswith(PIPELINES)] or parts
    if inner:
        return inner_pipelines(name, inner)
    made = next((NOT_IMAGES[c.__name__] for c in type(pipe).__mro__ if c.__name__ in NOT_IMAGES), None)
    if made is not None:
        return f"{name} makes {made}"
    kind: Any = type(pipe)
    if not hasattr(pipe, "scheduler") and not is_modular(kind):
        return f"{name} has no attribute `scheduler`; pass a diffusers pipeline with one"
    return reason_against_call(kind)


def is_modular(kind: type) -> bool:
    """Whether a class is one of diffusers' modular pipelines, whose components may not be loaded yet."""
    return any(parent.__name__ == "ModularPipeline" for parent in kind.__mro__)


def check_method(pipe: Any, method: Method) -> None:
    """Checks that the loop of a pipeline can follow a method.

    Raises:
        ValueError: if it cannot.
    """
    kind: Any = type(pipe)
    if "Inpaint" in kind.__name__ and getattr(method.proposal, "needs_accumulated_noise", False):
        raise ValueError(
            f"{kind.__name__} replaces the unmasked part of the latents at every step, so that whitened='path' cannot "
            "track the accumulated noise; use whitened='mixture'"
        )
    # Time travel is left out: the scheduler noises the image to where it has led.
    repeats = method.initial.needs_reward or hasattr(method.selection, "wants_more")
    if repeats and reads_next_step(kind):
        part = type(method.initial if method.initial.needs_reward else method.selection).__name__
        raise ValueError(
            f"{kind.__name__} combines the latents after every step with an image at the noise of the next timestep, "
            f"and {part} evaluates several latents at one timestep; use a method that does not, such as ntrk, dps, "
            "freedom or svdd"
        )


def takes_prompts(kind: type) -> bool:
    """Whether a class takes prompts, under the name `prompt` or, as VisualCloze, under one that ends with it."""
    names = inspect.signature(kind.__call__).parameters
    return any(name.endswith("prompt") and not name.endswith("_per_prompt") for name in names)


def revisits(method: Method) -> bool:
    """Whether a method may evaluate the network at a timestep more than once."""
    repeats = getattr(method.times, "repeats", 2)
    return repeats > 1 or method.initial.needs_reward or hasattr(method.selection, "wants_more")


def inner_pipelines(name: str, inner: list[str]) -> str:
    """The reason against a pipeline that calls other ones."""
    return f"{name} calls other pipelines ({', '.join(sorted(inner))}); align the one that makes the images"


def calls_pipeline(node: Any) -> bool:
    """Whether a node calls a pipeline that is an attribute of self."""
    called = getattr(node, "func", None) if isinstance(node, ast.Call) else None
    owner = getattr(getattr(called, "value", None), "id", None)
    return owner == "self" and getattr(called, "attr", "").endswith(PIPELINES)


@functools.cache
def reason_against_call(kind: type) -> str | None:
    """Why a class of pipelines cannot be guided, from its `__call__`."""
    name, function = kind.__name__, source_of(inspect.unwrap(kind.__call__).__code__)
    if is_modular(kind):
        return (
            f"{name} is a modular pipeline, whose loop is in its blocks; load its repository with "
            "diffusers.DiffusionPipeline.from_pretrained and align that pipeline"
        )
    if any(getattr(node, "id", None) == "AudioPipelineOutput" for node in ast.walk(function)):
        return f"{name} makes sound, and rewards take images; pass a pipeline of images or videos"
    calls: list[Any] = [node for node in ast.walk(function) if calls_pipeline(node)]
    inner = sorted({call.func.attr for call in calls})
    if inner:
        return inner_pipelines(name, inner)
    further = sorted(further_steps(function))
    base = kind.__mro__[1].__name__
    if not any(step_calls(function)) and any(is_method(node, "super()", "__call__") for node in ast.walk(function)):
        return (
            f"{name} calls the __call__ of {base}, and only a loop in its own can be guided; align "
            f"{base}(**pipe.components), and change the arguments before its call"
        )
    if not any(step_calls(function)) or further:
        found = f"calls {' and '.join(further)}" if further else "calls no step of a scheduler"
        return (
            f"{name} {found} in its __call__, and only a loop over self.scheduler.step can be guided; "
            "align a pipeline that has one"
        )
    prepares = any(hasattr(kind, method) for method in PREPARE)
    if not prepares and not any(is_draw(node) for node in ast.walk(function)):
        return (
            f"{name} draws no Gaussian noise in its __call__, as models of discrete tokens, so that there is no noise "
            "to tilt; pass a pipeline with continuous latents"
        )
    starts = any(is_prepare(node) for node in ast.walk(function))
    if prepares and not starts and any(argument.arg == "image_latents" for argument in function.args.args):
        return (
            f"{name} starts from latents that an inversion of the image has found, and not from noise; use an img2img "
            "or inpainting pipeline"
        )
    if "self.scheduler.scale_model_input(sigma" in ast.unparse(function):
        return (
            f"{name} computes its prediction from the σ of its scheduler, for states in another scale than "
            "that of guided ones; align the pipeline that makes the image, and upscale its result"
        )
    if "self.scheduler.__dict__" in ast.unparse(function):
        return (
            f"{name} steps several overlapping views of the image, each with its own state of the scheduler; use a "
            "pipeline that makes the image at once"
        )
    if any(sum(any(loops(statement)) for statement in block) > 1 for block in blocks(function)):
        return (
            f"{name} runs several loops over its scheduler one after the other, and only a single one can be guided; "
            "use a pipeline that has one"
        )
    repeated = is_prepare if prepares else is_draw
    parts = any(repeated(node) for loop in loops(function) for node in ast.walk(loop))
    if parts or any(is_draw(node) for loop in outer_loops(function) for node in ast.walk(loop)):
        return (
            f"{name} makes its output in several parts, each from noise of its own, and a reward of the whole has no "
            "gradient by one part; use a pipeline that makes it at once"
        )
    if any(passes(node, "variance_noise") for node in ast.walk(function)):
        return (
            f"{name} gives its scheduler the noise of every step, which an inversion of the image has found, and "
            "guidance would replace it; use an img2img pipeline"
        )
    if any(passes(node, "pred_original_sample") for node in ast.walk(function)):
        return (
            f"{name} calls its scheduler twice in every step, with a prediction of its own in between; "
            "use a pipeline that calls it once"
        )
    return None


@functools.cache
def is_overwritten(kind: type, argument: str) -> bool:
    """Whether the `__call__` of a class sets an argument to a constant, whatever it was given."""
    function = source_of(inspect.unwrap(kind.__call__).__code__)
    assigned = (n for n in function.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant))
    return any(getattr(target, "id", None) == argument for node in assigned for target in node.targets)


@functools.cache
def reads_next_step(kind: Any) -> bool:
    """Whether the loop of a class finds something by the loop's index after the step of the scheduler."""
    for loop in loops(source_of(inspect.unwrap(kind.__call__).__code__)):
        target = getattr(loop, "target", None)
        index = getattr(target.elts[0], "id", None) if isinstance(target, ast.Tuple) else None
        last: Any = max(step_calls(loop), key=lambda call: getattr(call, "lineno", 0))
        reported = {id(part) for node in ast.walk(loop) if is_callback(node) for part in ast.walk(node)}
        entries = (n for n in ast.walk(loop) if isinstance(n, ast.Subscript) and id(n) not in reported)
        after = (node.slice for node in entries if node.lineno > last.end_lineno)
        if any(getattr(name, "id", None) == index for entry in after for name in ast.walk(entry) if index):
            return True
    return False


def is_callback(node: ast.AST) -> bool:
    """Whether a node is the call of a callback of the user."""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith("callback")


def is_method(node: ast.AST, *path: str) -> bool:
    """Whether a node is the call of a method, such as self.scheduler.step."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == ".".join(path)


def step_calls(function: ast.AST) -> Iterator[ast.AST]:
    """The calls of the scheduler's step."""
    return (node for node in ast.walk(function) if is_method(node, "self", "scheduler", "step"))


def further_steps(function: ast.AST) -> set[str]:
    """What a call uses besides or in place of the scheduler's step: a step of another scheduler, or another method."""
    called = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    attributes = [node for node in called if isinstance(node, ast.Attribute)]
    others = {ast.unparse(node) for node in attributes if node.attr in FURTHER_STEPS}
    if any(step_calls(function)):
        return others
    return others | {ast.unparse(n) for n in attributes if n.attr == "step" and "scheduler" in ast.unparse(n.value)}


def is_draw(node: ast.AST) -> bool:
    """Whether a node draws Gaussian noise by diffusers' function."""
    return is_method(node, DRAW)


def is_prepare(node: ast.AST) -> bool:
    """Whether a node is a call of the method that makes the initial latents."""
    return any(is_method(node, "self", name) for name in PREPARE)


def loops(function: ast.AST) -> Iterator[ast.AST]:
    """The loops in which the scheduler is called."""
    return (n for n in ast.walk(function) if isinstance(n, (ast.For, ast.While)) and any(step_calls(n)))


def outer_loops(function: ast.AST) -> Iterator[ast.AST]:
    """The loops that contain another one in which the scheduler is called."""
    return (loop for loop in loops(function) if any(inner is not loop for inner in loops(loop)))


def blocks(function: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements of a function and of its compound statements."""
    return (block for node in ast.walk(function) if isinstance(node, ast.stmt) for block in bodies(node))


def passes(node: ast.AST, argument: str) -> bool:
    """Whether a node passes an argument of this name to the scheduler's step."""
    return any(k.arg == argument for k in getattr(node, "keywords", [])) and is_method(
        node, "self", "scheduler", "step"
    )

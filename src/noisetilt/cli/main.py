"""Runs the command that the arguments name, and turns errors into one line and an exit status."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .._messages import UnguidedWarning
from .arguments import build_parser
from .console import allow_all_characters, print_error, warn
from .early_checks import check_arguments

PACKAGE = Path(__file__).resolve().parents[1]

# The module of each command, relative to this package; its function `main` takes the parsed arguments.
MODULES = {"methods": "list", "rewards": "list", "models": "list", "studio": ".studio.serve"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        The exit status: 0 on success, 1 if rows of a batch failed or nothing reads the output any more, 2 after an
        error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    _open_closed_streams()
    allow_all_characters(sys.stdout, sys.stderr)
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    # OpenMP threads that spin while they wait are several times slower when another program uses the same cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # Otherwise transformers warns of each image processor that it has in two versions.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        check_arguments(args)
        module = importlib.import_module(f".{MODULES.get(args.command, args.command)}", __package__)
        with _own_warnings():
            status = module.main(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output has gone, as in `noisetilt methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest when it ends
        return 1
    except (ValueError, FloatingPointError, OSError, ImportError, MemoryError) as error:
        print_error(error)
        return 2
    except KeyboardInterrupt as interrupt:
        print(file=sys.stderr)
        print_error("; ".join(["interrupted", *map(str, interrupt.args)]))
        return getattr(interrupt, "status", 130)


def _open_closed_streams() -> None:
    """Lets a command run whose output or errors are closed, as in `noisetilt methods >&-`: Python then has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until the process ends


@contextlib.contextmanager
def _own_warnings() -> Iterator[None]:
    """The warnings of this package as one line each, once; all others as Python shows them."""
    shown: set[str] = set()
    with warnings.catch_warnings():
        # diffusers passes an argument to huggingface_hub that this ignores.
        warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks", category=UserWarning)
        before = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **further: Any) -> None:
            from_here = issubclass(category, UserWarning) and Path(str(place[0])).is_relative_to(PACKAGE)
            if not from_here and not issubclass(category, UnguidedWarning):
                before(message, category, *place, **further)
            elif str(message) not in shown:
                shown.add(str(message))
                warn(str(message))

        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())

"""The parser of `noisetilt batch`. Only the standard library is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

DESCRIPTION = """\
Makes an image for every row of a table with the column prompt. Other columns override a setting for
their row: reward, method, model, steps, guidance, seed, eta, gradient_at, n, or any option of the method.

Finished rows are kept, whatever happens: Ctrl-C once finishes the row that is under way, twice stops at
once; --resume continues. The exit status is 0 if all rows are done, 1 if some failed."""


def add_batch_arguments(parser: argparse.ArgumentParser, parse_option: Callable[[str], tuple]) -> None:
    """Adds the arguments of `noisetilt batch`."""
    add = parser.add_argument
    add("table", type=Path, metavar="TABLE", help=".csv, .tsv, .jsonl or .parquet with a column prompt, or .txt")
    add("--reward", help='such as style:3d or "0.7*alignment + 0.3*redness"; see `noisetilt rewards`')
    add("--method", default="ntrk", help="see `noisetilt methods`, or FILE.py:NAME (default: %(default)s)")
    add("--model", default="emoji128", help="see `noisetilt models`, or a folder (default: %(default)s)")
    add(
        "--heldout",
        type=heldout_reward,
        default=True,
        metavar="REWARD",
        help="reward that is evaluated and not optimised (alignment, style:* and concept:*: their second network), or "
        "none (default: the held-out version of --reward)",
    )
    add("--out", type=output_folder, required=True, help="output folder")
    add("--steps", type=int, help="sampling steps (default: the model's own)")
    add("--guidance", type=float, help="classifier-free guidance scale (default: the model's own)")
    add("--eta", type=float, default=1.0, help="stochasticity: 0 is the ODE, 1 is DDPM (default: %(default)s)")
    add(
        "--gradient-at",
        default="x_t",
        choices=["x_t", "x0"],
        help="x_t: differentiate through the network; x0: only through the reward (default: %(default)s)",
    )
    add(
        "--set",
        dest="options",
        type=parse_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set an option of the method, such as rho=0.1; may be repeated",
    )
    add("--seed", type=int, default=0, help="seed of the first image (default: %(default)s)")
    add("--n", type=int, default=1, help="images per row (default: %(default)s)")
    add("--keep", action="append", default=[], metavar="COLUMN", help="copy a column to the records; may be repeated")
    _add_engine(parser)
    add_run_folder_options(parser)
    add("--fail-fast", action="store_true", help="stop at the first row that fails")
    add("--retries", type=int, default=2, help="attempts after an error that may pass (default: %(default)s)")
    add(
        "--log",
        choices=["bar", "table", "json"],
        default="bar",
        help="progress on the standard error: a line, a table (extra table), or JSON lines (default: %(default)s)",
    )
    add("--prometheus", type=int, metavar="PORT", help="serve counters at http://127.0.0.1:PORT/metrics")
    add("--track", action="append", default=[], help="tensorboard, wandb, mlflow or opentelemetry; may be repeated")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--engine", default="process", help="process, or ray: a pool of Ray actors (default: %(default)s)")
    add("--workers", type=int, help="largest number of Ray actors (default: as many as there is room for)")
    add("--address", help="address of a Ray cluster, such as auto (default: start Ray on this machine)")
    add("--batch", type=int, help="groups of rows that a Ray actor is given at once (default: 8)")
    add("--chunk", type=int, help="rows per network call (default: 8 on a GPU, one image on a CPU and for pipelines)")
    add("--threads", type=int, help="threads per worker (default: torch's own; 1 with --engine ray)")
    add("--device", help="torch device (default: cpu; for pipelines the GPU, if there is one)")


def add_run_folder_options(parser: argparse.ArgumentParser) -> None:
    """Adds --resume and --overwrite."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    group.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")


def heldout_reward(text: str) -> str | bool:
    """A reward's name; False for "none"."""
    return text if text != "none" else False


def output_folder(text: str) -> Path:
    """A folder's path; an empty text, which would be the current folder, is refused."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the output folder is empty; give a name, such as out")
    return Path(text)

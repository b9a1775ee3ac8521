"""The command line. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _option(text: str) -> tuple[str, Any]:
    """ "rho=0.1" as ("rho", 0.1)."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must be written as option=value, such as rho=0.1")
    if value.lower() in ("none", "true", "false"):
        return name, {"none": None, "true": True, "false": False}[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _add_generate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "generate",
        help="pictures that a reward asks for",
        description="Samples pictures without and with guidance at the same seeds, and compares them.",
    )
    parser.add_argument("prompt", help='words, such as "cat face" or "red heart, 3d"')
    parser.add_argument("--reward", required=True, help='such as style:3d, redness, "0.7*alignment + 0.3*redness"')
    parser.add_argument("--method", default="ntrk", help="see `noisetilt methods` (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's own, 25 for emoji64)")
    parser.add_argument("--n", type=int, default=8, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first picture (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the files (default: %(default)s/)")
    parser.add_argument("--model", default="emoji64", help="see `noisetilt models` (default: %(default)s)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance (default: 2 for emoji64)")
    parser.add_argument("--eta", type=float, default=1.0, help="0 is the ODE, 1 DDPM (default: %(default)s)")
    parser.add_argument(
        "--set", dest="options", type=_option, action="append", default=[], metavar="NAME=VALUE", help="such as rho=0.1"
    )
    parser.add_argument(
        "--gradient-at",
        default="x_t",
        choices=["x_t", "x0"],
        help="through the network, or only at its prediction for half the cost (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="pictures made at a time (default: %(default)s)")
    parser.add_argument(
        "--chunk", type=int, default=8, help="rows a network call, bounds memory (default: %(default)s)"
    )
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> None:
    from .generate import Job, run

    fields = {k: v for k, v in vars(args).items() if k not in ("run", "command", "options")}
    run(Job(**fields, options=dict(args.options)))


def _add_optimize(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "optimize",
        help="pictures of a one-step generator, whose noise climbs a reward",
        description="Optimises the noise that one step (or a few) makes a picture of, and shows the way.",
    )
    parser.add_argument("prompt", help='words, such as "cat face" or "red heart, 3d"')
    parser.add_argument("--reward", required=True, help='such as style:3d, redness, "0.7*alignment + 0.3*redness"')
    parser.add_argument("--method", default="gper", help="none, reno, prno, mpgr, gper, … (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=60, help="steps of ascent (default: %(default)s)")
    parser.add_argument("--n", type=int, default=8, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first picture (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the files (default: %(default)s/)")
    parser.add_argument("--model", default="emoji64-turbo", help="see `noisetilt models` (default: %(default)s)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance (default: the model's own)")
    parser.add_argument(
        "--patience",
        type=int,
        help="a picture stops when its held-out reward has not risen for so long, and is taken where that was highest; "
        "0 never (default: 10 for learned rewards, 0 for others)",
    )
    parser.add_argument(
        "--set",
        dest="options",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="such as rate=0.05",
    )
    parser.add_argument(
        "--gradient-at",
        default="x_t",
        choices=["x_t", "x0"],
        help="through the network, or only at its picture (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="pictures made at a time (default: %(default)s)")
    parser.add_argument(
        "--chunk", type=int, default=8, help="rows a network call, bounds memory (default: %(default)s)"
    )
    parser.set_defaults(run=_optimize)


def _optimize(args: argparse.Namespace) -> None:
    from .optimize import OptimizeJob, run

    fields = {k: v for k, v in vars(args).items() if k not in ("run", "command", "options")}
    run(OptimizeJob(**fields, options=dict(args.options)))


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bench",
        help="compare methods at equal network calls",
        description="Runs a suite, goes on where it was stopped, and writes report.md and report.html.",
    )
    parser.add_argument("--suite", default="exact", help="exact, paper or one-step (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small version, minutes on two cores")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these, and base")
    parser.add_argument("--targets", nargs="+", metavar="REWARD", help="only these target rewards (suite paper)")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report of what is there")
    parser.add_argument("--out", type=Path, help="folder of the run (default: out/bench-SUITE, or -SUITE-quick)")
    parser.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> None:
    from ..bench.run import bench

    out = args.out or Path("out") / f"bench-{args.suite}{'-quick' if args.quick else ''}"
    report = bench(args.suite, out, args.quick, args.methods, args.targets, not args.report)
    print(f"the report is {report}")


def _add_plan(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "plan",
        help="the GPU memory that a guided diffusers pipeline will need",
        description="Estimates memory from parameter and activation counts, without weights and without a GPU.",
    )
    parser.add_argument("model", help="such as FLUX.1-dev; an unknown name lists the known ones")
    parser.add_argument("--resolution", type=int, help="height and width in pixels (default: the model's own)")
    parser.add_argument(
        "--height", type=int, help="in pixels, of pictures that are not square (default: the resolution)"
    )
    parser.add_argument("--width", type=int, help="likewise")
    parser.add_argument("--frames", type=int, help="of a video (default: 81, for models of videos)")
    parser.add_argument("--batch", type=int, default=1, help="pictures times particles (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="float32, float16 or bfloat16 (default: %(default)s)")
    parser.add_argument(
        "--gradient-at",
        default="x_t",
        choices=["x_t", "x0"],
        help="through the network, or only at its prediction (default: %(default)s)",
    )
    parser.add_argument("--checkpointing", action="store_true", help="activations are computed again on the way back")
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> None:
    from ..integrations.diffusers.plan import plan, report

    size = {"height": args.height, "width": args.width}
    found = plan(args.model, args.resolution, args.frames, args.batch, args.dtype, **size)
    print(report(found, args.gradient_at, args.checkpointing))


def _add_audit(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "audit",
        help="is it white Gaussian noise?",
        description="Tests the vectors of a file for being white Gaussian noise, and draws the bands that are not.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".npy, .safetensors or .png (standardised)")
    parser.add_argument("--out", type=Path, help="picture of the bands (default: beside the file, NAME.audit.png)")
    parser.add_argument("--tensor", help="which tensor of a .safetensors file")
    parser.add_argument("--batch", action="store_true", help="the first axis counts vectors")
    parser.add_argument("--standardise", action="store_true", help="to mean 0 and RMS 1, vector by vector")
    parser.add_argument("--level", type=float, default=0.01, help="of the verdict (default: %(default)s)")
    parser.set_defaults(run=_audit)


def _audit(args: argparse.Namespace) -> None:
    from .audit import audit_file

    audit_file(args.file, args.out, args.tensor, args.batch, args.standardise, args.level)


def _list_methods(args: argparse.Namespace) -> None:
    import dataclasses
    import inspect

    from ..methods import METHODS, find_method

    if args.name:
        method = find_method(args.name)
        print(f"{args.name}: {method.summary}\n")
        for role, part in method.parts().items():
            settings = ", ".join(f"{f.name}={getattr(part, f.name)}" for f in dataclasses.fields(part))
            print(f"{role}: {type(part).__name__}({settings})\n{inspect.getdoc(type(part))}\n")
        return
    for name, method in METHODS.items():
        options = ", ".join(f"{k}={v}" for k, v in method.options().items())
        print(f"{name:16} {method.summary}  [{options}]")


def _list_rewards(args: argparse.Namespace) -> None:
    from ..rewards import CATALOGUE

    for name, line in CATALOGUE.items():
        print(f"{name:16} {line}")


def _list_models(args: argparse.Namespace) -> None:
    from ..models import MODELS

    if args.words:
        from ..rewards.scorers.words import vocabulary

        print(" ".join(vocabulary()))
        return
    for name, line in MODELS.items():
        print(f"{name:16} {line}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="noisetilt", description="Inference-time alignment of diffusion and flow models by noise-tilted sampling."
    )
    from .. import __version__

    parser.add_argument("--version", action="version", version=f"noisetilt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_bench(commands)
    _add_optimize(commands)
    _add_plan(commands)
    _add_audit(commands)
    methods = commands.add_parser("methods", help="the methods, one line each, or all about one")
    methods.add_argument("name", nargs="?", help="a method, to read its papers, equations and options")
    methods.set_defaults(run=_list_methods)
    commands.add_parser("rewards", help="the rewards, one line each").set_defaults(run=_list_rewards)
    models = commands.add_parser("models", help="the models, one line each")
    models.add_argument("--words", action="store_true", help="all words that emoji64 knows")
    models.set_defaults(run=_list_models)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 on success, 2 with one sentence on bad input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    # Threads that spin while they wait for each other take several times as long where another program wants the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        args.run(args)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        print(f"noisetilt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nnoisetilt: stopped; what was finished is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

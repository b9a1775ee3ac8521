"""The parser of each command. Only the standard library is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import __version__
from .batch_arguments import DESCRIPTION, add_batch_arguments, add_run_folder_options, output_folder
from .completion import SHELLS, PrintCompletion
from .parser import Parser


def build_parser() -> argparse.ArgumentParser:
    """The parser of `noisetilt` with all its commands."""
    parser = Parser(
        prog="noisetilt",
        description="Inference-time alignment of diffusion and flow models by noise-tilted sampling.",
        epilog="examples:\n"
        '  noisetilt generate "red heart" --reward style:3d --out out/heart\n'
        "  noisetilt rewards\n\n"
        "`noisetilt COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"noisetilt {__version__}")
    parser.add_argument(
        "--print-completion",
        choices=SHELLS,
        action=PrintCompletion,
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        metavar="SHELL",
        help='print a script for completion on TAB in bash, zsh or fish: eval "$(noisetilt --print-completion bash)"',
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", prog="noisetilt")
    running = (_add_generate, _add_optimize, _add_invert, _add_batch, _add_studio)
    for add in (*running, _add_bench, _add_plan, _add_audit, _add_lists):
        add(commands)
    return parser


def parse_option(text: str) -> tuple[str, Any]:
    """Reads "rho=0.1" as ("rho", 0.1); the value may be a number, true, false, none or a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must have the form NAME=VALUE, such as rho=0.1")
    if value.lower() in ("none", "true", "false"):
        return name, {"none": None, "true": True, "false": False}[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def parse_strength(text: str) -> tuple[str | None, tuple[float, ...]]:
    """Reads "rho=0.1,0.2" as ("rho", (0.1, 0.2)), and "none" as (None, ())."""
    name, equals, values = text.partition("=")
    if text.strip().lower() == "none":
        return None, ()
    numbers: list[Any] = [parse_option(f"{name}={value.strip()}")[1] for value in values.split(",")]
    if not equals or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} must have the form OPTION=V1,V2,V3,V4,V5, such as rho=0.01,0.02,0.05,0.1,0.2, or be none"
        )
    return name.strip(), tuple(numbers)


def _command(commands: Any, name: str, summary: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """A command's parser, with examples below its options."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog="examples:\n" + "\n".join(f"  noisetilt {example}" for example in examples),
    )


def _add_generate(commands: Any) -> None:
    parser = _command(
        commands,
        "generate",
        "sample images with and without reward guidance",
        "Samples images with the base model and with a guided method from the same seeds, and compares their rewards.",
        'generate "red heart" --reward style:3d --out out/heart',
        'generate "red heart" "light bulb" bell --reward style:3d --n 1 --out out/three',
        'generate "a red fox" --model black-forest-labs/FLUX.1-dev --reward pickscore --set rho=0.0002 --offload model',
    )
    _add_prompt_and_reward(parser)
    parser.add_argument(
        "--method", default="ntrk", help="see `noisetilt methods`, or FILE.py:NAME (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's own, 25 for emoji128)")
    _add_model(parser, "emoji128", "the folder or hub id of any diffusers pipeline that `align` supports")
    parser.add_argument(
        "--eta", type=float, default=1.0, help="stochasticity: 0 is the ODE, 1 is DDPM (default: %(default)s)"
    )
    _add_set(parser, "rho=0.1")
    _add_run_options(parser)
    parser.add_argument(
        "--animate", action="store_true", help="write animation.webp, the model's prediction of the image at each step"
    )


def _add_optimize(commands: Any) -> None:
    parser = _command(
        commands,
        "optimize",
        "optimize the initial noise of a one-step generator for a reward",
        "Optimizes the noise from which a generator makes an image in one or a few steps (noise ascent).\n"
        "Writes the images before and after, and the iterates between them.",
        "optimize pear --reward style:3d --out out/pear",
        'optimize "red heart" --reward redness --method mpgr --iterations 100 --set rate=0.05',
    )
    _add_prompt_and_reward(parser)
    parser.add_argument(
        "--method",
        default="gper-both",
        help="none, reno, prno, mpgr, gper, …; see `noisetilt methods`, or FILE.py:NAME (default: %(default)s)",
    )
    parser.add_argument("--iterations", type=int, default=10, help="number of updates (default: %(default)s)")
    _add_model(parser, "emoji128-turbo", "the folder or hub id of a FluxPipeline")
    parser.add_argument(
        "--patience",
        type=int,
        help="stop an image when its held-out reward has not increased for this many iterations, and return the "
        "iterate with the highest held-out reward; 0: do not stop early (default: 10 with --heldout and for rewards "
        "with a held-out version, which are style:*, alignment and concept:*; else 0)",
    )
    _add_set(parser, "rate=0.05")
    _add_run_options(parser)


def _add_invert(commands: Any) -> None:
    parser = _command(
        commands,
        "invert",
        "find the noise from which a one-step generator makes a photograph, and edit it",
        "Finds the initial noise from which a generator makes given photographs in one or a few steps (noise ascent),\n"
        "and makes images from the same noise with other prompts or for a reward.",
        'invert heart.png --prompt "red heart" --out out/edit',
        'invert heart.png --prompt "red heart" --edit "blue heart" --edit "green heart"',
        'invert heart.png --prompt "red heart" --noise out/edit/heart-0-noise.safetensors --edit "red heart 3d"',
    )
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="an image file, such as .png or .jpg")
    parser.add_argument(
        "--prompt", action="append", required=True, help="of all photographs; or repeated, once for each of them"
    )
    parser.add_argument(
        "--edit", action="append", default=[], metavar="PROMPT", help="another prompt for the found noise; repeatable"
    )
    parser.add_argument("--reward", help="a reward to which the edits are optimised; see `noisetilt rewards`")
    parser.add_argument(
        "--method",
        default="gper-both",
        help="none, reno, prno, mpgr, gper, …; see `noisetilt methods`, or FILE.py:NAME (default: %(default)s)",
    )
    parser.add_argument("--iterations", type=int, help="number of updates (default: 100, and 0 with --noise)")
    parser.add_argument(
        "--noise",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="start from the noise that an earlier run found, to make other edits of it; once for each photograph",
    )
    parser.add_argument(
        "--distance", default="pixels", help="pixels, latents or features, which is minimised (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=1, help="steps from noise to image (default: %(default)s)")
    parser.add_argument(
        "--edit-iterations",
        type=int,
        default=20,
        help="number of updates for --reward and --layout (default: %(default)s)",
    )
    parser.add_argument(
        "--layout",
        type=float,
        default=0.0,
        help="weight of the edits' distance to the photograph at 8×8 pixels, which is minimised (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=1.0,
        help="weight of the distance to the edit without --reward, which keeps its layout (default: %(default)s)",
    )
    _add_model(parser, "emoji128-turbo", "the folder or hub id of a FluxPipeline")
    _add_set(parser, "rate=0.05")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first photograph (default: %(default)s)")
    parser.add_argument("--out", type=output_folder, default=Path("out"), help="output folder (default: %(default)s/)")
    add_run_folder_options(parser)
    parser.add_argument("--device", help="torch device (default: cpu; for pipelines the GPU, if there is one)")
    _add_gradient_at(parser)
    parser.add_argument("--batch", type=int, help="photographs per batch (default: 8; for pipelines 1)")
    parser.add_argument("--chunk", type=int, help="rows per network call (default: 8; for pipelines 1)")


def _add_batch(commands: Any) -> None:
    parser = _command(
        commands,
        "batch",
        "sample an image for every row of a table of prompts",
        DESCRIPTION,
        "batch prompts.csv --reward style:3d --out runs/fox",
        "batch prompts.jsonl --reward redness --engine ray --workers 4 --out runs/fox --resume",
    )
    add_batch_arguments(parser, parse_option)
    _add_pipeline_options(parser)


def _add_studio(commands: Any) -> None:
    parser = _command(
        commands,
        "studio",
        "sample, compare and optimize in a local web page",
        "Serves a web page that samples, compares methods and optimises noise. It needs the extra `studio`.",
        "studio",
        "studio --model emoji128 --reward my_reward.py:reward --port 8000",
    )
    _add_model(parser, "emoji128", "the folder or hub id of any diffusers pipeline that `align` supports")
    parser.add_argument("--device", help="torch device (default: cpu; for pipelines the GPU, if there is one)")
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        help="add a slider for this reward, such as file.py:function; may be repeated",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve at; others can use the page at 0.0.0.0 (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=7860, help="port; 0 is any free one (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--allow-code", action="store_true", help="let visitors of the page execute the Python that they type"
    )


def _add_prompt_and_reward(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt",
        nargs="+",
        help='one or more prompts, such as "cat face" "red heart, 3d"; a prompt of several words needs quotes',
    )
    parser.add_argument(
        "--reward", required=True, help='such as style:3d or "0.7*alignment + 0.3*redness"; see `noisetilt rewards`'
    )


def _add_model(parser: argparse.ArgumentParser, default: str, other: str) -> None:
    parser.add_argument(
        "--model", default=default, help=f"a name of `noisetilt models`, or {other} (default: %(default)s)"
    )
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale (default: the model's own)")
    _add_pipeline_options(parser)


def _add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options for diffusers pipelines")
    group.add_argument(
        "--dtype", help="float32, float16 (fp16) or bfloat16 (bf16; default: bfloat16 on a GPU, float32 on the CPU)"
    )
    group.add_argument(
        "--offload",
        choices=["none", "model", "sequential"],
        help="keep networks (model) or layers (sequential) in the CPU's memory while they do not run (default: none)",
    )
    group.add_argument("--height", type=int, help="height of the images in pixels (default: the model's own)")
    group.add_argument("--width", type=int, help="width of the images in pixels (default: the model's own)")
    group.add_argument("--frames", type=int, help="number of frames of a video (default: the model's own)")
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PLACE[=SCALE]",
        help="file, folder or hub id of LoRA weights, such as style.safetensors=0.8; may be repeated (extra lora)",
    )
    group.add_argument("--checkpointing", action="store_true", help="gradient checkpointing: less memory, more time")


def _add_set(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="options",
        type=parse_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"set an option of the method, such as {example}; may be repeated",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, default=8, help="number of images of each prompt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image (default: %(default)s)")
    parser.add_argument("--out", type=output_folder, default=Path("out"), help="output folder (default: %(default)s/)")
    add_run_folder_options(parser)
    parser.add_argument(
        "--show",
        action="store_true",
        help="show grid.png in a terminal with kitty graphics, iTerm2 images or sixel",
    )
    _add_gradient_at(parser)
    parser.add_argument(
        "--heldout",
        metavar="REWARD",
        help="reward that is evaluated and not optimised (alignment, style:* and concept:*: their second network), or "
        "none (default: chosen by the reward; none for pipelines)",
    )
    parser.add_argument("--device", help="torch device (default: cpu; for pipelines the GPU, if there is one)")
    parser.add_argument("--batch", type=int, help="images per batch (default: 8; for pipelines 1)")
    parser.add_argument(
        "--chunk",
        type=int,
        help="rows per network call, or for pipelines rows decoded at a time; less takes less memory "
        "(default: 8; for pipelines 1)",
    )


def _add_gradient_at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gradient-at",
        default="x_t",
        choices=["x_t", "x0"],
        help="x_t: differentiate through the network; x0: only through the reward, at the network's prediction, "
        "which costs less time and memory (default: %(default)s)",
    )


def _add_bench(commands: Any) -> None:
    parser = _command(
        commands,
        "bench",
        "compare methods at an equal number of network calls",
        "Runs a benchmark suite and writes report.md and report.html. A suite that was interrupted is resumed.",
        "bench --suite exact --quick",
        "bench --suite paper --methods ntrk dps svdd --targets redness --out out/redness",
        "bench --suite paper --methods mine.py:MINE --strength omega=0.01,0.02,0.05,0.1,0.2 --out out/mine",
    )
    parser.add_argument("--suite", default="exact", help="exact, paper or one-step (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="run a small version, which takes minutes on two cores")
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="run only these methods, and base; FILE.py:NAME is your own Method in a Python file (for paper)",
    )
    parser.add_argument(
        "--strength",
        type=parse_strength,
        metavar="OPTION=V1,…,V5",
        help="the option of your own method that is tuned, and five values to try from the weakest to the strongest, "
        "such as omega=0.01,0.02,0.05,0.1,0.2; or none",
    )
    parser.add_argument("--targets", nargs="+", metavar="REWARD", help="run only these target rewards (not for exact)")
    parser.add_argument("--images", type=int, help="images per method and strength (default: 64; not for exact)")
    parser.add_argument(
        "--report", action="store_true", help="only write the report of the rows measured so far (not for exact)"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: out/bench-SUITE, or -SUITE-quick)")


def _add_plan(commands: Any) -> None:
    parser = _command(
        commands,
        "plan",
        "estimate the GPU memory of a guided diffusers pipeline",
        "Estimates memory from parameter and activation counts. Needs no weights and no GPU.",
        "plan FLUX.1-dev --resolution 1024 --checkpointing",
        "plan Wan2.1-1.3B --frames 33 --gradient-at x0",
    )
    parser.add_argument(
        "model",
        help="such as FLUX.1-dev, or the folder or hub id of a pipeline, of which only the configuration is read",
    )
    parser.add_argument("--resolution", type=int, help="height and width in pixels (default: the model's own)")
    parser.add_argument("--height", type=int, help="height in pixels, if it differs from the resolution")
    parser.add_argument("--width", type=int, help="width in pixels, if it differs from the resolution")
    parser.add_argument("--frames", type=int, help="number of frames (default: 81 for video models)")
    parser.add_argument("--batch", type=int, default=1, help="images times particles (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="float32, float16 or bfloat16 (default: %(default)s)")
    parser.add_argument(
        "--gradient-at",
        default="x_t",
        choices=["x_t", "x0"],
        help="the mode to mark: gradient through the network, or only at its prediction (default: %(default)s)",
    )
    parser.add_argument("--checkpointing", action="store_true", help="mark the mode with gradient checkpointing")
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="memory of the GPU, to say what fits (default: this computer's)"
    )


def _add_audit(commands: Any) -> None:
    parser = _command(
        commands,
        "audit",
        "test whether a tensor is white Gaussian noise",
        "Tests the vectors of a file for white Gaussian noise, and plots their band energies.",
        "audit latents.npy --batch",
        "audit tensors.safetensors --tensor noise --standardise --out bands.png",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".npy, .safetensors or .png (standardised)")
    parser.add_argument("--out", type=Path, help="plot of the bands (default: NAME.audit.png beside the file)")
    parser.add_argument("--tensor", help="name of the tensor in a .safetensors file")
    parser.add_argument("--batch", action="store_true", help="the first axis is the batch")
    parser.add_argument("--standardise", action="store_true", help="scale each vector to mean 0 and RMS 1")
    parser.add_argument("--level", type=float, default=0.01, help="significance level (default: %(default)s)")


def _add_lists(commands: Any) -> None:
    methods = _command(
        commands,
        "methods",
        "list the methods, or describe one",
        "Prints the methods, one per line, or the papers, equations and options of one method.",
        "methods",
        "methods ntrk",
    )
    methods.add_argument("name", nargs="?", help="the method to describe")
    rewards = _command(
        commands,
        "rewards",
        "list the rewards, or describe one",
        "Prints the rewards, one per line, with their held-out versions in brackets, or one reward. For concept, style "
        "and classifier:imagenet it prints all names. `generate` and `optimize` take rewards by name and in weighted "
        "sums.",
        "rewards",
        "rewards concept",
        "rewards pickscore",
        'rewards "0.5*style:3d + redness"',
        'generate "cat face" --reward "style:3d + redness"',
    )
    rewards.add_argument(
        "name", nargs="?", help="the reward or the sum to describe, or concept, style or classifier:imagenet"
    )
    models = _command(
        commands,
        "models",
        "list the models",
        "Prints the models, one per line, or all words that the prompts of emoji128 may have.",
        "models",
        "models --words",
    )
    models.add_argument("--words", action="store_true", help="print the vocabulary of emoji128")

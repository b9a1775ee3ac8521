"""The command line and the Python that repeat a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..cli.generate import GenerateJob
from ..cli.optimize import OptimizeJob

# Options of a model: flag, name in a job, and the value that needs no flag.
_MODEL_OPTIONS = (
    ("--dtype", "dtype", None),
    ("--offload", "offload", None),
    ("--height", "height", None),
    ("--width", "width", None),
    ("--frames", "frames", None),
    ("--device", "device", "cpu"),
)


def generate_command(job: GenerateJob) -> str:
    """The `noisetilt generate` that makes the images of a job."""
    return _command("generate", job, [*_steps(job), *_common(job)])


def optimize_command(job: OptimizeJob) -> str:
    """The `noisetilt optimize` that makes the images of a job."""
    return _command(
        "optimize", job, ["--iterations", str(job.iterations), "--patience", str(job.patience), *_common(job)]
    )


def _steps(job: GenerateJob) -> list[str]:
    return [] if job.steps is None else ["--steps", str(job.steps)]


def _common(job: Any) -> list[str]:
    settings = [part for name, value in job.options.items() for part in ("--set", f"{name}={value}")]
    return [*settings, "--n", str(job.n), "--seed", str(job.seed)]


def _command(name: str, job: Any, arguments: list[str]) -> str:
    model = ["--model", str(job.model)]
    if job.guidance is not None:
        model += ["--guidance", repr(job.guidance)]
    for flag, option, default in _MODEL_OPTIONS:
        value = getattr(job, option)
        if value not in (None, default):
            model += [flag, str(value)]
    model += [part for place in job.lora for part in ("--lora", place)]
    model += ["--checkpointing"] if job.checkpointing else []
    # Otherwise argparse takes a negative weight for an option.
    reward = [f"--reward={job.reward}"] if job.reward.startswith("-") else ["--reward", job.reward]
    options = [*reward, "--method", job.method, *model, *arguments]
    options += ["--out", f"out/{job.stem(job.prompt[0])}-{job.method}"]
    negative = any(prompt.startswith("-") for prompt in job.prompt)
    return shlex.join(["noisetilt", name, *([*options, "--", *job.prompt] if negative else [*job.prompt, *options])])


def generate_code(jobs: Mapping[str, GenerateJob]) -> str:
    """The Python that makes the images of jobs, by the names of their methods, which differ in their methods only."""
    job = next(iter(jobs.values()))
    methods = "".join(f'    "{one.method}": {_method(one)},\n' for one in jobs.values() if one.method != "base")
    eta = "" if job.eta == 1 else f", eta={job.eta!r}"
    return (
        f"{_imports('METHODS, load, rewards, sample')}"
        f"model = load({_load_arguments(job)})\n"
        f"reward = rewards.load({job.reward!r})\n"
        f'methods = {{\n    "base": METHODS["base"],\n{methods}}}\n'
        f"{_images(job)}"
        "for name, method in methods.items():\n"
        f"    result = sample(model, prompts, reward, method, steps={job.steps}, seeds=seeds, "
        f"gradient_at={job.gradient_at!r}{eta})\n"
        f"    result.save(f'out/{job.stem(job.prompt[0])}-{{name}}')\n"
        "    print(result.rewards.tolist())  # result.images: (image, 3, height, width) in [0, 1]\n"
    )


def optimize_code(job: OptimizeJob) -> str:
    """The Python that makes the images of a noise ascent."""
    heldout = f"rewards.load({job.reward!r}, heldout=True)" if job.patience else "None"
    return (
        f"{_imports('METHODS, load, optimize, rewards')}"
        f"model = load({_load_arguments(job)})\n"
        f"reward, heldout = rewards.load({job.reward!r}), {heldout}\n"
        f"method = {_method(job)}\n"
        f"{_images(job)}"
        f"result = optimize(model, prompts, reward, method, iterations={job.iterations}, seeds=seeds, "
        f"heldout=heldout, patience={job.patience})\n"
        f"result.save('out/{job.stem(job.prompt[0])}-{job.method}')\n"
        "print(result.rewards.tolist())  # result.images: (image, 3, height, width) in [0, 1]\n"
    )


def _imports(names: str) -> str:
    return f"from noisetilt import {names}\n\n"


def _images(job: Any) -> str:
    """The lines that set the prompt and the seed of every image."""
    [prompt] = job.prompt
    return f"prompts, seeds = [{prompt!r}] * {job.n}, list(range({job.seed}, {job.seed + job.n}))\n"


def _method(job: Any) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in job.options.items())
    return f'METHODS["{job.method}"]' + (f".replace({options})" if options else "")


def _load_arguments(job: Any) -> str:
    arguments = [repr(str(job.model))]
    if job.guidance is not None:
        arguments.append(f"guidance={job.guidance!r}")
    for _, option, default in _MODEL_OPTIONS:
        value = getattr(job, option)
        if value not in (None, default):
            arguments.append(f"{option}={value!r}")
    arguments += [f"lora={job.lora!r}"] if job.lora else []
    arguments += ["checkpointing=True"] if job.checkpointing else []
    return ", ".join(arguments)

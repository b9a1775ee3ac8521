"""A hook of MkDocs: the pages of the API reference, with every public name of the public modules."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

from mkdocs.structure.files import File, Files

# Page → title, what it is for, and the modules whose public names it has.
PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "main": ("noisetilt", "the names that most programs need", ("noisetilt",)),
    "sampling": ("Sampling", "results, traces and the model's interface", ("noisetilt.sampling",)),
    "proposals": ("Proposals", "how one particle moves from x_t to x_s", ("noisetilt.proposals",)),
    "selection": ("Selection", "which particles continue, and which one is returned", ("noisetilt.selection",)),
    "initial-noise": ("Initial noise", "where x_T comes from", ("noisetilt.initial_noise",)),
    "rewards": (
        "Rewards",
        "functions of images that sampling maximises",
        ("noisetilt.rewards", "noisetilt.rewards.inverse", "noisetilt.rewards.hub"),
    ),
    "noise": (
        "Noise",
        "tests for white Gaussian noise, and projections to it",
        ("noisetilt.noise", "noisetilt.noise.penalties"),
    ),
    "path": ("Paths", "Gaussian paths, the reverse kernel and time grids", ("noisetilt.path",)),
    "models": (
        "Models",
        "networks as denoisers, and models in closed form",
        ("noisetilt.models.denoiser", "noisetilt.models.flux", "noisetilt.models.exact"),
    ),
    "integrations": (
        "Integrations",
        "diffusers, k-diffusion and others",
        (
            "noisetilt.integrations.diffusers",
            "noisetilt.integrations.k_diffusion",
            "noisetilt.integrations.azula",
            "noisetilt.integrations.webui",
        ),
    ),
    "batch": ("Batches", "many prompts", ("noisetilt.batch",)),
    "inversion": ("Inversion", "the noise of given images, and edits of them", ("noisetilt.inversion",)),
    "report": ("Pictures and tables", "image files, grids, animations and tables", ("noisetilt.report",)),
    "bench": (
        "Benchmark",
        "metrics of images, and the judge that names them",
        ("noisetilt.bench.fidelity", "noisetilt.bench.metrics", "noisetilt.bench.judge"),
    ),
}


def public_names(module: str) -> list[str]:
    """`__all__` of a module, functions first and then classes, or those that it defines without an underscore."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return sorted(loaded.__all__, key=lambda name: _kind(getattr(loaded, name)))
    return [
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module
    ]


def _kind(value: Any) -> int:
    """0 for a function, 1 for a class, 2 for anything else."""
    return 0 if inspect.isroutine(value) else 1 if inspect.isclass(value) else 2


def documented_names() -> list[tuple[str, str]]:
    """(module, name) of every entry, without submodules, which have entries of their own."""
    return [
        (module, name)
        for _, _, modules in PAGES.values()
        for module in modules
        for name in public_names(module)
        if not inspect.ismodule(getattr(importlib.import_module(module), name))
    ]


def identifier(module: str, name: str) -> str:
    """The name that griffe finds: where a submodule has the same name as a function, that of the function in it."""
    loaded = importlib.import_module(module)
    defined_in = str(getattr(getattr(loaded, name), "__module__", ""))
    package = hasattr(loaded, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    if package or defined_in.endswith(f".{name}"):
        return f"{defined_in}.{name}"
    return f"{module}.{name}"


def reference_page(title: str, subject: str, modules: tuple[str, ...]) -> str:
    lines = [
        f"# {title}\n",
        f"Reference of `{modules[0]}`: {subject}. For readers who write programs with noisetilt.\n",
    ]
    entries = set(documented_names())
    for module in modules:
        if len(modules) > 1:
            lines.append(f"## `{module}`\n")
        for name in public_names(module):
            if (module, name) in entries:
                level = 3 if len(modules) > 1 else 2
                lines.append(f"::: {identifier(module, name)}\n    options:\n      heading_level: {level}\n")
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """Adds the pages to the navigation."""
    pages = [{title: f"reference/{page}.md"} for page, (title, _, _) in PAGES.items()]
    config.nav.append({"API reference": pages})
    return config


def on_files(files: Files, config: Any) -> Files:
    for page, entry in PAGES.items():
        files.append(File.generated(config, f"reference/{page}.md", content=reference_page(*entry)))
    return files

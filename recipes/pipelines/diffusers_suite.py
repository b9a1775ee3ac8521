"""The table of docs/pipelines.md: diffusers' own tiny test pipelines, plain and through `align`.

    python recipes/pipelines/diffusers_suite.py DIFFUSERS --rows rows.jsonl --write docs/pipelines.md

DIFFUSERS is a checkout of the diffusers repository, of a version near the installed one. The tests of deprecated
classes are in older versions only: run it again with a checkout of v0.33.1, the same rows file and `--only` (blip,
controlnet_xs, gligen, i2vgen, ldm3d, paint_by, panorama, pia, sag, attend, diffedit, text_to_video, video_to_video,
wuerstchen). It needs the packages that its tests need (sentencepiece, parameterized, requests_mock, pytest,
opencv-python-headless, ftfy, torchsde, beautifulsoup4) and no network: hub files are replaced by local stand-ins. It
takes about half an hour of one core.

For each class: the plain pipeline; `base` with η = 0 from the same generator, whose images must differ by less than
1e-3; the rewards, which must be those of the returned images; and `ntrk`, whose reward must exceed base's. Where the
test pipeline's scheduler draws noise or is of higher order, both run with a first-order deterministic one of the same
schedule.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import json
import math
import os
import pkgutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import more_cases
import stand_ins
import torch
from support_table import latest, write_table
from torch import Tensor

SECONDS = 150
TOLERANCE = 1e-3
STEPS = 3
SIZE = 32
SEED = 0
STRENGTHS = (0.3, 0.1, 0.6, 1.0, 0.01, 0.001)
OUTPUTS = ("images", "frames", "videos", "image")
CALLBACKS = ("callback_on_step_end", "callback_on_step_end_tensor_inputs", "callback", "callback_steps")


def redness(images: Tensor, prompts: Any = None) -> Tensor:
    """The mean of the first channel minus that of the others, (batch,), of images (batch, channel, H, W)."""
    if images.shape[1] < 3:
        return images.flatten(1).mean(1)
    return images[:, 0].flatten(1).mean(1) - images[:, 1:3].flatten(1).mean(1)


def deterministic(scheduler: Any) -> Any:
    """A first-order deterministic scheduler of the same schedule; the same object if it is one."""
    import diffusers

    name, config = type(scheduler).__name__, scheduler.config
    if name.startswith(("DPMSolverMultistep", "UniPC")):
        first = {"solver_order": 1, "disable_corrector": list(range(1000))}
        if config.get("use_flow_sigmas"):
            first["prediction_type"] = "flow_prediction"  # the tests of SkyReels leave "epsilon", its models do not
        return type(scheduler).from_config(config, **{k: v for k, v in first.items() if k in config})
    if name == "DDPMWuerstchenScheduler":
        return type(f"Deterministic{name}", (type(scheduler),), {"step": cosine_step}).from_config(config)
    if name == "SCMScheduler":
        return type("DeterministicSCMScheduler", (type(scheduler),), {"step": trigflow_step}).from_config(config)
    if name in ("DDPMScheduler", "LCMScheduler", "PNDMScheduler"):
        kind = diffusers.DDIMScheduler if name == "PNDMScheduler" else type(scheduler)
        kind = kind if name == "PNDMScheduler" else type(f"Deterministic{name}", (kind,), {"step": ddim_step})
        return kind.from_config(config, clip_sample=False, thresholding=False)
    if name == "EulerAncestralDiscreteScheduler":
        return diffusers.EulerDiscreteScheduler.from_config(config)
    if name == "FlowMatchHeunDiscreteScheduler":
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    return scheduler


def ddim_step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **settings: Any) -> Any:
    """A step of DDIM without noise, for a scheduler with a table of ᾱ."""
    from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput

    if model_output.shape[1] == 2 * sample.shape[1]:
        model_output = model_output[:, : sample.shape[1]]
    times = self.timesteps.tolist()
    after = times[times.index(int(timestep)) + 1 :]
    now, then = self.alphas_cumprod[int(timestep)], self.alphas_cumprod[int(after[0])] if after else torch.tensor(1.0)
    if self.config.prediction_type == "sample":
        x_0 = model_output
        noise = (sample - now.sqrt() * x_0) / (1 - now).sqrt()
    elif self.config.prediction_type == "v_prediction":
        x_0 = now.sqrt() * sample - (1 - now).sqrt() * model_output
        noise = now.sqrt() * model_output + (1 - now).sqrt() * sample
    else:
        x_0, noise = (sample - (1 - now).sqrt() * model_output) / now.sqrt(), model_output
    previous = then.sqrt() * x_0 + (1 - then).sqrt() * noise
    if not settings.get("return_dict", True):
        return previous, x_0
    return DDIMSchedulerOutput(prev_sample=previous, pred_original_sample=x_0)


def cosine_step(self: Any, model_output: Tensor, timestep: Tensor, sample: Tensor, **_: Any) -> Any:
    """A step of DDIM without noise on Würstchen's schedule."""
    from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenSchedulerOutput

    after = self.previous_timestep(timestep)
    now, then = self._alpha_cumprod(timestep[:1], "cpu"), self._alpha_cumprod(after[:1], "cpu")
    then = torch.ones(1) if float(after[0]) == 0 else then
    x_0 = (sample - (1 - now).sqrt() * model_output) / now.sqrt()
    return DDPMWuerstchenSchedulerOutput(then.sqrt() * x_0 + (1 - then).sqrt() * model_output)


def trigflow_step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **settings: Any) -> Any:
    """A step of TrigFlow's ODE."""
    from diffusers.schedulers.scheduling_scm import SCMSchedulerOutput

    if self.step_index is None:
        self._init_step_index(timestep)
    now, then = self.timesteps[self.step_index], self.timesteps[self.step_index + 1]
    self._step_index += 1
    x_0 = now.cos() * sample - now.sin() * model_output
    noise = now.sin() * sample + now.cos() * model_output
    previous = then.cos() * x_0 + then.sin() * noise
    return SCMSchedulerOutput(previous, x_0) if settings.get("return_dict", True) else (previous, x_0)


class Case:
    """A tiny pipeline of one class of tests, and the arguments of its call."""

    def __init__(self, tests: type) -> None:
        self.tests = make_tests(tests)
        self.pipe = pipeline_of(tests)(**self._components())
        self.pipe.set_progress_bar_config(disable=True)
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        self.scheduler = getattr(self.pipe, "scheduler", None)
        chosen = self.scheduler
        if self.scheduler is not None:
            with contextlib.suppress(Exception):
                chosen = deterministic(self.scheduler)
        if chosen is not self.scheduler:
            self.pipe.register_modules(scheduler=chosen)
        self.output_type = "np"
        self.dtype = torch.float32
        adjust_pipeline(self.pipe)

    def _components(self) -> dict[str, Any]:
        make = self.tests.get_dummy_components
        needed = [n for n, p in inspect.signature(make).parameters.items() if p.default is p.empty and p.kind < 2]
        return make(*(["full_adapter"] if needed == ["adapter_type"] else []))

    def arguments(self) -> dict[str, Any]:
        """New arguments of a call."""
        make = self.tests.get_dummy_inputs
        needed = [n for n, p in inspect.signature(make).parameters.items() if p.default is p.empty and p.kind < 2]
        call = dict(make(*(["cpu"] if needed else [])))
        names = inspect.signature(type(self.pipe).__call__).parameters
        fixed = any(call.get(n) is not None for n in ("sigmas", "timesteps", "image_latents"))
        if "num_inference_steps" in names and not fixed:
            default = getattr(names.get("strength"), "default", None)
            strength = call.get("strength") or (default if isinstance(default, float) else 1.0)
            call["num_inference_steps"] = math.ceil(STEPS / strength)
        if "SanaSprint" in type(self.pipe).__name__:
            # Its intermediate timestep is for two steps; an image is replaced by noise.
            call |= {"num_inference_steps": 2} | ({"strength": 1.0} if "strength" in names else {})
        if "I2VGenXL" in type(self.pipe).__name__:
            # To skip a layer, the pipeline reads an attribute that text encoders do not have in transformers 5.
            call["clip_skip"] = None
        if call.get("mask_image") is not None and "Control" in type(self.pipe).__name__:
            call["mask_image"] = everywhere(call["mask_image"])
        if "use_resolution_binning" in names:
            call["use_resolution_binning"] = False
        call = {name: value for name, value in call.items() if name not in CALLBACKS}
        call.pop("return_dict", None)
        if "output_type" in names:
            call["output_type"] = self.output_type
        if "generator" in names:
            call["generator"] = torch.Generator().manual_seed(SEED)
        return {name: self._cast(value) for name, value in call.items()}

    def _cast(self, value: Any) -> Any:
        floating = torch.is_tensor(value) and value.is_floating_point()
        return value.to(self.dtype) if floating else value

    def run(self, pipe: Any) -> tuple[Any, Tensor]:
        """The output of a call and its images (…, channel, H, W) or other values."""
        torch.manual_seed(SEED)
        output = pipe(**self.arguments())
        return output, self.images(output)

    def to(self, dtype: torch.dtype) -> None:
        """Changes the precision of the networks and of the tensors among the arguments."""
        self.dtype = dtype
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(dtype)

    def images(self, output: Any) -> Tensor:
        """The images of an output."""
        found = next((getattr(output, n) for n in OUTPUTS if getattr(output, n, None) is not None), None)
        if found is None:
            found = output[0] if isinstance(output, tuple) else next(iter(output.values()))
        if isinstance(found, (list, tuple)):
            found = torch.stack([torch.as_tensor(one) for one in found])
        found = torch.as_tensor(found).float()
        if self.output_type == "np" and found.ndim >= 4:
            found = found.movedim(-1, -3)
        return found


def adjust_pipeline(pipe: Any) -> None:
    """What some pipelines need before their call."""
    name = type(pipe).__name__
    if name == "AllegroPipeline":
        # The decoder works in tiles, which are larger than the test's videos.
        pipe.vae.kernel, pipe.vae.stride = (8, 16, 16), (6, 12, 12)
    module = sys.modules[type(pipe).__module__]
    if hasattr(module, "calculate_dimensions"):
        # Input images are resized to an area of 1024 × 1024.
        original = module.calculate_dimensions
        module.calculate_dimensions = lambda _, ratio: original(SIZE * SIZE, ratio)
    if name.startswith("JoyImage"):
        from diffusers.pipelines.joyimage import image_processor

        image_processor.find_best_bucket = lambda *_: (SIZE, SIZE)
    if name == "StableDiffusionGLIGENTextImagePipeline":
        side = pipe.image_encoder.config.image_size
        pipe.processor.image_processor.size = pipe.processor.image_processor.crop_size = {"height": side, "width": side}
    if name == "Kandinsky5I2IPipeline":
        pipe.resolutions = [(64, 64)]


def everywhere(mask: Any) -> Any:
    """A mask of the same form that selects the whole image."""
    if torch.is_tensor(mask):
        return torch.ones_like(mask)
    return mask.point(lambda _: 255) if hasattr(mask, "point") else mask


def make_tests(kind: Any) -> Any:
    """An instance of a class of tests, of unittest or pytest; other cases are returned unchanged."""
    if not inspect.isclass(kind):
        return kind
    try:
        return kind()
    except TypeError:
        return kind.__new__(kind)


def name_of(tests: Any) -> str:
    """The name of a class of tests."""
    return getattr(tests, "__name__", "more_cases")


def pipeline_of(tests: type) -> Any:
    """The pipeline class of a class of tests; that of the test itself where it wraps it."""
    return tests.pipeline_class


def attempt(row: dict[str, Any], key: str, make: Callable[[], Any]) -> Any:
    """Notes in the row what `make` returns, or the error that it raises."""
    try:
        row[key] = make()
    except Exception as error:
        row[key] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if os.environ.get("SUITE_TRACE"):
            import traceback

            traceback.print_exc()
        return None
    return row[key]


def measure(tests: type) -> dict[str, Any]:
    """The row of one class."""
    from noisetilt import align

    row: dict[str, Any] = {"tests": name_of(tests)}
    case: dict[str, Any] = {}

    def build() -> bool:
        case["it"] = Case(tests)
        return True

    def plain() -> bool:
        try:
            case["plain"] = case["it"].run(case["it"].pipe)[1]
        except (ValueError, TypeError, KeyError, AttributeError):
            case["it"].output_type = "pt"
            case["plain"] = case["it"].run(case["it"].pipe)[1]
        return bool(case["plain"].isfinite().all()) or "not finite"

    def base() -> float:
        guided = align(case["it"].pipe, redness, "base", eta=0.0)
        case["base"], images = case["it"].run(guided)
        return float((images - case["plain"]).abs().max())

    def double() -> bool:
        """Both in float64, where float32's rounding is too large for the tolerance."""
        case["it"].to(torch.float64)
        return plain()

    def rewards() -> float:
        images = case["plain"].flatten(0, -4).clamp(0, 1)
        frames = redness(images).view(len(case["base"].rewards), -1).mean(1)
        return float((frames - case["base"].rewards).abs().max())

    def ntrk() -> list[float]:
        """The mean reward of base, and of NTRK at the first of some strengths that raises it, from the same noise."""
        from noisetilt import METHODS

        plain = reward_of(METHODS["base"])
        raised = (value for rho in STRENGTHS if (value := reward_of(METHODS["ntrk"].replace(rho=rho))) > plain)
        return [plain, next(raised, plain)]

    def reward_of(method: Any) -> float:
        return float(case["it"].run(align(case["it"].pipe, redness, method))[0].rewards.mean())

    row["pipeline"] = public_name(pipeline_of(tests))
    if attempt(row, "build", build) is None:
        return row
    it = case["it"]
    row["pipeline"] = public_name(type(it.pipe))
    if it.scheduler is not None and it.scheduler is not it.pipe.scheduler:
        row["scheduler"] = f"{type(it.pipe.scheduler).__name__} for {type(it.scheduler).__name__}"
    if attempt(row, "plain", plain) is not True:
        return row
    if attempt(row, "equal", base) is not None:
        if row["equal"] > TOLERANCE and attempt(row, "float64", double) is not None:
            attempt(row, "equal", base)
        attempt(row, "rewards", rewards)
        attempt(row, "ntrk", ntrk)
    return row


def public_name(kind: type) -> str:
    """The name of a class, or of the exported one that it derives from."""
    import diffusers

    return next((c.__name__ for c in kind.__mro__ if hasattr(diffusers, c.__name__)), kind.__name__)


def classes_of(module: Any) -> Iterator[type]:
    """The classes of tests of a module, one for each class of pipelines."""
    seen = set()
    for name, kind in vars(module).items():
        if not inspect.isclass(kind) or kind.__module__ != module.__name__ or name.startswith("_"):
            continue
        pipeline = getattr(kind, "pipeline_class", None)
        if inspect.isclass(pipeline) and hasattr(kind, "get_dummy_components") and pipeline not in seen:
            seen.add(pipeline)
            yield kind


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError after some seconds of the processor's time."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"{seconds} s")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def run_module(name: str, rows: Path) -> None:
    """Appends the rows of a module of tests to a file."""
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        append(rows, {"module": name, "import": f"{type(error).__name__}: {str(error)[:160]}"})
        return
    for tests in classes_of(module):
        run_case(name, tests, rows)


def run_case(name: str, tests: Any, rows: Path) -> None:
    """Appends the row of a class of tests to a file."""
    started = time.monotonic()
    try:
        with limited(SECONDS):
            row = measure(tests)
    except BaseException as error:
        row = {"tests": name_of(tests), "pipeline": public_name(pipeline_of(tests))}
        row["error"] = f"{type(error).__name__}: {str(error)[:160]}"
    append(rows, {"module": name, **row, "seconds": round(time.monotonic() - started, 1), **versions()})


def versions() -> dict[str, str]:
    """The versions of the packages that a row depends on."""
    return {name: importlib.metadata.version(name) for name in ("diffusers", "noisetilt")}


def append(file: Path, row: dict[str, Any]) -> None:
    """Appends a line to a file."""
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")


def run_all(root: Path, rows: Path, wanted: str, jobs: int, part: tuple[int, int]) -> None:
    """Runs every module of tests whose name contains `wanted`, each in its own process; of `part` = (i, n) every n-th
    one from the i-th on.
    """
    os.chdir(root)
    sys.path.insert(0, str(root))
    stand_ins.install()
    alias_moved_modules()
    import diffusers

    import noisetilt.integrations.diffusers  # noqa: F401

    for name in ("FluxPipeline", "StableDiffusionXLPipeline", "WanPipeline"):
        getattr(diffusers, name)
    files = sorted((root / "tests" / "pipelines").rglob("test_*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    parts = wanted.split(",")
    tasks: list[Callable[[], None]] = [
        functools.partial(run_module, name, rows) for name in names if any(part in name for part in parts)
    ]
    tasks += [functools.partial(run_case, "more_cases", case, rows) for case in more_cases.cases(parts)]
    running: set[int] = set()
    for task in tasks[part[0] :: part[1]]:
        if len(running) >= jobs:
            running.discard(os.wait()[0])
        child = os.fork()
        if not child:
            task()
            os._exit(0)
        running.add(child)
    while running:
        running.discard(os.wait()[0])


def alias_moved_modules() -> None:
    """Lets the tests of older versions of diffusers find the modules that have moved since."""
    import diffusers.pipelines.deprecated as deprecated

    for module in pkgutil.iter_modules(deprecated.__path__):
        with contextlib.suppress(ImportError):
            found = importlib.import_module(f"{deprecated.__name__}.{module.name}")
            for package in ("diffusers", "src.diffusers"):
                sys.modules.setdefault(f"{package}.pipelines.{module.name}", found)
    sys.modules.setdefault("src", sys.modules["__main__"])
    sys.modules.setdefault("src.diffusers", sys.modules["diffusers"])
    sys.modules.setdefault("src.diffusers.pipelines", sys.modules["diffusers.pipelines"])


def guided(row: dict[str, Any]) -> bool:
    """Whether a class is guided and equals the plain pipeline."""
    equal, rewards, ntrk = (row.get(key) for key in ("equal", "rewards", "ntrk"))
    numbers = isinstance(equal, float) and isinstance(rewards, float) and isinstance(ntrk, list)
    return numbers and equal < TOLERANCE and rewards < TOLERANCE and ntrk[1] > ntrk[0]


def summary(rows: list[dict[str, Any]]) -> str:
    """Counts of classes."""
    runs = {row["pipeline"] for row in rows if row.get("plain") is True}
    works = {row["pipeline"] for row in rows if guided(row)}
    return f"{len(runs)} classes run plain; {len(works)} of them are guided and equal"


def main() -> None:
    """Runs the suite and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("diffusers", type=Path, help="a checkout of the diffusers repository")
    parser.add_argument(
        "--rows",
        type=Path,
        default=Path("rows.jsonl"),
        help="one line of JSON per class; appended to, the last one of a test counts",
    )
    parser.add_argument("--write", type=Path, help="the document whose table is written")
    parser.add_argument("--only", default="", help="parts of the names of modules, separated by commas")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th module from number i on, for several computers")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    rows, write = given.rows.resolve(), given.write and given.write.resolve()
    rows.parent.mkdir(parents=True, exist_ok=True)
    first, _, step = given.part.partition("/")
    run_all(given.diffusers.resolve(), rows, given.only, given.jobs, (int(first), int(step)))
    found = latest([json.loads(line) for line in rows.read_text().splitlines()])
    print(summary(found))
    others = sum(any(row.get(name) != version for name, version in versions().items()) for row in found)
    if others:
        print(f"{others} rows of {rows} are of other versions of diffusers or noisetilt than those installed")
    if write:
        write_table(write, found, guided)


if __name__ == "__main__":
    main()

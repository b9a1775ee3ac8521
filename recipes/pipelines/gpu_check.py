"""Checks noisetilt on a GPU: `python recipes/pipelines/gpu_check.py --seconds 60 --out gpu_check.json`.

It times the whitening W against the memory bandwidth, and runs tiny pipelines of the real classes with random weights
in bfloat16 and float16: whether `align` with the method "base" and eta = 0 equals the plain pipeline, whether NTRK
raises the reward, and where a step waits for the GPU. It compares the peak memory of Stable Diffusion 1.5, with random
weights, with `plan`. Nothing is downloaded.

The most important checks run first. Every check prints its result at once, and the file is written after each of them.
A check that fails does not stop the others. At the end of the time budget the remaining checks are recorded as "not
run". With `--device cpu` the same checks run at a smaller size, except for what only a GPU has.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noisetilt.noise import whiten

STARTED = time.perf_counter()
ROOT = Path(__file__).resolve().parents[2]
SOURCE = str(ROOT / "src" / "noisetilt")
PROMPT = "a red fox"
EVENTS = {65_536: (4, 128, 128), 262_144: (16, 128, 128), 1_048_576: (16, 256, 256)}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The order of the families; further ones of tiny_pipelines follow.
FIRST = ("sd", "flux", "sdxl", "sd3", "wan", "qwen", "sana", "pixart", "controlnet", "sprint")
# The noise is drawn on the CPU, so that a seed gives the same image on every device; its copy to the GPU waits.
NOISE_COPY = "sampling/engine.py:_noise"


class Failure(Exception):
    """The result of a check that failed."""


class Skip(Exception):
    """The reason why a check does not apply."""


class OutOfTime(BaseException):
    """The time budget is spent. Not an Exception, so that no check swallows it."""


class Run:
    """Runs checks, prints their results and writes them to a file.

    Args:
        device: the device of the checks.
        seconds: the time budget, from the start of the process.
        out: the file.
    """

    def __init__(self, device: str, seconds: float, out: Path) -> None:
        self.device, self.deadline, self.out = torch.device(device), STARTED + seconds, out
        self.results: list[dict[str, Any]] = []
        self.checking = False
        self.state: dict[str, Any] = {}

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def check(self, name: str, function: Callable[[Run], dict[str, Any]]) -> None:
        """Runs a check; its result is the dict that it returns, or the exception that it raises."""
        started = time.perf_counter()
        status, values = "not run", {}
        try:
            self.checking = True
            if started < self.deadline:
                values = function(self)
                self.synchronize()
                status = "ok"
        except OutOfTime:
            values = {"reason": "the time budget ended during this check"}
        except Skip as reason:
            status, values = "skipped", {"reason": str(reason)}
        except Failure as failure:
            status, values = "FAILED", failure.args[0]
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            status, values = "ERROR", {"error": f"{type(error).__name__}: {str(error)[:400]}", "where": where}
        self.checking = False
        self.results.append(dict(check=name, status=status, seconds=round(time.perf_counter() - started, 3), **values))
        shown = ", ".join(f"{key} {value_text(value)}" for key, value in values.items())
        print(f"{time.perf_counter() - STARTED:6.1f} s  {status:8}{name}: {shown}", flush=True)
        self.write()

    def write(self) -> None:
        """Writes the results so far."""
        counts = collections.Counter(result["status"] for result in self.results)
        content = dict(counts=dict(counts), seconds=round(time.perf_counter() - STARTED, 1), checks=self.results)
        part = self.out.with_name(self.out.name + ".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(part, self.out)


def value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {value_text(one)}" for key, one in value.items()) + "}"
    return str(value)


# --- The machine -----------------------------------------------------------------------------------------------------


def machine(run: Run) -> dict[str, Any]:
    """Versions, and the bandwidth of copying on the device."""
    found = {"torch": torch.__version__, "python": platform.python_version(), "device": str(run.device)}
    if run.cuda:
        properties = torch.cuda.get_device_properties(run.device)
        found |= {"gpu": properties.name, "memory_gib": properties.total_memory / 2**30}
    source = torch.zeros((256 if run.cuda else 16) * 2**20, device=run.device)
    target = torch.empty_like(source)
    seconds = median_seconds(run, lambda: target.copy_(source), 10)
    run.state["bandwidth"] = 2 * source.nbytes / seconds
    return found | {"copy_gb_per_s": run.state["bandwidth"] / 1e9}


def median_seconds(run: Run, call: Callable[[], Any], repeats: int) -> float:
    """The median time of a call that has run before, including the wait for the device."""
    call()
    seconds = []
    for _ in range(repeats):
        run.synchronize()
        started = time.perf_counter()
        call()
        run.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# --- W ---------------------------------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes that they read and write; views count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if torch.is_tensor(leaf)]
            self.operations += 1
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def structured(run: Run, count: int) -> tuple[Tensor, Tensor]:
    """A smooth gradient plus noise, which goes through both passes of W, and fresh noise; (1, *event) each."""
    generator = torch.Generator().manual_seed(count)
    event = EVENTS[count]
    gradient, noise = (torch.randn(1, *event, generator=generator) for _ in range(2))
    wave = torch.sin(torch.arange(event[-1]) / 9)
    return (gradient + 3 * wave).to(run.device), noise.to(run.device)


def whitening_time(run: Run, count: int) -> dict[str, Any]:
    """Time of W for one event, against the time that its memory traffic needs at the device's copy bandwidth.

    "one_pass" is the lower bound of any implementation, which reads the gradient and the noise and writes the result.
    "traffic" is the bound of this implementation: what its operations read and write, one after another.
    """
    gradient, noise = structured(run, count)
    started = time.perf_counter()
    white = whiten(gradient, noise=noise)
    run.synchronize()
    first = time.perf_counter() - started
    if not white.isfinite().all():
        raise Failure({"reason": "W is not finite"})
    with Traffic() as traffic:
        whiten(gradient, noise=noise)
    seconds = median_seconds(run, lambda: whiten(gradient, noise=noise), 20 if run.cuda else 3)
    bandwidth = run.state["bandwidth"]
    return {
        "ms": 1e3 * seconds,
        "first_call_ms": 1e3 * first,
        "operations": traffic.operations,
        "us_per_operation": 1e6 * seconds / traffic.operations,
        "traffic_mb": traffic.bytes / 1e6,
        "traffic_bound_ms": 1e3 * traffic.bytes / bandwidth,
        "one_pass_bound_ms": 1e3 * 3 * gradient.nbytes / bandwidth,
        "times_traffic_bound": seconds / (traffic.bytes / bandwidth),
    }


def whitening_syncs(run: Run, count: int) -> dict[str, Any]:
    """The operations of W that wait for the GPU."""
    if not run.cuda:
        raise Skip("needs a GPU")
    gradient, noise = structured(run, count)
    whiten(gradient, noise=noise)
    places: collections.Counter = collections.Counter()
    with recorded_syncs(places):
        whiten(gradient, noise=noise)
    return {"count": sum(places.values()), "places": dict(places)}


def whitening_kernels(run: Run, count: int) -> dict[str, Any]:
    """Time of the kernels alone: what remains of W's time is launching them and waiting."""
    if not run.cuda:
        raise Skip("needs a GPU")
    gradient, noise = structured(run, count)
    whiten(gradient, noise=noise)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(3):
            whiten(gradient, noise=noise)
        run.synchronize()
    kernels = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    longest = sorted(kernels, key=lambda event: -event.self_device_time_total)[:5]
    return {
        "kernels_ms": sum(event.self_device_time_total for event in kernels) / 3e3,
        "launches": sum(event.count for event in kernels) // 3,
        "longest_ms": {event.key[:60]: event.self_device_time_total / 3e3 for event in longest},
    }


def whitening_compiled(run: Run, count: int) -> dict[str, Any]:
    """Time of W under torch.compile."""
    gradient, noise = structured(run, count)
    compiled = torch.compile(whiten, dynamic=False)
    started = time.perf_counter()
    white = compiled(gradient, noise=noise)
    run.synchronize()
    found = {"compilation_s": time.perf_counter() - started}
    found["difference"] = float((white - whiten(gradient, noise=noise)).abs().max())
    return found | {"ms": 1e3 * median_seconds(run, lambda: compiled(gradient, noise=noise), 20)}


# --- Tiny pipelines --------------------------------------------------------------------------------------------------


def tiny_pipelines() -> Any:
    folder = str(ROOT / "tests" / "integrations")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import tiny_pipelines

    return tiny_pipelines


def controlnet() -> Any:
    """Stable Diffusion with a ControlNet."""
    import diffusers

    tiny = tiny_pipelines()
    unet = tiny.unet()
    network = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    # A ControlNet's last layers start at zero, where it does nothing.
    for block in network.controlnet_down_blocks:
        torch.nn.init.normal_(block.weight, std=0.1)
    return diffusers.StableDiffusionControlNetPipeline(
        vae=tiny.vae(4),
        text_encoder=tiny.clip(),
        tokenizer=tiny.tokenizer(),
        unet=unet,
        controlnet=network.eval(),
        scheduler=tiny.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def families() -> dict[str, tuple[Callable[[], Any], dict[str, Any]]]:
    """Functions that make a tiny pipeline, and arguments for it, by family."""
    tiny = tiny_pipelines()
    known = dict(tiny.FAMILIES)
    # The image is twice as large as its latents, and so is what the ControlNet's first layers make of it.
    image = torch.linspace(0, 1, 3 * tiny.SIZE**2).view(1, 3, tiny.SIZE, tiny.SIZE)
    known["controlnet"] = (controlnet, dict(known["sd"][1], image=image))
    sprint = {key: value for key, value in known["sana"][1].items() if key != "guidance_scale"}
    known["sprint"] = (functools.partial(tiny.sana, sprint=True), dict(sprint, num_inference_steps=2))
    return {name: known[name] for name in (*(n for n in FIRST if n in known), *(n for n in known if n not in FIRST))}


def build(run: Run, name: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """A tiny pipeline on the device, the same at every call."""
    make, arguments = families()[name]
    torch.manual_seed(0)
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(run.device, dtype), dict(arguments)


def first_field(output: Any) -> Tensor:
    return next(iter(output.values()))


def initial_noise(pipe: Any, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The latents that the plain pipeline starts from, of unit variance, and its images."""
    seen, original = [], pipe.prepare_latents

    def record(*args: Any, **kwargs: Any) -> Any:
        prepared = original(*args, **kwargs)
        seen.append(prepared[0] if isinstance(prepared, tuple) else prepared)
        return prepared

    pipe.prepare_latents = record
    try:
        images = first_field(pipe(PROMPT, generator=torch.Generator().manual_seed(0), **arguments))
    finally:
        del pipe.prepare_latents
    return seen[0] / getattr(pipe.scheduler, "init_noise_sigma", 1.0), images


def equality(run: Run, name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Whether base at eta = 0 equals the plain pipeline, up to the rounding of the dtype.

    Differences are RMS over pixels in [0, 1]. Rounding is the difference between the plain pipeline in this dtype and
    in float32 with the same weights. The sampler keeps its states in float32, so that its rounding differs from the
    plain pipeline's.
    """
    from noisetilt import align

    pipe, arguments = build(run, name, dtype)
    noise, plain = initial_noise(pipe, arguments)
    aligned = first_field(align(pipe, None, "base", eta=0.0)(PROMPT, latents=noise, **arguments))
    exact = first_field(pipe.to(torch.float32)(PROMPT, latents=noise.float(), **arguments))
    plain, aligned, exact = (images.float().cpu() for images in (plain, aligned, exact))
    found = {
        "largest": float((aligned - plain).abs().max()),
        "difference": rms(aligned - plain),
        "rounding": rms(plain - exact),
        "from_float32": rms(aligned - exact),
        "spread": float(exact.std()),
    }
    if found["rounding"] > found["spread"] / 2:
        raise Skip("the plain pipeline's own rounding is as large as its images' contrast: " + value_text(found))
    # One unit of the dtype at 1 is allowed where the plain pipeline happens to round to float32's images.
    allowed = 2 * found["rounding"] + torch.finfo(dtype).eps
    if not math.isfinite(found["difference"]) or found["difference"] > allowed:
        raise Failure(found | {"allowed": allowed})
    return found


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def contrast(images: Tensor, prompts: Any) -> Tensor:
    return images.float().std((1, 2, 3))


def reward_of(name: str) -> Any:
    """A reward that the tiny pipeline can raise: Wan's random decoder makes all colours nearly the same."""
    from noisetilt import rewards

    return contrast if name == "wan" else rewards.load("redness")


def raises_reward(run: Run, name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Whether NTRK raises the reward on the mean of two images, and the time of a step."""
    from noisetilt import align

    pipe, arguments = build(run, name, dtype)
    reward, values, seconds = reward_of(name), {}, {}
    prompts = [PROMPT] * 2
    if torch.is_tensor(arguments.get("image")):
        arguments["image"] = arguments["image"].repeat(2, 1, 1, 1)
    for method in ("base", "ntrk"):
        aligned = align(pipe, reward, method)
        aligned(prompts, seeds=[0, 1], **arguments)
        run.synchronize()
        started = time.perf_counter()
        values[method] = float(aligned(prompts, seeds=[0, 1], **arguments).rewards.mean())
        seconds[method] = (time.perf_counter() - started) / arguments["num_inference_steps"]
    found = {**values, "ms_per_step": {method: 1e3 * value for method, value in seconds.items()}}
    if not values["ntrk"] > values["base"]:
        raise Failure(found)
    return found


# --- Host synchronisation --------------------------------------------------------------------------------------------


def place(depth: int = 2) -> str:
    """The innermost caller in noisetilt's source as "file.py:function", else in any other file."""
    frame, inner = sys._getframe(depth), None
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(SOURCE):
            return f"{code.co_filename[len(SOURCE) + 1 :]}:{code.co_name}"
        if inner is None and not code.co_filename.endswith(("warnings.py", "_tensor.py")):
            inner = f"({Path(code.co_filename).name}:{code.co_name})"
        frame = frame.f_back
    return inner or "(unknown)"


@contextlib.contextmanager
def recorded_syncs(places: collections.Counter) -> Iterator[None]:
    """Counts the operations that wait for the GPU, by the function in noisetilt that called them."""

    def record(message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            places[place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = record
        before = torch.cuda.get_sync_debug_mode() if torch.cuda.is_available() else None
        try:
            if before is not None:
                torch.cuda.set_sync_debug_mode("warn")
            yield
        finally:
            if before is not None:
                torch.cuda.set_sync_debug_mode(before)


def host_syncs(run: Run, name: str, method: str | None) -> dict[str, Any]:
    """The operations of one step that wait for the GPU: runs of 4 and of 8 steps, and the difference of their counts.

    Places in parentheses are outside noisetilt. Fails if noisetilt waits elsewhere than for the copy of the noise.
    """
    from noisetilt import align, rewards

    if not run.cuda:
        raise Skip("needs a GPU")
    pipe, arguments = build(run, name, torch.bfloat16)
    if method is None:
        call = lambda: pipe(PROMPT, **arguments)  # noqa: E731
    else:
        aligned = align(pipe, rewards.load("redness"), method)
        call = lambda: aligned(PROMPT, seeds=[0], **arguments)  # noqa: E731
    counts = []
    for steps in (4, 8):
        arguments["num_inference_steps"] = steps
        call()
        counts.append(collections.Counter())
        with recorded_syncs(counts[-1]):
            call()
    few, many = counts
    per_step = {where: (many[where] - few[where]) / 4 for where in many if many[where] > few[where]}
    found = {"per_step": per_step, "per_call": sum(few.values()) - 4 * sum(per_step.values())}
    ours = {where: count for where, count in per_step.items() if not where.startswith("(")}
    others = {where: count for where, count in ours.items() if where != NOISE_COPY}
    if method is not None and others:
        raise Failure({"beyond_noise_per_step": sum(others.values()), **found})
    return found


# --- Memory ----------------------------------------------------------------------------------------------------------


def memory_model(run: Run) -> tuple[str, int]:
    """The name of a model of `plan`, and a size; on the CPU a smaller Stable Diffusion, which is added here."""
    from noisetilt.integrations.diffusers.components import known_models

    if run.cuda:
        return "SD-1.5", 512
    small = json.loads(json.dumps(known_models()["SD-1.5"]))
    small["text"] = [77, 64]
    parts = small["parts"]
    parts["text_encoder"]["config"] |= dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    parts["text_encoder"]["config"]["num_attention_heads"] = 2
    parts["unet"]["config"] |= dict(block_out_channels=(32, 64, 128, 128), cross_attention_dim=64)
    parts["vae"]["config"] |= dict(block_out_channels=(16, 32, 32, 32), norm_num_groups=8)
    known_models()["small SD"] = small
    return "small SD", 128


def memory_pipeline(run: Run, name: str, dtype: torch.dtype) -> Any:
    """The pipeline of a model of `plan`, of Stable Diffusion's classes, with random weights."""
    import diffusers
    import transformers

    from noisetilt.integrations.diffusers.components import find_model

    tiny, parts = tiny_pipelines(), find_model(name)["parts"]
    torch.manual_seed(0)
    with torch.device(run.device):
        text = transformers.CLIPTextConfig(**parts["text_encoder"]["config"], eos_token_id=2)
        modules = {
            "text_encoder": transformers.CLIPTextModel(text),
            "unet": diffusers.UNet2DConditionModel(**parts["unet"]["config"]),
            "vae": diffusers.AutoencoderKL(**parts["vae"]["config"]),
        }
    pipe = diffusers.StableDiffusionPipeline(
        **{part: module.eval().requires_grad_(False).to(dtype) for part, module in modules.items()},
        tokenizer=tiny.tokenizer(77),
        scheduler=tiny.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(run.device)


def peak_bytes(run: Run, call: Callable[[], Any]) -> int:
    """The most bytes of tensors on the GPU during a call that has run before, weights included."""
    call()
    torch.cuda.synchronize(run.device)
    torch.cuda.reset_peak_memory_stats(run.device)
    call()
    torch.cuda.synchronize(run.device)
    return torch.cuda.max_memory_allocated(run.device)


def memory(run: Run, number: int) -> dict[str, Any]:
    """The peak memory of a mode of `plan`, two steps, against the plan's total."""
    from noisetilt import align, rewards
    from noisetilt.integrations.diffusers.plan import MODES, plan

    _, at, checkpointing = MODES[number]
    name, size = memory_model(run)
    dtype = torch.bfloat16 if run.cuda else torch.float32
    if "memory" not in run.state:
        planned = plan(name, size, dtype=str(dtype).removeprefix("torch."))
        run.state["memory"] = memory_pipeline(run, name, dtype), planned
    pipe, planned = run.state["memory"]
    arguments: dict[str, Any] = dict(height=size, width=size, num_inference_steps=2, output_type="pt")
    if at is None:
        call = lambda: pipe(PROMPT, **arguments)  # noqa: E731
    else:
        aligned = align(pipe, rewards.load("redness"), "ntrk", gradient_at=at, checkpointing=checkpointing)
        call = lambda: aligned(PROMPT, seeds=[0], **arguments)  # noqa: E731
    expected = planned.total(at, checkpointing)
    if not run.cuda:
        call()
        raise Skip(f"runs; planned {expected / 2**20:.1f} MiB; memory.py measures the memory of a CPU")
    before = torch.cuda.memory_allocated(run.device)
    # What earlier checks still hold is not the run's.
    measured = peak_bytes(run, call) - max(before - planned.weights, 0)
    found = {
        "model": name,
        "pixels": size,
        "measured_mib": measured / 2**20,
        "planned_mib": expected / 2**20,
        "planned_over_measured": expected / measured,
        "weights_mib": planned.weights / 2**20,
    }
    # A plan that is a tenth too low would not warn of a run that does not fit.
    if not 0.9 < expected / measured < 1.25:
        raise Failure(found)
    return found


# --- The list --------------------------------------------------------------------------------------------------------


def imports(run: Run) -> dict[str, Any]:
    """Imports what the pipelines need, and lists the families."""
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    run.state["families"] = list(families())
    names = " ".join(run.state["families"])
    return {"diffusers": diffusers.__version__, "transformers": transformers.__version__, "families": names}


def checks(run: Run, compiled: bool) -> Iterator[tuple[str, Callable[[Run], dict[str, Any]]]]:
    """All checks, the most important first."""
    part = functools.partial
    yield "machine", machine
    for count in EVENTS:
        yield f"W, N = {count}, time", part(whitening_time, count=count)
    yield "W, host syncs", part(whitening_syncs, count=65_536)
    yield "imports", imports
    names = run.state.get("families", [])
    yield from pipeline_checks(names, "bf16")
    for method in (None, "ntrk"):
        for name in ("sd", "flux"):
            yield f"{name}, {method or 'plain'}, host syncs", part(host_syncs, name=name, method=method)
    for number, label in enumerate(("plain", "x0", "x0 checkpointing", "x_t", "x_t checkpointing")):
        yield f"peak memory, {label}", part(memory, number=number)
    for count in EVENTS:
        yield f"W, N = {count}, kernels", part(whitening_kernels, count=count)
    yield from pipeline_checks(names, "fp16")
    for name in names:
        if name not in ("sd", "flux", "sprint"):
            yield f"{name}, ntrk, host syncs", part(host_syncs, name=name, method="ntrk")
    for count in EVENTS if compiled else ():
        yield f"W, N = {count}, compiled", part(whitening_compiled, count=count)


def pipeline_checks(names: list[str], dtype: str) -> Iterator[tuple[str, Callable[[Run], dict[str, Any]]]]:
    for name in names:
        yield f"{name}, {dtype}, base equals plain", functools.partial(equality, name=name, dtype=DTYPES[dtype])
    for name in names:
        yield f"{name}, {dtype}, ntrk raises", functools.partial(raises_reward, name=name, dtype=DTYPES[dtype])


def end_at_deadline(run: Run) -> None:
    """Raises OutOfTime in the check that runs when the time budget ends, where the system has alarms."""

    def stop(*_: Any) -> None:
        if run.checking:
            raise OutOfTime

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(run.deadline - time.perf_counter(), 0.001))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, … or cpu (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=360, help="time budget (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="file (default: %(default)s)")
    parser.add_argument("--only", default="", help="run only checks whose name has this text, and the first ones")
    parser.add_argument("--compile", action="store_true", help="also time W under torch.compile, last")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("gpu_check.py found no GPU; use --device cpu for the same checks at a smaller size")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    run = Run(given.device, given.seconds, given.out)
    end_at_deadline(run)
    for name, function in checks(run, given.compile):
        if given.only in name or name in ("machine", "imports"):
            run.check(name, function)
    if hasattr(signal, "SIGALRM"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    counts = collections.Counter(result["status"] for result in run.results)
    print(", ".join(f"{count} {status}" for status, count in counts.items()), f"→ {given.out}")
    sys.exit(1 if counts["FAILED"] or counts["ERROR"] else 0)


if __name__ == "__main__":
    main()

"""The model of a job of `generate` or `optimize`, with the defaults that depend on it."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..integrations.load import default_device, is_pipeline, load, local_checksums
from ..methods import Method

Job = TypeVar("Job")


def with_defaults(job: Job) -> Job:
    """The job with the device, batch and chunk that its model has by default.

    Pipelines use the GPU if there is one, and make and decode one image at a time.
    """
    settings: Any = job
    pipeline = is_pipeline(settings.model)
    few = 1 if pipeline else 8
    return replace(
        settings,
        device=(default_device() if pipeline else "cpu") if settings.device is None else settings.device,
        batch=few if settings.batch is None else settings.batch,
        chunk=few if settings.chunk is None else settings.chunk,
    )


def with_checksums(job: Job) -> Job:
    """The job with the checksums of the Python files of its rewards and its method, which are executed, and of its LoRA
    files.

    Raises:
        OSError: if a file cannot be read.
    """
    settings: Any = job
    named = [reward for reward in (settings.reward, getattr(job, "heldout", None)) if reward is not None]
    return replace(settings, checksums=local_checksums(named, settings.lora, [settings.method]))


def load_job_model(job: Any) -> Any:
    """The model of a job.

    Raises:
        ValueError, OSError, ImportError, MemoryError: as `noisetilt.load`.
    """
    return load(
        job.model,
        device=job.device,
        dtype=job.dtype,
        guidance=job.guidance,
        offload=job.offload,
        height=job.height,
        width=job.width,
        lora=job.lora,
        checkpointing=job.checkpointing,
        frames=job.frames,
    )


def memory_setting(job: Any, method: Method) -> Any:
    """The `Setting` of a job's run with a method."""
    from ..integrations.diffusers.out_of_memory import Setting
    from ..integrations.stepped_sampler import gradient_of_call

    return Setting(gradient_of_call(method, job.gradient_at), job.checkpointing, job.offload or "none")


def warn_of_memory(job: Any, method: Method) -> None:
    """Prints what would help, before the weights are loaded, if a pipeline does not fit into the GPU's memory."""
    if not is_pipeline(job.model):
        return
    from ..integrations.diffusers import out_of_memory
    from ..integrations.diffusers.load_pipeline import find_dtype
    from ..integrations.diffusers.plan import plan

    has = out_of_memory.gpu_memory(job.device)
    if has is None:
        return
    dtype, images = find_dtype(job.dtype, job.device), min(job.batch, len(job.prompts))
    rows = images * method.selection.particles
    sizes = dict(height=job.height, width=job.width)
    try:
        name = str(dtype).removeprefix("torch.")
        found = plan(job.model, None, job.frames, rows, name, min(job.chunk, rows), images=images, **sizes)
    except (ValueError, OSError, ImportError):  # `load` reports what is wrong with the model
        return
    setting = memory_setting(job, method)
    if setting.bytes_of(found) > has:
        size = None if job.height is None else (job.height, job.width)
        changed = out_of_memory.choices(setting, rows, dtype, size, method.selection.particles)
        print(f"noisetilt: warning: {out_of_memory.advice(found, setting, changed, has)}", file=sys.stderr)


def explained_memory(job: Any, model: Any, method: Method) -> contextlib.AbstractContextManager[Any]:
    """Explains a lack of GPU memory in the native loop of a pipeline's model; other models explain it themselves."""
    if not hasattr(model, "pipe") or hasattr(model, "sample"):
        return contextlib.nullcontext()
    from ..integrations.diffusers.out_of_memory import explained_memory_errors

    rows, rows_of_one = (min(job.chunk, images * method.selection.particles) for images in (job.batch, 1))
    setting = memory_setting(job, method)
    return explained_memory_errors(
        model.pipe, job.device, setting, rows, rows, lambda: model.shape, passes=1, rows_of_one=rows_of_one
    )


def dtype_name(model: Any) -> str | None:
    """The dtype of a model's networks, for the record of a run."""
    pipe = getattr(model, "pipe", None)
    part = None if pipe is None else getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    dtype: torch.dtype | None = getattr(part, "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")

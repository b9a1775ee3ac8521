"""The model of a job of `generate` or `optimize`, with the defaults that depend on it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..integrations.load import default_device, is_pipeline, load
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


def is_free_text(job: Any, model: Any) -> bool:
    """Whether the model is a pipeline that takes any text as prompt, or whose image size is not known beforehand."""
    return is_pipeline(job.model) and not (model.words and hasattr(model, "decode"))


def explained_memory(job: Any, model: Any, method: Method) -> contextlib.AbstractContextManager[Any]:
    """Explains a lack of GPU memory in the native loop of a pipeline's model; other models explain it themselves."""
    if not hasattr(model, "pipe") or hasattr(model, "sample"):
        return contextlib.nullcontext()
    from ..integrations.diffusers.out_of_memory import Setting, explained_memory_errors

    differentiates = method.proposal.needs_gradient or method.initial.needs_reward
    rows = min(job.chunk, job.batch * method.selection.particles)
    setting = Setting(job.gradient_at if differentiates else None)
    return explained_memory_errors(model.pipe, job.device, setting, rows, rows, lambda: model.shape)


def dtype_name(model: Any) -> str | None:
    """The dtype of a model's networks, for the record of a run."""
    pipe = getattr(model, "pipe", None)
    part = None if pipe is None else getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    dtype: torch.dtype | None = getattr(part, "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")

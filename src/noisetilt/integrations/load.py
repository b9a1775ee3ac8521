"""`load`: a model by name, or any supported diffusers pipeline by its folder or hub id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import checksums
from .._messages import unknown_name
from ..methods import method_files
from ..models import MODELS, check_device
from ..models import load as load_by_name
from ..rewards.catalogue import reward_files


def load(
    name: str | Path,
    *,
    device: Any = None,
    dtype: Any = None,
    guidance: float | None = None,
    offload: str | None = None,
    height: int | None = None,
    width: int | None = None,
    lora: Sequence[str] | str = (),
    checkpointing: bool = False,
    frames: int | None = None,
) -> Any:
    """A model for `sample` and, where it supports it, `optimize`.

        from noisetilt import METHODS, load, rewards, sample

        model = load("black-forest-labs/FLUX.1-dev", device="cuda", offload="model", height=768, width=1024)
        method = METHODS["ntrk"].replace(rho=0.0002)
        result = sample(model, ["a red fox"], rewards.load("pickscore"), method, steps=model.steps, chunk=1)

    Args:
        name: one of MODELS; the folder of a diffusers pipeline, as `save_pretrained` writes it; or a hub id.
        device: torch device. By default the CPU for one of MODELS without `offload`, and for a pipeline, or with
            `offload`, the GPU, if there is one.
        dtype: torch dtype, or its name, of the networks. By default bfloat16 for a pipeline on a GPU that is not one of
            MODELS, else float32.
        guidance: classifier-free guidance scale, a finite number. By default the model's own: 3 for emoji128, also from
            a copy of its folder; that of the pipeline's call for others, such as 3.5 for FLUX.1-dev and 1 (none) for
            FLUX.1-schnell, whose network has no guidance input. There is a warning if emoji128 was not trained for it.
        offload: for pipelines on a GPU, "model": each network is on the GPU while it runs only; "sequential": each
            layer is.
        height, width: of the images in pixels, for pipelines. There is a warning if emoji128 was not trained for them.
        lora: for pipelines, folders, files or hub ids of LoRA weights, each with an optional scale:
            "style.safetensors=0.8".
        checkpointing: for pipelines, whether gradients use gradient checkpointing, which takes less memory and more
            time.
        frames: number of frames, for pipelines that make videos; the pipeline's own default if None.
    Returns:
        A model for `sample`. It also has `pipe` if it is a pipeline. A FluxPipeline without `offload` and
        `checkpointing` is a `FluxModel`, which `optimize` takes too. Any other is a `PipelineModel`, which runs the
        pipeline's own loop.
    Raises:
        ImportError: if the model needs diffusers and it is not installed.
        ValueError: if no model has this name, an option is invalid or does not apply to the model, the class of the
            pipeline is not supported, or the device is not available.
        OSError: if the hub cannot be reached.
        MemoryError: if the weights do not fit into the GPU's memory; the message has the options that would help.
    """
    lora = [lora] if isinstance(lora, str) else list(lora)
    for_pipelines: dict[str, Any] = dict(
        offload=offload or "none", height=height, width=width, lora=lora, checkpointing=checkpointing, frames=frames
    )
    name, device = check_load(name, device=device, dtype=dtype, **for_pipelines)
    if name in MODELS and not (name == "emoji128" and _given(for_pipelines)):
        return load_by_name(str(name), device=device, dtype=_dtype(dtype), guidance=guidance)
    import torch

    if name in MODELS and dtype is None:
        dtype = torch.float32

    # Tensors made in inference mode have no gradients.
    with torch.inference_mode(False):
        return _load_pipeline(_source(name), device, dtype, guidance, **for_pipelines)


def check_load(
    name: str | Path, *, device: Any = None, dtype: Any = None, local: bool = True, **for_pipelines: Any
) -> tuple[str | Path, Any]:
    """Raises what `load` raises for a name and options that are wrong whatever the weights are, which are not loaded.

    Args:
        name, device, dtype, for_pipelines: as `load` takes them.
        local: whether the model is loaded on this machine; if not, its device and its files may be elsewhere.

    Returns:
        The name in the spelling of MODELS, and the device.
    """
    from .diffusers.load_pipeline import check_lora, check_offload, pipeline_class_name

    if not isinstance(name, (str, Path)):
        raise ValueError(f"name = {name!r} must be the name of a model, such as 'emoji128', a folder or a hub id")
    if isinstance(name, str) and name.lower() in MODELS and not Path(name).is_dir():
        name = name.lower()
    given, offload = _given(for_pipelines), for_pipelines.get("offload") or "none"
    if name in MODELS and name != "emoji128" and given:
        raise ValueError(f"{given[0]} is for diffusers pipelines and {name} is not one; leave it out")
    height, width = for_pipelines.get("height"), for_pipelines.get("width")
    if (height is None) != (width is None):
        # Stable Diffusion ignores one without the other.
        raise ValueError(f"height = {height} and width = {width} must be given together; give both, or neither")
    if device is None:
        device = "cpu" if name in MODELS and offload == "none" else default_device()
    if local:
        check_device(device)
        _check_name(name)
        lora = for_pipelines.get("lora") or ()
        check_lora([lora] if isinstance(lora, str) else lora)
        if Path(name).is_dir():
            pipeline_class_name(name)
    _dtype(dtype)
    check_offload(offload, device)
    return name, device


def _given(for_pipelines: Mapping[str, Any]) -> list[str]:
    """The names of the options for pipelines that are given."""
    return [
        option for option, value in for_pipelines.items() if value not in (None, "none", [], ()) and value is not False
    ]


def default_device() -> str:
    """The device of pipelines: the GPU, if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def local_checksums(
    rewards: Iterable[str], lora: Sequence[str] | str = (), methods: Iterable[str] = ()
) -> dict[str, str]:
    """The checksums of what images depend on besides names: path → SHA-256 of the Python files of rewards and of
    methods, and of the LoRA files on this machine.

    Args:
        rewards: names or weighted sums, as `rewards.load` takes them.
        lora: as `load` takes it.
        methods: names, as `find_method` takes them.

    Raises:
        OSError: if a file cannot be read.
    """
    from .diffusers.load_pipeline import lora_files

    lora = [lora] if isinstance(lora, str) else lora
    files = {file for reward in rewards for file in reward_files(reward)}
    return checksums({*files, *(file for method in methods for file in method_files(method)), *lora_files(lora)})


def is_pipeline(name: str | Path) -> bool:
    """Whether a name is the folder or hub id of a pipeline, and not one of MODELS."""
    return name not in MODELS and (Path(name).is_dir() or str(name).count("/") == 1)


def _dtype(dtype: Any) -> Any:
    from .diffusers.load_pipeline import find_dtype

    return None if dtype is None else find_dtype(dtype, "cpu")


def _source(name: str | Path) -> str | Path:
    if name == "emoji128":
        from ..models.flux import EMOJI128, verify_checksums

        verify_checksums(EMOJI128)
        return EMOJI128
    return name


def _check_name(name: str | Path) -> None:
    """Raises a ValueError for a name that is neither one of MODELS nor that of a pipeline."""
    if name not in MODELS and not is_pipeline(name):
        hint = f"; there is no folder {name}" if set(str(name)) & set("/\\") else ""
        raise ValueError(
            unknown_name("model", str(name), MODELS)
            + ", or give the folder or the hub id of a diffusers pipeline"
            + hint
        )


def _load_pipeline(
    source: str | Path,
    device: Any,
    dtype: Any,
    guidance: float | None,
    *,
    offload: str,
    height: int | None,
    width: int | None,
    lora: Sequence[str],
    checkpointing: bool,
    frames: int | None,
) -> Any:
    from ..models.flux import FluxModel, set_defaults, trained_guidance
    from .diffusers.folder_plan import reason_of_hub
    from .diffusers.load_pipeline import find_dtype, load_pipeline, pipeline_class_name, place_pipeline
    from .diffusers.out_of_memory import explained_loading
    from .diffusers.pipeline_model import PipelineModel

    dtype = find_dtype(dtype, device)
    try:
        flux = pipeline_class_name(source) == "FluxPipeline"
    except OSError as error:
        reason = reason_of_hub(error)
        raise OSError(f"{str(source)!r} is no folder, and as a hub id it cannot be loaded: {reason}") from error
    trained = trained_guidance(source) if flux else None
    pipe = load_pipeline(source, dtype, lora)
    if flux:
        set_defaults(pipe)
        height, width = (pipe.vae.config.sample_size if side is None else side for side in (height, width))
    with explained_loading(pipe, device, offload):
        if flux and offload == "none" and not checkpointing and frames is None:
            return FluxModel(pipe, guidance, device, dtype, height=height, width=width, trained=trained)
        place_pipeline(pipe, device, offload)
    return PipelineModel(pipe, guidance, device, height, width, checkpointing, offload, frames, trained)

"""`load` of any pipeline, from a folder or a hub id, and `sample` with it; tiny pipelines with random weights."""

import dataclasses
import json
import re
import shutil
import sys
import threading

import diffusers
import pytest
import torch
from tiny_pipelines import SIZE, build, flux

from noisetilt import METHODS, align, load, optimize, rewards, sample
from noisetilt.batch import run_batch
from noisetilt.batch.settings import Settings
from noisetilt.batch.worker import WorkerOptions
from noisetilt.integrations.diffusers.load_pipeline import load_pipeline
from noisetilt.integrations.diffusers.out_of_memory import (
    NetworkCall,
    Setting,
    advice,
    call_plan,
    choices,
    explained_loading,
    weights_plan,
)
from noisetilt.integrations.diffusers.pipeline_model import PipelineModel
from noisetilt.integrations.diffusers.plan import Component, Peaks, Plan
from noisetilt.models.flux import EMOJI128, FluxModel
from noisetilt.sampling.result import StepReport

RED = rewards.load("redness")
PROMPT = "a red fox"
FOLDERS = ["sdxl", "flux", "pixart", "wan", "qwen"]
SIDES = dict(height=SIZE, width=SIZE)
SIZES = {"wan": dict(SIDES, frames=5)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny pipelines, by family; each is saved when it is first used."""
    root = tmp_path_factory.mktemp("pipelines")

    def folder(name):
        if not (root / name).exists():
            pipe, _ = build(name)
            pipe.save_pretrained(root / name)
        return str(root / name)

    return folder


@pytest.mark.parametrize("family", FOLDERS)
def test_a_folder_is_sampled_as_its_pipeline_is_aligned(family, folders):
    model = load(folders(family), device="cpu", **SIZES.get(family, SIDES))
    assert isinstance(model, FluxModel if family == "flux" else PipelineModel)
    if family == "flux":
        return
    call, method = dict(steps=3, seeds=[3, 4], chunk=2), METHODS["ntrk"].replace(rho=0.5)
    found = sample(model, [PROMPT, "blue cat"], RED, method, **call)
    output = align(model.pipe, RED, method, chunk=2)([PROMPT, "blue cat"], seeds=[3, 4], **model.arguments(3))
    assert torch.equal(found.images, next(iter(output.values()))) and torch.equal(found.rewards, output.rewards)
    assert found.images.shape[-3:] == (3, SIZE, SIZE) and found.trace.rewards.shape == (3, 2)
    base = sample(model, [PROMPT, "blue cat"], None, "base", **call)
    assert (found.images - base.images).abs().max() > 1e-3


class KontextModel(PipelineModel):
    """Its pipeline has `image` before `prompt`, and a size of its own."""

    def arguments(self, steps):
        return super().arguments(steps) | dict(max_area=SIZE * SIZE)


def test_prompts_are_those_of_a_pipeline_whose_first_argument_is_an_image():
    model = KontextModel(flux(diffusers.FluxKontextPipeline), **SIDES)
    prompts = [PROMPT, "blue cat"]
    found = sample(model, prompts, None, "base", steps=2, seeds=[3, 4], chunk=2)
    plain = align(model.pipe, None, "base")(prompt=prompts, seeds=[3, 4], **model.arguments(2))
    assert torch.equal(found.images, plain.images) and len(found.images) == 2


class Tokenizer:
    model_max_length = 77


class CLIPTokenizer(Tokenizer):
    pass


class Processor:
    """As Flux 2's `tokenizer`, without a length."""


@pytest.mark.parametrize(
    "first, second, expected",
    [
        (Tokenizer, CLIPTokenizer, 77),  # as Kandinsky 5's, with max_sequence_length for the first one
        (Processor, CLIPTokenizer, None),
        (Processor, None, None),
        (CLIPTokenizer, Tokenizer, 77),
        (CLIPTokenizer, None, None),
    ],
)
def test_the_length_of_prompts_is_that_of_the_tokenizer_that_it_is_for(first, second, expected):
    model = PipelineModel(flux(), **SIDES)
    model.pipe.tokenizer, model.pipe.tokenizer_2 = first(), second and second()
    assert model.arguments(2).get("max_sequence_length") == expected


def test_a_batch_takes_a_pipeline_that_is_loaded_already(folders, tmp_path):
    """Each image in a call of its own, as of a pipeline by name, also on a GPU."""
    model = load(folders("sdxl"), device="cpu", **SIDES)
    summary = run_batch(
        [PROMPT, "blue cat"], tmp_path, model=model, reward="redness", steps=2, seed=3, heldout=False, report=False
    )
    assert summary.complete and not summary.errors
    expected = [sample(model, [text], RED, "ntrk", 2, [seed], chunk=1) for text, seed in ((PROMPT, 3), ("blue cat", 4))]
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [record["reward"] for record in found] == [float(result.rewards[0]) for result in expected]
    assert WorkerOptions("cuda", models={"mine": model}).together(Settings(PROMPT, model="mine")) == 1


def test_the_native_loop_and_the_pipelines_own_agree():
    """A FluxPipeline is loaded as either; with checkpointing it runs its own loop."""
    options = dict(height=64, width=96, device="cpu")
    native, own = load(EMOJI128, **options), load(EMOJI128, checkpointing=True, guidance=3.0, **options)
    assert isinstance(native, FluxModel) and isinstance(own, PipelineModel)
    base = sample(native, "cat face", None, "base", steps=3)
    for method in (METHODS["ntrk"].replace(rho=0.1), METHODS["dps"].replace(scale=20.0)):
        results = [sample(model, "cat face", RED, method, steps=3) for model in (native, own)]
        assert results[0].images.shape == (1, 3, 64, 96)
        assert torch.allclose(results[0].images, results[1].images, atol=5e-3)
        assert (results[0].images - base.images).abs().max() > 0.01
    assert native.words == own.words


@pytest.mark.parametrize("guidance_input, default", [(True, 3.5), (False, 1.0)])
def test_a_flux_folder_has_the_guidance_of_its_pipeline(guidance_input, default, tmp_path):
    """FLUX.1-dev has a guidance input, FLUX.1-schnell none and no classifier-free guidance either."""
    torch.manual_seed(0)
    flux(guidance=guidance_input).save_pretrained(tmp_path)
    native, own = (load(tmp_path, checkpointing=checkpointing, **SIDES) for checkpointing in (False, True))
    assert isinstance(native, FluxModel) and isinstance(own, PipelineModel)
    for guidance in (None, 2.0, None):
        for model in (native, own):
            model.set_guidance(guidance)
            assert model.guidance == (default if guidance is None else guidance)
        images = [sample(model, PROMPT, None, "base", steps=2, seeds=[0]).images for model in (native, own)]
        assert torch.allclose(*images, atol=1e-4)


def test_a_copy_of_emoji128_has_its_guidance(tmp_path):
    """Without options, with an option of pipelines, and from a copy of its folder; with other weights it has not."""
    folder = shutil.copytree(EMOJI128, tmp_path / "copy")
    for name, options in [("emoji128", {}), ("emoji128", {"checkpointing": True}), (folder, {"device": "cpu"})]:
        model = load(name, guidance=2.0, **options)
        model.set_guidance(None)
        assert model.guidance == load(name, **options).guidance == 3.0
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert load(folder, device="cpu").guidance == 3.5


@pytest.mark.parametrize("options", [{}, {"height": 128, "width": 128}, {"checkpointing": True}])
def test_emoji128_computes_on_the_cpu_in_float32_unless_asked_otherwise(options, monkeypatch):
    """On a machine with a GPU too, and whether it is loaded as a pipeline or not."""
    monkeypatch.setattr("noisetilt.integrations.load.default_device", lambda: "cuda")
    model = load("emoji128", **options)
    assert str(model.device) == "cpu" and model.pipe.transformer.dtype == torch.float32
    assert load("emoji128", dtype="bf16", **options).pipe.transformer.dtype == torch.bfloat16


def test_emoji128_on_a_gpu_computes_in_float32(monkeypatch):
    """Whether it is loaded as a pipeline or not."""
    found = []
    monkeypatch.setattr("noisetilt.integrations.load.check_device", lambda device: None)
    monkeypatch.setattr("noisetilt.integrations.load._load_pipeline", lambda *arguments, **_: found.append(arguments))
    load("emoji128", device="cuda", height=128, width=128)
    assert found[0][1:3] == ("cuda", torch.float32)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), "x", True, [3.0]])
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}])
def test_a_guidance_that_is_no_finite_number_is_refused(guidance, options):
    message = re.escape(f"guidance = {guidance!r} must be a finite number; 1 is no guidance")
    with pytest.raises(ValueError, match=message):
        load("emoji128", guidance=guidance, **options)
    model = load("emoji128", **options)
    with pytest.raises(ValueError, match=message):
        model.set_guidance(guidance)
    assert model.guidance == 3.0


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}])
def test_a_guidance_that_emoji128_was_not_trained_for_has_a_warning(options, recwarn):
    model = load("emoji128", guidance=5.0, **options)
    model.set_guidance(1)
    assert not [one for one in recwarn if "guidance" in str(one.message)]
    for guidance in (0.5, 7.5):
        with pytest.warns(UserWarning, match=f"guidance = {guidance} is outside the range .* 1 to 5; its default is 3"):
            model.set_guidance(guidance)


def test_every_step_is_reported(folders):
    reports = []
    result = sample(load(folders("sd")), PROMPT, RED, "ntrk", steps=3, callback=reports.append, heldout=RED)
    assert [(report.number, report.steps) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert all(isinstance(report, StepReport) for report in reports)
    assert torch.equal(torch.stack([report.rewards for report in reports]), result.trace.rewards)
    assert torch.allclose(result.heldout, result.rewards, atol=1e-5)


def test_the_place_of_the_gradient_reaches_the_pipeline(folders):
    model, method = load(folders("sd"), device="cpu", **SIDES), METHODS["dps"].replace(scale=20.0)
    through, without = (sample(model, PROMPT, RED, method, steps=3, gradient_at=place) for place in ("x_t", "x0"))
    output = align(model.pipe, RED, method, gradient_at="x0", chunk=1)(PROMPT, seeds=[0], **model.arguments(3))
    assert torch.equal(without.images, next(iter(output.values())))
    assert (through.images - without.images).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["sd", "sdxl", "qwen", "sd3"])
def test_a_model_is_checked_while_it_samples(family, folders):
    """As the studio does for a second visitor, in another thread."""
    model = load(folders(family), **SIDES)
    path, errors = type(model.path), []

    def check():
        try:
            model.check([PROMPT], "ntrk", RED, 1.0)
            assert type(model.path) is path
        except (ValueError, AssertionError) as error:
            errors.append(error)

    def in_thread(report):
        thread = threading.Thread(target=check)
        thread.start()
        thread.join()

    sample(model, PROMPT, RED, "ntrk", steps=2, callback=in_thread)
    checking = dataclasses.replace(RED, function=lambda *inputs: (check(), RED(*inputs))[1])
    sample(model, PROMPT, checking, "ntrk", steps=1)
    assert errors == []


def test_a_time_grid_does_not_change_the_scheduler_of_the_pipeline():
    model = load(EMOJI128)
    model.pipe.scheduler.set_timesteps(3, mu=0.5)
    before = model.pipe.scheduler.sigmas.clone()
    assert len(model.path.grid(5)) == 6 and torch.equal(model.pipe.scheduler.sigmas, before)


def test_prompts_are_read_as_emoji128_reads_them():
    """Also in the pipeline's own loop; checking them does not change the tokenizer that the loop uses."""
    model = load("emoji128", checkpointing=True)
    images = [sample(model, prompt, None, "base", steps=1, seeds=[0]).images for prompt in ("cat 3d", "cat 3-D")]
    assert torch.equal(*images)
    model.pipe.tokenizer("cat", padding="max_length", truncation=True, max_length=9)
    for prompt, message in [("!!!", "has no word"), ("<eos> cat", "has '<eos>'"), ("smilng", "'smilng'.*smiling")]:
        with pytest.raises(ValueError, match=message):
            model.check([prompt], "base", None, 1.0)
    assert model.pipe.tokenizer._tokenizer.padding["length"] == 9


def test_options_reach_the_pipeline(folders):
    model = load(folders("sd"), dtype="bf16", guidance=2.5, height=24, width=32)
    assert model.pipe.unet.dtype == torch.bfloat16 and model.steps == 50
    assert model.arguments(3) | {"num_inference_steps": 3, "guidance_scale": 2.5, "height": 24, "width": 32} == (
        model.arguments(3)
    )
    assert sample(model, PROMPT, None, "base", steps=1).images.shape == (1, 3, 24, 32)
    assert not any(p.requires_grad for p in model.pipe.unet.parameters())


def test_the_guidance_of_a_loaded_pipeline_is_replaced(folders):
    model = load(folders("sd"))
    own = model.guidance
    model.set_guidance(2.5)
    expected = sample(load(folders("sd"), guidance=2.5), PROMPT, None, "base", steps=1).images
    assert torch.equal(sample(model, PROMPT, None, "base", steps=1).images, expected)
    model.set_guidance(None)
    assert model.guidance == own
    model._guidance_name = None
    with pytest.raises(ValueError, match="has no guidance scale; leave guidance out"):
        model.set_guidance(2.5)


def test_a_hub_id_is_loaded_from_the_cache(folders, tmp_path, monkeypatch):
    """The layout is that of huggingface_hub; nothing is downloaded."""
    place = tmp_path / "models--some--pipeline"
    shutil.copytree(folders("sd"), place / "snapshots" / "1")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("diffusers.configuration_utils", "diffusers.pipelines.pipeline_utils", "diffusers.utils.hub_utils"):
        monkeypatch.setattr(f"{name}.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = load("some/pipeline")
    assert isinstance(model.pipe, diffusers.StableDiffusionPipeline)
    with pytest.raises(OSError, match=r"'some/other' is no folder, .* cannot be loaded: it is not in the cache"):
        load("some/other")


def test_lora_weights_are_added_with_their_scale(folders, tmp_path):
    import peft

    pipe, _ = build("sd")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    state = peft.get_peft_model_state_dict(pipe.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(str(tmp_path), unet_lora_layers=state)
    loras = [None, f"{tmp_path}=0", f"{tmp_path}=0.5", str(tmp_path)]
    images = [
        sample(load(folders("sd"), lora=lora or ()), PROMPT, None, "base", steps=2, seeds=[0]).images for lora in loras
    ]
    assert torch.allclose(images[0], images[1], atol=1e-5)
    half, whole = ((image - images[0]).abs().max() for image in images[2:])
    assert 1e-4 < half < whole


def test_without_peft_a_lora_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'a LoRA needs peft; run pip install "\.\[lora\]"'):
        load_pipeline("some/pipeline", torch.float32, [str(tmp_path)])


@pytest.mark.parametrize(
    "options, word",
    [
        (dict(offload="model"), "offload = 'model' needs a GPU"),
        (dict(offload="group"), "offload = 'group' is unknown"),
        (dict(dtype="int8"), "dtype = 'int8'"),
        (dict(height=16), "must be given together"),
        (dict(frames=5), "frames = 5 is for video pipelines and StableDiffusionPipeline makes images"),
        (dict(lora="/nowhere"), "there is no LoRA '/nowhere'; give a file or folder that exists"),
        (dict(lora="x.safetensors=0.5"), "there is no LoRA 'x.safetensors'"),
        (dict(lora="a/x.safetensors"), "there is no LoRA 'a/x.safetensors'"),
        (dict(device="gpu"), "device = 'gpu' is unknown; use 'cpu'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, word, folders):
    with pytest.raises(ValueError, match=word):
        load(folders("sd"), **{"device": "cpu", **options})


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), Exception("")])
def test_a_lora_that_the_hub_does_not_give_is_one_sentence(error, folders, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "load_lora_weights", fail)
    with pytest.raises(ValueError, match=r"^the LoRA 'some/lora' cannot be loaded into StableDiffusionPipeline: \w.*$"):
        load(folders("sd"), device="cpu", lora="some/lora")


def test_names_that_cannot_be_loaded_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=r"emoji129.*did you mean 'emoji128'.*hub id of a diffusers pipeline"):
        load("emoji129")
    with pytest.raises(ValueError, match=r"there is no folder \./no/where"):
        load("./no/where")
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        load(EMOJI128 / "vae")
    shutil.copytree(folders("sd"), tmp_path / "image")
    index = tmp_path / "image" / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "_class_name": "StableDiffusionImg2ImgPipeline"}))
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline needs the input 'image'"):
        load(tmp_path / "image")


def test_calls_that_cannot_be_are_refused(folders):
    model = load(folders("sd"))
    with pytest.raises(ValueError, match="grid is not supported"):
        sample(model, PROMPT, RED, grid=[1.0, 0.0])
    for steps in (0, 2.5):
        with pytest.raises(ValueError, match=f"steps = {steps} must be a whole number, 1 or more"):
            sample(model, PROMPT, RED, steps=steps)
    with pytest.raises(ValueError, match="eta = 0"):
        sample(model, PROMPT, RED, "ntrk", eta=0.0)
    with pytest.raises(ValueError, match="does not know the word 'dragon'"):
        sample(model, "a dragon", RED)
    with pytest.raises(ValueError, match="StableDiffusionPipeline runs its own sampling loop"):
        optimize(model, PROMPT, RED)


def test_a_flux_folder_is_optimized(folders):
    result = optimize(load(folders("flux"), **SIDES), PROMPT, RED, "gper", iterations=3)
    assert result.images.shape == (1, 3, SIZE, SIZE) and result.rewards > result.trace.rewards[0]


def full_gpu(*args, **kwargs):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("family", ["sd", "wan", "qwen"])
def test_a_full_gpu_is_answered_with_the_flags_that_help(family, folders, monkeypatch):
    """The plan is that of the call that failed, with its real sizes."""
    model = load(folders(family), **SIZES.get(family, SIDES))
    network = getattr(model.pipe, "unet", None) or model.pipe.transformer
    monkeypatch.setattr(network, "forward", full_gpu)
    with pytest.raises(MemoryError, match=r"the GPU ran out of memory: the run needs about .* MiB; use ") as caught:
        sample(model, [PROMPT, PROMPT], RED, "ntrk", steps=2)
    text = str(caught.value)
    assert text.count("--") >= 3 and "together" in text and "\n" not in text
    monkeypatch.undo()
    assert sample(model, [PROMPT], RED, "ntrk", steps=2).images.isfinite().all()
    assert not network._forward_pre_hooks


def test_other_errors_stay_as_they_are(folders, monkeypatch):
    model = load(folders("sd"))
    monkeypatch.setattr(model.pipe.unet, "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample(model, PROMPT, RED)


def test_weights_that_do_not_fit_are_answered_too(folders):
    model = load(folders("sd"))
    flags = r"use --(offload model|dtype bfloat16) .* or --(dtype bfloat16|offload model) .* together"
    with pytest.raises(MemoryError, match=flags), explained_loading(model.pipe, "cpu", "none"):
        full_gpu()


def test_the_plan_of_a_call_is_that_of_the_networks(folders):
    """Against the same networks' peaks on the CPU, whose tensors are counted as they are made."""
    from noisetilt.integrations.diffusers.plan import call_peaks

    pipe = load(folders("sd")).pipe
    text, x = torch.zeros(2, 8, 16), torch.zeros(2, 4, 8, 8)
    kwargs = {"timestep": torch.ones(2), "encoder_hidden_states": text}
    found = call_plan(pipe, NetworkCall(pipe.unet, (x.to("meta"),), _on_meta(kwargs)), (4, 8, 8), 1, 1)
    unet = pipe.unet
    plain, graph, peak = call_peaks(unet, lambda z: unet(z, **kwargs, return_dict=False)[0], x)
    assert found.peaks.graph == graph and found.peaks.network == peak and found.peaks.plain == plain
    assert found.weights == weights_plan(pipe).weights > 4 * sum(p.numel() for p in unet.parameters())


def _on_meta(values):
    return {name: value.to("meta") for name, value in values.items()}


GIB = 2**30
PLAN = Plan(
    [
        Component("text_encoder", "T", 1, 10 * GIB, GIB // 2),
        Component("transformer", "N", 1, 24 * GIB, GIB // 2),
        Component("vae", "V", 1, 1 * GIB),
    ],
    Peaks(plain=2 * GIB, graph=20 * GIB, network=30 * GIB, decode=12 * GIB, final=3 * GIB),
    Peaks(plain=2 * GIB, graph=2 * GIB, network=5 * GIB, decode=6 * GIB, final=3 * GIB),
)


def test_advice_is_the_plans_arithmetic():
    setting = Setting("x_t")
    assert setting.bytes_of(PLAN) == (35 + 32) * GIB
    found = choices(setting, 1, torch.bfloat16, (1024, 1024))
    sizes = {flag: round(changed.bytes_of(PLAN) / GIB, 2) for flag, changed in found.items()}
    assert sizes == {
        "--offload model": 25 + 32,
        "--offload sequential": 25 + 32,
        "--gradient-at x0": 35 + 12,
        "--checkpointing": 35 + 8,
        "--height 512 --width 512": 35 + 8,
    }
    text = advice(PLAN, setting, found, 60 * GIB)
    assert text == (
        "the run needs about 67.0 GiB and the GPU has 60.0 GiB; use --checkpointing (43.0 GiB), --gradient-at x0 "
        "(47.0 GiB) or --offload model (57.0 GiB), together 27.0 GiB (estimated, without the reward's network)"
    )
    assert "--offload sequential (57.0 GiB), together 7.5 GiB" in advice(PLAN, setting, found, 12 * GIB)


def test_advice_is_short_where_little_helps():
    setting = Setting("x0", True, "sequential")
    assert advice(PLAN, setting, {}, None) == "the run needs about 7.5 GiB; use a smaller model"
    found = choices(setting, 4, torch.bfloat16, None)
    assert "use --batch 1 (" in advice(PLAN, setting, found, None) and "together" not in advice(
        PLAN, setting, found, None
    )


def test_offloaded_weights_count_while_they_are_needed():
    plain, x0 = (PLAN.total(at, offload="model") for at in (None, "x0"))
    assert plain == (24 + 2) * GIB and x0 == (1 + 24 + 2) * GIB
    assert PLAN.total("x0", offload="sequential") == (1 + 12 + 0.5) * GIB
    assert PLAN.total("x_t", True, offload="model") == (24 + 1 + 8) * GIB
    assert PLAN.total("x_t", True, offload="model", activations=0.5) == (24 + 1 + 4) * GIB


def test_what_is_on_already_is_not_advised():
    setting = Setting(None, False, "model")
    assert list(choices(setting, 1, torch.bfloat16, None)) == ["--offload sequential"]
    assert list(choices(Setting("x0", True, "sequential"), 4, torch.float32, None)) == ["--batch 1", "--dtype bfloat16"]
    assert list(choices(Setting("x0", True, "sequential"), 4, torch.float32, None, rows_of_one=4)) == [
        "--dtype bfloat16"
    ]
    assert choices(setting, 8, torch.float32, None, rows_of_one=4)["--batch 1"].activations == 0.5

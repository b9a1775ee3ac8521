"""The memory plan: counted bytes against measured ones, and the known models' sizes."""

import json

import diffusers
import pytest
import torch
from tiny_pipelines import build, flux
from torch import nn
from torch.profiler import ProfilerActivity, profile

from noisetilt.cli import main
from noisetilt.cli.plan import plan_tables
from noisetilt.integrations.diffusers.components import build_component, find_model, known_models, latent_shape
from noisetilt.integrations.diffusers.memory import LiveMemory, fused_attention
from noisetilt.integrations.diffusers.out_of_memory import call_plan, recorded_call, weights_plan
from noisetilt.integrations.diffusers.plan import Component, Peaks, Plan, call_peaks, count_weights, plan
from noisetilt.models.flux import EMOJI128

UNET = dict(
    sample_size=32,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=64,
    attention_head_dim=4,
)
FLUX = dict(
    num_layers=1,
    num_single_layers=3,
    attention_head_dim=32,
    num_attention_heads=4,
    joint_attention_dim=64,
    pooled_projection_dim=32,
    axes_dims_rope=(4, 14, 14),
    guidance_embeds=True,
)


def network(kind, device, checkpointing=False):
    """A small network with the shape of the real one, a call of it, and latents for it."""
    new = lambda *shape: torch.ones(shape, device=device)  # noqa: E731
    if kind == "unet":
        module, x, rest = diffusers.UNet2DConditionModel(**UNET), (2, 4, 32, 32), {"timestep": new(2)}
        rest["encoder_hidden_states"] = new(2, 77, 64)
    else:
        module, x = diffusers.FluxTransformer2DModel(**FLUX), (1, 256, 64)
        rest = dict(encoder_hidden_states=new(1, 64, 64), pooled_projections=new(1, 32), timestep=new(1))
        rest |= dict(img_ids=new(256, 3), txt_ids=new(64, 3), guidance=new(1))
    module = module.eval().requires_grad_(False).to(device)
    if checkpointing:
        module.enable_gradient_checkpointing()
    return module, lambda latents: module(latents, **rest, return_dict=False)[0], new(*x)


def with_gradient(call, x):
    leaf = x.detach().requires_grad_()
    out = call(leaf)
    return torch.autograd.grad(out, leaf, torch.ones_like(out))[0]


def measured_peak(run, file):
    """The most bytes that torch's own allocator has given out at a time, by its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    profiler.export_chrome_trace(str(file))
    events = [e for e in json.loads(file.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("kind", ["unet", "flux"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_estimates_are_what_the_allocator_gives_out(kind, checkpointing, tmp_path):
    """On the meta device, within 5 % of what a real run on a CPU takes, without gradient and with it."""
    _, call, x = network(kind, "cpu", checkpointing)
    with_gradient(call, x)
    plain = measured_peak(lambda: torch.no_grad()(call)(x), tmp_path / "plain.json")
    peak = measured_peak(lambda: with_gradient(call, x), tmp_path / "peak.json")
    empty, empty_call, no_x = network(kind, "meta", checkpointing)
    found_plain, _, found_peak = call_peaks(empty, empty_call, no_x)
    assert found_plain == pytest.approx(plain, rel=0.05)
    assert found_peak == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("kind", ["unet", "flux"])
def test_what_is_held_is_what_autograd_saves(kind):
    real, call, x = network(kind, "cpu")
    weights = {p.untyped_storage().data_ptr() for p in real.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = call(x.requires_grad_())
    saved = sum(size for size, _ in kept.values())
    assert out.isfinite().all()
    empty, empty_call, no_x = network(kind, "meta")
    assert call_peaks(empty, empty_call, no_x)[1] == pytest.approx(saved, rel=0.02)


def test_checkpointing_keeps_less_and_rows_add_up():
    held = {}
    for checkpointing in (False, True):
        module, call, x = network("flux", "meta", checkpointing)
        held[checkpointing] = call_peaks(module, call, x)
    assert held[True][1] < 0.3 * held[False][1] and held[True][2] < held[False][2]
    assert held[True][0] == held[False][0]


def test_live_memory_counts_storages_once():
    weight = torch.ones(10)
    with LiveMemory([weight]) as memory:
        a = torch.ones(100)
        view = a[:50].view(5, 10) * 1
        assert memory.live == 400 + 200
        a.add_(1)
        b = weight.view(2, 5)
        assert memory.live == 600
        del a, b
        assert memory.live == 200 and memory.peak >= 600
        del view
    assert memory.live == 0


def test_fused_attention_keeps_no_matrix():
    q = torch.ones(1, 2, 1000, 8, device="meta", requires_grad=True)
    with fused_attention(), LiveMemory() as memory:
        out = nn.functional.scaled_dot_product_attention(q, q, q)
        torch.autograd.grad(out.sum(), q)
    assert out.shape == q.shape and memory.peak < 8 * q.numel() * 4
    assert nn.functional.scaled_dot_product_attention(torch.ones(1, 1, 2, 2), *[torch.ones(1, 1, 2, 2)] * 2).sum() == 4


# In thousands of millions, as the models' own pages and papers say.
PUBLISHED = {
    "SD-1.5": {"unet": 0.860, "vae": 0.084, "text_encoder": 0.123},
    "SD-2.1": {"unet": 0.866, "text_encoder": 0.340},
    "SDXL": {"unet": 2.57, "text_encoder_2": 0.695},
    "SD3-medium": {"transformer": 2.03, "text_encoder_3": 4.76},
    "SD3.5-large": {"transformer": 8.06},
    "FLUX.1-dev": {"transformer": 11.90, "text_encoder_2": 4.76},
    "PixArt-Sigma": {"transformer": 0.61},
    "Sana-1.6B": {"transformer": 1.60, "text_encoder": 2.61},
    "Wan2.1-1.3B": {"transformer": 1.42, "vae": 0.127, "text_encoder": 5.68},
    "Wan2.1-14B": {"transformer": 14.29},
}


@pytest.mark.parametrize("name", known_models())
def test_known_models_have_their_published_sizes(name):
    parts = find_model(name)["parts"]
    for part, billions in PUBLISHED[name].items():
        module = build_component(parts[part], torch.bfloat16)
        found = sum(p.numel() for p in module.parameters()) / 1e9
        assert found == pytest.approx(billions, rel=0.01), part


@pytest.fixture
def tiny(monkeypatch):
    """A known model with the parts of SD 1.5, smaller."""
    from noisetilt.integrations.diffusers import components as module

    model = json.loads(json.dumps(find_model("SD-1.5")))
    model["parts"]["unet"]["config"] = dict(UNET)
    text = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=100)
    model["parts"]["text_encoder"]["config"], model["text"] = text, [77, 64]
    model["parts"]["vae"]["config"] |= dict(block_out_channels=[32, 32, 32, 32], layers_per_block=1)
    monkeypatch.setattr(module, "known_models", lambda: {"tiny": model})
    return model


def test_modes_are_ordered_and_rows_cost(tiny):
    one, two = plan("tiny", 128), plan("tiny", 128, batch=2)
    plain, cheap, x0, less, x_t = (
        one.total(at, less) for at, less in ((None, False), ("x0", True), ("x0", False), ("x_t", True), ("x_t", False))
    )
    assert plain < cheap < x0 < x_t and cheap < less < x_t
    assert one.total("x_t") > one.total("x_t", text=False) > one.peaks.of("x_t")
    assert two.peaks.graph == pytest.approx(2 * one.peaks.graph, rel=0.02)
    assert two.peaks.decode == one.peaks.decode and two.weights == one.weights


def test_particles_are_not_decoded_at_the_end(tiny):
    """Only the best one of each image is; its network takes all of them."""
    one, rows, particles = plan("tiny", 128), plan("tiny", 128, batch=4), plan("tiny", 128, batch=4, images=1)
    assert particles.peaks.final == one.peaks.final < rows.peaks.final
    assert particles.peaks.network == rows.peaks.network and particles.peaks.plain == rows.peaks.plain
    with pytest.raises(ValueError, match="images = 0 must be 1 or more"):
        plan("tiny", 128, images=0)


def test_pictures_need_not_be_square(tiny):
    """Turned by a right angle they take the same; half of one takes less."""
    square, wide, tall = plan("tiny", 128), plan("tiny", 128, height=64), plan("tiny", height=128, width=64)
    assert wide.peaks == tall.peaks and wide.total("x_t") < square.total("x_t")
    assert plan("tiny", height=128, width=128).peaks == square.peaks


def test_precision_halves_the_weights(tiny):
    part = tiny["parts"]["unet"]
    whole, half = (count_weights("unet", build_component(part, dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert whole.weights == 2 * half.weights == 4 * whole.parameters


def test_the_command_prints_a_row_per_part_and_mode(tiny, capsys):
    assert main(["plan", "TINY", "--resolution", "64", "--gradient-at", "x0"]) == 0  # in any case of letters
    text = capsys.readouterr().out
    assert all(word in text for word in ("text_encoder", "UNet2DConditionModel", "plain pipeline", "> gradient at x0"))
    assert "> gradient at x_t" not in text


def test_the_tables_fit_the_terminal(tiny, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert main(["plan", "TINY", "--resolution", "64", "--memory", "24"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 50 and "  total, offloaded: " in text


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["GPT-4"], "FLUX.1-dev"),
        (["SD-1.5", "--resolution", "500"], "height = 500 must be a multiple of 64"),
        (["SD-1.5", "--width", "500"], "width = 500 must be a multiple of 64"),
        (["SD-1.5", "--frames", "5"], "makes images"),
        (["Wan2.1-1.3B", "--frames", "80"], "4n \\+ 1"),
        (["SD-1.5", "--dtype", "int8"], "float32, float16 or bfloat16|float32, float16, bfloat16"),
        (["SD-1.5", "--batch", "0"], "batch = 0"),
        *(
            (["SD-1.5", "--memory", memory], "memory = .* must be a positive number")
            for memory in ("-5", "0", "nan", "inf")
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, word, capsys):
    import re

    assert main(["plan", *arguments]) == 2
    assert re.search(word, capsys.readouterr().err)


def test_shapes_of_latents():
    assert latent_shape(find_model("FLUX.1-schnell"), 1024, 512, 1) == (16, 128, 64)
    assert latent_shape(find_model("Wan-AI/Wan2.1-T2V-14B-Diffusers"), 480, 832, 81) == (16, 21, 60, 104)
    assert latent_shape(find_model("Sana-1.6B"), 1024, 1024, 1) == (32, 32, 32)


@pytest.mark.parametrize("name, size", [("stabilityai/sdxl-turbo", (512, 512)), ("Wan2.1-1.3B", (480, 832))])
def test_the_size_is_that_of_the_pipelines_own_call(name, size):
    frames = 1 if "Wan" in name else None
    own, given = plan(name, frames=frames), plan(name, frames=frames, height=size[0], width=size[1])
    assert own.peaks == given.peaks


@pytest.mark.parametrize("embeds", [False, True])
def test_a_flux_folder_is_planned_without_classifier_free_guidance(embeds, tmp_path):
    flux(guidance=embeds).save_pretrained(tmp_path)
    assert find_model(str(tmp_path))["guidance_rows"] == 1
    assert find_model(str(EMOJI128))["guidance_rows"] == 2


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "sana", "wan"])
def test_the_plan_of_a_folder_is_that_of_the_pipelines_own_call(family, tmp_path):
    """Only configuration files are left in the folder; the peaks are those of the network call of a real run."""
    pipe, arguments = build(family)
    with recorded_call(pipe) as calls:
        pipe("a red fox", **{**arguments, "num_inference_steps": 1})
    pipe.save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    frames = arguments.get("num_frames")
    sizes = dict(height=arguments["height"], width=arguments["width"])
    found = plan(str(tmp_path), frames=frames, dtype="float32", **sizes)
    shape = latent_shape(find_model(str(tmp_path)), frames=frames or 1, **sizes)
    real = call_plan(pipe, calls[0], shape, 1, 1)
    assert found.weights == real.weights and not found.weights_only
    # Wan calls its network twice a step; the plan counts one call of two rows.
    for peak in ("graph", "decode", "final", *(() if family == "wan" else ("plain", "network"))):
        assert getattr(found.peaks, peak) == pytest.approx(getattr(real.peaks, peak), rel=0.02), peak


def test_the_plan_of_another_class_has_its_weights(tmp_path, capsys):
    pipe, _ = build("qwen")
    pipe.save_pretrained(tmp_path)
    found = plan(str(tmp_path), dtype="float32")
    assert found.weights_only and found.weights == weights_plan(pipe).weights
    assert main(["plan", str(tmp_path)]) == 0
    assert "activations of this pipeline are not known" in capsys.readouterr().out
    (tmp_path / "model_index.json").unlink()
    assert main(["plan", str(tmp_path)]) == 2
    assert "no model_index.json" in capsys.readouterr().err


def test_the_configuration_of_a_hub_id_is_read(tmp_path, monkeypatch):
    pipe, _ = build("sd")
    pipe.save_pretrained(tmp_path)
    requested = []

    def download(name, allow_patterns):
        requested.append((name, allow_patterns))
        if name == "no/such":
            raise FileNotFoundError("404")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert plan("some/pipeline", 64).weights == plan(str(tmp_path), 64).weights
    assert {pattern.split(".")[-1] for _, patterns in requested for pattern in patterns} == {"json"}
    for offline, reason in ((False, "404"), (True, "it is not in the cache, and HF_HUB_OFFLINE is set")):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        with pytest.raises(OSError, match=rf"'no/such' is no known model .* as a hub id it cannot be read: {reason}"):
            plan("no/such")


def test_the_table_says_what_fits(monkeypatch):
    """A run of 43 GiB, and of 33 GiB without the text encoder; a tenth is kept free."""
    monkeypatch.delenv("COLUMNS", raising=False)
    gib = 2**30
    sizes = {"text_encoder": 10 * gib, "transformer": 24 * gib, "vae": gib}
    peaks = Peaks(plain=2 * gib, graph=2 * gib, network=5 * gib, decode=6 * gib, final=3 * gib)
    found = Plan([Component(name, "", 1, size) for name, size in sizes.items()], peaks, peaks)
    fits = []
    for memory in (1.11 * 43, 1.09 * 43, 1.09 * 33):
        lines = plan_tables(found, "x_t", True, memory).splitlines()
        fits.append(next(line for line in lines if line.startswith("> ")).split("  ")[-1].strip())
    assert fits == ["yes", "--offload model", "no"]
    assert "43.00" in plan_tables(found, "x_t", True) and "43.000" not in plan_tables(found, "x_t", True)

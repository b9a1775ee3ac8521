"""What people put into pipelines: adapters, and hooks that move networks about. Tiny instances of the real classes."""

import accelerate
import diffusers
import pytest
import torch
from tiny_pipelines import FAMILIES, build, cascade, check_same, ideogram, wan

from noisetilt import align, rewards
from noisetilt.integrations.diffusers import offload, pipeline_call

RED = rewards.load("redness")
PROMPT = "a red fox"


def lora(family, folder):
    """A random LoRA of the network's attention, as a file that the family's pipelines load."""
    import peft

    pipe, _ = build(family)
    network = getattr(pipe, "unet", None) or pipe.transformer
    network.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora" in name:
                parameter.copy_(torch.randn_like(parameter))
    layers = {("unet" if family == "sd" else "transformer") + "_lora_layers": peft.get_peft_model_state_dict(network)}
    type(pipe).save_lora_weights(folder, **layers)
    return folder


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_lora_keeps_its_effect_and_can_come_and_go(family, tmp_path, record_property):
    """Guided calls before it, with it and after it: base at η = 0 is the plain pipeline each time."""
    pipe, arguments = build(family)
    aligned, plainly = align(pipe, RED, "ntrk"), align(pipe, None, "base", eta=0.0)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = pipe._pack_latents(noise, 1, 4, 8, 8) if family == "flux" else noise

    def pictures():
        guided = aligned(PROMPT, seeds=[0], **arguments)
        plain = pipe(PROMPT, latents=noise, **arguments).images
        check_same(plainly(PROMPT, latents=noise, **arguments).images, plain, record_property)
        assert guided.rewards > align(pipe, RED, "base")(PROMPT, seeds=[0], **arguments).rewards
        return plain, guided.images

    before = pictures()
    pipe.load_lora_weights(lora(family, tmp_path))
    during = pictures()
    assert pipe.get_active_adapters() == ["default_0"]
    pipe.set_adapters(["default_0"], [0.0])
    silenced = pictures()
    pipe.unload_lora_weights()
    after = pictures()
    for first, loaded, zero, last in zip(before, during, silenced, after, strict=True):
        assert (loaded - first).abs().max() > 1e-2
        assert (zero - first).abs().max() < 1e-5 and torch.equal(last, first)


def test_the_gradient_goes_through_a_lora(tmp_path):
    """Its parameters ask for none during the call, and are left as they were."""
    pipe, arguments = build("sd")
    pipe.load_lora_weights(lora("sd", tmp_path))
    own = {name: p for name, p in pipe.unet.named_parameters() if "lora" in name}
    for parameter in own.values():
        parameter.requires_grad_(True)
    seen = []
    hook = pipe.unet.register_forward_hook(lambda *_: seen.append(any(p.requires_grad for p in own.values())))
    norms = [align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments).trace.gradient_norm]
    hook.remove()
    pipe.set_adapters(["default_0"], [0.0])
    norms.append(align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments).trace.gradient_norm)
    assert seen == [False] * 4 and all(p.requires_grad and p.grad is None for p in own.values())
    assert not torch.allclose(*norms, rtol=1e-3)


def sequentially_offloaded(family):
    """What `enable_sequential_cpu_offload` does, with the CPU in place of the accelerator, which it asks for."""
    pipe, arguments = build(family)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            accelerate.cpu_offload(module, torch.device("cpu"), offload_buffers=bool(module._parameters))
    return pipe, arguments


@pytest.mark.parametrize("gradient_at, checkpointing", [("x_t", False), ("x_t", True), ("x0", False)])
def test_sequential_offloading_changes_nothing(gradient_at, checkpointing):
    """Weights are on the meta device but for the moment when their layer is called, also on the way back."""
    pipe, arguments = build("sd")
    how = dict(gradient_at=gradient_at, checkpointing=checkpointing)
    expected = align(pipe, RED, "ntrk", **how)(PROMPT, seeds=[0], **arguments)
    pipe, _ = sequentially_offloaded("sd")
    weights = list(pipe.unet.parameters()) + list(pipe.vae.parameters())
    assert {p.device.type for p in weights} == {"meta"} and all(p.requires_grad for p in weights)
    found = align(pipe, RED, "ntrk", **how)(PROMPT, seeds=[0], **arguments)
    assert torch.allclose(found.images, expected.images, atol=1e-5)
    assert torch.allclose(found.trace.gradient_norm, expected.trace.gradient_norm, rtol=1e-4)
    # A block computed again stops once it has what it needs: its last layer stays until it is called again.
    pipe(PROMPT, **arguments)
    weights = list(pipe.unet.parameters()) + list(pipe.vae.parameters())
    assert {p.device.type for p in weights} == {"meta"} and all(p.requires_grad for p in weights)


@pytest.fixture
def elsewhere(monkeypatch):
    """Model offloading with a stand-in for the accelerator: parameters that are away hold NaN, their values are kept
    aside. Notes which modules are fetched."""
    from accelerate.hooks import CpuOffload

    kept, fetched = {}, []

    def send_away(hook, module):
        for parameter in module.parameters():
            if parameter not in kept:
                kept[parameter] = parameter.data
                parameter.data = torch.full_like(parameter, float("nan"))
        return module

    def fetch(hook, module, *args, **kwargs):
        if hook.prev_module_hook is not None:
            hook.prev_module_hook.offload()
        move_back(module)
        return args, kwargs

    def move_back(module):
        away = [parameter for parameter in module.parameters() if parameter in kept]
        for parameter in away:
            parameter.data = kept.pop(parameter)
        fetched.extend([type(module).__name__] if away else [])

    def load_again(modules):
        for module in modules:
            move_back(module)

    monkeypatch.setattr(CpuOffload, "init_hook", send_away)
    monkeypatch.setattr(CpuOffload, "pre_forward", fetch)
    monkeypatch.setattr(pipeline_call, "load_again", load_again)
    return fetched


@pytest.mark.parametrize("gradient_at, checkpointing", [("x_t", False), ("x_t", True), ("x0", False)])
def test_model_offloading_changes_nothing(gradient_at, checkpointing, elsewhere):
    """The decoder sends the network away, whose way back is still to come: it is fetched back for that."""
    pipe, arguments = build("sd")
    how = dict(gradient_at=gradient_at, checkpointing=checkpointing)
    expected = align(pipe, RED, "ntrk", **how)(PROMPT, seeds=[0], **arguments)
    pipe.enable_model_cpu_offload(device="cpu")
    aligned = align(pipe, RED, "ntrk", **how)
    for _ in range(2):
        elsewhere.clear()
        found = aligned(PROMPT, seeds=[0], **arguments)
        assert torch.allclose(found.images, expected.images, atol=1e-5)
        assert torch.allclose(found.trace.gradient_norm, expected.trace.gradient_norm, rtol=1e-4)
        # x0: by each step's call; x_t: by each step's way back, where it then is for the next call.
        assert elsewhere.count("UNet2DConditionModel") == 4 + (gradient_at == "x_t")
    assert all(next(part.parameters()).isnan().all() for part in (pipe.unet, pipe.vae, pipe.text_encoder))


def two_stages():
    """Wan 2.2, whose second transformer is for the times of little noise."""
    torch.manual_seed(0)
    parts = {**wan().components, "transformer_2": wan().transformer}
    pipe = diffusers.WanPipeline(**parts, boundary_ratio=0.8)
    pipe.set_progress_bar_config(disable=True)
    return pipe, dict(FAMILIES["wan"][1], guidance_scale=1.0)


def two_networks():
    """Ideogram, which calls both in every step."""
    torch.manual_seed(0)
    pipe = ideogram()
    pipe.set_progress_bar_config(disable=True)
    # It calls a part of its text encoder, which no hook notices.
    pipe.model_cpu_offload_seq = "transformer->unconditional_transformer->vae"
    pipe._exclude_from_cpu_offload = ["text_encoder"]
    return pipe, dict(height=32, width=32, num_inference_steps=3, guidance_schedule=[3.0] * 3, output_type="pt")


def decoded_embeddings():
    """Stable Cascade, whose network is named decoder."""
    torch.manual_seed(0)
    pipe = cascade()
    pipe.set_progress_bar_config(disable=True)
    embeddings = torch.randn(1, 16, 4, 4)
    return pipe, dict(image_embeddings=embeddings, num_inference_steps=3, output_type="pt", guidance_scale=2.0)


@pytest.mark.parametrize("make", [two_stages, two_networks, decoded_embeddings])
def test_model_offloading_of_other_networks_changes_nothing(make, elsewhere):
    """Those that ran in a step are there for its way back, and no others are fetched."""
    pipe, arguments = make()
    expected = align(pipe, RED, "ntrk")(prompt=PROMPT, seeds=[0], **arguments)
    pipe.enable_model_cpu_offload(device="cpu")
    found = align(pipe, RED, "ntrk")(prompt=PROMPT, seeds=[0], **arguments)
    assert torch.allclose(found.rewards, expected.rewards, atol=1e-5)
    assert torch.allclose(found.trace.gradient_norm, expected.trace.gradient_norm, rtol=1e-4)
    if make is two_stages:
        assert elsewhere.count("WanTransformer3DModel") == 3


def test_devices_without_an_index_are_any_of_their_type():
    module = torch.nn.Linear(1, 1)
    assert offload.is_on(module, torch.device("cpu")) and not offload.is_on(module, torch.device("meta"))
    assert not offload.is_on(module, torch.device("cpu", 1))
    offload.load_again({module: torch.device("meta")})
    assert next(module.parameters()).device.type == "meta"


def test_layerwise_casting_of_what_is_differentiated_is_refused():
    pipe, arguments = build("sd")
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
    assert align(pipe, RED, "ntrk", gradient_at="x0")(PROMPT, seeds=[0], **arguments).images.isfinite().all()
    with pytest.raises(ValueError, match=r"unet has layerwise casting.*gradient_at='x0'"):
        align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)


def test_group_offloading_of_what_is_differentiated_is_refused():
    pipe, arguments = build("sd")
    where = dict(onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level")
    pipe.unet.enable_group_offload(**where)
    expected = align(build("sd")[0], RED, "ntrk", gradient_at="x0")(PROMPT, seeds=[0], **arguments)
    found = align(pipe, RED, "ntrk", gradient_at="x0")(PROMPT, seeds=[0], **arguments)
    assert torch.allclose(found.images, expected.images, atol=1e-5)
    with pytest.raises(ValueError, match=r"unet is group-offloaded.*gradient_at='x0'"):
        align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    pipe.vae.enable_group_offload(**where)
    with pytest.raises(ValueError, match="vae is group-offloaded"):
        align(pipe, RED, "ntrk", gradient_at="x0")(PROMPT, seeds=[0], **arguments)
    assert align(pipe, RED, "best-of-n")(PROMPT, seeds=[0], **arguments).images.isfinite().all()

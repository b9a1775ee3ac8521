"""The ComfyUI node pack on a torch network whose weights, conditioning and constants were made in inference mode.

ComfyUI's modules are replaced by what a sampler uses of them. `test_comfyui_real.py` runs ComfyUI itself.
"""

import json
import math
import re
import sys
import types
from unittest import mock

import pytest
import torch
from comfyui_pack import PACK, TinyDecoder, TinyNet, load_pack

from noisetilt import METHODS, rewards
from noisetilt.integrations.inference_tensors import NormalTensors, normal_tensor
from noisetilt.rewards import Reward

RED, DARK = rewards.load("redness"), rewards.load("darkness")
SUPPORTED = [name for name, method in METHODS.items() if not method.initial.needs_reward]


class EPS:
    pass


class CONST:
    pass


class Comfy:
    """KSamplerX0Inpaint, CFGGuider and BaseModel in one."""

    def __init__(self, flow, rows):
        torch.manual_seed(0)
        self.net, self.context = TinyNet(), torch.randn(1, 5, 8)
        self.constant = torch.tensor([1.5])
        self.model_sampling = (CONST if flow else EPS)()
        self.inner_model, self.model_patcher, self.loaded_models = self, "model", ["control"]
        self.latent_image, self.noise = torch.randn(rows, 4, 8, 8), torch.randn(rows, 4, 8, 8)
        self.calls = []

    def process_latent_out(self, latent):
        return latent * self.constant

    def __call__(self, x, sigma, denoise_mask=None, model_options=None, seed=None):
        self.calls.append(len(x))
        level = sigma.view(-1, 1, 1, 1)
        if denoise_mask is not None:
            x = x * denoise_mask + (self.latent_image + self.noise * level) * (1 - denoise_mask)
        scale = 1.0 if isinstance(self.model_sampling, CONST) else (1 + level**2).rsqrt()
        out = x - level * self.net(x * scale, sigma, self.context)
        return out if denoise_mask is None else out * denoise_mask + self.latent_image * (1 - denoise_mask)


class VAE:
    def __init__(self):
        self.patcher, self.device, self.vae_dtype = "vae", torch.device("cpu"), torch.float32
        self.first_stage_model = TinyDecoder()

    def process_output(self, image):
        return torch.clamp((image + 1) / 2, 0, 1)


@pytest.fixture
def comfy(tmp_path):
    """The node pack, with substitutes for ComfyUI's modules."""
    loaded, modules = [], types.ModuleType("comfy")
    modules.samplers = types.SimpleNamespace(KSAMPLER=lambda function: function)
    modules.model_management = types.SimpleNamespace(
        load_models_gpu=loaded.extend, get_torch_device=lambda: torch.device("cpu")
    )
    paths = types.ModuleType("folder_paths")
    paths.models_dir, paths.folder_names_and_paths = str(tmp_path), {}
    files = lambda kind: {f.name: f for f in (tmp_path / kind).glob("*.py")}  # noqa: E731
    paths.get_filename_list = lambda kind: list(files(kind))
    paths.get_full_path_or_raise = lambda kind, name: str(files(kind)[name])
    paths.get_temp_directory = lambda: str(tmp_path)
    paths.get_save_image_path = lambda prefix, folder: (folder, prefix, 1, "", prefix)
    named = {"comfy": modules, "comfy.samplers": modules.samplers, "comfy.model_management": modules.model_management}
    with mock.patch.dict(sys.modules, {**named, "folder_paths": paths}):
        pack = load_pack()
        yield types.SimpleNamespace(pack=pack, loaded=loaded, folder=tmp_path, node=pack.NODE_CLASS_MAPPINGS)


def run_node(node, **values):
    """The outputs of a node, called in inference mode as ComfyUI calls it."""
    with torch.inference_mode():
        return getattr(node(), node.FUNCTION)(**values)


def run_sampler(comfy, flow=False, rows=1, masked=False, in_inference_mode=True, seed=5, **options):
    """x_0 of the node's sampler and its trace; everything is made in inference mode."""
    with torch.inference_mode(in_inference_mode):
        model, vae = Comfy(flow, rows), VAE()
        values = dict(reward=RED, method="ntrk", strength=0.3, eta=1.0, gradient="through the model", heldout=DARK)
        sampler, history = run_node(comfy.node["NoisetiltSampler"], vae=vae, **{**values, **options})
        sigmas = torch.linspace(1, 0, 5) if flow else torch.tensor([6.0, 3.0, 1.2, 0.4, 0.0])
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(rows, 4, 8, 8, generator=generator) * sigmas[0]
        mask = torch.zeros(rows, 1, 8, 8) if masked else None
        if masked:
            mask[..., 4:] = 1.0
        extra = {"model_options": {}, "seed": seed, "denoise_mask": mask}
        out = sampler(model, x, sigmas, extra_args=extra, callback=None, disable=True)
        return types.SimpleNamespace(out=out, trace=history.trace, model=model)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("method", SUPPORTED)
def test_every_method_runs_on_weights_of_inference_mode(comfy, method, flow):
    particles = 2 if METHODS[method].selection.particles > 1 else 0
    ran = run_sampler(comfy, flow, method=method, particles=particles, strength=0.1)
    assert ran.out.shape == (1, 4, 8, 8) and ran.out.isfinite().all()
    assert len(ran.trace.rewards) == len(ran.trace.heldout) >= 4


def test_weights_of_inference_mode_give_the_same_and_stay_as_they_are(comfy):
    inside, outside = (run_sampler(comfy, in_inference_mode=mode) for mode in (True, False))
    assert torch.equal(inside.out, outside.out)
    assert all(p.is_inference() and type(p) is torch.nn.Parameter for p in inside.model.net.parameters())


def test_plain_autograd_fails_on_such_weights_and_the_context_mends_it():
    with torch.inference_mode():
        net, context = TinyNet(), torch.randn(1, 5, 8)
    x, sigma = torch.randn(2, 4, 8, 8, requires_grad=True), torch.ones(2)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        net(x, sigma, context)
    with NormalTensors():
        (found,) = torch.autograd.grad(net(x, sigma, context).square().sum(), x)
    ordinary = TinyNet()
    ordinary.load_state_dict({name: tensor.clone() for name, tensor in net.state_dict().items()})
    (expected,) = torch.autograd.grad(ordinary(x, sigma, context.clone()).square().sum(), x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64])
def test_a_normal_tensor_shares_the_memory(dtype):
    with torch.inference_mode():
        made = torch.arange(24).view(4, 6).to(dtype)[1:, ::2]
    view = normal_tensor(made)
    assert not view.is_inference() and view.data_ptr() == made.data_ptr()
    assert view.shape == made.shape and view.stride() == made.stride() and view.dtype == dtype
    assert torch.equal(view.float(), made.float())
    assert normal_tensor(view) is view


def test_a_module_can_be_moved_in_the_context():
    with torch.inference_mode():
        net = TinyNet()
    with NormalTensors():
        net.to(torch.float64)
    assert all(p.dtype == torch.float64 for p in net.parameters())


@pytest.mark.parametrize("flow", [False, True])
def test_guidance_raises_the_reward(comfy, flow):
    base, guided = (run_sampler(comfy, flow, rows=8, strength=strength) for strength in (0.0, 0.5))
    assert (guided.trace.rewards[-1] > base.trace.rewards[-1]).float().mean() > 0.8


@pytest.mark.parametrize("method, particles", [("ntrk", 0), ("svdd", 3)])
def test_a_latent_is_the_same_alone_and_in_a_batch_with_a_mask(comfy, method, particles):
    """With several particles, each call has one row per latent, as ComfyUI's conditioning and masks."""
    both = run_sampler(comfy, rows=2, masked=True, method=method, particles=particles)
    assert set(both.model.calls) == {2}
    assert torch.allclose(both.out[..., :4], both.model.latent_image[..., :4], atol=1e-6)
    assert not torch.allclose(both.out[..., 4:], both.model.latent_image[..., 4:], atol=1e-2)


def test_rewards_are_logged_and_models_loaded_together(comfy, caplog):
    caplog.set_level("INFO")
    run_sampler(comfy)
    assert re.search(r"redness [+-]\d.*first step.*\n.*held-out darkness [+-]\d", caplog.text)
    assert comfy.loaded == ["model", "control", "vae"]


def test_one_sigma_has_no_step(comfy, caplog):
    caplog.set_level("INFO")
    sampler, history = run_node(
        comfy.node["NoisetiltSampler"],
        **dict(vae=VAE(), reward=RED, method="ntrk", strength=0.1, eta=1.0, gradient="through the model", heldout=DARK),
    )
    x = torch.randn(1, 4, 8, 8)
    out = sampler(Comfy(False, 1), x, torch.tensor([6.0]), extra_args={"seed": 1}, disable=True)
    assert torch.equal(out, x) and not len(history.trace.rewards) and "redness: no step" in caplog.text


def test_the_trace_is_that_of_the_latest_run(comfy):
    sampler, history = run_node(
        comfy.node["NoisetiltSampler"],
        **dict(vae=VAE(), reward=RED, method="ntrk", strength=0.1, eta=1.0, gradient="at the predicted image"),
    )
    sigmas = torch.tensor([6.0, 3.0, 0.0])
    for _ in range(2):
        sampler(Comfy(False, 1), torch.randn(1, 4, 8, 8), sigmas, extra_args={"seed": 1}, disable=True)
    assert history.trace.rewards.shape == (2, 1)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_video_decoder_gives_images_or_videos(comfy, frames):
    vae = VAE()
    vae.first_stage_model = types.SimpleNamespace(decode=lambda x: x[:, :3])
    model = types.SimpleNamespace(process_latent_out=lambda x: x)
    images = sys.modules["noisetilt_nodes.sampler_node"].decoder(model, vae)(torch.randn(2, 4, frames, 8, 6))
    assert images.shape == ((2, 3, 8, 6) if frames == 1 else (2, 3, 3, 8, 6))
    with pytest.raises(ValueError, match="no image"):
        sys.modules["noisetilt_nodes.sampler_node"].decoder(model, vae)(torch.randn(2, 4, 8))


def test_latents_are_decoded_on_the_device_of_the_vae(comfy):
    seen, vae = [], VAE()
    vae.device, vae.vae_dtype = torch.device("meta"), torch.float16
    vae.first_stage_model = types.SimpleNamespace(decode=lambda x: seen.append(x) or torch.zeros(2, 3, 8, 8))
    model = types.SimpleNamespace(process_latent_out=lambda x: x)
    images = sys.modules["noisetilt_nodes.sampler_node"].decoder(model, vae)(torch.randn(2, 4, 8, 8))
    assert (seen[0].device.type, seen[0].dtype) == ("meta", torch.float16)
    assert (images.device.type, images.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize("spec", ["{}:reward", "0.5*redness - 0.5*{}:reward"])
def test_a_workflow_cannot_run_a_file_by_the_name_of_a_reward(comfy, spec):
    file, mark = comfy.folder / "theirs.py", comfy.folder / "executed"
    file.write_text(f"open({str(mark)!r}, 'w').close()\ndef reward(images):\n    return images.mean((1, 2, 3))\n")
    with pytest.raises(ValueError, match=r"theirs\.py:reward.*noisetilt_rewards"):
        run_node(comfy.node["NoisetiltReward"], name=spec.format(file), heldout=False)
    assert not mark.exists()


def test_rewards_of_the_loaders(comfy):
    (named,) = run_node(comfy.node["NoisetiltReward"], name="0.5*redness + 0.5*darkness", heldout=False)
    (style,) = run_node(comfy.node["NoisetiltStyleReward"], name="style:3d", heldout=True)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    for reward in (named, style):
        (gradient,) = torch.autograd.grad(reward(images, ["cat face"] * 2).sum(), images)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
    names = comfy.node["NoisetiltHubReward"].INPUT_TYPES()["required"]["name"][0]
    assert {"pickscore", "hpsv2", "imagereward"} <= set(names) and "videoreward" not in names
    with pytest.raises(ValueError, match="unknown"):
        run_node(comfy.node["NoisetiltReward"], name="nothing", heldout=False)


def test_an_own_python_file(comfy):
    folder = comfy.folder / "noisetilt_rewards"
    folder.mkdir()
    (folder / "calm.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    b: float = 1.0\n"
        "def reward(images):\n    return -images.diff(dim=-1).abs().mean((1, 2, 3))\n"
    )
    node = comfy.node["NoisetiltPythonReward"]
    assert node.INPUT_TYPES()["required"]["file"] == (["calm.py"],)
    (reward,) = run_node(node, file="calm.py", function="reward", differentiable=True)
    assert reward.name == "calm:reward" and reward(torch.rand(2, 3, 8, 8), ["", ""]).shape == (2,)
    assert run_sampler(comfy, reward=reward).out.isfinite().all()
    before = node.IS_CHANGED("calm.py", "reward", True)
    assert before > 0 == node.IS_CHANGED("other.py", "reward", True)
    for file, function, word in (("other.py", "reward", "put the file there"), ("calm.py", "score", "no function")):
        with pytest.raises(ValueError, match=word):
            run_node(node, file=file, function=function, differentiable=True)


def test_a_sum_is_normalised_by_base_images(comfy):
    large = Reward("large", lambda images, prompts: 1000 * images[:, 1].mean((1, 2)))
    with torch.inference_mode():
        base = torch.rand(6, 8, 8, 3)
    weights = dict(weight_a=0.5, weight_b=0.5)
    node = comfy.node["NoisetiltRewardSum"]
    (plain,) = run_node(node, reward_a=RED, reward_b=large, **weights)
    (normalised,) = run_node(node, reward_a=RED, reward_b=large, base_images=base, **weights)
    with_alpha = torch.cat([base, torch.rand(6, 8, 8, 1)], -1)
    (same,) = run_node(node, reward_a=RED, reward_b=large, base_images=with_alpha, **weights)
    assert same.terms[0][0] == normalised.terms[0][0]
    images = base.clone().movedim(-1, 1)
    a, b = RED(images, [""] * 6), large(images, [""] * 6)
    assert torch.allclose(plain(images, [""] * 6), 0.5 * a + 0.5 * b)
    assert torch.allclose(normalised(images, [""] * 6), 0.5 * a / a.std() + 0.5 * b / b.std(), rtol=1e-4)


def test_the_preview_sorts_and_captions(comfy):
    trace = run_sampler(comfy).trace
    images = torch.zeros(3, 16, 16, 3)
    images[1, ..., 0] = 1.0
    with torch.inference_mode():
        images = images.clone()
    shown = run_node(
        comfy.node["NoisetiltPreview"],
        **dict(images=images, reward=RED, heldout=DARK, trace=types.SimpleNamespace(trace=trace)),
    )
    best, mean = shown["result"]
    assert torch.equal(best, images[1:2]) and mean == pytest.approx(1 / 3, abs=1e-6)
    assert len(shown["ui"]["images"]) == 4
    assert all((comfy.folder / entry["filename"]).stat().st_size > 500 for entry in shown["ui"]["images"])


def test_the_preview_evaluates_one_image_at_a_time(comfy):
    """A batch of images may be larger than the memory of a GPU beside a reward network."""
    calls = []
    reward = Reward("red", lambda images, prompts: calls.append((len(images), prompts)) or images[:, 0].mean((1, 2)))
    shown = run_node(comfy.node["NoisetiltPreview"], images=torch.rand(3, 8, 8, 3), reward=reward, prompt="a fox")
    assert calls == [(1, ["a fox"])] * 3 and len(shown["ui"]["images"]) == 3


def typed(value, options):
    """What ComfyUI's frontend makes of a number that is typed into a field: useFloatWidget.ts."""
    precision = max(0, -math.floor(math.log10(options["step"])))
    unit = options.get("round", 10**-precision)
    return round(round(value / unit) * unit, precision)


def test_the_fields_keep_the_digits_of_what_is_typed(comfy):
    """The strengths of the README and of the workflows, and a weight and an eta of as many digits."""
    field = lambda node, name: comfy.node[node].INPUT_TYPES()["required"][name][1]  # noqa: E731
    strength, values = field("NoisetiltSampler", "strength"), [0.00015]
    values += [float(found) for found in re.findall(r"\b0\.\d+", (PACK / "README.md").read_text("utf-8"))]
    for file in (PACK / "example_workflows").glob("*.json"):
        nodes = json.loads(file.read_text("utf-8"))["nodes"]
        values += [node["widgets_values"][1] for node in nodes if node["type"] == "NoisetiltSampler"]
    assert {0.0002, 0.001, 0.004} <= set(values)
    assert [typed(value, strength) for value in values] == values
    assert typed(0.0025, field("NoisetiltRewardSum", "weight_a")) == 0.0025
    assert typed(0.125, field("NoisetiltSampler", "eta")) == 0.125


def test_images_move_to_the_device_of_comfyui_for_rewards(comfy, monkeypatch):
    seen, images = [], torch.rand(2, 16, 16, 3)
    preview, loaders = (sys.modules[f"noisetilt_nodes.{name}"] for name in ("preview_node", "reward_nodes"))
    monkeypatch.setattr(sys.modules["comfy.model_management"], "get_torch_device", lambda: torch.device("meta"))
    monkeypatch.setattr(preview, "evaluate_each", lambda r, x, p: seen.append(x.device.type) or torch.zeros(2))
    run_node(comfy.node["NoisetiltPreview"], images=images, reward=RED, heldout=DARK)
    total = types.SimpleNamespace(normalised=lambda x, p: seen.append(x.device.type))
    monkeypatch.setattr(loaders.rewards, "weighted_sum", lambda terms: total)
    weights = dict(weight_a=0.5, weight_b=0.5)
    run_node(comfy.node["NoisetiltRewardSum"], reward_a=RED, reward_b=DARK, base_images=images, **weights)
    assert seen == ["meta"] * 3


def test_the_pack_is_complete(comfy):
    """Every node is registered under a display name, and the workflows use only nodes and inputs that exist."""
    assert set(comfy.pack.NODE_CLASS_MAPPINGS) == set(comfy.pack.NODE_DISPLAY_NAME_MAPPINGS)
    registry = pytest.importorskip("tomllib").loads((PACK / "pyproject.toml").read_text("utf-8"))
    assert registry["tool"]["comfy"]["DisplayName"] and "noisetilt" in registry["project"]["dependencies"][0]
    workflows = sorted((PACK / "example_workflows").glob("*.json"))
    assert len(workflows) == 2
    for file in workflows:
        graph = json.loads(file.read_text("utf-8"))
        links = {link[0]: link for link in graph["links"]}
        kinds = {node["id"]: node["type"] for node in graph["nodes"]}
        assert "NoisetiltSampler" in kinds.values()
        for node in graph["nodes"]:
            if node["type"] not in comfy.node:
                continue
            inputs = comfy.node[node["type"]].INPUT_TYPES()
            known = {**inputs["required"], **inputs.get("optional", {})}
            assert {slot["name"] for slot in node["inputs"]} <= set(known)
            for slot in node["inputs"]:
                if slot.get("link") is not None:
                    assert links[slot["link"]][3:5] == [node["id"], node["inputs"].index(slot)]
                    assert links[slot["link"]][5] == known[slot["name"]][0]

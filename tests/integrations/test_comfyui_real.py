"""The node pack in ComfyUI itself. It needs a checkout of ComfyUI with its requirements: NOISETILT_COMFYUI=<folder>."""

import os
import sys

import pytest
import torch
from comfyui_pack import load_pack

from noisetilt import rewards

if "NOISETILT_COMFYUI" not in os.environ:
    pytest.skip("set NOISETILT_COMFYUI to the folder of ComfyUI", allow_module_level=True)
sys.path.insert(0, os.environ["NOISETILT_COMFYUI"])
options = pytest.importorskip("comfy.cli_args")
options.args.cpu = True

import comfy.model_base  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.taesd.taesd  # noqa: E402

RED = rewards.load("redness")
UNET = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=32,
    num_res_blocks=[1, 1],
    channel_mult=[1, 2],
    transformer_depth=[1, 1],
    transformer_depth_output=[1, 1, 1, 1],
    transformer_depth_middle=1,
    context_dim=24,
    num_heads=2,
    use_spatial_transformer=True,
    use_linear_in_transformer=False,
    adm_in_channels=None,
    legacy=False,
)
MMDIT = dict(
    input_size=None,
    patch_size=2,
    in_channels=16,
    depth=1,
    adm_in_channels=24,
    num_patches=64,
    pos_embed_max_size=8,
    pos_embed_scaling_factor=None,
    context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 24, "out_features": 64}},
)
CPU = torch.device("cpu")


def drawn(module, seed=0, std=0.5):
    """The module with all parameters and buffers of the network drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        width = max(1, tensor[0].numel()) if tensor.ndim > 1 else 100
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std / width**0.5)
    return module


@pytest.fixture(scope="module", params=["unet", "mmdit"])
def parts(request):
    """A model, its conditioning and a VAE, made in inference mode as ComfyUI's nodes make them."""
    with torch.inference_mode():
        if request.param == "unet":
            model = comfy.model_base.BaseModel(comfy.supported_models.SD15(dict(UNET)), device=CPU)
            pooled = {}
        else:
            model = comfy.model_base.SD3(comfy.supported_models.SD3(dict(MMDIT)), device=CPU)
            pooled = {"pooled_output": torch.randn(1, 24)}
        drawn(model.diffusion_model)
        channels = model.latent_format.latent_channels
        tiny = drawn(comfy.taesd.taesd.TAESD(latent_channels=channels), std=1.4)
        tiny.taesd_decoder[-1].weight.mul_(0.1)
        tiny.taesd_decoder[-1].bias.fill_(0.5)
        tiny.vae_scale.fill_(1.0)
        vae = comfy.sd.VAE(sd=tiny.state_dict())
        conditioning = [[torch.randn(1, 7, 24), dict(pooled)] for _ in range(2)]
        assert next(model.parameters()).is_inference()
        return comfy.model_patcher.ModelPatcher(model, CPU, CPU), conditioning, vae, channels


def run(parts, sampler, rows=1, denoise=1.0, mask=None, callback=None, steps=5):
    patcher, (positive, negative), _, channels = parts
    with torch.inference_mode():
        steps_of = patcher.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(steps_of, "normal", int(steps / denoise))[-steps - 1 :]
        latent = torch.full((rows, channels, 8, 8), 0.0 if denoise == 1 and mask is None else 0.3)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
        return comfy.sample.sample_custom(
            *(patcher, noise, 2.0, sampler, sigmas, [positive], [negative], latent),
            noise_mask=mask,
            callback=callback,
            disable_pbar=True,
            seed=3,
        )


def guided(parts, **options):
    """The node's sampler and its history."""
    node = load_pack().NODE_CLASS_MAPPINGS["NoisetiltSampler"]
    values = dict(method="ntrk", strength=0.4, eta=1.0, gradient="through the model")
    with torch.inference_mode():
        return getattr(node(), node.FUNCTION)(vae=parts[2], reward=RED, **{**values, **options})


def test_base_with_eta_zero_is_euler(parts):
    expected = run(parts, comfy.samplers.sampler_object("euler"))
    found = run(parts, guided(parts, method="base", eta=0.0)[0])
    assert expected.std() > 0.05
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max())


def test_guidance_raises_the_reward(parts):
    final = []
    for method, strength in (("base", 0.0), ("ntrk", 0.5)):
        sampler, history = guided(parts, method=method, strength=strength)
        run(parts, sampler, rows=4)
        final.append(history.trace.rewards[-1])
    assert final[1].mean() > final[0].mean()


@pytest.mark.parametrize(
    "options",
    [
        dict(gradient="at the predicted image"),
        dict(method="ntrk-black-box"),
        dict(method="dps", strength=0.1),
        dict(method="svdd", particles=2),
        dict(method="das", particles=2),
    ],
    ids=lambda options: options.get("method", "x0"),
)
def test_methods(parts, options):
    assert run(parts, guided(parts, **options)[0], steps=3).isfinite().all()


@pytest.mark.parametrize("method", ["ntrk", "svdd"])
def test_mask_batch_and_partial_denoising(parts, method):
    mask = torch.zeros(2, 8, 8)
    mask[..., 4:] = 1.0
    out = run(parts, guided(parts, method=method, particles=2)[0], rows=2, denoise=0.5, mask=mask)
    kept = out[..., :4]
    assert out.isfinite().all() and torch.allclose(kept, torch.full_like(kept, 0.3), atol=1e-3)
    assert not torch.allclose(out[..., 4:], torch.full_like(kept, 0.3), atol=1e-2)


def test_an_interrupt_ends_the_run(parts):
    def interrupt(step, *_):
        if step == 1:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()  # as the progress bar of ComfyUI's nodes

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(parts, guided(parts)[0], callback=interrupt)
    assert run(parts, guided(parts)[0]).isfinite().all()

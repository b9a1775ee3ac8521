import json
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxPipeline, FluxTransformer2DModel

from noisetilt import METHODS, Method, align, invert, load, optimize, rewards, sample
from noisetilt.initial_noise import Ascent
from noisetilt.models.flux import EMOJI128, FluxModel, verify_checksums
from noisetilt.models.latents import decode_shifted, encode_shifted, pack_flux, unpack_flux

STEPS = 2
CALL = dict(
    guidance_scale=3.0,
    num_inference_steps=STEPS,
    height=128,
    width=128,
    max_sequence_length=16,
    output_type="pt",
)


@pytest.fixture(scope="module")
def model():
    return load("emoji128")


@pytest.fixture(scope="module")
def turbo():
    return load("emoji128-turbo")


@pytest.fixture(scope="module")
def pipe():
    pipe = FluxPipeline.from_pretrained(EMOJI128)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("method", "eta"), [("base", 0.0), ("base", 1.0)])
def test_sample_and_align_agree(model, pipe, method, eta):
    """The native loop and the pipeline's own give the same image and the same reward."""
    reward = rewards.load("redness")
    native = sample(model, ["cat face 3d"], reward, method, STEPS, seeds=[4], eta=eta)
    aligned = align(pipe, reward, method, eta=eta)("cat face 3d", seeds=[4], **CALL)
    assert torch.allclose(native.images, aligned.images, atol=2e-3)
    assert torch.allclose(native.rewards, aligned.rewards, atol=2e-3)


@pytest.mark.parametrize(
    "method, options",
    [
        ("ntrk", {"rho": 0.1}),
        pytest.param("ntrk-x0", {"rho": 0.1}, marks=pytest.mark.long),
        pytest.param("dps", {"scale": 50.0}, marks=pytest.mark.long),
    ],
)
def test_sample_and_align_agree_where_they_guide(model, pipe, method, options):
    """In three steps, of which one is guided by noise tilts and two by DPS."""
    reward, chosen, call = (
        rewards.load("redness"),
        METHODS[method].replace(**options),
        {**CALL, "num_inference_steps": 3},
    )
    base = sample(model, ["cat face 3d"], None, "base", 3, seeds=[4])
    native = sample(model, ["cat face 3d"], reward, chosen, 3, seeds=[4])
    aligned = align(pipe, reward, chosen)("cat face 3d", seeds=[4], **call)
    assert (native.images - base.images).abs().max() > 0.01
    assert torch.allclose(native.images, aligned.images, atol=5e-3)
    assert torch.allclose(native.rewards, aligned.rewards, atol=2e-3)


def test_ntrk_raises_the_reward(model):
    reward = rewards.load("redness")
    base, guided = (sample(model, ["face"], reward, method, 5).rewards for method in ("base", "ntrk"))
    assert guided > base + 0.01


def test_prompts_matter(model):
    """A red heart is redder than a green apple, at the same seeds."""
    redness = rewards.load("redness")
    prompts = ["red heart", "green apple"]
    values = redness(sample(model, prompts, None, "base", 6, seeds=[0, 0]).images, prompts)
    assert values[0] > values[1] + 0.1


def test_an_image_depends_on_its_own_seed_only(model):
    together = sample(model, ["house", "rose 3d"], None, "base", STEPS, seeds=[7, 8]).images
    alone = sample(model, ["rose 3d"], None, "base", STEPS, seeds=[8]).images
    assert together.shape == (2, 3, 128, 128)
    assert torch.allclose(together[1:], alone, atol=1e-4)


def test_the_grid_is_the_schedulers_own(model, pipe):
    pipe("house", **{**CALL, "num_inference_steps": 5})
    assert model.path.grid(5) == [float(sigma) for sigma in pipe.scheduler.sigmas]
    with pytest.raises(ValueError, match="steps = 0"):
        model.path.grid(0)


def test_latents_are_unpacked_as_align_unpacks_them(model):
    x = torch.randn(2, *model.shape)
    assert model.shape == (16, 16, 16)
    assert torch.equal(unpack_flux(model.pipe, pack_flux(x), (128, 128)), x)


def without_guidance_input(pipe):
    """The pipeline with a transformer that was not guidance-distilled."""
    distilled = pipe.transformer
    network = FluxTransformer2DModel.from_config({**distilled.config, "guidance_embeds": False})
    network.load_state_dict({k: v for k, v in distilled.state_dict().items() if "guidance_embedder" not in k})
    return FluxPipeline(**{**pipe.components, "transformer": network, "image_encoder": None, "feature_extractor": None})


def test_guidance_is_an_input_of_the_network(model):
    weak = load("emoji128", guidance=1.0)
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    assert model.pipe.transformer.config.guidance_embeds
    assert not torch.allclose(model.denoiser(["cat"])(x, 0.7), weak.denoiser(["cat"])(x, 0.7), atol=1e-2)


def test_one_call_with_guidance_does_what_two_mixed_do(model):
    """The distilled network at w is nearer to the mix of its predictions at 1 than its conditional prediction is."""
    weak = load("emoji128", guidance=1.0)
    x = torch.randn(4, *model.shape, generator=torch.Generator().manual_seed(0))
    prompts = ["red heart", "green apple", "house", "cat"]
    index = torch.arange(4)
    guided, conditional = (m.denoiser(prompts)(x, 0.9, index) for m in (model, weak))
    mixed = weak.denoiser([""] * 4)(x, 0.9, index)
    mixed = mixed + 3 * (conditional - mixed)
    assert (guided - mixed).norm() < 0.85 * (conditional - mixed).norm()


def test_true_guidance_mixes_the_two_predictions(pipe):
    """A transformer without the guidance input is called twice."""
    undistilled = without_guidance_input(pipe)
    model, plain = FluxModel(undistilled, guidance=3.0), FluxModel(undistilled, guidance=1.0)
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    guided, conditional, unconditional = (
        m.denoiser([prompt])(x, 0.7) for m, prompt in ((model, "cat"), (plain, "cat"), (plain, ""))
    )
    assert torch.allclose(guided, unconditional + 3 * (conditional - unconditional), atol=1e-4)
    assert not torch.allclose(guided, conditional, atol=1e-2)


def test_half_precision_networks_keep_float32_states(model):
    half = load("emoji128", dtype=torch.bfloat16)
    images = [sample(m, ["red heart"], rewards.load("redness"), "ntrk", STEPS).images for m in (half, model)]
    assert images[0].dtype == torch.float32 and images[0].isfinite().all()
    assert (images[0] - images[1]).abs().mean() < 0.03


def test_a_cast_of_the_pipeline_is_followed():
    """Also of one part of it."""
    model, call = load("emoji128-turbo"), (["red heart"], rewards.load("redness"), "ntrk", STEPS)
    expected = sample(model, *call).rewards
    for part in (model.pipe.transformer, model.pipe):
        part.to(torch.bfloat16)
        assert model.dtype == torch.bfloat16 and str(model.device) == "cpu"
        cast = sample(model, *call)
        assert cast.images.dtype == torch.float32 and (cast.rewards - expected).abs() < 0.03


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}])
def test_other_sizes_than_that_of_the_training_have_a_warning(options, recwarn):
    with pytest.warns(UserWarning, match="height = 64 and width = 64 are not the size .* trained for, 128 by 128"):
        load("emoji128", height=64, width=64, **options)
    recwarn.clear()
    load("emoji128", height=128, width=128, **options)
    assert not [one for one in recwarn if "height" in str(one.message)]


def test_an_aligned_pipeline_has_the_defaults_of_the_training(model):
    """Its size and its number of tokens; padded to FLUX.1's, its images are broken."""
    call = dict(seeds=[0], num_inference_steps=STEPS, output_type="pt", guidance_scale=3.0)
    native = sample(model, "red heart", None, "base", STEPS).images
    for pipe in (model.pipe, load("emoji128", checkpointing=True).pipe):
        assert torch.allclose(align(pipe, None, "base")("red heart", **call).images, native, atol=2e-3)


def test_turbos_pipeline_has_the_size_of_the_training(turbo):
    made = align(turbo.pipe, None, "base")("red heart", num_inference_steps=1, output_type="pt")
    assert made.images.shape == (1, 3, 128, 128)


def test_noise_ascent_in_one_step_has_a_warning(model, turbo, recwarn):
    """emoji128 needs more steps; emoji128-turbo does not."""
    red, target = rewards.load("redness"), torch.rand(1, 3, 128, 128)
    for run in (
        lambda of: optimize(of, ["red heart"], red, iterations=0),
        lambda of: invert(of, target, ["red heart"], iterations=0),
    ):
        with pytest.warns(UserWarning, match="the model needs about 25 steps, .* are blurred; use emoji128-turbo"):
            run(model)
        recwarn.clear()
        run(turbo)
        optimize(model, ["red heart"], red, Method(initial=Ascent(iterations=0, chain_steps=2)))
        assert not [one for one in recwarn if "blurred" in str(one.message)]


def test_weights_need_no_gradient(model):
    parts = [model.pipe.transformer, model.pipe.vae, model.pipe.text_encoder, model.pipe.text_encoder_2]
    assert not any(p.requires_grad or p.grad is not None for part in parts for p in part.parameters())


@pytest.mark.parametrize("prompt", ["sad kittens", "🐱", "❤️", "❤️‍🔥 flat", "Santa's rocket, in 3D style!", "", " "])
def test_known_words(model, prompt):
    model.denoiser([prompt])


def test_the_tokenizers_split_words_and_emoji(model):
    for tokenizer in (model.pipe.tokenizer, model.pipe.tokenizer_2):
        assert tokenizer.tokenize("Sad kittens 🐱🐶 ❤️‍🔥 3D") == ["sad", "kittens", "🐱", "🐶", "❤\u200d🔥", "3d"]


def test_plurals_mean_what_their_singulars_mean(model):
    one, several = (model.denoiser([prompt]) for prompt in ("kitten", "kittens"))
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one(x, 0.5), several(x, 0.5))


def test_unknown_words_are_refused(model):
    with pytest.raises(ValueError, match=r"'smilng' of the prompt 'smilng cat'.*smiling"):
        model.denoiser(["house", "smilng cat"])
    with pytest.raises(ValueError, match="17 words and the model reads 14"):
        model.denoiser(["cat " * 17])


def test_3d_may_have_a_hyphen(model):
    plain, hyphenated = (model.denoiser([prompt]) for prompt in ("cat 3d", "cat 3-D"))
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(x, 0.5), hyphenated(x, 0.5))


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("kat face", "word 'kat' of .*: at, skate, cat, hat$"),
        ("a naïve cat", "word 'naïve' of .*: negative, active"),
        ("cafe\u0301 house", "word 'cafe\u0301' of .*: cafe, "),
        ("👍🏽", "word '👍🏽' of .*: 👍$"),
    ],
)
def test_an_unknown_word_is_named_as_it_is_written_with_the_nearest_known_ones(prompt, message, model):
    with pytest.raises(ValueError, match=message):
        model.denoiser([prompt])


@pytest.mark.parametrize("prompt", ["<eos> cat", "cat <pad> face", "<bos>", "cat <unk>"])
def test_tokens_that_control_the_text_encoder_are_refused(prompt, model):
    with pytest.raises(ValueError, match=r"has '<(eos|pad|bos|unk)>', which controls the text encoder; leave it out"):
        model.denoiser([prompt])


@pytest.mark.parametrize("prompt", ["!!!", "...", "\ufe0f"])
def test_a_prompt_without_a_word_is_refused_unless_it_is_empty(prompt, model):
    with pytest.raises(ValueError, match="has no word; write at least one, or leave the prompt empty"):
        model.denoiser(["cat", prompt])


def test_threads_may_check_and_encode_prompts_of_one_model(model, monkeypatch):
    """Another visitor of the studio checks prompts while a run encodes its own."""
    monkeypatch.setattr(model, "_conditional", lambda text: text)
    prompts = [["cat face"], ["sad kittens in a house 3d", "red heart"], ["🐱"], ["green apple twemoji", "owl", "bell"]]
    expected = [model.denoiser(group).network for group in prompts]
    wrong = []

    def encode(group, expected):
        for _ in range(15):
            try:
                found = model.denoiser(group).network
                same = all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
            except Exception as error:
                wrong.append(error)
            else:
                wrong.extend([] if same else [group])

    threads = [threading.Thread(target=encode, args=pair) for pair in zip(prompts, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_checking_a_prompt_leaves_the_tokenizers_as_they_are(model):
    """A pipeline that samples in another thread uses them."""
    for tokenizer in (model.pipe.tokenizer, model.pipe.tokenizer_2):
        tokenizer("cat", padding="max_length", truncation=True, max_length=9)
    with pytest.raises(ValueError, match="does not know the word"):
        model.denoiser(["house", "smilng"])
    for tokenizer in (model.pipe.tokenizer, model.pipe.tokenizer_2):
        assert tokenizer._tokenizer.padding["length"] == tokenizer._tokenizer.truncation["max_length"] == 9


def test_words_lists_what_prompts_may_have(model):
    assert {"sad", "kittens", "🐱", "3d", "noto", "twemoji", "flat", "blob"} <= set(model.words)
    assert not {"<pad>", "<unk>", "<bos>", "<eos>"} & set(model.words)


def test_damaged_files_are_refused(tmp_path):
    folder = tmp_path / "emoji128"
    shutil.copytree(EMOJI128, folder)
    verify_checksums(folder)
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        verify_checksums(folder)
    config.unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        verify_checksums(folder)


def test_every_file_has_a_checksum():
    files = {f.relative_to(EMOJI128).as_posix() for f in EMOJI128.rglob("*") if f.is_file()}
    named = set(json.loads((EMOJI128 / "checksums.json").read_text()))
    assert files - named == {"checksums.json", "CARD.md"}
    assert sum((EMOJI128 / name).stat().st_size for name in named) < 40e6


def test_its_folder_loads_as_any_other():
    x = torch.randn(1, 16, 16, 16)
    predictions = [load(name).denoiser(["house"])(x, 0.5) for name in ("emoji128", str(EMOJI128))]
    assert torch.equal(*predictions)


def test_without_diffusers_the_error_says_what_to_install():
    code = "import sys; sys.modules['diffusers'] = None; import noisetilt; noisetilt.load('emoji128')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install ".[diffusers]"' in run.stderr.splitlines()[-1]


@pytest.mark.long
def test_loading_prints_nothing():
    run = subprocess.run([sys.executable, "-c", "from noisetilt import load; load('emoji128')"], capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_encode_is_the_inverse_of_decode(shift):
    """An autoencoder of any FluxPipeline, with a scale and a shift, and one without a posterior."""
    config = dict(latent_channels=4, block_out_channels=(8, 8), sample_size=16, norm_num_groups=4)
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    torch.manual_seed(0)
    vae = AutoencoderKL(**config, **blocks, scaling_factor=0.4, shift_factor=shift).eval()
    pipe = SimpleNamespace(vae=vae)
    images = 2 * torch.rand(2, 3, 16, 16) - 1
    latents = encode_shifted(pipe, images)
    mean = vae.encode(images).latent_dist.mean
    assert torch.allclose(latents, (mean - shift) * 0.4)
    assert torch.allclose(decode_shifted(pipe, latents), vae.decode(mean).sample, atol=1e-5)
    channels = dict(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8))
    tiny = AutoencoderTiny(**channels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), shift_factor=shift)
    found = encode_shifted(SimpleNamespace(vae=tiny), images)
    assert torch.allclose(found, (tiny.encode(images).latents - shift) * tiny.config.scaling_factor)


def test_latents_of_real_images_decode_to_them(model):
    place = torch.arange(128) - 63.5
    disc = (place[:, None] ** 2 + place[None] ** 2).sqrt() < 40
    image = torch.where(disc, torch.tensor([1.0, 0.8, 0.1])[:, None, None], 1.0)[None]
    latents = model.encode(image)
    assert latents.shape == (1, *model.shape) and latents.dtype == image.dtype
    assert (model.decode(latents) - image).square().mean() < 0.05 * image.var()
    leaf = image.clone().requires_grad_()
    assert torch.autograd.grad(model.encode(leaf).square().sum(), leaf)[0].abs().sum() > 0

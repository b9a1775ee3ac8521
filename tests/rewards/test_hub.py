"""Reward models of the literature, on tiny random towers of the real classes."""

import inspect
import math
import re
import threading
import warnings

import numpy as np
import pytest
import tiny_towers as tiny
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tiny_towers import SIDE
from torch.nn import functional as F

from noisetilt import rewards
from noisetilt.rewards import Reward, hub
from noisetilt.rewards.catalogue import EXAMPLES, check_names, is_of_hub, missing_heldout, split_terms
from noisetilt.rewards.hub import blip, clip
from noisetilt.rewards.hub.classifier import find_label
from noisetilt.rewards.hub.detection import DetectorPixels
from noisetilt.rewards.hub.files import locate, read_state
from noisetilt.rewards.hub.preprocess import Preprocess, difference, preprocess_of, resize

PROMPTS = ["a red fox", "the blue cat in the snow on green hill"]
SIZES = [(16, 16), (40, 40), (33, 61), (64, 20), (9, 12)]
NAMES = ["aesthetic", "aesthetic-v2.5", "clipscore", "pickscore", "hpsv2", "hpsv2.1", "imagereward", "classifier:fox"]


def levels(height, width, count=2):
    """Random 8-bit pictures (count, height, width, 3)."""
    return np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def as_images(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of the published layout for each reward, with what its reference needs."""
    made = {name: tmp_path_factory.mktemp(name.split(":")[0]) for name in NAMES}
    reference = {name: tiny.clip(made[name]) for name in ("aesthetic", "clipscore", "pickscore")}
    for name, file, ends, features, prefix in (
        ("aesthetic", "sac+logos+ava1-l14-linearMSE.pth", False, tiny.JOINT, "layers."),
        ("aesthetic-v2.5", "aesthetic_predictor_v2_5.pth", True, tiny.WIDTH, "scoring_head."),
    ):
        torch.manual_seed(1)
        head = tiny.head(features, ends)
        torch.save({prefix + key: value for key, value in head.state_dict().items()}, made[name] / file)
        reference[name] = (tiny.siglip(made[name]) if ends else reference[name], head)
    for name, file in (("hpsv2", "HPS_v2_compressed.pt"), ("hpsv2.1", "HPS_v2.1_compressed.pt")):
        model = tiny.clip(made[name], act="gelu")
        (made[name] / "model.safetensors").unlink()
        reference[name] = tiny.open_clip_state(model)
        torch.save({"epoch": 1, "state_dict": reference[name]}, made[name] / file)
    reference["imagereward"] = tiny.imagereward(made["imagereward"])
    reference["classifier:fox"] = tiny.vit(made["classifier:fox"])
    return made, reference


LOADED = {}


def load(name, folders, dtype=torch.float32):
    spec = "classifier:red_fox" if name == "classifier:fox" else name
    if (name, dtype) not in LOADED:
        LOADED[name, dtype] = rewards.load(spec, path=folders[0][name], dtype=dtype)
    return LOADED[name, dtype]


# What is published, computed the published way.


def text_of(folder, prompts, **options):
    words = transformers.AutoTokenizer.from_pretrained(folder)
    return words(prompts, return_tensors="pt", truncation=True, max_length=12, **options)


def pixels_of(folder, pictures):
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return torch.as_tensor(np.stack(processor(images=[Image.fromarray(p) for p in pictures]).pixel_values))


def torchvision_crop(picture):
    """The square that torchvision's Resize and CenterCrop make, which ImageReward's code uses."""
    (width, height), short = picture.size, min(picture.size)
    small = picture.resize((SIDE * width // short, SIDE * height // short), Image.Resampling.BICUBIC)
    left, top = (round((side - SIDE) / 2.0) for side in small.size)
    return small.crop((left, top, left + SIDE, top + SIDE))


def cubic_weights(of, to):
    """(to, of): Keys' cubic with a = -1/2, widened for shrinking, as torchvision resizes tensors of floats."""
    scale = of / to
    x = (torch.arange(of) + 0.5 - (torch.arange(to)[:, None] + 0.5) * scale).abs().double() / max(scale, 1)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0))
    return weights / weights.sum(1, keepdim=True)


def hpsv2_pixels(pictures):
    """ToTensor, ResizeMaxSize and Normalize of HPSv2's code: nothing is rounded or clipped."""
    images = as_images(pictures).double()
    height, width = (round(side * SIDE / max(images.shape[2:])) for side in images.shape[2:])
    small = cubic_weights(images.shape[2], height) @ images @ cubic_weights(images.shape[3], width).T
    canvas = torch.zeros(len(images), 3, SIDE, SIDE, dtype=torch.float64)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    canvas[:, :, top : top + height, left : left + width] = small
    mean, std = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    return ((canvas - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).float()


def open_clip_tower(x, state, prefix, mask=None):
    for layer in range(2):
        block = f"{prefix}resblocks.{layer}."
        get = lambda name: (state[f"{block}{name}.weight"], state[f"{block}{name}.bias"])  # noqa: B023, E731
        h = F.layer_norm(x, x.shape[-1:], *get("ln_1")).transpose(0, 1)
        h = F.multi_head_attention_forward(
            *(h, h, h, h.shape[-1], 2, state[f"{block}attn.in_proj_weight"], state[f"{block}attn.in_proj_bias"]),
            *(None, None, False, 0.0, *get("attn.out_proj")),
            need_weights=False,
            attn_mask=mask,
        )[0]
        x = x + h.transpose(0, 1)
        h = F.gelu(F.linear(F.layer_norm(x, x.shape[-1:], *get("ln_2")), *get("mlp.c_fc")))
        x = x + F.linear(h, *get("mlp.c_proj"))
    return x


def open_clip_cosine(state, pixels, tokens):
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=tiny.PATCH).flatten(2).transpose(1, 2)
    x = (
        torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
        + state["visual.positional_embedding"]
    )
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    x = open_clip_tower(x, state, "visual.transformer.")[:, 0]
    image = F.layer_norm(x, x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    y = state["token_embedding.weight"][tokens] + state["positional_embedding"][: tokens.shape[1]]
    mask = torch.full((tokens.shape[1],) * 2, -math.inf).triu(1)
    y = open_clip_tower(y, state, "transformer.", mask)
    y = F.layer_norm(y, y.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    text = y[torch.arange(len(y)), tokens.argmax(1)]
    return F.cosine_similarity(image @ state["visual.proj"], text @ state["text_projection"])


def attend(q, k, v, heads, mask=None):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def imagereward_value(state, pixels, text):
    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name, eps):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    eye, t = "blip.visual_encoder.", "blip.text_encoder."
    patch = (state[f"{eye}patch_embed.proj.weight"], state[f"{eye}patch_embed.proj.bias"], tiny.PATCH)
    x = F.conv2d(pixels, *patch).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{eye}cls_token"].expand(len(x), -1, -1), x], dim=1) + state[f"{eye}pos_embed"]
    for layer in range(2):
        b = f"{eye}blocks.{layer}."
        q, k, v = linear(norm(x, f"{b}norm1", 1e-6), f"{b}attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, v, tiny.EYE // 64), f"{b}attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{b}norm2", 1e-6), f"{b}mlp.fc1")), f"{b}mlp.fc2")
    x = norm(x, f"{eye}norm", 1e-6)
    tokens, keep = text.input_ids, text.attention_mask[:, None, None].bool()
    y = state[f"{t}embeddings.word_embeddings.weight"][tokens]
    y = norm(y + state[f"{t}embeddings.position_embeddings.weight"], f"{t}embeddings.LayerNorm", 1e-12)
    for layer in range(2):
        b = f"{t}encoder.layer.{layer}."
        for kind, of, mask in (("attention", None, keep), ("crossattention", x, None)):
            of = y if of is None else of
            parts = (linear(y, f"{b}{kind}.self.query"), *(linear(of, f"{b}{kind}.self.{n}") for n in ("key", "value")))
            y = norm(
                y + linear(attend(*parts, 2, mask), f"{b}{kind}.output.dense"), f"{b}{kind}.output.LayerNorm", 1e-12
            )
        h = linear(F.gelu(linear(y, f"{b}intermediate.dense")), f"{b}output.dense")
        y = norm(y + h, f"{b}output.LayerNorm", 1e-12)
    h = y[:, 0]
    for index in (0, 2, 4, 6, 7):
        h = linear(h, f"mlp.layers.{index}")
    return (h[:, 0] - 0.16717362830052426) / 1.0333394966054072


@torch.no_grad()
def published(name, folders, pictures):
    """The reward's published formula on 8-bit pictures, through transformers' own processors."""
    folder, reference = folders[0][name], folders[1][name]
    if name == "classifier:fox":
        return reference(pixel_values=pixels_of(folder, pictures)).logits[:, 1]
    if name == "aesthetic":
        seen = reference[0].get_image_features(pixel_values=pixels_of(folder, pictures))
        seen = getattr(seen, "pooler_output", seen)
        return reference[1](seen / seen.norm(dim=-1, keepdim=True))[:, 0]
    if name == "aesthetic-v2.5":
        seen = reference[0](pixel_values=pixels_of(folder, pictures)).pooler_output
        return reference[1](seen / seen.norm(dim=-1, keepdim=True))[:, 0]
    if name == "imagereward":
        cropped = np.stack([np.asarray(torchvision_crop(Image.fromarray(picture))) for picture in pictures])
        pixels = pixels_of(folders[0]["clipscore"], cropped)
        return imagereward_value(reference, pixels, text_of(folder, PROMPTS, padding="max_length"))
    if name.startswith("hpsv2"):
        pixels = hpsv2_pixels(pictures)
        return open_clip_cosine(reference, pixels, text_of(folder, PROMPTS, padding=True).input_ids)
    prompts = [f"A photo depicts {p}" for p in PROMPTS] if name == "clipscore" else PROMPTS
    text = text_of(folder, prompts, padding=True)
    seen = reference(pixel_values=pixels_of(folder, pictures), **text)
    cosine = seen.logits_per_image.diagonal() / reference.logit_scale.exp()
    return 2.5 * cosine if name == "clipscore" else cosine


@pytest.mark.parametrize("name", NAMES)
def test_value_is_the_published_formula(name, folders):
    """Exactly so where nothing is resized, and for HPSv2, which resizes floats; elsewhere PIL's rounding to 8 bits
    matters little against the differences between pictures of random levels (to these towers, which are far more
    sensitive to it than trained ones)."""
    reward = load(name, folders)
    spread = reward(as_images(levels(40, 40, count=6)), PROMPTS[:1] * 6).std()
    for height, width in SIZES:
        pictures = levels(height, width)
        found, expected = reward(as_images(pictures), PROMPTS), published(name, folders, pictures)
        error = (found - expected).abs().max()
        assert found.shape == (2,) and found.dtype == torch.float32
        exact = (height, width) == (SIDE, SIDE) or name.startswith("hpsv2")
        assert error < (2e-5 * max(1, expected.abs().max()) if exact else 0.25 * spread), (height, width)


@pytest.mark.parametrize("name", NAMES)
def test_values_tell_pictures_and_prompts_apart(name, folders):
    reward = load(name, folders)
    images = as_images(levels(40, 40, count=6))
    values = reward(images, PROMPTS[:1] * 6)
    assert values.std() > 0.01
    other = reward(images, PROMPTS[1:] * 6)
    reads = not name.startswith(("aesthetic", "classifier"))
    assert ((values - other).abs().min() > 1e-4) == reads


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences(name, folders):
    reward = load(name, folders, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(2, 3, 21, 30, dtype=torch.float64, generator=generator)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
    for _ in range(3):
        direction = torch.randn(images.shape, dtype=torch.float64, generator=generator)
        h = 1e-5
        plus, minus = (reward(images.detach() + sign * h * direction, PROMPTS).sum() for sign in (1, -1))
        slope = (gradient * direction).sum()
        assert slope.abs() > 1e-6
        assert ((plus - minus) / (2 * h) - slope).abs() < 1e-5 * slope.abs() + 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_rows(name, folders):
    """A picture's reward does not depend on the others, nor on earlier prompts."""
    reward = load(name, folders)
    images = as_images(levels(20, 20))
    both = reward(images, PROMPTS)
    LOADED.clear()
    alone = [load(name, folders)(images[i : i + 1], PROMPTS[i : i + 1]) for i in (0, 1)]
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)
    assert torch.allclose(both, reward(images.flip(0), PROMPTS[::-1]).flip(0), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_images_and_towers(name, folders):
    images = as_images(levels(20, 20))
    exact = load(name, folders)(images, PROMPTS)
    mixed = load(name, folders)(images.bfloat16(), PROMPTS)
    low = load(name, folders, dtype=torch.bfloat16)(images, PROMPTS)
    assert mixed.dtype == torch.bfloat16 and low.dtype == torch.float32
    assert (mixed - exact).abs().max() < 0.1 * max(1, exact.abs().max())
    assert (low - exact).abs().max() < 0.2 * max(1, exact.abs().max())


@pytest.mark.parametrize("name", ["aesthetic", "aesthetic-v2.5", "classifier:fox"])
def test_a_score_of_a_network_in_half_precision_is_not_rounded_to_it(name, folders):
    """bfloat16 has 32 values between two powers of two 8 apart: scores near 5 would be multiples of 1/32."""
    function = load(name, folders, dtype=torch.bfloat16).function
    values = load(name, folders, dtype=torch.bfloat16)(as_images(levels(20, 20)), PROMPTS)
    assert (values != values.bfloat16()).all()
    if name == "classifier:fox":
        network, exact = function.model, load(name, folders).function.model
        assert network.vit.embeddings.cls_token.dtype == torch.bfloat16
        assert torch.equal(network.classifier.weight, exact.classifier.weight)
    else:
        exact = load(name, folders).function.head
        assert next(function.network.parameters()).dtype == torch.bfloat16
        assert all(torch.equal(*pair) for pair in zip(function.head.parameters(), exact.parameters(), strict=True))


def test_imagereward_in_half_precision_computes_its_head_in_single_precision(folders):
    model, seen = load("imagereward", folders, dtype=torch.bfloat16).function.model, []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    value = load("imagereward", folders, dtype=torch.bfloat16)(as_images(levels(20, 20)), PROMPTS)
    hook.remove()
    exact = load("imagereward", folders).function.model.head
    assert {parameter.dtype for parameter in model.text.parameters()} == {torch.bfloat16}
    assert all(torch.equal(*pair) for pair in zip(model.head.parameters(), exact.parameters(), strict=True))
    assert seen[0].dtype == torch.float32 and torch.equal(value, (exact(seen[0]) - blip.MEAN) / blip.STD)


# Preprocessing.


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "of, to", [((512, 512), (224, 224)), ((64, 64), (224, 224)), ((451, 300), (384, 384)), ((50, 40),) * 2]
)
def test_resizing_is_pils_but_for_its_rounding(mode, of, to):
    """On white noise, which overshoots most; along rows, then along columns, in whatever order this PIL prefers."""
    picture, method = levels(*of, count=1), Image.Resampling[mode.upper()]
    wide = Image.fromarray(picture[0]).resize((to[1], of[0]), method)
    expected = as_images(np.array(wide.resize(to[::-1], method))[None])
    error = (resize(as_images(picture), *to, mode) - expected) * 255
    assert error.abs().max() < 1.2 and error.square().mean().sqrt() < 0.45


@pytest.mark.parametrize(
    "processor",
    [
        lambda: transformers.CLIPImageProcessor(),
        lambda: transformers.SiglipImageProcessor(),
        lambda: transformers.ViTImageProcessor(),
        lambda: transformers.ViTImageProcessor(do_normalize=False),
        lambda: transformers.BlipImageProcessor(),
        lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 24, "width": 32}),
    ],
)
@pytest.mark.parametrize("shape", [(64, 64), (300, 451), (451, 300), (224, 225)])
def test_preprocessing_is_the_processors(processor, shape):
    processor = processor()
    assert difference(preprocess_of(processor, "it"), processor, shape) < 1.2


@pytest.mark.parametrize("shape", [(832, 1216), (1216, 832), (512, 512), (768, 1024), (63, 90), (300, 451)])
def test_imagereward_crops_as_torchvision_does(shape, folders):
    """Where an odd number of pixels is cut off, transformers' image processors leave out another one."""
    picture = Image.fromarray(levels(*shape, count=1)[0])
    preprocess = load("imagereward", folders).function.preprocess
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    found = preprocess(as_images(np.array(picture)[None])) * std + mean
    assert (found - as_images(np.array(torchvision_crop(picture))[None])).abs().max() * 255 < 1.2


def test_an_unknown_preprocessing_is_refused():
    wide = transformers.CLIPImageProcessor(do_resize=False)
    with pytest.raises(ValueError, match="write the reward as a function"):
        preprocess_of(wide, "it")
    cropped = transformers.ConvNextImageProcessor(size={"shortest_edge": 30}, crop_pct=0.8)
    with pytest.raises(ValueError, match="does more than resize"):
        preprocess_of(cropped, "it")
    clusters = np.zeros((4, 3))
    for other in (
        transformers.ImageGPTImageProcessor(clusters=clusters),
        transformers.ViTImageProcessor(resample=None),
        transformers.ViTImageProcessor(resample=0),
    ):
        with pytest.raises(ValueError, match=r"it's image processor does more .* yourself"):
            preprocess_of(other, "it")
        with pytest.raises(ValueError, match=r"detector's image processor does more .* yourself"):
            DetectorPixels(other)


def test_padding_keeps_the_whole_picture():
    """The longer side fits, black is around, and nothing is cut off."""
    seen = Preprocess((16, 16), "pad", mean=(0.0,) * 3, std=(1.0,) * 3)(torch.ones(1, 3, 10, 40))
    assert seen.shape == (1, 3, 16, 16)
    assert seen[0, 0].sum() == pytest.approx(4 * 16, rel=1e-5) and seen[0, 0, 6:10].min() > 0.999


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(3, 8, 8),
        torch.rand(1, 4, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.full((1, 3, 8, 8), 255.0),
    ],
)
def test_images_of_another_kind_are_refused(images):
    with pytest.raises(ValueError, match=r"the images .* expected"):
        Preprocess((8, 8))(images)


# Files.


@pytest.mark.parametrize("name", ["aesthetic", "aesthetic-v2.5", "hpsv2", "imagereward"])
def test_safetensors_come_first_and_give_the_same(name, folders, tmp_path):
    folder = folders[0][name]
    images = as_images(levels(20, 20))
    before = load(name, folders)(images, PROMPTS)
    LOADED.clear()
    (pickle,) = [file for file in folder.iterdir() if file.suffix in (".pt", ".pth")]
    held = pickle.read_bytes()
    save_file({k: v.contiguous() for k, v in read_state(pickle).items()}, pickle.with_suffix(".safetensors"))
    pickle.write_bytes(b"this is never read")
    try:
        assert torch.equal(load(name, folders)(images, PROMPTS), before)
    finally:
        pickle.write_bytes(held)
        pickle.with_suffix(".safetensors").unlink()


class Harmful:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_pickles_that_carry_code_are_refused(tmp_path, capsys):
    torch.save({"state_dict": Harmful()}, tmp_path / "HPS_v2_compressed.pt")
    tiny.clip(tmp_path)
    with pytest.raises(ValueError, match=r"not a pickle of plain tensors.*safetensors"):
        rewards.load("hpsv2", path=tmp_path)
    assert "never" not in capsys.readouterr().out


def test_linear_version_1(tmp_path):
    """LAION's first head is one layer, told by the file."""
    tower = tiny.clip(tmp_path)
    weight, bias = torch.randn(1, tiny.JOINT), torch.randn(1)
    torch.save({"weight": weight, "bias": bias}, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    pictures = levels(SIDE, SIDE)
    seen = tower.get_image_features(pixel_values=pixels_of(tmp_path, pictures))
    seen = F.normalize(getattr(seen, "pooler_output", seen), dim=1)
    found = rewards.load("aesthetic", path=tmp_path)(as_images(pictures), PROMPTS)
    assert torch.allclose(found, F.linear(seen, weight, bias)[:, 0], atol=1e-5)


def test_a_head_of_another_build_is_refused(tmp_path):
    """With activations between, the layers' numbers are others; guessing would give a wrong score."""
    tiny.clip(tmp_path)
    state = {
        f"layers.{i}.{k}": torch.zeros(1, 1)[0 if k == "bias" else slice(None)]
        for i in (0, 3, 6)
        for k in ("weight", "bias")
    }
    torch.save(state, tmp_path / "aesthetic-model.pth")
    with pytest.raises(ValueError, match="not this reward's head"):
        rewards.load("aesthetic", path=tmp_path)


def test_a_head_of_another_tower_is_refused(tmp_path):
    tiny.clip(tmp_path)
    head = tiny.head(tiny.JOINT + 1, False)
    torch.save({f"layers.{k}": v for k, v in head.state_dict().items()}, tmp_path / "aesthetic-model.pth")
    with pytest.raises(ValueError, match="expects 13 features and the tower has 12"):
        rewards.load("aesthetic", path=tmp_path)


def test_towers_that_lack_something_are_refused(tmp_path):
    """transformers itself would draw what is missing at random."""
    model = tiny.clip(tmp_path)
    state = {k: v for k, v in model.state_dict().items() if k != "visual_projection.weight"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 'visual_projection.weight' \(and 0 more\)"):
        rewards.load("pickscore", path=tmp_path)


def test_weights_that_lack_something_are_refused(folders, tmp_path):
    tiny.clip(tmp_path)
    state = dict(folders[1]["hpsv2"])
    del state["visual.ln_post.bias"]
    torch.save(state, tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(ValueError, match=r"lacks 'vision_model.post_layernorm.bias'"):
        rewards.load("hpsv2", path=tmp_path)


@pytest.mark.parametrize(
    "name, word",
    [
        ("aesthetic", "aesthetic's head: none of"),
        ("aesthetic-v2.5", "aesthetic-v2.5's head: none of"),
        ("pickscore", "pickscore's model cannot be loaded"),
        ("hpsv2", "hpsv2's configuration: none of config.json"),
        ("imagereward", "imagereward's weights: none of"),
        ("classifier:fox", "the classifier cannot be loaded"),
    ],
)
def test_an_empty_folder_is_refused_in_one_sentence(name, word, tmp_path):
    with pytest.raises(ValueError, match=word) as caught:
        rewards.load(name, path=tmp_path)
    assert "\n" not in str(caught.value)


def test_without_the_hub_it_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot be downloaded from trl-lib.*with path=, or NAME@FOLDER") as caught:
        rewards.load("aesthetic")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="not on the hub"):
        rewards.load("aesthetic-v2.5")


def test_weights_in_the_cache_are_found_without_the_hub(monkeypatch, tmp_path):
    """Also under a later name: whether the hub has an earlier one is then not known."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--some--weights", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    file = repository / "snapshots" / commit / "second.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert locate("some/weights", ["first.safetensors", "second.pt"], "the weights") == file
    with pytest.raises(ValueError, match=r"the weights cannot be downloaded from some/weights.*first, third"):
        locate("some/weights", ["first", "third"], "the weights")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install \"\.\[rewards\]\""):
        rewards.load("pickscore")


# Names, sums, labels, the held-out side.


def test_names_with_places_and_sums(folders):
    made = folders[0]
    images = as_images(levels(20, 20))
    pick, score = (load(name, folders)(images, PROMPTS) for name in ("pickscore", "clipscore"))
    total = rewards.load(f"2*pickscore@{made['pickscore']} - 0.5*clipscore@{made['clipscore']} + redness")
    red = rewards.load("redness")(images, PROMPTS)
    assert torch.allclose(total(images, PROMPTS), 2 * pick - 0.5 * score + red, atol=1e-6)
    mapped = rewards.load("2*pickscore - 0.5*clipscore + redness", path=made)
    assert torch.allclose(mapped(images, PROMPTS), total(images, PROMPTS))
    upper = {"PickScore": made["pickscore"], "ClipScore": made["clipscore"]}
    mapped = rewards.load("2*PickScore - 0.5*clipscore + redness", path=upper)
    assert torch.equal(mapped(images, PROMPTS), total(images, PROMPTS))


@pytest.mark.parametrize(
    "spec, heldout, path, message",
    [
        ("pickscore", False, {"pickscor": "a"}, r"name 'pickscor', .*did you mean 'pickscore'\?\); mend or"),
        ("pickscore", False, {"pickscore": "a", "redness": "b"}, "name 'redness', which is no reward of the hub"),
        ("pickscore", False, {"pickscore@a": "b"}, "name 'pickscore@a'"),
        ("pickscore", False, {1: "a"}, "name 1, which"),
        ("pickscore", False, {"clipscore": "a"}, "places for clipscore and the loaded .* are pickscore; give"),
        ("pickscore", True, {"pickscore": "a"}, "places for pickscore and the loaded .* are imagereward; give"),
        ("video:pickscore", False, {"pickscore": "a"}, "are video:pickscore; give"),
        ("pickscore@a", False, {"pickscore": "b"}, "without a place are none; give"),
    ],
)
def test_a_mapping_with_a_wrong_name_is_refused(spec, heldout, path, message):
    """The published weights would be downloaded in place of those that were meant."""
    with pytest.raises(ValueError, match=message) as caught:
        rewards.load(spec, heldout, path=path)
    assert "\n" not in str(caught.value)


def test_heldout_is_another_reward(folders):
    made = folders[0]
    assert rewards.load("pickscore", heldout=True, path=made["imagereward"]).name == "imagereward"
    assert rewards.load("aesthetic@/no/such/place", heldout=True, path=made["pickscore"]).name == "pickscore"
    total = rewards.load("0.5*objects:cat + 0.5*hpsv2 + redness", heldout=True, path=made)
    assert [(weight, reward.name) for weight, reward in total.terms] == [
        (0.5, "clipscore"),
        (0.5, "imagereward"),
    ]
    images = as_images(levels(20, 20))
    values = [load(name, folders)(images, PROMPTS) for name in ("clipscore", "imagereward")]
    expected = 0.5 * sum(values)  # redness has no other version
    assert torch.allclose(total(images, PROMPTS), expected, atol=1e-6)


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("0.5*pickscore + 0.5*imagereward", ["clipscore", "clipscore"]),
        ("0.7*pickscore + 0.3*aesthetic", ["imagereward", "imagereward"]),
        ("0.5*aesthetic + 0.5*hpsv2", ["imagereward", "imagereward"]),
        ("clipscore + objects:cat", ["imagereward", "pickscore"]),
        ("video:pickscore + video-consistency", ["video:imagereward", "video:imagereward"]),
        ("videoreward + imagereward", ["video:pickscore", "pickscore"]),
        ("video-consistency + video:imagereward", ["video:pickscore", "video:pickscore"]),
        ("clip:some/model + hpsv3", ["imagereward", "imagereward"]),
        ("imscore:pickscore.PickScorer", ["imagereward"]),
        ("0.5*pickscore - 0.5*imagereward", ["clipscore", "aesthetic"]),
        ("2*hpsv2 + style:3d + 0.1*imagereward", ["clipscore", "clipscore"]),
    ],
)
def test_the_heldout_reward_of_a_sum_is_none_of_its_terms(spec, expected):
    """Nor one with the network of a term. A difference does not become one of a reward and itself."""
    terms = [(weight, name) for weight, name in split_terms(spec) if hub.is_hub(name)]
    assert hub.heldout_names(terms) == expected and missing_heldout(spec) is None


@pytest.mark.parametrize(
    "spec", ["pickscore + imagereward + clipscore", "clip:some/model + imagereward", "pickscore - aesthetic"]
)
def test_a_sum_without_a_heldout_reward_is_refused_in_one_sentence(spec):
    with pytest.raises(ValueError, match=r"no held-out reward for '.*pass another reward as heldout=") as caught:
        rewards.load(spec, heldout=True)
    assert "\n" not in str(caught.value) and all(name in str(caught.value) for _, name in split_terms(spec))
    assert missing_heldout(spec) == str(caught.value)
    assert not rewards.has_heldout(f"style:3d + {spec}") and rewards.has_heldout("style:3d + pickscore")


def test_the_heldout_reward_of_several_terms_is_evaluated_once_and_has_its_own_name(folders):
    total = rewards.load("0.7*pickscore + 0.3*aesthetic", heldout=True, path=folders[0])
    assert total.name == "imagereward" and not total.terms
    total = rewards.load("-2*hpsv2 + 0.5*objects:cat + objects:dog", heldout=True, path=folders[0])
    assert [(weight, term.name) for weight, term in total.terms] == [(-2.0, "imagereward"), (1.5, "clipscore")]
    assert total.name == "-2*imagereward + 1.5*clipscore"


@pytest.mark.parametrize(
    "spec, of",
    [
        ("classifier:PATH:red_fox - classifier:PATH:white fox", "classifier:fox"),
        ("pickscore + video:pickscore", "pickscore"),
        ("clipscore + video-consistency", "clipscore"),
    ],
)
def test_terms_of_one_network_share_it(spec, of, folders):
    path = folders[0][of]
    (_, one), (_, other) = rewards.load(spec.replace("PATH", str(path)), path=path).terms
    models = []
    for reward in (one, other):
        function = reward.function
        cells = {} if function.__class__.__name__ != "function" else inspect.getclosurevars(function).nonlocals
        inner = (
            cells["image"].function if "image" in cells else cells["embed"].__self__ if "embed" in cells else function
        )
        models.append(inner.model)
    assert models[0] is models[1]
    assert rewards.load(spec.replace("PATH", str(path)), path=path).terms[0][1] is not one


@pytest.mark.parametrize(
    "spec, heldout",
    [("0.7*pickscore + 0.3*clipscore", False), ("clipscore + objects:cat", True), ("classifier:a:b + clip:c", False)],
)
def test_one_path_for_several_networks_is_refused(spec, heldout, tmp_path):
    with pytest.raises(ValueError, match=r"networks of .* are several; pass a mapping from names to paths, such as"):
        rewards.load(spec, heldout, path=tmp_path)


@pytest.mark.parametrize("name", hub.HELDOUT)
def test_no_reward_is_its_own_heldout_reward(name):
    """Nor another of the same tower, of its frames either."""
    heldout = hub.heldout_name(name)
    assert hub.is_hub(heldout) and heldout.startswith("video:") == name.startswith("video")
    towers = {"pickscore": "H", "hpsv2": "H", "hpsv2.1": "H", "mps": "H", "aesthetic": "L", "clipscore": "B"}
    towers |= {"video-consistency": "B", "cyclereward": "BLIP", "imagereward": "BLIP", "pickscore-siglip": "SigLIP"}
    plain = heldout.removeprefix("video:")
    assert plain != name and towers.get(plain, plain) != towers.get(name, name)


@pytest.mark.parametrize("label", ["1", "red fox", "Red_Fox"])
def test_labels(label, folders):
    images = as_images(levels(20, 20))
    found = rewards.load(f"classifier:{folders[0]['classifier:fox']}:{label}".replace(" ", "_"))(images, PROMPTS)
    assert torch.equal(found, load("classifier:fox", folders)(images, PROMPTS))


@pytest.mark.parametrize(
    "name",
    [
        "objects:traffic light",
        "count:traffic light:2",
        "video:count:Traffic Light:2",
        "video:objects:traffic light",
        "classifier:a/Model:tabby, tabby cat",
        "video:classifier:a/Model:tabby, tabby cat",
    ],
)
def test_labels_may_have_spaces(name):
    assert split_terms(name) == [(1.0, name)] and hub.is_hub(name)
    assert split_terms(f"0.5*{name} - 2*redness + {name}") == [(0.5, name), (-2.0, "redness"), (1.0, name)]


def test_a_label_with_spaces_is_loaded(folders):
    images, place = as_images(levels(20, 20)), folders[0]["classifier:fox"]
    reward = rewards.load("0.5*video:classifier::white fox + redness", path=place)
    one = hub.over_frames(hub.classifier(place, "white fox"))(images[:, None], PROMPTS)
    red = rewards.load("redness")(images, PROMPTS)
    assert torch.allclose(reward(images[:, None], PROMPTS), 0.5 * one + red, atol=1e-5)


@pytest.mark.parametrize("label, word", [("wolf", "has 0 labels 'wolf'"), ("7", "has 0 labels '7'")])
def test_unknown_labels_are_refused(label, word, folders):
    with pytest.raises(ValueError, match=word):
        hub.classifier(folders[0]["classifier:fox"], label)


def test_labels_between_commas(folders):
    folder = folders[0]["classifier:fox"]
    assert hub.classifier(folder, "white fox").function.label == 2
    assert hub.classifier(folder, "tabby").function.label == 0


@pytest.mark.parametrize(
    "spec, path, word",
    [
        ("classifier:red_fox", None, "has no model or no label"),
        ("redness", "/models", "path = /models is for hub rewards"),
        ("video:redness", None, "unknown: video: is for rewards of the hub; write redness"),
        ("video:classifier:imagenet:teapot", None, "unknown: video: is for .*; write classifier:imagenet:teapot"),
        ("video:video-consistency", None, "unknown"),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec, path, word):
    with pytest.raises(ValueError, match=word):
        rewards.load(spec, path=path)


@pytest.mark.parametrize(
    "video, kind",
    [
        *(("", kind) for kind in EXAMPLES),
        *(("video:", kind) for kind in EXAMPLES if is_of_hub(f"video:{EXAMPLES[kind]}")),
    ],
)
def test_the_kind_of_a_reward_alone_is_refused_with_an_example(video, kind):
    """Of the same kind; a suggestion would be the name itself or that of another kind."""
    for name in (kind, f"{kind}:"):
        with pytest.raises(ValueError) as caught:
            check_names(video + name)
        assert "did you mean" not in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(f"needs a further part; write it like {video}{EXAMPLES[kind]}")):
        rewards.load(video + kind)


def test_an_empty_model_of_clip_is_not_the_current_folder(tmp_path, monkeypatch):
    tiny.clip(tmp_path)
    monkeypatch.chdir(tmp_path)
    for load_or_check in (rewards.load, check_names):
        with pytest.raises(ValueError, match="'clip:' has no model; write it as clip:<hub id or folder>"):
            load_or_check("clip:")
    assert rewards.load("clip:", path=tmp_path).uses_prompts


def test_a_prompt_for_each_image(folders):
    for name in ("pickscore", "imagereward"):
        with pytest.raises(ValueError, match="one prompt per image"):
            load(name, folders)(as_images(levels(20, 20)), "a red fox")


# Videos.


def video(frames, seed=0):
    return torch.rand(2, frames, 3, 20, 24, generator=torch.Generator().manual_seed(seed))


def test_a_video_reward_is_the_mean_over_frames(folders):
    image = load("pickscore", folders)
    reward = rewards.load("video:pickscore", path=folders[0]["pickscore"])
    assert reward.video and reward.name == "video:pickscore"
    films = video(5)
    each = torch.stack([image(films[:, t], PROMPTS) for t in range(5)], dim=1)
    assert torch.allclose(reward(films, PROMPTS), each.mean(1), atol=1e-6)
    assert not hub.over_frames(rewards.weighted_sum([(2.0, image)])).terms
    with pytest.raises(ValueError, match="'video:pickscore' takes videos already"):
        hub.over_frames(reward)
    few = hub.over_frames(image, count=3)(films, PROMPTS)
    assert torch.allclose(few, each[:, [0, 2, 4]].mean(1), atol=1e-6)


def test_consistency(folders):
    """A still is perfectly consistent; other frames are less so, by the published formula; its gradient is exact."""
    reward = rewards.load("video-consistency", path=folders[0]["clipscore"], dtype=torch.float64)
    still = video(1).double().expand(-1, 6, -1, -1, -1)
    assert torch.allclose(reward(still, PROMPTS), torch.ones(2, dtype=torch.float64))
    films = video(6).double().requires_grad_()
    embed = load("clipscore", folders, dtype=torch.float64).function.embed
    d = embed(films.detach().flatten(0, 1)).unflatten(0, (2, 6))
    pairs = [((d[:, 0] * d[:, t]).sum(1) + (d[:, t - 1] * d[:, t]).sum(1)) / 2 for t in range(1, 6)]
    value = reward(films, PROMPTS)
    assert torch.allclose(value, sum(pairs) / 5) and (value < 0.999).all()
    (gradient,) = torch.autograd.grad(value.sum(), films)
    direction = torch.randn(films.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plus, minus = (reward(films.detach() + sign * 1e-6 * direction, PROMPTS).sum() for sign in (1, -1))
    slope = (gradient * direction).sum()
    assert ((plus - minus) / 2e-6 - slope).abs() < 1e-4 * slope.abs()


def test_the_consistency_of_a_long_video_shows_flicker():
    """Of consecutive frames, and of no more frames than asked for."""
    seen = []

    def embed(frames):
        seen.append(len(frames))
        return F.normalize(frames.mean((2, 3)) - 0.5, dim=1)

    consistency = hub.video.frame_consistency(embed, 8)
    still = torch.rand(2, 1, 3, 4, 4).expand(-1, 21, -1, -1, -1)
    flicker = still.clone()
    flicker[:, 1::2] = 1 - flicker[:, 1::2]
    assert torch.allclose(consistency(still, PROMPTS), torch.ones(2)) and max(seen) == 16
    # Pairs end at frames 1, 7 (or 8), 13 (or 14) and 20; consecutive frames are opposite.
    assert (consistency(flicker, PROMPTS) < 0).all()
    slow = still.clone()
    slow[:, 11:] = 1 - slow[:, 11:]
    assert ((consistency(slow, PROMPTS) > 0) & (consistency(slow, PROMPTS) < 1)).all()


def test_sums_with_video_rewards_average_image_rewards_over_frames(folders):
    total = rewards.load("video-consistency + 2*redness", path={"video-consistency": folders[0]["clipscore"]})
    films = video(4)
    steady = rewards.load("video-consistency", path=folders[0]["clipscore"])(films, PROMPTS)
    red = torch.stack([rewards.load("redness")(films[:, t], PROMPTS) for t in range(4)]).mean(0)
    assert total.video and torch.allclose(total(films, PROMPTS), steady + 2 * red, atol=1e-5)


@pytest.mark.parametrize("shape, word", [((2, 3, 8, 8), "expected"), ((2, 1, 3, 8, 8), "2 frames or more")])
def test_videos_of_another_kind_are_refused(shape, word, folders):
    with pytest.raises(ValueError, match=word):
        rewards.load("video-consistency", path=folders[0]["clipscore"])(torch.rand(shape), PROMPTS)


def test_too_few_frames_are_refused(folders):
    with pytest.raises(ValueError, match="count = 0"):
        hub.over_frames(Reward("mean", lambda i, p: i.mean((1, 2, 3))), 0)
    with pytest.raises(ValueError, match="count = 1"):
        hub.video_consistency(folders[0]["clipscore"], count=1)


@pytest.mark.parametrize("name", ["clipscore", "pickscore", "hpsv2", "imagereward"])
def test_a_prompt_longer_than_the_text_encoder_reads_warns_of_what_is_cut(name, folders):
    reward, images = load(name, folders), torch.rand(1, 3, 16, 16)
    function = reward.function
    text = function.model.text if name == "imagereward" else function.model
    limit = getattr(text.config, "text_config", text.config).max_position_embeddings
    limit = min(limit, 35) if name == "imagereward" else limit
    words = [*["red"] * (2 * limit), "fox"]
    with pytest.warns(UserWarning, match=rf"{name} reads \d+ tokens of a prompt .* it ignores '(red )+fox'"):
        reward(images, [" ".join(words)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(images, ["a red fox"])


@pytest.mark.parametrize("name", ["imagereward", "pickscore"])
def test_threads_may_share_a_reward(name, folders, monkeypatch):
    """Tokenizers keep padding and truncation as state, which a thread would change while another one tokenises; text
    embeddings are cached."""
    monkeypatch.setattr(clip, "CACHE_SIZE", 2)
    reward, images = load(name, folders), torch.rand(1, 3, 16, 16)
    texts = ["a red fox", "the blue cat in the snow", "red red fox", "cat"]
    expected, wrong = [reward(images, [text]) for text in texts], []

    def evaluate(text, value):
        for _ in range(30):
            try:
                if not torch.allclose(reward(images, [text]), value, atol=1e-5):
                    wrong.append(text)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=evaluate, args=pair) for pair in zip(texts, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_evaluation_under_autocast_does_not_change_later_ones(folders):
    """Text embeddings are cached."""
    reward, images = rewards.load("clipscore", path=folders[0]["clipscore"]), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        reward(images, ["a red fox"])
    fresh = rewards.load("clipscore", path=folders[0]["clipscore"])
    assert torch.equal(reward(images, ["a red fox"]), fresh(images, ["a red fox"]))


def test_labels_of_the_same_case_come_first():
    labels = {0: "Cardigan, Cardigan Welsh corgi", 1: "cardigan", 2: "crane", 3: "crane"}
    assert [find_label(labels, label) for label in ("cardigan", "Cardigan", "cardigan_welsh corgi")] == [1, 0, 0]
    with pytest.raises(ValueError, match=r"has 2 labels 'Crane' among its 4 \(2: crane, 3: crane, \.\.\.\)"):
        find_label(labels, "Crane")

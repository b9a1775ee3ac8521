"""HPSv3, CLIP and SigLIP cosines, objects, and the rewards of imscore, on tiny networks of the real classes."""

import hashlib
import importlib.util
import shutil
import sys
import types
import warnings
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
import tiny_towers as tiny
import torch
import transformers
from torch import nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from noisetilt import rewards
from noisetilt.rewards import hub
from noisetilt.rewards.hub import imscore as imscore_module
from noisetilt.rewards.hub.hpsv3 import IMAGE, PIXELS, TOKEN
from noisetilt.rewards.hub.preprocess import CLIP_STD, difference
from noisetilt.rewards.hub.qwen import resized_size

PROMPTS = ["a red fox", "the blue cat in the snow on green hill"]


def levels(height, width, count=2, seed=0):
    """Smooth random 8-bit images (count, height, width, 3)."""
    small = torch.rand(count, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().byte().movedim(1, -1).numpy()


def as_images(pictures):
    return torch.from_numpy(pictures).movedim(-1, 1) / 255


def check_gradient(reward, images, prompts, h=1e-5, tolerance=1e-4):
    """The gradient equals finite differences in float64; networks with parts in float32 need a larger step."""
    generator = torch.Generator().manual_seed(0)
    images = (0.3 + 0.4 * images.double()).requires_grad_()  # away from 0 and 1, where resizing clamps
    (gradient,) = torch.autograd.grad(reward(images, prompts).sum(), images)
    direction = torch.randn(images.shape, dtype=torch.float64, generator=generator)
    plus, minus = (reward(images.detach() + sign * h * direction, prompts).sum() for sign in (1, -1))
    slope = (gradient * direction).sum()
    assert slope.abs() > 1e-9
    assert ((plus - minus) / (2 * h) - slope).abs() < tolerance * slope.abs()


# HPSv3.


@pytest.fixture(scope="module")
def hpsv3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hpsv3")
    return folder, *tiny.hpsv3(folder)


@torch.no_grad()
def published_hpsv3(made, pictures, prompts):
    """One image at a time by the published steps, with the image processor of transformers."""
    folder, model, head = made
    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.add_tokens([TOKEN], special_tokens=True)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": PIXELS, "longest_edge": PIXELS})
    question = hub.hpsv3(folder).function.question
    values = []
    for picture, prompt in zip(pictures, prompts, strict=True):
        seen = processor(images=[picture], return_tensors="pt")
        places = IMAGE * (int(seen.image_grid_thw.prod()) // 4)
        text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        text += f"{places}<|vision_end|>{question.format(text_prompt=prompt)}<|im_end|>\n<|im_start|>assistant\n"
        ids = words(text, return_tensors="pt").input_ids
        embedded = model.get_input_embeddings()(ids)
        eyes = model.visual(seen.pixel_values, grid_thw=seen.image_grid_thw).pooler_output
        embedded = embedded.masked_scatter((ids == model.config.image_token_id)[..., None], eyes)
        hidden = model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
        values.append(head(hidden[ids[0] == words.convert_tokens_to_ids(TOKEN)])[0, 0])
    return torch.stack(values)


@pytest.mark.parametrize("size", [(448, 448), (60, 90)])
def test_hpsv3_is_the_published_formula(hpsv3, size):
    """Exactly where nothing is resized, else within the rounding of PIL."""
    reward = rewards.load("hpsv3", path=hpsv3[0], dtype=torch.float32)
    pictures = levels(*size)
    pictures[1] //= 4
    found, expected = reward(as_images(pictures), PROMPTS), published_hpsv3(hpsv3, pictures, PROMPTS)
    apart = (expected[0] - expected[1]).abs()
    assert apart > 0.01
    assert ((found - expected).abs() < (0.005 if size == (448, 448) else 0.05) * apart).all()
    assert resized_size(*size, PIXELS, PIXELS) == smart_resize(*size, 28, PIXELS, PIXELS)


@pytest.mark.parametrize("size", [(96, 96), (512, 512), (60, 90)])
def test_hpsv3_sees_images_as_pil_resizes_them(hpsv3, size):
    """Black and white noise overshoots most: PIL clips it after each of its passes."""
    picture, seen = 255 * np.random.default_rng(0).integers(0, 2, (*size, 3), dtype=np.uint8), []
    scorer = rewards.load("hpsv3", path=hpsv3[0], dtype=torch.float32).function
    record = lambda pixels, *_: seen.append(pixels) or pixels  # noqa: E731
    scorer.model = mock.Mock(parameters=scorer.model.parameters, side_effect=record)
    scorer(as_images(picture[None]), PROMPTS[:1])
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": PIXELS, "longest_edge": PIXELS})
    expected = processor(images=[picture], return_tensors="pt").pixel_values
    assert (seen[0][0] - expected).abs().max() * max(CLIP_STD) * 255 < 1.2


def test_hpsv3_in_half_precision_computes_its_head_in_single_precision(hpsv3):
    reward = rewards.load("hpsv3", path=hpsv3[0])
    model, seen = reward.function.model, []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    value = reward(as_images(levels(60, 90)), PROMPTS)
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(*pair) for pair in zip(model.head.parameters(), hpsv3[2].parameters(), strict=True))
    assert seen[0].dtype == torch.float32 and torch.equal(value, hpsv3[2](seen[0])[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_hpsv3_is_built_in_the_dtype_asked_for(dtype, hpsv3, tmp_path, monkeypatch):
    """Whatever its configuration says: bfloat16 would lose digits of single precision, which takes twice the memory."""
    folder, built, kind = shutil.copytree(hpsv3[0], tmp_path / "copy"), [], transformers.Qwen2VLModel
    tiny.declare_dtype(folder, "float32" if dtype == torch.bfloat16 else "bfloat16")

    def build(config):
        model = kind(config)
        built.extend(parameter.dtype for parameter in model.parameters())
        return model

    build.forward = kind.forward
    monkeypatch.setattr("transformers.Qwen2VLModel", build)
    model = rewards.load("hpsv3", path=folder, dtype=dtype).function.model.model
    assert set(built) == {dtype}
    pairs = zip(model.parameters(), hpsv3[1].parameters(), strict=True)
    assert all(torch.equal(found, expected.to(dtype)) for found, expected in pairs)


def test_hpsv3_has_a_gradient_and_reads_the_prompt(hpsv3):
    double = rewards.load("hpsv3", path=hpsv3[0], dtype=torch.float64)
    check_gradient(double, as_images(levels(40, 40, 1)), PROMPTS[:1], h=1e-3, tolerance=0.02)
    reward, image = rewards.load("hpsv3", path=hpsv3[0], dtype=torch.float32), as_images(levels(60, 60, 1))
    assert (reward(image, PROMPTS[:1]) - reward(image, PROMPTS[1:])).abs() > 1e-4
    with pytest.raises(ValueError, match="special token"):
        reward(image, ["a <|Reward|>"])
    with pytest.raises(ValueError, match="special token"):
        reward.check_prompts(["a", "a <|Reward|>"])
    with pytest.raises(ValueError, match="divide bytes by 255"):
        reward(255 * image, PROMPTS[:1])


def test_the_question_is_the_published_one(hpsv3):
    """With the spaces at the ends of its lines, which are tokens."""
    question = hub.hpsv3(hpsv3[0]).function.question
    assert question.count("{text_prompt}") == 1 == question.count(TOKEN)
    assert question.startswith("\nYou are tasked") and question.endswith(f"image: {TOKEN}\n\nEND\n")
    assert "10 being the best. \n" in question and "**Visual Quality:**  \n" in question
    assert hashlib.sha256(question.encode()).hexdigest().startswith("f6ee57479d4e9eee")


@pytest.mark.parametrize("name", ["hpsv3", "videoreward"])
def test_a_transformers_whose_qwen_takes_no_images_is_refused(name, hpsv3, tmp_path, monkeypatch):
    class Old:
        def forward(self, input_ids=None, inputs_embeds=None):
            """As until transformers 4.51."""

    if name == "videoreward":
        tiny.videoreward(tmp_path)
    monkeypatch.setattr("transformers.Qwen2VLModel", Old)
    with pytest.raises(ImportError, match=rf"{name} needs a newer transformers than [\d.]+; pip install -U transf"):
        rewards.load(name, path=hpsv3[0] if name == "hpsv3" else tmp_path)


# CLIP and SigLIP.


def test_clip_is_the_cosine_of_any_clip(tmp_path):
    model = tiny.clip(tmp_path)
    pictures = levels(tiny.SIDE, tiny.SIDE)
    found = rewards.load(f"clip:{tmp_path}")(as_images(pictures), PROMPTS)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)(PROMPTS, padding=True, return_tensors="pt")
    pixels = transformers.AutoImageProcessor.from_pretrained(tmp_path)(list(pictures), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model(pixel_values=pixels, **words).logits_per_image.diagonal() / model.logit_scale.exp()
    assert torch.allclose(found, expected, atol=1e-5)


def test_siglip_is_the_cosine_with_texts_padded_to_the_full_length(tmp_path):
    model = tiny.siglip_pair(tmp_path)
    pictures = levels(tiny.SIDE, tiny.SIDE)
    reward = rewards.load(f"clip:{tmp_path}")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = words(PROMPTS, padding="max_length", max_length=12, return_tensors="pt").input_ids
    pixels = transformers.AutoImageProcessor.from_pretrained(tmp_path)(list(pictures), return_tensors="pt").pixel_values
    with torch.no_grad():
        logits = model(pixel_values=pixels, input_ids=ids).logits_per_image.diagonal()
    expected = (logits - model.logit_bias) / model.logit_scale.exp()
    assert torch.allclose(reward(as_images(pictures), PROMPTS), expected.detach(), atol=1e-5)
    check_gradient(rewards.load(f"clip:{tmp_path}", dtype=torch.float64), as_images(levels(21, 30)), PROMPTS)


def test_clip_refuses_another_model(tmp_path):
    tiny.yolos(tmp_path)
    with pytest.raises(ValueError, match="'yolos' model"):
        rewards.load(f"clip:{tmp_path}")


@pytest.mark.parametrize("name", ["clipscore", "pickscore", "clip:MODEL"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, name):
    """transformers would make one in which every text has the same tokens."""
    tiny.clip(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="no tokenizer, so the score would ignore the prompt"):
        rewards.load(name.replace("MODEL", str(tmp_path)), path=tmp_path)


# Objects.


@pytest.fixture(scope="module", params=["yolos", "conditional_detr"])
def detector(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, getattr(tiny, request.param)(folder)


def probabilities(detector, pictures, label):
    """As transformers' post-processing computes them."""
    folder, model = detector
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    seen = np.stack([np.asarray(processor(images=[p]).pixel_values)[0] for p in pictures])
    with torch.no_grad():
        logits = model(pixel_values=torch.as_tensor(seen)).logits
    exclusive = model.config.model_type == "yolos"
    return (logits.softmax(-1) if exclusive else logits.sigmoid())[..., label]


def test_objects_and_counts(detector):
    pictures = levels(32, 48)
    p = probabilities(detector, pictures, 2)
    images = as_images(pictures)
    certain = rewards.load("objects:cat", path=detector[0])(images, PROMPTS)
    counted = rewards.load("count:cat:3", path=detector[0])(images, PROMPTS)
    assert torch.allclose(certain, torch.logit(p.double()).amax(1).float(), atol=1e-3)
    assert torch.allclose(counted, -(p.sum(1) - 3).abs(), atol=1e-4)
    assert rewards.load("objects:red_fox", path=detector[0]).differentiable


def test_objects_have_a_gradient(detector):
    for name in ("objects:cat", "count:cat:1"):
        reward = rewards.load(name, path=detector[0], dtype=torch.float64)
        check_gradient(reward, as_images(levels(40, 60)), PROMPTS, h=1e-7, tolerance=0.01)


@pytest.mark.parametrize("shape", [(64, 64), (300, 451), (451, 300), (60, 90)])
def test_a_detectors_preprocessing_is_the_processors(detector, shape):
    preprocess = rewards.load("objects:cat", path=detector[0]).function.preprocess
    assert difference(preprocess, preprocess.processor, shape) < 1.5


@pytest.mark.parametrize("kind", ["yolos", "conditional_detr"])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_detector_may_be_stored_in_half_precision(kind, stored, tmp_path):
    model = getattr(tiny, kind)(tmp_path).to(stored)
    model.save_pretrained(tmp_path)
    reward = rewards.load("objects:cat", path=tmp_path)
    pairs = zip(reward.function.model.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(found, expected.float()) for found, expected in pairs)
    assert reward(as_images(levels(32, 48)), PROMPTS).isfinite().all()
    assert next(rewards.load("objects:cat", path=tmp_path, dtype=stored).function.model.parameters()).dtype == stored


def test_terms_share_a_detector(detector):
    (_, cats), (_, foxes) = rewards.load("count:cat:2 + objects:red fox", path=detector[0]).terms
    assert cats.function.model is foxes.function.model and cats.function.label != foxes.function.label
    with pytest.raises(ValueError, match="divide bytes by 255"):
        cats(255 * as_images(levels(32, 48)), PROMPTS)


def test_a_detector_that_cannot_read_small_images_is_loaded(tmp_path):
    model, pictures = tiny.rt_detr(tmp_path), levels(96, 96)
    found = rewards.load("objects:cat", path=tmp_path)(as_images(pictures), PROMPTS)
    with torch.no_grad():
        assert torch.allclose(found, model(pixel_values=as_images(pictures)).logits[..., 2].amax(1), atol=1e-4)


def test_a_detector_that_needs_a_package_is_refused_in_one_sentence(monkeypatch):
    """As the published weights of DETR need timm, and transformers says in three lines."""

    def refuse(*_, **__):
        raise ImportError("\nTimmBackbone requires the timm library but it was not found. Install it:\n`pip`.\n")

    monkeypatch.setattr(transformers.AutoModelForObjectDetection, "from_pretrained", refuse)
    with pytest.raises(ImportError, match=r"from 'a/b' \(TimmBackbone .* not found\); pip install the pack") as caught:
        rewards.load("objects:cat", path="a/b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["objects:dog", "count:cat", "count:cat:many", "objects:", "count:cat:-1", "count:cat:²", "objects:²"]
)
def test_objects_that_cannot_be_read_are_refused(detector, name):
    with pytest.raises(ValueError, match=r"labels '(dog|²)'|written|write it as|cannot read"):
        rewards.load(name, path=detector[0])


# imscore.


class Scorer(nn.Module):
    """With the interface of imscore's models; VQAScore's value is one number for the batch."""

    loaded: ClassVar[list[str]] = []

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0, 0.5]))

    @classmethod
    def from_pretrained(cls, place):
        cls.loaded.append(place)
        return cls()

    def score(self, pixels, prompts):
        return ((pixels.mean((2, 3)) * self.weight).sum(1) * len(prompts[0])).mean()


@pytest.mark.parametrize(
    "name, module, kind, place",
    [
        ("mps", "mps", "MPS", "RE-N-Y/mpsv1"),
        ("vqascore", "vqascore", "VQAScore", "RE-N-Y/clip-t5-xxl"),
        ("imscore:aesthetic.LAIONAestheticScorer", "aesthetic", "LAIONAestheticScorer", "folder"),
    ],
)
def test_imscores_models_are_loaded_and_scored_by_image(name, module, kind, place):
    stand_in = types.ModuleType(f"imscore.{module}.model")
    setattr(stand_in, kind, Scorer)
    modules = {"imscore": types.ModuleType("imscore"), f"imscore.{module}": types.ModuleType(module)}
    with mock.patch.dict(sys.modules, {**modules, stand_in.__name__: stand_in}):
        reward = rewards.load(name, path=place if place == "folder" else None)
    assert Scorer.loaded[-1] == place
    images = as_images(levels(8, 8)).requires_grad_()
    found = reward(images, ["ab", "abcd"])
    expected = (images.mean((2, 3)) * torch.tensor([2.0, -1.0, 0.5])).sum(1) * torch.tensor([2.0, 4.0])
    assert torch.allclose(found, expected)
    assert torch.autograd.grad(found.sum(), images)[0].abs().sum() > 0
    assert reward.uses_prompts == (module != "aesthetic")
    with pytest.raises(ValueError, match="divide bytes by 255"):
        reward(255 * images, ["ab", "abcd"])


def imscore_reward(name, module, kind, model):
    """A reward of a stand-in for a class of imscore."""
    stand_in = types.ModuleType(f"imscore.{module}.model")
    setattr(stand_in, kind, lambda: model)
    modules = {"imscore": types.ModuleType("imscore"), f"imscore.{module}": types.ModuleType(module)}
    with mock.patch.dict(sys.modules, {**modules, stand_in.__name__: stand_in}):
        return rewards.load(name, path="folder")


class Logits(nn.Module):
    """As ShadowAesthetic: `score` returns the squeezed logits of the labels."""

    def __init__(self, labels):
        super().__init__()
        self.model = types.SimpleNamespace(config=types.SimpleNamespace(id2label=labels))

    def score(self, pixels, prompts=None):
        return pixels.mean((2, 3))[:, : len(self.model.config.id2label)].squeeze()


@pytest.mark.parametrize("labels, sign", [({0: "hq", 1: "lq"}, 1), ({"0": "lq", "1": "hq"}, -1)])
def test_aesthetic_shadow_is_the_log_odds_of_high_quality(labels, sign):
    reward = imscore_reward("aesthetic-shadow", "aesthetic", "ShadowAesthetic", Logits(labels))
    images = torch.rand(2, 3, 8, 8)
    high, low = images.mean((2, 3))[:, :2].unbind(1)
    assert torch.allclose(reward(images, PROMPTS), sign * (high - low))


def test_a_score_that_is_not_one_number_is_refused():
    with pytest.raises(ValueError, match="has 0 labels 'hq'"):
        imscore_reward("aesthetic-shadow", "aesthetic", "ShadowAesthetic", Logits({0: "good", 1: "bad"}))
    reward = imscore_reward("imscore:other.Other", "other", "Other", Logits({0: "a", 1: "b", 2: "c"}))
    with pytest.raises(ValueError, match=r"'other\.Other' is 3 numbers for one image, expected 1; use another"):
        reward(torch.rand(2, 3, 8, 8), PROMPTS)


@pytest.mark.parametrize(
    "name, module, kind, place, limit",
    [
        ("mps", "mps", "MPS", "tokenizer", 12),
        ("evalmuse", "evalmuse", "EvalMuse", "tokenizer", 32),
        ("cyclereward", "cyclereward", "CycleReward", "blip.tokenizer", 128),
        ("pickscore-siglip", "preference", "SiglipPreferenceScorer", "processor.tokenizer", 12),
        ("imscore:imreward.ImageReward", "imreward", "ImageReward", "blip.tokenizer", 35),
    ],
)
def test_prompts_that_imscore_cuts_warn(name, module, kind, place, limit, tmp_path):
    model, holder = Scorer(), types.SimpleNamespace(tokenizer=tiny.tokenizer(tmp_path))
    setattr(model, place.partition(".")[0], holder if "." in place else holder.tokenizer)
    reward, images = imscore_reward(name, module, kind, model), torch.rand(1, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(images, [" ".join(["red"] * (limit - 2))])
    with pytest.warns(UserWarning, match=rf"reads {limit - 2} tokens of a prompt .* has {limit}; it ignores 'red fox'"):
        reward(images, [" ".join(["red"] * (limit - 1) + ["fox"])])


@pytest.mark.skipif(importlib.util.find_spec("imscore") is None, reason="needs imscore")
def test_the_classes_are_in_the_package():
    for module, kind, _ in imscore_module.IMSCORE.values():
        assert hasattr(imscore_module.imscore_class(module, kind), "score")


@pytest.mark.skipif(importlib.util.find_spec("imscore") is not None, reason="imscore is installed")
def test_without_imscore_its_rewards_name_the_package():
    with pytest.raises(ImportError, match=r"before version 5 .*pip install imscore 'transformers<5'"):
        rewards.load("mps")


def test_unknown_names_of_imscore_are_refused():
    with pytest.raises(ValueError, match=r"imscore has no reward 'nothing'.*mps"):
        rewards.load("imscore:nothing")


@pytest.mark.parametrize(
    "name, reason", [("face-identity", "consent"), ("arcface", "non-commercial"), ("unifiedreward", "no package")]
)
def test_rewards_that_are_not_offered_say_why(name, reason):
    with pytest.raises(ValueError, match=reason):
        rewards.load(name)


@pytest.mark.parametrize("name", ["hpsv3", "mps", "vqascore", "clip:a/B", "objects:cat", "count:cat:2", "imscore:a.B"])
def test_every_name_has_a_heldout_reward(name):
    assert hub.is_hub(name) and hub.is_hub(hub.heldout_name(name))

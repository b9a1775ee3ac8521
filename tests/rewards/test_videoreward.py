"""VideoReward on a tiny random Qwen2-VL: frames, patches, text, head and files, each against the published way."""

import json
import sys
import types
from unittest import mock

import numpy as np
import pytest
import tiny_towers as tiny
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from noisetilt import rewards
from noisetilt.rewards.hub import qwen
from noisetilt.rewards.hub.videoreward_files import merge_lora, split_state

PROMPTS = ["a red fox", "the blue cat in the snow on green hill"]
MEANS, STDS = torch.tensor([3.0, 1.0, 2.5]), torch.tensor([2.0, 1.5, 2.25])
MOST = 200704


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """For one output and for three: the folder, the model and the head's weight."""
    folders = {outputs: tmp_path_factory.mktemp(f"videoreward{outputs}") for outputs in (1, 3)}
    return {outputs: (folder, *tiny.videoreward(folder, outputs)) for outputs, folder in folders.items()}


def films(frames, height=40, width=60, count=2):
    """Smooth random 8-bit videos (count, frames, height, width, 3)."""
    small = torch.rand(count * frames, 3, 5, 7, generator=torch.Generator().manual_seed(frames))
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().byte().unflatten(0, (count, frames)).movedim(2, -1).numpy()


def as_videos(levels):
    return torch.from_numpy(levels).movedim(-1, 2) / 255


# Frames and patches.


SIZES = [(40, 60), (480, 832), (720, 1280), (28, 28), (1000, 30), (333, 777), (512, 512)]
SQUARES = [(side, side) for side in (576, 768, 800, 1024, 1152, 1536)]


@pytest.mark.parametrize("size", SIZES + SQUARES)
def test_the_size_is_transformers_own(size):
    """Of squares the pixels are a square of a multiple of 28 as well, so that rounding errors decide."""
    for least in (128 * 28 * 28, MOST):
        assert qwen.resized_size(*size, MOST, least) == smart_resize(*size, 28, least, MOST)


@pytest.mark.parametrize("size", [(40, 60), (480, 832), (336, 448)])
def test_patches_are_those_of_transformers_image_processor(size):
    """Frame by frame, within PIL's rounding: at most 1.2 of 255 levels, where nothing overshoots black or white."""
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 128 * 28 * 28, "longest_edge": MOST})
    levels = 26 + (0.8 * films(4, *size, count=1)).astype(np.uint8)
    found, grid = qwen.patches(qwen.normalised(qwen.resized(as_videos(levels), MOST)))
    each = processor(images=list(levels[0]), return_tensors="pt")
    still = each.pixel_values.view(2, 2, -1, 3, 2, 14, 14)  # time, frame, place, channel, frame shown twice, y, x
    assert each.image_grid_thw.tolist() == [[1, *grid[1:]]] * 4 and grid[0] == 2
    expected = torch.stack([still[:, 0, :, :, 0], still[:, 1, :, :, 1]], dim=3)
    found = found[0].view(2, -1, 3, 2, 14, 14)
    scale = 255 * torch.tensor(qwen.CLIP_STD).view(1, 1, 3, 1, 1, 1)
    difference = (found - expected).abs() * scale
    assert difference.max() < 1.2


@pytest.mark.parametrize("frames", [4, 5])
def test_patches_are_those_of_transformers_video_processor(frames):
    """Exactly; of its module only this function is run, so that torchvision, which it imports, may be a stand-in."""
    names = [
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.v2",
        "torchvision.transforms.v2.functional",
    ]
    stand_ins = {name: types.ModuleType(name) for name in names}
    stand_ins[names[2]].functional = stand_ins[names[3]]
    module = "transformers.models.qwen2_vl.video_processing_qwen2_vl"
    with mock.patch.dict(sys.modules, stand_ins):
        source = __import__(module, fromlist=["Qwen2VLVideoProcessor"])
        videos = torch.randn(2, frames, 3, 56, 84)
        expected, *grid = source.Qwen2VLVideoProcessor.patchify(None, videos, 14, 2, 2)
    found, ours = qwen.patches(videos)
    assert torch.equal(found, expected) and list(ours) == grid


def test_frames_are_spread_at_two_a_second():
    assert qwen.frame_numbers(81, 16, 2) == [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]
    assert qwen.frame_numbers(16, 16, 2) == [0, 5, 10, 15]  # never fewer than four
    assert qwen.frame_numbers(5, 16, 2) == [0, 1, 3, 4]
    assert qwen.frame_numbers(3, 16, 2) == [0, 2]
    assert qwen.frame_numbers(81, 16, 2, count=6) == [0, 16, 32, 48, 64, 80]
    with pytest.raises(ValueError, match="1 frames is too short"):
        qwen.frame_numbers(1, 16, 2)


# The score.


def published(made, outputs, levels, prompts):
    """The standardised scores (batch, 3), one video at a time, by the steps of the published inference code."""
    folder, model, head = made[outputs]
    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.add_tokens(tiny.REWARD_TOKENS, special_tokens=True)
    special = words.convert_tokens_to_ids(tiny.REWARD_TOKENS)
    scores = []
    for video, prompt in zip(levels, prompts, strict=True):
        seen = np.round(np.linspace(0, len(video) - 1, 4)).astype(int)
        pixels, grid = qwen.patches(qwen.normalised(qwen.resized(as_videos(video[seen][None]), MOST)))
        places = tiny.CHATML[-1] * (grid[0] * grid[1] * grid[2] // 4)
        chat = [("system", "You are a helpful assistant."), ("user", f"<|vision_start|>{places}<|vision_end|>")]
        text = "".join(
            f"<|im_start|>{role}\n{content}" + ("<|im_end|>\n" if role == "system" else "") for role, content in chat
        )
        text += tiny.QUESTION.format(text_prompt=prompt) + "<|im_end|>\n<|im_start|>assistant\n"
        ids = words(text, return_tensors="pt").input_ids
        embedded = model.get_input_embeddings()(ids)
        eyes = model.visual(pixels[0], grid_thw=torch.tensor([grid])).pooler_output
        embedded = embedded.masked_scatter((ids == model.config.video_token_id)[..., None], eyes)
        hidden = model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
        logits = hidden @ head.T
        at = [int((ids[0] == token).nonzero()) for token in special]
        raw = logits[at, 0] if outputs == 1 else logits[at, range(3)]
        scores.append((raw - MEANS) / STDS)
    return torch.stack(scores).detach()


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_score_is_the_published_one(made, outputs):
    """Of each part and of the sum, in a batch of prompts of different lengths."""
    levels = films(16)
    expected = published(made, outputs, levels, PROMPTS)
    assert expected.std() > 0.1
    for part, value in {
        "": expected.sum(1),
        ":vq": expected[:, 0],
        ":mq": expected[:, 1],
        ":ta": expected[:, 2],
    }.items():
        reward = rewards.load(f"videoreward{part}", path=made[outputs][0], dtype=torch.float32)
        assert reward.video and reward.name == f"videoreward{part}"
        assert torch.allclose(reward(as_videos(levels), PROMPTS), value, atol=1e-4)
        if part:
            continue
        assert not torch.allclose(reward(as_videos(levels), PROMPTS[::-1]), value, atol=1e-3)


def test_parts_share_the_network_which_has_the_published_dtype_and_a_head_in_float32(made):
    total = rewards.load("videoreward:vq - 0.5*videoreward:mq", path=made[1][0])
    (_, one), (_, other) = total.terms
    network = one.function.model
    assert network is other.function.model and network.head.weight.dtype == torch.float32
    assert {parameter.dtype for parameter in network.model.parameters()} == {torch.bfloat16}
    levels = films(4)
    expected = published(made, 1, levels, PROMPTS)
    assert torch.allclose(total(as_videos(levels), PROMPTS), expected[:, 0] - 0.5 * expected[:, 1], atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_digits_are_lost_whatever_dtype_the_configuration_has(dtype, tmp_path):
    expected, _ = tiny.videoreward(tmp_path)
    tiny.declare_dtype(tmp_path, "bfloat16")
    found = rewards.load("videoreward", path=tmp_path, dtype=dtype).function.model.model
    pairs = zip(found.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(one, other.to(dtype)) for one, other in pairs)


def test_the_gradient_is_exact(made):
    """Along a random direction in float64; Qwen2-VL turns its queries in float32, so differences take long steps."""
    reward = rewards.load("videoreward", path=made[1][0], dtype=torch.float64)
    videos = as_videos(films(8)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(videos, PROMPTS).sum(), videos)
    seen = gradient.abs().sum((0, 2, 3, 4)) > 0
    assert seen.nonzero().flatten().tolist() == qwen.frame_numbers(8, 16, 2)
    direction = torch.randn(videos.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direction = 1e-3 * direction * (videos.detach() * (1 - videos.detach()) > 0.02)
    with torch.no_grad():
        plus, minus = (reward(videos + sign * direction, PROMPTS).sum() for sign in (1, -1))
    slope = (gradient * direction).sum()
    assert ((plus - minus) / 2 - slope).abs() < 2e-3 * slope.abs()


# Files.


def test_adapters_are_merged_as_peft_does():
    """Of linear layers and an embedding, with a head that is saved whole, under peft's own names."""
    import peft

    torch.manual_seed(0)
    inner = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(7, 4), "up": torch.nn.Linear(4, 5), "rm_head": torch.nn.Linear(5, 1, bias=False)}
    )
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["embed", "up"], modules_to_save=["rm_head"], init_lora_weights=False
    )
    wrapped = peft.get_peft_model(inner, config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.copy_(torch.randn_like(parameter))
    found = merge_lora(wrapped.state_dict(), scale=2.0)
    expected = wrapped.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_names_of_then_and_of_today_are_read(made):
    model = made[1][1]
    then = tiny.qwen_state(model, 1)
    today = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for state in (then, today | {"lm_head.weight": torch.zeros(1), "rm_head.weight": torch.zeros(1, 16)}):
        own, head = split_state(state)
        assert own.keys() == model.state_dict().keys() and list(head) == ["weight"]


def test_safetensors_and_a_text_template_come_first(made, tmp_path):
    levels = films(8)
    before = rewards.load("videoreward", path=made[1][0])(as_videos(levels), PROMPTS)
    tiny.videoreward(tmp_path)
    file = tmp_path / "checkpoint-20" / "model.pth"
    state = torch.load(file, weights_only=True)
    save_file(state, file.with_suffix(".safetensors"))
    file.write_bytes(b"not read")
    (tmp_path / "template.txt").write_text(tiny.QUESTION)
    (tmp_path / "prompt_template.py").write_text("raise SystemExit('not run')")
    assert torch.equal(rewards.load("videoreward", path=tmp_path)(as_videos(levels), PROMPTS), before)


def changed(folder, part, name, value):
    file = folder / "model_config.json"
    whole = json.loads(file.read_text())
    whole[part][name] = value
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda f: (f / "model_config.json").unlink(), "KwaiVGI/VideoReward"),
        (lambda f: (f / "prompt_template.py").unlink(), "prompt_template.py of KwaiVGI/VideoAlign"),
        (lambda f: (f / "prompt_template.py").write_text("A = 1"), "does not define"),
        (lambda f: (f / "template.txt").write_text("{text_prompt} <|MQ_reward|>"), "in this order"),
        (lambda f: changed(f, "data_config", "sample_type", "multi_pts"), "sample_type = 'multi_pts'"),
        (lambda f: changed(f, "model_config", "use_special_tokens", False), "use_special_tokens = False"),
        (lambda f: changed(f, "model_config", "output_dim", 4), "output_dim = 4"),
        (lambda f: (f / "checkpoint-20" / "model.pth").unlink(), "model.safetensors or model.pth"),
        (
            lambda f: torch.save({"a": torch.zeros(1)}, f / "checkpoint-20" / "model.pth"),
            "not VideoReward's full model",
        ),
        (lambda f: torch.save(print, f / "checkpoint-20" / "model.pth"), "plain tensors"),
    ],
)
def test_other_files_are_refused(damage, word, tmp_path):
    tiny.videoreward(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=word):
        rewards.load("videoreward", path=tmp_path)


def test_bad_input_is_refused(made):
    reward = rewards.load("videoreward", path=made[1][0])
    videos = as_videos(films(4))
    with pytest.raises(ValueError, match="one prompt per video"):
        reward(videos, "a red fox")
    with pytest.raises(ValueError, match="special token of the reward model"):
        reward(videos, ["a", "b <|VQ_reward|>"])
    with pytest.raises(ValueError, match="special token of the reward model"):
        reward.check_prompts(["b <|VQ_reward|>"])
    with pytest.raises(ValueError, match="divide bytes by 255"):
        reward(255 * videos, PROMPTS)
    with pytest.raises(ValueError, match="expected"):
        reward(videos[:, 0], PROMPTS)
    with pytest.raises(ValueError, match="too short"):
        reward(videos[:, :1], PROMPTS)
    with pytest.raises(ValueError, match="unknown"):
        rewards.load("videoreward:xx")
    assert rewards.hub.heldout_name("videoreward:mq") == "video:pickscore"
    with pytest.raises(ValueError, match="needs a folder"):
        rewards.load("videoreward")

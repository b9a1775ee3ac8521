"""Tiny random towers of the real transformers classes, in folders of the published layout: no downloads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

WORDS = "<pad> <s> <unk> A photo depicts a red fox blue cat in the snow on green hill </s>".split()
WIDTH, JOINT, SIDE, PATCH = 16, 12, 16, 8
# Big enough that texts, patches and layers all matter for the value.
STD = 0.3


def tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """Words by number between <s> and </s>, which is the last number, as in CLIP."""
    table = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("<s>", WORDS.index("<s>")), ("</s>", WORDS.index("</s>"))]
    table.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=table,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=12,
    )
    words.save_pretrained(folder)
    return words


def clip_config(act: str = "quick_gelu") -> transformers.CLIPConfig:
    tower = dict(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=JOINT,
        hidden_act=act,
    )
    text = dict(vocab_size=len(WORDS), max_position_embeddings=12, pad_token_id=0, bos_token_id=1)
    return transformers.CLIPConfig(
        text_config={**tower, **text, "eos_token_id": len(WORDS) - 1},
        vision_config={**tower, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=JOINT,
    )


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, biases and norms too, so that none of them can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(STD * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def clip(folder: Path, act: str = "quick_gelu") -> transformers.CLIPModel:
    """A CLIPModel with tokenizer and image processor in a folder, as save_pretrained writes them."""
    torch.manual_seed(0)
    model = randomised(transformers.CLIPModel(clip_config(act)))
    model.save_pretrained(folder)
    tokenizer(folder)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    return model


def aesthetic(folder: Path) -> tuple[transformers.CLIPModel, nn.Sequential]:
    """A CLIPModel and LAION's head in a folder."""
    model, layers = clip(folder), head(JOINT, False)
    torch.save({f"layers.{k}": v for k, v in layers.state_dict().items()}, folder / "aesthetic-model.pth")
    return model, layers


def siglip(folder: Path) -> transformers.SiglipVisionModel:
    config = transformers.SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    model = randomised(transformers.SiglipVisionModel(config))
    model.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model


def head(features: int, dropouts_end: bool) -> nn.Sequential:
    """The published heads: LAION's ends in two layers without dropout between, v2.5's has one there as well."""
    widths = (features, 10, 9, 8, 7, 1)
    layers = []
    for number, (of, to) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(of, to))
        if number < 3 or (number == 3 and dropouts_end):
            layers.append(nn.Dropout(0.2))
    return randomised(nn.Sequential(*layers), seed=2)


def open_clip_state(model: transformers.CLIPModel) -> dict[str, torch.Tensor]:
    """A CLIPModel's weights as open_clip names and stacks them."""
    own, state = model.state_dict(), {}
    towers = (("vision_model.", "visual.transformer."), ("text_model.", "transformer."))
    for tower, to in towers:
        for layer in range(2):
            ours, theirs = f"{tower}encoder.layers.{layer}.", f"{to}resblocks.{layer}."
            for kind in ("weight", "bias"):
                parts = [own[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                state[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
                for new, old in (
                    ("attn.out_proj", "self_attn.out_proj"),
                    ("ln_1", "layer_norm1"),
                    ("ln_2", "layer_norm2"),
                    ("mlp.c_fc", "mlp.fc1"),
                    ("mlp.c_proj", "mlp.fc2"),
                ):
                    state[f"{theirs}{new}.{kind}"] = own[f"{ours}{old}.{kind}"]
    for new, old in (
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
        ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
        ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
        ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
        ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("ln_final.weight", "text_model.final_layer_norm.weight"),
        ("ln_final.bias", "text_model.final_layer_norm.bias"),
        ("logit_scale", "logit_scale"),
    ):
        state[new] = own[old]
    state["visual.proj"] = own["visual_projection.weight"].T
    state["text_projection"] = own["text_projection.weight"].T
    return {name: tensor.clone() for name, tensor in state.items()}


MED = dict(
    vocab_size=len(WORDS),
    hidden_size=WIDTH,
    intermediate_size=2 * WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=12,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    pad_token_id=0,
    add_cross_attention=True,
    encoder_width=768,
)
EYE = 128


def imagereward_state() -> dict[str, torch.Tensor]:
    """Random tensors of the names and shapes of the published ImageReward.pt, but for the sizes."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: STD * torch.randn(shape, generator=generator)  # noqa: E731
    state = {}

    def linear(name: str, to: int, of: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(to, of) * (WIDTH / of) ** 0.5, draw(to)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + draw(width), draw(width)

    eye, text = "blip.visual_encoder.", "blip.text_encoder."
    state[f"{eye}cls_token"], state[f"{eye}pos_embed"] = draw(1, 1, EYE), draw(1, (SIDE // PATCH) ** 2 + 1, EYE)
    state[f"{eye}patch_embed.proj.weight"] = draw(EYE, 3, PATCH, PATCH)
    state[f"{eye}patch_embed.proj.bias"] = draw(EYE)
    norm(f"{eye}norm", EYE)
    for layer in range(2):
        block = f"{eye}blocks.{layer}."
        norm(f"{block}norm1", EYE)
        norm(f"{block}norm2", EYE)
        linear(f"{block}attn.qkv", 3 * EYE, EYE)
        linear(f"{block}attn.proj", EYE, EYE)
        linear(f"{block}mlp.fc1", 2 * EYE, EYE)
        linear(f"{block}mlp.fc2", EYE, 2 * EYE)
    state[f"{text}embeddings.position_ids"] = torch.arange(12)[None]
    state[f"{text}embeddings.word_embeddings.weight"] = draw(len(WORDS), WIDTH)
    state[f"{text}embeddings.position_embeddings.weight"] = draw(12, WIDTH)
    norm(f"{text}embeddings.LayerNorm", WIDTH)
    for layer in range(2):
        block = f"{text}encoder.layer.{layer}."
        for attention, of in (("attention", WIDTH), ("crossattention", EYE)):
            linear(f"{block}{attention}.self.query", WIDTH, WIDTH)
            linear(f"{block}{attention}.self.key", WIDTH, of)
            linear(f"{block}{attention}.self.value", WIDTH, of)
            linear(f"{block}{attention}.output.dense", WIDTH, WIDTH)
            norm(f"{block}{attention}.output.LayerNorm", WIDTH)
        linear(f"{block}intermediate.dense", 2 * WIDTH, WIDTH)
        linear(f"{block}output.dense", WIDTH, 2 * WIDTH)
        norm(f"{block}output.LayerNorm", WIDTH)
    linear("blip.vision_proj", JOINT, EYE)  # published, and of no use to the reward
    linear("blip.text_proj", JOINT, WIDTH)
    for index, layer in head(WIDTH, False).named_children():
        if isinstance(layer, nn.Linear):
            linear(f"mlp.layers.{index}", *layer.weight.shape)
    return state


def imagereward(folder: Path) -> dict[str, torch.Tensor]:
    """ImageReward.pt, med_config.json and BERT's tokenizer in a folder."""
    state = imagereward_state()
    torch.save(state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(MED))
    tokenizer(folder)
    return state


def vit(folder: Path, size: int = SIDE) -> transformers.ViTForImageClassification:
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        patch_size=PATCH,
        id2label={0: "tabby, tabby cat", 1: "red fox", 2: "arctic fox, white fox"},
    )
    model = randomised(transformers.ViTForImageClassification(config))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return model


CHATML = "<|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|>".split()
REWARD_TOKENS = ["<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"]
QUESTION = (
    "rate the quality <|VQ_reward|> and the motion <|MQ_reward|> of {text_prompt} and how it fits <|TA_reward|> END"
)


def qwen_config(vocabulary: int) -> transformers.Qwen2VLConfig:
    numbers = {token: len(WORDS) + number for number, token in enumerate(CHATML)}
    text = dict(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        rope_parameters=dict(rope_type="default", mrope_section=[1, 1, 2], rope_theta=1e4),
        bos_token_id=1,
        eos_token_id=2,
    )
    eye = dict(depth=1, embed_dim=WIDTH, hidden_size=WIDTH, num_heads=2, mlp_ratio=2)
    return transformers.Qwen2VLConfig(
        text_config=text,
        vision_config=eye,
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
    )


def declare_dtype(folder: Path, dtype: str) -> None:
    """Writes the dtype into a Qwen2-VL's configuration and its parts, as the published one has it."""
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(config))


def qwen_state(model: transformers.Qwen2VLModel, outputs: int) -> dict[str, torch.Tensor]:
    """A Qwen2VLModel's weights and a head's, under the names of the transformers that VideoReward was trained with."""
    own = model.state_dict()
    state = {name.replace("language_model.", "model."): tensor.clone() for name, tensor in own.items()}
    state["lm_head.weight"] = torch.zeros(own["language_model.embed_tokens.weight"].shape)
    state["rm_head.weight"] = torch.randn(outputs, WIDTH, generator=torch.Generator().manual_seed(5))
    return state


def videoreward(folder: Path, outputs: int = 1) -> tuple[transformers.Qwen2VLModel, torch.Tensor]:
    """Qwen2-VL with VideoReward's files in a folder; the model and the head's weight."""
    words = tokenizer(folder)
    words.add_tokens(CHATML, special_tokens=True)
    words.save_pretrained(folder)
    config = qwen_config(len(words) + len(REWARD_TOKENS))
    torch.manual_seed(0)
    model = randomised(transformers.Qwen2VLModel(config))
    # Published in the base model's size, which is not the checkpoint's.
    qwen_config(60).save_pretrained(folder)
    state = qwen_state(model, outputs)
    (folder / "checkpoint-20").mkdir()
    (folder / "checkpoint-3").mkdir()
    torch.save(state, folder / "checkpoint-20" / "model.pth")
    settings = dict(
        data_config=dict(
            fps=2,
            num_frames=None,
            max_frame_pixels=200704,
            sample_type="uniform",
            meta_data="a.csv",
            prompt_template_type="detailed_special",
        ),
        model_config=dict(use_special_tokens=True, output_dim=outputs, reward_token="special"),
        peft_lora_config=dict(lora_enable=True, lora_r=4, lora_alpha=8, use_rslora=False),
        inference_config=dict(VQ_mean=3.0, VQ_std=2.0, MQ_mean=1.0, MQ_std=1.5, TA_mean=2.5, TA_std=2.25),
    )
    (folder / "model_config.json").write_text(json.dumps(settings))
    (folder / "prompt_template.py").write_text(
        f'SIMPLE = "no"\nDETAILED_PROMPT_WITH_SPECIAL_TOKEN = """{QUESTION}"""\n'
    )
    return model, state["rm_head.weight"]


def hpsv3(folder: Path) -> tuple[transformers.Qwen2VLModel, nn.Sequential]:
    """Qwen2-VL with HPSv3's file in a folder; the model and the head."""
    words = tokenizer(folder)
    words.add_tokens(CHATML, special_tokens=True)
    words.save_pretrained(folder)
    torch.manual_seed(0)
    model = randomised(transformers.Qwen2VLModel(qwen_config(len(words) + 1)))
    qwen_config(60).save_pretrained(folder)
    layers = nn.Sequential(
        nn.Linear(WIDTH, 12), nn.ReLU(), nn.Dropout(0.05), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 2)
    )
    layers = randomised(layers, seed=4)
    with torch.no_grad():
        layers[-1].weight.mul_(30)  # so that images and prompts matter beside the long question
    state = {name: tensor for name, tensor in qwen_state(model, 1).items() if not name.startswith("rm_head.")}
    state |= {f"rm_head.{name}": tensor for name, tensor in layers.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "HPSv3.safetensors")
    return model, layers


def siglip_pair(folder: Path) -> transformers.SiglipModel:
    """A SiglipModel with tokenizer and image processor in a folder."""
    tower = dict(hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.SiglipConfig(
        text_config={**tower, "vocab_size": len(WORDS), "max_position_embeddings": 12, "projection_size": WIDTH},
        vision_config={**tower, "image_size": SIDE, "patch_size": PATCH},
    )
    torch.manual_seed(0)
    model = randomised(transformers.SiglipModel(config))
    model.save_pretrained(folder)
    tokenizer(folder)
    transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model


LABELS = {0: "N/A", 1: "red fox", 2: "cat"}


def yolos(folder: Path) -> transformers.YolosForObjectDetection:
    """A detector whose classes exclude one another, with "no object" as the last one."""
    config = transformers.YolosConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=[32, 48],
        patch_size=16,
        num_detection_tokens=5,
        id2label=LABELS,
        label2id={name: number for number, name in LABELS.items()},
    )
    return detector(transformers.YolosForObjectDetection, config, transformers.YolosImageProcessor, folder)


def conditional_detr(folder: Path) -> transformers.ConditionalDetrForObjectDetection:
    """A detector with a probability for each class."""
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = transformers.ConditionalDetrConfig(
        backbone_config=backbone,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
        id2label=LABELS,
        label2id={name: number for number, name in LABELS.items()},
    )
    kind, processor = transformers.ConditionalDetrForObjectDetection, transformers.ConditionalDetrImageProcessor
    return detector(kind, config, processor, folder)


def rt_detr(folder: Path) -> transformers.RTDetrForObjectDetection:
    """A detector with a probability for each class, whose images need as many places as it has queries. It has 100,
    and an image of 64 × 64 pixels has 84 places."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[8, 8, 16],
        encoder_hidden_dim=WIDTH,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=WIDTH,
        decoder_in_channels=[WIDTH] * 3,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        decoder_layers=1,
        num_queries=100,
        id2label=LABELS,
        label2id={name: number for number, name in LABELS.items()},
    )
    kind, processor = transformers.RTDetrForObjectDetection, transformers.RTDetrImageProcessor
    return detector(kind, config, processor, folder, {"height": 96, "width": 96})


def detector(
    kind: type,
    config: transformers.PretrainedConfig,
    processor: type,
    folder: Path,
    size: Mapping[str, int] = MappingProxyType({"shortest_edge": 32, "longest_edge": 48}),
) -> nn.Module:
    """A random detector and its image processor in a folder."""
    torch.manual_seed(0)
    model = randomised(kind(config))
    model.save_pretrained(folder)
    processor(size=dict(size)).save_pretrained(folder)
    return model

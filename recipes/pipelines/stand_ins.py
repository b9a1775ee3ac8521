"""Local stand-ins for the tokenizers, encoders and processors that diffusers' own tests take from the hub.

For `diffusers_suite.py`. Tokenizers know a few words, encoders are tiny and have random weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

WORDS = "a painting of squirrel eating burger cat dog in the snow on robot red dance monkey".split()
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")
# With the identifiers that Qwen's models have for them.
VISION = {"<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|image_pad|>": 151655, "<|video_pad|>": 151656}
CHAT = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def tokenizer(*_: Any, **__: Any) -> Any:
    """A tokenizer of a few words, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {**{word: number for number, word in enumerate((*SPECIAL, *WORDS))}, **VISION}
    table = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    table.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=table,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        model_max_length=77,
        additional_special_tokens=list(VISION),
    )
    made.chat_template = CHAT
    made.image_token, made.video_token = "<|image_pad|>", "<|video_pad|>"
    return made


def t5_config(*_: Any, **__: Any) -> Any:
    """A tiny T5."""
    import transformers

    return transformers.T5Config(
        vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, dropout_rate=0.0
    )


def encoders() -> dict[str, Callable[[], Any]]:
    """By name of a class of transformers: the tiny model that replaces its `from_pretrained`."""
    import transformers as t

    def qwen_vl() -> Any:
        text = dict(
            vocab_size=200000,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]},
        )
        vision = dict(depth=2, embed_dim=16, hidden_size=16, num_heads=2)
        return t.Qwen2VLForConditionalGeneration(t.Qwen2VLConfig(text_config=text, vision_config=vision))

    def gemma_3() -> Any:
        text = dict(
            vocab_size=1000,
            hidden_size=32,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )
        vision = dict(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        return t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        )

    def qwen_3_vl() -> Any:
        text = dict(
            vocab_size=200000,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            rope_scaling={"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True},
        )
        vision = dict(depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
        vision["deepstack_visual_indexes"] = [0, 1]
        return t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(text_config=text, vision_config=vision))

    def siglip() -> Any:
        return t.SiglipVisionModel(
            t.SiglipVisionConfig(
                hidden_size=32,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
            )
        )

    def llama() -> Any:
        return t.LlamaForCausalLM(
            t.LlamaConfig(
                vocab_size=1000,
                hidden_size=16,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
            )
        )

    def bert() -> Any:
        return t.BertModel(
            t.BertConfig(
                vocab_size=1124, hidden_size=32, intermediate_size=37, num_hidden_layers=5, num_attention_heads=4
            )
        )

    def umt5() -> Any:
        return t.UMT5EncoderModel(
            t.UMT5Config(vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, dropout_rate=0.0)
        )

    return {
        "T5EncoderModel": lambda: t.T5EncoderModel(t5_config()),
        "UMT5EncoderModel": umt5,
        "BertModel": bert,
        "LlamaForCausalLM": llama,
        "Qwen2VLForConditionalGeneration": qwen_vl,
        "Qwen3VLForConditionalGeneration": qwen_3_vl,
        "SiglipVisionModel": siglip,
        "Gemma3ForConditionalGeneration": gemma_3,
    }


def siglip_processor(*_: Any, **__: Any) -> Any:
    """An image processor of 32 × 32."""
    import transformers

    return transformers.SiglipImageProcessor(size={"height": 32, "width": 32})


def clip_processor(*_: Any, **__: Any) -> Any:
    """An image processor of 32 × 32."""
    import transformers

    return transformers.CLIPImageProcessor(size=32, crop_size=32)


def dpt_processor(*_: Any, **__: Any) -> Any:
    """An image processor of 32 × 32."""
    import transformers

    return transformers.DPTImageProcessor(size={"height": 32, "width": 32})


def chat_glm() -> Any:
    """The tiny text encoder of Kolors."""
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=1000,
        hidden_size=8,
        ffn_hidden_size=16,
        kv_channels=4,
        num_attention_heads=2,
        multi_query_attention=True,
        multi_query_group_num=1,
        add_qkv_bias=True,
        bias_dropout_fusion=False,
    )
    config.original_rope = True
    made = ChatGLMModel(config)
    # The class leaves its weights uninitialised.
    for name, parameter in made.named_parameters():
        if "norm" in name:
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.02)
    return made


def positioned_tokenizer(*_: Any, **__: Any) -> Any:
    """A tokenizer that returns positions too, and pads on the left, as that of ChatGLM."""
    made = tokenizer()

    class Positioned(type(made)):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            found = super().__call__(*args, **kwargs)
            ids = torch.as_tensor(found["input_ids"])
            found["position_ids"] = torch.arange(ids.shape[1]).expand(ids.shape).clone()
            return found

    made.__class__ = Positioned
    made.padding_side = "left"
    return made


def processor(name: Any, *_: Any, **__: Any) -> Any:
    """The stand-in of a processor of text and images, by the name of its checkpoint."""
    import transformers

    return transformers.Qwen2_5_VLProcessor.from_pretrained(name) if "Qwen" in str(name) else tokenizer()


class QwenProcessor:
    """Text and images as the inputs of a vision-language model: the tokenizer's and an image processor's."""

    patch_size = 14

    def __init__(self) -> None:
        from transformers import Qwen2VLImageProcessorPil

        self.tokenizer = tokenizer()
        self.image_processor = Qwen2VLImageProcessorPil(
            min_pixels=28 * 28, max_pixels=56 * 56, patch_size=self.patch_size
        )

    def __call__(self, text: Any = None, images: Any = None, **settings: Any) -> Any:
        from transformers import BatchFeature

        text = [text] if isinstance(text, str) else list(text)
        found = {}
        if images is not None:
            found = dict(self.image_processor(images=images, return_tensors="pt"))
            grids = iter(found["image_grid_thw"].prod(-1).tolist())
            merge = self.image_processor.merge_size**2
            text = [self._expanded(one, grids, merge) for one in text]
        kept = {
            name: settings[name] for name in ("padding", "padding_side", "max_length", "truncation") if name in settings
        }
        tokens = self.tokenizer(text, return_tensors="pt", **{"padding": True, **kept})
        kinds = (tokens.input_ids == VISION["<|image_pad|>"]).long()
        found |= {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "mm_token_type_ids": kinds}
        return BatchFeature(found)

    @staticmethod
    def _expanded(text: str, grids: Any, merge: int) -> str:
        parts = text.split("<|image_pad|>")
        filled = [part + " <|image_pad|>" * (next(grids) // merge) for part in parts[:-1]]
        return "".join([*filled, parts[-1]])

    def apply_chat_template(self, messages: Any, **settings: Any) -> Any:
        """The tokenizer's, as a batch of one."""
        made = self.tokenizer.apply_chat_template(messages, **settings)
        return [made] if isinstance(made, list) and isinstance(made[0], int) else made


def install() -> None:
    """Replaces the `from_pretrained` of transformers' classes by stand-ins, for this process."""
    import transformers

    for name in dir(transformers):
        if name.endswith(("Tokenizer", "TokenizerFast")):
            with contextlib.suppress(Exception):
                getattr(transformers, name).from_pretrained = staticmethod(tokenizer)
    for name, make in encoders().items():
        getattr(transformers, name).from_pretrained = staticmethod(lambda *_, make=make, **__: made_from_seed(make))
    original = transformers.AutoConfig.from_pretrained
    transformers.AutoConfig.from_pretrained = staticmethod(
        lambda name, *a, **k: t5_config() if "t5" in str(name) else original(name, *a, **k)
    )
    for name in ("SiglipImageProcessor", "SiglipImageProcessorPil"):
        replace(name, siglip_processor)
    for name in ("CLIPImageProcessor", "CLIPImageProcessorPil"):
        replace(name, clip_processor)
    replace("DPTImageProcessor", dpt_processor)
    replace("AutoProcessor", processor)
    replace("GlmImageProcessor", tokenizer)
    from diffusers.pipelines.kolors import text_encoder
    from diffusers.pipelines.kolors import tokenizer as kolors_tokenizer

    text_encoder.ChatGLMModel.from_pretrained = staticmethod(lambda *_, **__: made_from_seed(chat_glm))
    kolors_tokenizer.ChatGLMTokenizer.from_pretrained = staticmethod(positioned_tokenizer)
    for name, patch_size in (("Qwen2VLProcessor", 14), ("Qwen2_5_VLProcessor", 14), ("Qwen3VLProcessor", 16)):
        stand_in(name, patch_size)
    replace("CLIPProcessor", lambda *_, **__: transformers.CLIPProcessor(clip_processor(), tokenizer()))
    install_transforms()
    import diffusers

    diffusers.utils.load_image = load_image
    diffusers.UNet2DModel.from_pretrained = staticmethod(small_unet)


def load_image(source: Any, *_: Any) -> Any:
    """An image of PIL: the given one, or random pixels in place of one of the network."""
    from PIL import Image

    return Image.effect_noise((64, 64), 64).convert("RGB") if isinstance(source, str) else source


def small_unet(*_: Any, subfolder: str = "", **__: Any) -> Any:
    """The tiny network of the tests of consistency models, with classes if its folder's name says so."""
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 16),
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=10 if "class" in subfolder else None,
    )


class Transforms:
    """What OmniGen and Cosmos use of torchvision's transforms, which is not needed otherwise."""

    class InterpolationMode:
        """The modes of `functional.resize`."""

        NEAREST = "nearest"

    class functional:
        """Functions of images."""

        @staticmethod
        def resize(image: torch.Tensor, size: Any, interpolation: str = "nearest") -> torch.Tensor:
            """Images (batch, channel, H, W) of another size."""
            return torch.nn.functional.interpolate(image, size=size, mode=interpolation)

    Lambda = staticmethod(lambda function: function)

    @staticmethod
    def Compose(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        """The functions one after the other."""

        def run(image: Any) -> Any:
            for step in steps:
                image = step(image)
            return image

        return run

    @staticmethod
    def ToTensor() -> Callable[[Any], torch.Tensor]:
        """Images (channel, H, W) in [0, 1] from PIL's."""
        from diffusers.image_processor import VaeImageProcessor

        return lambda image: torch.from_numpy(VaeImageProcessor.pil_to_numpy(image)[0]).movedim(-1, 0)

    @staticmethod
    def Normalize(mean: Any, std: Any, inplace: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
        """Images of which a mean is subtracted."""
        return lambda image: (image - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def install_transforms() -> None:
    """Gives OmniGen's processor and Cosmos's network the transforms, where torchvision is missing."""
    import importlib.util

    if importlib.util.find_spec("torchvision") is not None:
        return
    from diffusers.models.transformers import transformer_cosmos
    from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen

    transformer_cosmos.transforms = processor_omnigen.transforms = Transforms
    pipeline_omnigen.OmniGenMultiModalProcessor = processor_omnigen.OmniGenMultiModalProcessor


def stand_in(name: str, patch_size: int) -> None:
    """Makes a processor's `from_pretrained` return a `QwenProcessor` that is an instance of its class."""
    import transformers

    kind = getattr(transformers, name)

    def load(*_: Any, **__: Any) -> Any:
        own = {"__init__": QwenProcessor.__init__, "patch_size": patch_size}
        return type(name, (QwenProcessor, kind), own)()

    kind.from_pretrained = staticmethod(load)


def replace(name: str, load: Callable[..., Any]) -> None:
    """Replaces the `from_pretrained` of a class of transformers, if it has the class."""
    import transformers

    with contextlib.suppress(Exception):
        getattr(transformers, name).from_pretrained = staticmethod(load)


def made_from_seed(make: Callable[[], Any]) -> Any:
    """A model with the weights of seed 0, without changing the state of the random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make().eval()
    # The stand-in's tokenizer is short, but uses large identifiers.
    made.resize_token_embeddings = lambda *_, **__: None
    return made

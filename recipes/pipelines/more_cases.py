"""Tiny pipelines of the classes that diffusers' tests do not have, made from those of related classes.

For `diffusers_suite.py`. A case has the form of a class of diffusers' tests: `pipeline_class`,
`get_dummy_components` and `get_dummy_inputs`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import stand_ins
import torch

Values = dict[str, Any]
SIZE = 32


@dataclass
class Case:
    """A class of pipelines, and how its components and its call's arguments follow from those of a related class.

    Args:
        name: of the class of pipelines.
        tests: the module and the class of the related tests, below `tests.pipelines`; empty if there are none.
        components, inputs: functions that change the related ones in place.
    """

    name: str
    tests: str
    components: Callable[[Values], Any]
    inputs: Callable[[Values], Any]

    @property
    def pipeline_class(self) -> type:
        """The class of pipelines."""
        import diffusers

        return getattr(diffusers, self.name)

    @property
    def related(self) -> Any:
        """An instance of the related tests."""
        module, _, name = self.tests.rpartition(".")
        kind = getattr(importlib.import_module(f"tests.pipelines.{module}"), name)
        try:
            return kind()
        except TypeError:
            return kind.__new__(kind)

    def get_dummy_components(self) -> Values:
        """The components of the pipeline."""
        made = self.related.get_dummy_components() if self.tests else {}
        self.components(made)
        return made

    def get_dummy_inputs(self) -> Values:
        """The arguments of its call."""
        if not self.tests:
            inputs: Values = {}
            self.inputs(inputs)
            return inputs
        make = self.related.get_dummy_inputs
        try:
            inputs = make()
        except TypeError:
            inputs = make("cpu")
        self.inputs(inputs)
        return inputs


def made(kind: type, **settings: Any) -> Any:
    """A network with the weights of seed 0."""
    torch.manual_seed(0)
    return kind(**settings).eval()


def like(network: Any, **changes: Any) -> Any:
    """A network of the same class with other settings and the weights of seed 0."""
    torch.manual_seed(0)
    return type(network).from_config(network.config, **changes).eval()


def image(size: int = SIZE) -> Any:
    """An image of PIL."""
    from PIL import Image

    pixels = torch.randint(256, (size, size, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def mask(size: int = SIZE) -> Any:
    """A mask that selects the whole image."""
    from PIL import Image

    return Image.new("L", (size, size), 255)


def tensor(*shape: int) -> torch.Tensor:
    """Values in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def unchanged(_: Values) -> None:
    """No change."""


def adding(**values: Any) -> Callable[[Values], Any]:
    """A function that adds values."""
    return lambda inputs: inputs.update(values)


def transformer(**changes: Any) -> Callable[[Values], Any]:
    """A function that changes the settings of the transformer; a function of the old ones gives the new ones."""

    def change(components: Values) -> None:
        network = components["transformer"]
        new = {name: value(network.config) if callable(value) else value for name, value in changes.items()}
        components["transformer"] = like(network, **new)

    return change


def union_controlnet(components: Values) -> None:
    """A ControlNet of several kinds of conditions in place of that of one."""
    from diffusers import ControlNetUnionModel

    config = components["controlnet"].config
    names = (
        "block_out_channels layers_per_block in_channels down_block_types conditioning_embedding_out_channels "
        "attention_head_dim use_linear_projection addition_embed_type addition_time_embed_dim "
        "transformer_layers_per_block projection_class_embeddings_input_dim cross_attention_dim norm_num_groups"
    ).split()
    settings = {name: config[name] for name in names if name in config}
    components["controlnet"] = made(
        ControlNetUnionModel,
        num_control_type=2,
        num_trans_channel=32,
        num_proj_channel=32,
        num_trans_head=2,
        **settings,
    )


def control_of_image(inputs: Values) -> None:
    """The image of a ControlNet under the name that the union's pipelines have."""
    control = inputs.pop("control_image", None)
    inputs["control_image"] = [inputs.pop("image") if control is None else control]
    inputs["control_mode"] = [0]


def controls(inputs: Values) -> None:
    """The conditions as lists."""
    inputs |= {"control_image": [inputs["control_image"]], "control_mode": [0]}


def z_image_controlnet(channels: int) -> Callable[[Values], Any]:
    """Adds a ControlNet whose condition has a number of channels."""

    def add(components: Values) -> None:
        from diffusers import ZImageControlNetModel

        components["controlnet"] = made(
            ZImageControlNetModel,
            control_layers_places=[0, 1],
            control_in_dim=channels,
            dim=32,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
        )

    return add


def siglip(components: Values) -> None:
    """Adds an image encoder."""
    import transformers

    components["image_encoder"] = transformers.SiglipVisionModel.from_pretrained("")
    components["feature_extractor"] = stand_ins.siglip_processor()


def edit_inpaint(inputs: Values) -> None:
    """Adds a mask."""
    inputs |= {"mask_image": mask(), "strength": 1.0}


def qwen_layers(components: Values) -> None:
    """A transformer and a decoder of several layers with an alpha channel, and more latent channels than these."""
    components["transformer"] = like(
        components["transformer"], in_channels=32, out_channels=8, use_layer3d_rope=True, use_additional_t_cond=True
    )
    statistics = {"latents_mean": [0.0] * 8, "latents_std": [1.0] * 8}
    components["vae"] = like(components["vae"], input_channels=4, z_dim=8, **statistics)


def layered(inputs: Values) -> None:
    """Arguments of the layered pipeline."""
    for name in ("height", "width"):
        del inputs[name]
    inputs |= {"image": image().convert("RGBA"), "layers": 2, "resolution": 640}


def low_resolution(components: Values) -> None:
    """A network that takes a noisy image of low resolution and its noise level."""
    from diffusers import DDPMScheduler

    components["unet"] = like(components["unet"], in_channels=7, num_class_embeds=1000)
    components["low_res_scheduler"] = DDPMScheduler()
    components.pop("image_encoder", None)


def without(*names: str) -> Callable[[Values], Any]:
    """A function that removes entries."""

    def remove(values: Values) -> None:
        for name in names:
            values.pop(name, None)

    return remove


def ernie(components: Values) -> None:
    """ERNIE-Image's network; the text is given as embeddings."""
    from diffusers import ErnieImageTransformer2DModel

    components["transformer"] = made(
        ErnieImageTransformer2DModel,
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=4,
        out_channels=4,
        patch_size=1,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )


def embeddings(inputs: Values) -> None:
    """Texts as lists of embeddings."""
    for name in ("prompt", "text_encoder_out_layers", "max_sequence_length"):
        inputs.pop(name, None)
    inputs |= {
        "prompt_embeds": [tensor(5, 16)],
        "negative_prompt_embeds": [tensor(3, 16)],
        "height": 16,
        "width": 16,
    }


def unconditional(scheduler: str, channels: int = 3, latents: bool = False) -> Callable[[Values], Any]:
    """A network without text, and for latents the decoder of LDM."""

    def add(components: Values) -> None:
        import diffusers

        components["unet"] = made(
            diffusers.UNet2DModel,
            sample_size=16,
            in_channels=channels,
            out_channels=3,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
        )
        components["scheduler"] = getattr(diffusers, scheduler)()
        if latents:
            components["vqvae"] = made(
                diffusers.VQModel,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8),
                norm_num_groups=4,
                latent_channels=3,
            )

    return add


def fibo_2(components: Values) -> None:
    """Bria Fibo 2's network and decoder; the text is given as embeddings."""
    from diffusers import AutoencoderKLFlux2, BriaFibo2Transformer2DModel

    components["transformer"] = made(
        BriaFibo2Transformer2DModel,
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=16,
        injection_layer_ids=(1,),
        perceiver_num_layers=1,
        min_num_gist_tokens=2,
        max_num_gist_tokens=4,
        gist_step=1,
        axes_dims=(4, 6, 6),
        axes_lens=(64, 32, 32),
    )
    components["vae"] = made(AutoencoderKLFlux2, **FLUX_2_DECODER, latent_channels=4)
    components["processor"] = stand_in_processor("Qwen3VLProcessor")
    del components["tokenizer"]


def fibo_2_embeddings(inputs: Values) -> None:
    """Texts as embeddings of the two layers that the network takes."""
    without("prompt", "text_encoder_out_layers", "max_sequence_length")(inputs)
    inputs |= {"prompt_embeds": tensor(1, 2, 5, 16), "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.bool)}
    inputs |= {"negative_prompt_embeds": tensor(1, 2, 5, 16) - 0.5, "height": SIZE, "width": SIZE}
    inputs["negative_prompt_embeds_mask"] = inputs["prompt_embeds_mask"]


def stand_in_processor(name: str) -> Any:
    """The stand-in of a processor of transformers."""
    import transformers

    return getattr(transformers, name).from_pretrained("")


def hunyuan_refiner(components: Values) -> None:
    """A decoder of two frames per latent frame, and a network that takes an image and its latents."""
    from diffusers import AutoencoderKLHunyuanImageRefiner

    components["vae"] = made(
        AutoencoderKLHunyuanImageRefiner,
        latent_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    )
    components["transformer"] = like(
        components["transformer"],
        in_channels=16,
        out_channels=8,
        patch_size=(1, 1, 1),
        rope_axes_dim=(4, 2, 2),
        guidance_embeds=True,
        text_embed_2_dim=None,
    )
    components["guider"] = None
    without("text_encoder_2", "tokenizer_2", "ocr_guider")(components)


def long_cat(components: Values) -> None:
    """LongCat's network and decoder."""
    from diffusers import AutoencoderKL, LongCatImageTransformer2DModel

    components["transformer"] = made(
        LongCatImageTransformer2DModel,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    components["vae"] = made(
        AutoencoderKL, block_out_channels=(4,), latent_channels=16, norm_num_groups=1, shift_factor=0.1
    )
    components["text_processor"] = stand_in_processor("Qwen2VLProcessor")


def ideogram(components: Values) -> None:
    """Ideogram's two networks, and a text encoder of as many layers as it reads from."""
    import transformers
    from diffusers import Ideogram4Transformer2DModel

    config = transformers.Qwen3VLForConditionalGeneration.from_pretrained("").config
    config.text_config.num_hidden_layers = 36
    components["text_encoder"] = made(transformers.Qwen3VLModel, config=config)
    settings = dict(
        in_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=32,
        adaln_dim=16,
        llm_features_dim=13 * 16,
        mrope_section=(4, 2, 2),
    )
    components["transformer"] = made(Ideogram4Transformer2DModel, **settings)
    components["unconditional_transformer"] = made(Ideogram4Transformer2DModel, **settings)


def qwen_2_1(components: Values) -> None:
    """Qwen-Image 2.1's network and decoder, of four channels."""
    import diffusers
    import transformers

    components["transformer"] = made(
        diffusers.QwenImage21Transformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    components["vae"] = made(
        diffusers.AutoencoderKLQwenImage21,
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    components["text_encoder"] = transformers.Qwen3VLForConditionalGeneration.from_pretrained("")
    components["processor"] = stand_in_processor("Qwen3VLProcessor")
    del components["tokenizer"]


def kandinsky_6(components: Values) -> None:
    """Kandinsky 6's network of video and sound; the sound is not used."""
    from diffusers import Kandinsky6Transformer3DModel

    components["transformer"] = made(
        Kandinsky6Transformer3DModel,
        in_text_dim=32,
        in_text_dim2=16,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 6, 6),
    )


def sana_world(components: Values) -> None:
    """The network of Sana's world model, and LTX-2's decoder; the text is given as embeddings."""
    from diffusers import SanaWMTransformer3DModel

    related = Case("", "ltx2.test_ltx2.LTX2PipelineFastTests", unchanged, unchanged).related
    components["vae"] = related.get_dummy_components()["vae"]
    components["transformer"] = made(
        SanaWMTransformer3DModel,
        in_channels=4,
        num_layers=2,
        softmax_every_n=2,
        hidden_size=48,
        num_attention_heads=2,
        linear_head_dim=24,
        caption_channels=8,
        chunk_plucker_channels=6 * components["vae"].temporal_compression_ratio,
    )


def camera(inputs: Values) -> None:
    """A camera that does not move, and the text as embeddings."""
    import numpy

    without("frames", "complex_human_instruction", "use_resolution_binning")(inputs)
    inputs |= {"c2w": numpy.tile(numpy.eye(4), (9, 1, 1)), "intrinsics": [32.0, 32.0, 16.0, 16.0], "num_frames": 9}
    inputs |= {"prompt_embeds": tensor(1, 1, 4, 8), "prompt_attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    inputs |= {"negative_prompt_embeds": tensor(1, 1, 4, 8) - 0.5, "image": image()}
    inputs["negative_prompt_attention_mask"] = inputs["prompt_attention_mask"]


def versatile(dual: bool = False, vision: bool = False) -> Callable[[Values], Any]:
    """The components of Versatile Diffusion."""

    def change(components: Values) -> None:
        import transformers

        unet = components.pop("unet")
        components["image_unet"] = like(unet, dual_cross_attention=dual)
        without("safety_checker", "feature_extractor", "image_encoder")(components)
        text = components.pop("text_encoder").config
        text.projection_dim = unet.config.cross_attention_dim
        if dual or not vision:
            components["text_encoder"] = made(transformers.CLIPTextModelWithProjection, config=text)
            components["text_unet"] = None
        if dual or vision:
            vision_config = transformers.CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
                projection_dim=unet.config.cross_attention_dim,
            )
            components["image_encoder"] = made(transformers.CLIPVisionModelWithProjection, config=vision_config)
            components["image_feature_extractor"] = stand_ins.clip_processor()
        if not dual and vision:
            del components["tokenizer"]

    return change


def embedded_directions(inputs: Values) -> None:
    """The directions of an edit."""
    inputs |= {"source_embeds": tensor(2, 77, 8), "target_embeds": tensor(2, 77, 8) - 0.5}


def zero_shot(components: Values) -> None:
    """The components that inversions and captions use."""
    from diffusers import DDIMInverseScheduler

    components.pop("image_encoder", None)
    components |= {"inverse_scheduler": DDIMInverseScheduler(), "caption_generator": None, "caption_processor": None}


FLUX_2_DECODER: Values = dict(
    block_out_channels=(4, 4),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    layers_per_block=1,
    norm_num_groups=1,
)
KLEIN = "flux2.test_pipeline_flux2_klein.TestFlux2KleinPipeline"
QWEN = "qwenimage.test_qwenimage.TestQwenImagePipeline"
QWEN_EDIT = "qwenimage.test_qwenimage_edit.TestQwenImageEditPipeline"
SD = "stable_diffusion.test_stable_diffusion.TestStableDiffusionPipeline"
Z_IMAGE = "z_image.test_z_image.ZImagePipelineFastTests"
EASY = "easyanimate.test_easyanimate.EasyAnimatePipelineFastTests"

CASES = [
    Case(
        "ChromaInpaintPipeline",
        "chroma.test_pipeline_chroma_img2img.ChromaImg2ImgPipelineFastTests",
        # The pipeline reads an option that its network does not have in diffusers 0.42.
        lambda components: components["transformer"].register_to_config(guidance_embeds=False),
        adding(mask_image=mask(), strength=1.0, height=SIZE, width=SIZE),
    ),
    Case(
        "CogView4ControlPipeline",
        "cogview4.test_cogview4.CogView4PipelineFastTests",
        transformer(in_channels=lambda config: 2 * config.in_channels),
        adding(control_image=image(16)),
    ),
    Case(
        "EasyAnimateControlPipeline",
        EASY,
        transformer(in_channels=8),
        adding(control_video=tensor(1, 3, 5, 16, 16)),
    ),
    Case(
        "EasyAnimateInpaintPipeline",
        EASY,
        transformer(in_channels=9, resize_inpaint_mask_directly=True),
        adding(video=tensor(1, 3, 5, 16, 16), mask_video=torch.full((1, 1, 5, 16, 16), 255.0), strength=1.0),
    ),
    Case(
        "HunyuanVideo15ImageToVideoPipeline",
        "hunyuan_video1_5.test_hunyuan_1_5.HunyuanVideo15PipelineFastTests",
        lambda components: (siglip(components), transformer(image_embed_dim=32, task_type="i2v")(components)),
        lambda inputs: (without("height", "width")(inputs), adding(image=image(16))(inputs)),
    ),
    Case(
        "LucyEditPipeline",
        "wan.test_wan.TestWanPipeline",
        transformer(in_channels=lambda config: 2 * config.in_channels),
        adding(video=[image(16)] * 5, num_frames=5),
    ),
    Case(
        "QwenImageControlNetInpaintPipeline",
        "qwenimage.test_qwenimage_controlnet.TestQwenImageControlNetPipeline",
        lambda components: components.update(controlnet=like(components["controlnet"], extra_condition_channels=4)),
        adding(control_image=image(), control_mask=mask()),
    ),
    Case("QwenImageEditInpaintPipeline", QWEN_EDIT, unchanged, edit_inpaint),
    Case("QwenImageLayeredPipeline", QWEN_EDIT, qwen_layers, layered),
    Case("ZImageControlNetPipeline", Z_IMAGE, z_image_controlnet(16), adding(control_image=image())),
    Case(
        "ZImageControlNetInpaintPipeline",
        Z_IMAGE,
        z_image_controlnet(33),
        adding(control_image=image(), image=image(), mask_image=mask()),
    ),
    Case(
        "StableDiffusionXLControlNetUnionPipeline",
        "controlnet.test_controlnet_sdxl.StableDiffusionXLControlNetPipelineFastTests",
        union_controlnet,
        control_of_image,
    ),
    Case(
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "controlnet.test_controlnet_sdxl_img2img.ControlNetPipelineSDXLImg2ImgFastTests",
        union_controlnet,
        controls,
    ),
    Case(
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        "controlnet.test_controlnet_inpaint_sdxl.ControlNetPipelineSDXLFastTests",
        union_controlnet,
        controls,
    ),
    Case("StableDiffusionUpscalePipeline", SD, low_resolution, adding(image=image(), noise_level=20)),
    Case("StableDiffusionPipelineSafe", SD, without("image_encoder"), unchanged),
    Case(
        "SemanticStableDiffusionPipeline",
        SD,
        without("image_encoder"),
        adding(editing_prompt=["snow"], edit_warmup_steps=0, edit_guidance_scale=5.0),
    ),
    Case("DDPMPipeline", "", unconditional("DDPMScheduler"), adding(batch_size=2)),
    Case("PNDMPipeline", "", unconditional("PNDMScheduler"), adding(batch_size=2)),
    Case("LDMPipeline", "", unconditional("DDIMScheduler", latents=True), adding(batch_size=2)),
    Case(
        "LDMSuperResolutionPipeline",
        "",
        unconditional("DDIMScheduler", channels=6, latents=True),
        adding(image=tensor(1, 3, 16, 16)),
    ),
    Case("StableDiffusionModelEditingPipeline", SD, without("image_encoder"), unchanged),
    Case("AltDiffusionPipeline", SD, unchanged, unchanged),
    Case(
        "AltDiffusionImg2ImgPipeline",
        SD,
        unchanged,
        lambda inputs: (without("height", "width")(inputs), adding(image=tensor(1, 3, 64, 64), strength=1.0)(inputs)),
    ),
    Case("ErnieImagePipeline", KLEIN, ernie, embeddings),
    Case("BriaFibo2Pipeline", KLEIN, fibo_2, fibo_2_embeddings),
    Case(
        "HunyuanImageRefinerPipeline",
        "hunyuan_image_21.test_hunyuanimage.HunyuanImagePipelineFastTests",
        hunyuan_refiner,
        adding(image=image()),
    ),
    Case(
        "LongCatImagePipeline",
        QWEN,
        long_cat,
        lambda inputs: (
            without("true_cfg_scale", "max_sequence_length")(inputs),
            adding(enable_prompt_rewrite=False)(inputs),
        ),
    ),
    Case(
        "LongCatImageEditPipeline",
        QWEN,
        long_cat,
        lambda inputs: (
            without("true_cfg_scale", "max_sequence_length", "height", "width")(inputs),
            adding(image=image())(inputs),
        ),
    ),
    Case(
        "Ideogram4Pipeline",
        KLEIN,
        ideogram,
        lambda inputs: (without("text_encoder_out_layers")(inputs), adding(guidance_schedule=None)(inputs)),
    ),
    Case(
        "QwenImage21Pipeline",
        QWEN,
        qwen_2_1,
        lambda inputs: (
            without("guidance_scale", "max_sequence_length")(inputs),
            adding(true_cfg_scale=2.0, height=SIZE, width=SIZE)(inputs),
        ),
    ),
    Case(
        "Kandinsky6TI2VAPipeline",
        "kandinsky5.test_kandinsky5.Kandinsky5T2VPipelineFastTests",
        kandinsky_6,
        adding(sample_audio=False),
    ),
    Case("SanaWMPipeline", "sana_video.test_sana_video_i2v.SanaImageToVideoPipelineFastTests", sana_world, camera),
    Case(
        "ZImageOmniPipeline",
        Z_IMAGE,
        lambda components: components.update(siglip=None, siglip_processor=None),
        unchanged,
    ),
    Case(
        "GlmImagePipeline",
        "glm_image.test_glm_image.GlmImagePipelineFastTests",
        unchanged,
        adding(prior_token_ids=torch.arange(4)[None]),
    ),
    Case("VersatileDiffusionTextToImagePipeline", SD, versatile(), unchanged),
    Case(
        "VersatileDiffusionImageVariationPipeline",
        SD,
        versatile(vision=True),
        lambda inputs: (without("prompt")(inputs), adding(image=image(64))(inputs)),
    ),
    Case("VersatileDiffusionDualGuidedPipeline", SD, versatile(dual=True, vision=True), adding(image=image(64))),
    Case("StableDiffusionPix2PixZeroPipeline", SD, zero_shot, embedded_directions),
    Case(
        "StableDiffusionInpaintPipelineLegacy",
        SD,
        without("image_encoder"),
        adding(image=image(64), mask_image=mask(64), strength=1.0),
    ),
]


def cases(wanted: list[str]) -> Iterator[Case]:
    """The cases whose class has one of these parts in its name."""
    return (case for case in CASES if any(part in case.name for part in wanted))

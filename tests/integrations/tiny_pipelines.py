"""Tiny instances of the real pipeline classes, built from configs with random weights: no downloads."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import torch
import transformers
from diffusers.models import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = "<pad> <s> </s> <unk> a red fox blue cat in the snow on green hill".split()
SIZE = 16


def tokenizer(length: int = 8) -> transformers.PreTrainedTokenizerFast:
    table = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=table,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
    )


def clip(projection: bool = False, width: int = 16) -> torch.nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config).eval()


def t5(width: int = 16) -> torch.nn.Module:
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2, pad_token_id=0
    )
    return transformers.T5EncoderModel(config).eval()


def umt5(width: int = 16) -> torch.nn.Module:
    config = transformers.UMT5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2, pad_token_id=0
    )
    return transformers.UMT5EncoderModel(config).eval()


def gemma(width: int = 16) -> torch.nn.Module:
    config = transformers.Gemma2Config(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.Gemma2Model(config).eval()


def vae(channels: int, shift: float | None = None) -> diffusers.AutoencoderKL:
    """Two levels: pictures are twice the size of latents."""
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=SIZE,
        scaling_factor=0.7,
        shift_factor=shift,
    ).eval()


BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1)


def ddim(**changes) -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(**{**BETAS, "set_alpha_to_one": False, **changes})


def unet(**changes) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": SIZE // 2,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 16,
            "attention_head_dim": 4,
            **changes,
        }
    ).eval()


def sd(kind: type = diffusers.StableDiffusionPipeline, **network) -> diffusers.DiffusionPipeline:
    return kind(
        vae=vae(4),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(**network),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(kind: type = diffusers.StableDiffusionXLPipeline) -> diffusers.DiffusionPipeline:
    return kind(
        vae=vae(4),
        text_encoder=clip(),
        text_encoder_2=clip(projection=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=16 + 6 * 4,
            use_linear_projection=True,
            transformer_layers_per_block=1,
        ),
        scheduler=ddim(),
        add_watermarker=False,
    )


def sd3(kind: type = diffusers.StableDiffusion3Pipeline, channels: int = 4) -> diffusers.DiffusionPipeline:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 2,
        patch_size=2,
        in_channels=channels,
        out_channels=channels,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    ).eval()
    return kind(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(channels, shift=0.06),
        text_encoder=clip(projection=True),
        tokenizer=tokenizer(),
        text_encoder_2=clip(projection=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(32),
        tokenizer_3=tokenizer(),
    )


def flux(kind: type = diffusers.FluxPipeline, guidance: bool = True) -> diffusers.DiffusionPipeline:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance,
    ).eval()
    return kind(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(4, shift=0.1),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
    )


def pixart() -> diffusers.PixArtSigmaPipeline:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=SIZE // 2,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=16,
        use_additional_conditions=False,
    ).eval()
    return diffusers.PixArtSigmaPipeline(
        transformer=transformer, scheduler=ddim(), vae=vae(4), text_encoder=t5(), tokenizer=tokenizer()
    )


def sana(sprint: bool = False) -> diffusers.DiffusionPipeline:
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=SIZE // 2,
        guidance_embeds=sprint,
    ).eval()
    autoencoder = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    ).eval()
    kind = diffusers.SanaSprintPipeline if sprint else diffusers.SanaPipeline
    return kind(
        transformer=transformer,
        scheduler=diffusers.SCMScheduler() if sprint else diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder,
        text_encoder=gemma(),
        tokenizer=tokenizer(300),
    )


def wan() -> diffusers.WanPipeline:
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()
    autoencoder = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()
    return diffusers.WanPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder,
        text_encoder=umt5(),
        tokenizer=tokenizer(),
    )


def qwen_vl(width: int = 16) -> torch.nn.Module:
    text = dict(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = dict(depth=1, hidden_size=width, intermediate_size=2 * width, num_heads=2, out_hidden_size=width)
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen_image() -> diffusers.QwenImagePipeline:
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 2, 2),
    ).eval()
    autoencoder = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.1, 2.0],
    ).eval()
    return diffusers.QwenImagePipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder,
        text_encoder=qwen_vl(),
        tokenizer=tokenizer(300),
    )


def cogvideox(kind: type = diffusers.CogVideoXPipeline, channels: int = 4) -> diffusers.DiffusionPipeline:
    """Its latents have frames before channels; pipelines with a condition have a network with more input channels."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=channels,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=8,
    ).eval()
    autoencoder = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=3.0,
    ).eval()
    return kind(tokenizer=tokenizer(), text_encoder=t5(), vae=autoencoder, transformer=transformer, scheduler=ddim())


def ltx(kind: type = diffusers.LTXPipeline, timestep_conditioning: bool = False) -> diffusers.DiffusionPipeline:
    """Its latents are packed; from an image, the first frame is fixed and the scheduler is given the others. With
    timestep conditioning, the decoder is given noised latents."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    ).eval()
    autoencoder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(4,) * 4,
        decoder_block_out_channels=(4,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=timestep_conditioning,
        patch_size=1,
        patch_size_t=1,
    ).eval()
    autoencoder.use_framewise_encoding = autoencoder.use_framewise_decoding = False
    return kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder,
        text_encoder=t5(),
        tokenizer=tokenizer(),
        transformer=transformer,
    )


def kandinsky() -> diffusers.KandinskyV22Pipeline:
    """Its network predicts a variance too, and its images are in [-1, 1] where others' are in [0, 1]."""
    network = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    ).eval()
    autoencoder = diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    ).eval()
    return diffusers.KandinskyV22Pipeline(unet=network, scheduler=ddim(), movq=autoencoder)


def cascade() -> diffusers.StableCascadeDecoderPipeline:
    """It makes an image of each embedding of an image, of which there may be several per prompt."""
    network = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        block_out_channels=(8, 8),
        num_attention_heads=(-1, 1),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ),
        clip_text_pooled_in_channels=16,
        dropout=(0.1, 0.1),
        effnet_in_channels=16,
        timestep_ratio_embedding_dim=8,
        patch_size=1,
        timestep_conditioning_type=("sca",),
    ).eval()
    return diffusers.StableCascadeDecoderPipeline(
        decoder=network,
        tokenizer=tokenizer(),
        text_encoder=clip(projection=True),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2).eval(),
        latent_dim_scale=4.0,
    )


def ideogram() -> diffusers.Ideogram4Pipeline:
    """Two networks; the text encoder has as many layers as the pipeline reads from."""
    text = dict(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=36,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        rope_scaling={"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True},
    )
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision | {"deepstack_visual_indexes": [0]})
    networks = (
        diffusers.Ideogram4Transformer2DModel(
            in_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=13 * 16,
            mrope_section=(4, 2, 2),
        ).eval()
        for _ in range(2)
    )
    autoencoder = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
    ).eval()
    words = tokenizer()
    words.chat_template = "{{ messages[0]['content'][0]['text'] }}"
    return diffusers.Ideogram4Pipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(),
        autoencoder,
        transformers.Qwen3VLModel(config).eval(),
        words,
        *networks,
    )


def sana_world() -> diffusers.SanaWMPipeline:
    """It gives its scheduler tokens, and returns one video."""
    network = diffusers.SanaWMTransformer3DModel(
        in_channels=4,
        num_layers=2,
        softmax_every_n=2,
        hidden_size=48,
        num_attention_heads=2,
        linear_head_dim=24,
        caption_channels=16,
        chunk_plucker_channels=12,
    ).eval()
    autoencoder = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        decoder_causal=False,
    ).eval()
    return diffusers.SanaWMPipeline(
        tokenizer(), gemma(), autoencoder, network, diffusers.FlowMatchEulerDiscreteScheduler()
    )


PICTURE = dict(height=SIZE, width=SIZE, output_type="pt", num_inference_steps=4)
FAMILIES = {
    "sd": (sd, dict(PICTURE, guidance_scale=3.0)),
    "flux": (flux, dict(PICTURE, guidance_scale=3.0, max_sequence_length=8)),
    "sd3": (sd3, dict(PICTURE, guidance_scale=3.0, max_sequence_length=8)),
    "sdxl": (sdxl, dict(PICTURE, guidance_scale=3.0)),
    "pixart": (
        pixart,
        dict(PICTURE, guidance_scale=3.0, use_resolution_binning=False, clean_caption=False, max_sequence_length=8),
    ),
    "sana": (
        sana,
        dict(
            PICTURE,
            guidance_scale=3.0,
            height=32,
            width=32,
            use_resolution_binning=False,
            complex_human_instruction=None,
        ),
    ),
    "wan": (wan, dict(PICTURE, guidance_scale=3.0, num_frames=5, max_sequence_length=8)),
    "qwen": (qwen_image, dict(PICTURE, max_sequence_length=64)),
}


def check_same(found: torch.Tensor, plain: torch.Tensor, record: Callable, within: float = 1e-5) -> None:
    """Holds the largest difference of pictures in [0, 1] to a bound, and notes it in the test's report."""
    difference = float((found - plain).abs().max())
    record("difference", difference)
    record("within", within)
    assert difference < within


def build(name: str) -> tuple[diffusers.DiffusionPipeline, dict]:
    """A tiny pipeline of a family, the same at every call, and arguments for it."""
    torch.manual_seed(0)
    make, arguments = FAMILIES[name]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    return pipe, dict(arguments)

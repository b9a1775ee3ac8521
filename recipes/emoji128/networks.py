"""The networks of emoji128, a FluxPipeline small enough for a laptop's CPU, and how the latents are packed."""

from __future__ import annotations

import torch
from captions import BOS_ID, EOS_ID, LENGTH
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

CHANNELS, SIDE = 16, 16  # of the latents of a 128×128 picture
HEAD_WIDTH = 64
WORD_ROWS = 1000  # an embedding with more rows than this is one of words


def autoencoder() -> AutoencoderKL:
    """Pictures (n, 3, 128, 128) in [-1, 1] to latents (n, 16, 16, 16) and back."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 96, 160),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=True,
        force_upcast=False,
    )


def transformer(heads: int = 4, double: int = 2, single: int = 4, guidance: bool = True) -> FluxTransformer2DModel:
    """The velocity network: `heads` · 64 wide, with `double` two-stream and `single` one-stream blocks."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * CHANNELS,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=heads,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        guidance_embeds=guidance,
        axes_dims_rope=(16, 24, 24),
    )


def sequence_encoder(vocabulary: int) -> T5EncoderModel:
    """Token ids (n, 16) to a sequence (n, 16, 128)."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=16,
            pad_token_id=0,
            eos_token_id=EOS_ID,
        )
    )


def pooled_encoder(vocabulary: int) -> CLIPTextModel:
    """Token ids (n, 16) that begin with <bos> to one vector (n, 128)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=4,
            projection_dim=128,
            max_position_embeddings=LENGTH,
            pad_token_id=0,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            hidden_act="gelu",
        )
    )


class TextEncoders(nn.Module):
    """Token ids (n, 16) as `captions.encode` gives them to (sequence (n, 16, 128), pooled (n, 128))."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.sequence, self.pooled = sequence_encoder(vocabulary), pooled_encoder(vocabulary)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        with_bos = torch.cat([torch.full_like(ids[:, :1], BOS_ID), ids[:, :-1]], 1)
        return self.sequence(input_ids=ids).last_hidden_state, self.pooled(input_ids=with_bos).pooler_output

    def word_embeddings(self) -> list[nn.Embedding]:
        return [encoder.get_input_embeddings() for encoder in (self.sequence, self.pooled)]

    @torch.no_grad()
    def tie_plurals(self, same_as: dict[str, int]) -> None:
        """Gives the forms of a word the word's own vector."""
        for embedding in self.word_embeddings():
            embedding.weight[[int(form) for form in same_as]] = embedding.weight[list(same_as.values())]


def new_text_encoders(vocabulary: int) -> TextEncoders:
    """Text encoders to be trained, with word embeddings of standard deviation 0.5."""
    encoders = TextEncoders(vocabulary)
    for embedding in encoders.word_embeddings():
        nn.init.normal_(embedding.weight, std=0.5)
    return encoders


def new_transformer(heads: int = 4, double: int = 2, single: int = 4) -> FluxTransformer2DModel:
    """A transformer to be trained, whose modulations and output start at zero (DiT, arXiv 2212.09748)."""
    network = transformer(heads, double, single)
    modulations = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and (name.endswith(modulations) or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def transformer_like(state: dict[str, Tensor]) -> FluxTransformer2DModel:
    """A transformer of the size that these weights have, with the weights in it."""
    heads = state["x_embedder.weight"].shape[0] // HEAD_WIDTH
    double, single = (
        len({key.split(".")[1] for key in state if key.startswith(f"{stem}.")})
        for stem in ("transformer_blocks", "single_transformer_blocks")
    )
    network = transformer(heads, double, single, any("guidance_embedder" in key for key in state))
    network.load_state_dict(state)
    return network


@torch.no_grad()
def without_guidance_input(network: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The network at guidance 1 as one that takes no guidance: the embedding of 1 becomes part of a bias.

    A network that was not guidance-distilled has only seen guidance 1; pipelines would give it 3.5 by default.
    """
    embed = network.time_text_embed
    constant = embed.guidance_embedder(embed.time_proj(torch.tensor([1000.0])))[0]
    state = {key: value for key, value in network.state_dict().items() if "guidance_embedder" not in key}
    bias = "time_text_embed.timestep_embedder.linear_2.bias"
    return transformer_like({**state, bias: state[bias] + constant})


def pack(latents: Tensor) -> Tensor:
    """Latents (n, 16, 16, 16) to tokens (n, 64, 64), as FluxPipeline packs them."""
    n, channels, height, width = latents.shape
    patches = latents.view(n, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(n, height * width // 4, channels * 4)


def unpack(tokens: Tensor, side: int = SIDE) -> Tensor:
    """The inverse of `pack`."""
    n, _, channels = tokens.shape
    patches = tokens.view(n, side // 2, side // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(n, channels // 4, side, side)


def position_ids(length: int = LENGTH, side: int = SIDE // 2) -> tuple[Tensor, Tensor]:
    """(text ids (length, 3), image ids (side², 3)) of the rotary positions, as FluxPipeline makes them."""
    image = torch.zeros(side, side, 3)
    image[..., 1] += torch.arange(side)[:, None]
    image[..., 2] += torch.arange(side)[None, :]
    return torch.zeros(length, 3), image.reshape(-1, 3)

"""The mini family's networks as diffusers and transformers modules, from the numbers in
`models/mini.py`.

Everything is built from configurations: no hub, no download.
"""

from diffusers import AutoencoderTiny, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ...models import mini


def build_unet(
    layout: mini.UNet = mini.UNET, in_channels: int = mini.LATENT_CHANNELS
) -> UNet2DConditionModel:
    """Build the noise predictor: latents [B,C,h,w], steps [B], context [B,T,context_dim] ->
    [B,4,h,w].
    """
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in layout.attention]
    up = [
        "CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(layout.attention)
    ]
    return UNet2DConditionModel(
        sample_size=mini.IMAGE_SIZE // mini.LATENT_STRIDE,
        in_channels=in_channels,
        out_channels=mini.LATENT_CHANNELS,
        block_out_channels=tuple(layout.model_channels * m for m in layout.channel_mult),
        layers_per_block=layout.res_blocks,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        attention_head_dim=layout.heads,  # diffusers' name for the NUMBER of heads
        cross_attention_dim=layout.context_dim,
        norm_num_groups=layout.norm_groups,
    )


def build_controlnet(
    unet: UNet2DConditionModel, layout: mini.ControlNet = mini.CONTROL
) -> ControlNetModel:
    """Build a copy of the UNet's encoder between a hint encoder and zero convolutions.

    Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models", section 3.
    Takes hints [B,3,8h,8w] in 0..1; before training it adds exact zeros.
    """
    return ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=layout.image_channels
    )


def build_text_encoder(vocab_size: int, layout: mini.TextEncoder = mini.TEXT) -> CLIPTextModel:
    """Build the caption encoder: compact ids [B,77] of `tokens.py` -> context [B,77,hidden]."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=layout.hidden,
            intermediate_size=layout.intermediate,
            num_hidden_layers=layout.layers,
            num_attention_heads=layout.heads,
            max_position_embeddings=layout.positions,
            hidden_act=layout.activation,
            projection_dim=layout.hidden,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def build_vae(layout: mini.VAE = mini.VAE_LAYOUT) -> AutoencoderTiny:
    """Build the autoencoder: images [B,3,8h,8w] in -1..1 <-> latents [B,4,h,w]."""
    return AutoencoderTiny(
        latent_channels=mini.LATENT_CHANNELS,
        encoder_block_out_channels=(layout.channels,) * len(layout.encoder_blocks),
        decoder_block_out_channels=(layout.channels,) * len(layout.decoder_blocks),
        num_encoder_blocks=layout.encoder_blocks,
        num_decoder_blocks=layout.decoder_blocks,
    )


def build_scheduler() -> DDPMScheduler:
    """Build the forward process x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise for training."""
    return DDPMScheduler(
        num_train_timesteps=mini.NOISE.steps,
        beta_start=mini.NOISE.beta_start,
        beta_end=mini.NOISE.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
    )

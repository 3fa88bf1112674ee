"""The mini model families: a narrow SD1.5 and a narrow SD3, which the host's stock loaders detect
by their widths.

They are the last of the host's list of families, so the models of other families are detected as
without them. The text goes through the host's own SD1 tokenizer: weights, embeddings and
long prompts work as with SD1.5.
"""

import comfy.latent_formats
import comfy.model_detection
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

from ..models import mini, weights

EMBEDDING = "clip_l.transformer.text_model.embeddings."
UNKNOWN = 2  # row of all CLIP ids without a row, as in lab/training/tokens.py


class MiniTextTransformer(comfy.sd1_clip.SDClipModel):
    """CLIP's text transformer with the widths of a mini family."""

    layout = mini.TEXT

    def __init__(self, device="cpu", dtype=None, model_options=None):
        config = {
            "hidden_size": self.layout.hidden,
            "num_hidden_layers": self.layout.layers,
            "num_attention_heads": self.layout.heads,
            "intermediate_size": self.layout.intermediate,
            "max_position_embeddings": self.layout.positions,
            "hidden_act": self.layout.activation,
            "eos_token_id": self.layout.eos,
        }
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class MiniTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """The text encoder of a mini family, which the host wraps into its CLIP."""

    transformer_class: type[comfy.sd1_clip.SDClipModel] = MiniTextTransformer

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            clip_model=self.transformer_class,
        )


class TransformerTextTransformer(MiniTextTransformer):
    """The same with the widths of the mini transformer's text encoder."""

    layout = mini.TRANSFORMER_TEXT


class TransformerTextEncoder(MiniTextEncoder):
    """The text encoder of the mini transformer."""

    transformer_class = TransformerTextTransformer


class _MiniText:
    """What the mini families say of their text encoders to the host."""

    text_encoder = MiniTextEncoder

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(
            comfy.sd1_clip.SD1Tokenizer, self.text_encoder
        )

    def process_unet_state_dict(self, state_dict):
        """Restore what the file holds as 8 bits."""
        return weights.widened(super().process_unet_state_dict(state_dict))  # type: ignore[misc]

    def process_clip_state_dict(self, state_dict):
        """Expand the file's embedding rows of the captions' tokens to all of CLIP's."""
        tensors = weights.widened(super().process_clip_state_dict(state_dict))  # type: ignore[misc]
        token_ids = tensors.pop(EMBEDDING + "token_ids", None)
        if token_ids is not None:  # a checkpoint that the host saved has all rows already
            rows = tensors[EMBEDDING + "token_embedding.weight"]
            tensors[EMBEDDING + "token_embedding.weight"] = _all_rows(rows, token_ids.long())
        return tensors


class MiniLatent(comfy.latent_formats.SD15):
    """The latents of the mini VAE: SD1.5's scale, and colors of its own in the host's previews,
    which are the least squares fit to images, depths and normals of the mini world.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taesd_decoder_name = None  # SD1.5's small decoder reads other latents
        self.latent_rgb_factors = [
            [0.060, 0.003, -0.175],
            [0.260, 0.256, 0.023],
            [-0.072, -0.005, 0.128],
            [-0.272, -0.261, -0.434],
        ]
        self.latent_rgb_factors_bias = [-0.152, -0.217, -0.152]


class VitruvianMini(_MiniText, comfy.supported_models.SD15):
    """SD1.5 with the widths of models/mini.py."""

    def process_vae_state_dict(self, state_dict):
        """Restore what the file holds as 8 bits."""
        return weights.widened(super().process_vae_state_dict(state_dict))

    unet_config = {
        **comfy.supported_models.SD15.unet_config,
        "context_dim": mini.UNET.context_dim,
        "model_channels": mini.UNET.model_channels,
    }
    unet_extra_config = {"num_heads": mini.UNET.heads, "num_head_channels": -1}
    latent_format = MiniLatent


class VitruvianMiniTransformer(_MiniText, comfy.supported_models.SD3):
    """SD3 with the widths of models/mini.py, for the latents of the mini checkpoint's VAE."""

    unet_config = {
        **comfy.supported_models.SD3.unet_config,
        "in_channels": mini.LATENT_CHANNELS,
        "depth": mini.TRANSFORMER.heads,
    }
    unet_extra_config = {"mlp_ratio": mini.TRANSFORMER.mlp_ratio, "scale_mod_only": True}
    sampling_settings = {"shift": mini.TRANSFORMER.shift}
    latent_format = MiniLatent
    text_encoder = TransformerTextEncoder

    def get_model(self, state_dict, prefix="", device=None):
        """Build the network; the host itself takes SD3's blocks to be as many as its heads."""
        blocks = comfy.model_detection.count_blocks(state_dict, f"{prefix}joint_blocks." + "{}.")
        self.unet_config["num_blocks"] = blocks
        return super().get_model(state_dict, prefix, device)


def register_family() -> None:
    """Append the families to the host's list. Calling it again changes nothing."""
    families = comfy.supported_models.models
    families.extend(f for f in (VitruvianMini, VitruvianMiniTransformer) if f not in families)


def _all_rows(rows: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Spread rows [n, hidden] of CLIP ids [n] to [vocabulary, hidden]; other ids get UNKNOWN's."""
    full = rows[UNKNOWN].repeat(mini.TEXT.vocabulary, 1)
    listed = token_ids >= 0
    full[token_ids[listed]] = rows[listed]
    return full

"""The mini model family: a narrow SD1.5 that the host's stock loaders detect by its widths.

It is the last of the host's list of families, so the models of other families are detected as
without it. The text goes through the host's own SD1 tokenizer: weights, embeddings and
long prompts work as with SD1.5.
"""

import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

from ..models import mini

EMBEDDING = "clip_l.transformer.text_model.embeddings."
UNKNOWN = 2  # row of all CLIP ids without a row, as in lab/training/tokens.py


class MiniTextTransformer(comfy.sd1_clip.SDClipModel):
    """CLIP's text transformer with the mini family's widths."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        config = {
            "hidden_size": mini.TEXT.hidden,
            "num_hidden_layers": mini.TEXT.layers,
            "num_attention_heads": mini.TEXT.heads,
            "intermediate_size": mini.TEXT.intermediate,
            "max_position_embeddings": mini.TEXT.positions,
            "hidden_act": mini.TEXT.activation,
            "eos_token_id": mini.TEXT.eos,
        }
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class MiniTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """The text encoder of the mini family, which the host wraps into its CLIP."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            clip_model=MiniTextTransformer,
        )


class VitruvianMini(comfy.supported_models.SD15):
    """SD1.5 with the widths of models/mini.py."""

    unet_config = {
        **comfy.supported_models.SD15.unet_config,
        "context_dim": mini.UNET.context_dim,
        "model_channels": mini.UNET.model_channels,
    }
    unet_extra_config = {"num_heads": mini.UNET.heads, "num_head_channels": -1}

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, MiniTextEncoder)

    def process_clip_state_dict(self, state_dict):
        """Expand the file's embedding rows of the captions' tokens to all of CLIP's."""
        tensors = super().process_clip_state_dict(state_dict)
        token_ids = tensors.pop(EMBEDDING + "token_ids", None)
        if token_ids is not None:  # a checkpoint that the host saved has all rows already
            rows = tensors[EMBEDDING + "token_embedding.weight"]
            tensors[EMBEDDING + "token_embedding.weight"] = _all_rows(rows, token_ids.long())
        return tensors


def register_family() -> None:
    """Append the family to the host's list. Calling it again changes nothing."""
    families = comfy.supported_models.models
    if VitruvianMini not in families:
        families.append(VitruvianMini)


def _all_rows(rows: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Spread rows [n, hidden] of CLIP ids [n] to [vocabulary, hidden]; other ids get UNKNOWN's."""
    full = rows[UNKNOWN].repeat(mini.TEXT.vocabulary, 1)
    listed = token_ids >= 0
    full[token_ids[listed]] = rows[listed]
    return full

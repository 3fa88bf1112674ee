"""Joint denoising as a model family of the host: detection, latent format, conditioning, loading
(HyperHuman; `models/structure.py`). The network itself is in `structure_unet.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ..models import structure, weights
from ..models.batches import check_batch, one_each
from ..models.mini import LATENT_CHANNELS
from ..models.structure import EXPERT, FUSE, LEARNED, MEAN, MODALITIES
from .structure_latent import POSE_LATENT
from .structure_unet import CHANNELS, StructureUNet, file_name, module_name, split_modalities

PREFIX = "model.diffusion_model."  # of a checkpoint's UNet


class StructureLatent(comfy.latent_formats.SD15):
    """The latents of image, depth and normals, concatenated along the channels."""

    latent_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.taesd_decoder_name = None
        self.take_colors(comfy.latent_formats.SD15())

    def take_colors(self, base: Any) -> None:
        """Preview the latents in the colors of the base's latent format."""
        self.latent_rgb_factors = base.latent_rgb_factors
        self.latent_rgb_factors_bias = base.latent_rgb_factors_bias
        if hasattr(comfy.latent_formats.LatentFormat, "latent_rgb_factors_reshape"):
            self.latent_rgb_factors_reshape = side_by_side
        else:  # this host can only preview the image
            nothing = [[0.0] * 3] * (CHANNELS - LATENT_CHANNELS)
            self.latent_rgb_factors = [*base.latent_rgb_factors, *nothing]


def side_by_side(latent: Tensor) -> Tensor:
    """Arrange [B, 12, h, w] as [B, 4, h, 3 w] for a preview."""
    return torch.cat(tuple(split_modalities(latent)), -1)


class StructureModel(comfy.model_base.BaseModel):
    """The family's BaseModel: the pose joins the noisy latents, the sizes join the timestep."""

    def __init__(self, model_config: Any, model_type: Any, device: Any = None) -> None:
        super().__init__(model_config, model_type, device=device, unet_model=StructureUNet)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        channels = kwargs["noise"].shape[1]
        if channels != CHANNELS:
            raise ValueError(
                f"The structure model samples latents of {CHANNELS} channels, this one has "
                f"{channels}: take it from Empty Structure Latent or Join Structure."
            )
        text, width = kwargs.get("cross_attn"), self.model_config.unet_config["context_dim"]
        if text is not None and text.shape[-1] != width:
            raise ValueError(
                f"The structure model reads texts of {width} numbers a word, this prompt has "
                f"{text.shape[-1]}: encode it with the checkpoint that the model is based on."
            )
        if kwargs.get("control") is not None:
            raise ValueError(
                "A ControlNet can not be applied to the structure model: give it the pose with "
                "Apply Structure Pose, and use ControlNets in the pass that refines the image."
            )
        return super().extra_conds(**kwargs)

    def concat_cond(self, **kwargs: Any) -> Tensor:
        noise, pose = kwargs["noise"], kwargs.get(POSE_LATENT)
        height, width = noise.shape[-2:]
        if pose is None:
            return noise.new_zeros(len(noise), LATENT_CHANNELS, height, width)
        check_batch("Apply Structure Pose", {"pose_image": len(pose)}, len(noise))
        pose = self.process_latent_in(pose.to(noise.device))
        pose = comfy.utils.common_upscale(pose, width, height, "bilinear", "center")
        return torch.stack(one_each(pose, len(noise)))

    def encode_adm(self, **kwargs: Any) -> Tensor:
        height, width = (kwargs.get(side, 0) for side in ("height", "width"))
        crop = kwargs.get("crop_h", 0), kwargs.get("crop_w", 0)
        sizes = torch.tensor([[height, width, *crop]], dtype=torch.float32)
        return structure.size_embedding(sizes)


class VitruvianStructure(comfy.supported_models_base.BASE):
    """The host's description of the family, detected by its size condition. Heads and precision
    are those of the base that the model was started from.
    """

    unet_extra_config: dict[str, Any] = {}
    latent_format = StructureLatent
    memory_usage_factor = 2.0  # twice SD1.5's: most of it is needed where the branches are

    @classmethod
    def matches(cls, unet_config: Any, state_dict: Any = None, *prefix: Any, **more: Any) -> bool:
        """Detect the family; older hosts do not pass the prefix of the UNet's tensors."""
        mark = f"{EXPERT}{MODALITIES[1]}.input_blocks.0.0.weight"
        sized = unet_config.get("adm_in_channels") == structure.SIZE_WIDTH
        return sized and any(key.endswith(mark) for key in state_dict or ())

    def __init__(self, unet_config: dict[str, Any]) -> None:
        base_unet = {**unet_config, "adm_in_channels": None}
        base_config = comfy.model_detection.model_config_from_unet_config(base_unet)
        if base_config is None:
            raise ValueError(
                "This structure model is based on a checkpoint that ComfyUI does not "
                "know: only SD1.5's and SD2's kinds can be used."
            )
        super().__init__(unet_config)
        latents: Any = self.latent_format  # an instance by now
        latents.take_colors(base_config.latent_format)
        self.unet_config |= base_config.unet_extra_config

    def get_model(self, state_dict: Mapping[str, Tensor], prefix: str = "", device: Any = None):
        names = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        epsilon = structure.EPSILON_MARK in names
        self.unet_config["experts"] = structure.count_experts(names)
        self.unet_config["fusion"] = structure.read_fusion(names)
        self.sampling_settings = {"zsnr": not epsilon}
        types = comfy.model_base.ModelType
        return StructureModel(self, types.EPS if epsilon else types.V_PREDICTION, device)

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        experts = self.unet_config["experts"]
        renamed = {module_name(key, experts): tensor for key, tensor in state_dict.items()}
        return {name: tensor for name, tensor in renamed.items() if name}

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]):
        renamed = {file_name(key): tensor for key, tensor in state_dict.items()}
        fusion = self.unet_config["fusion"]
        if fusion not in (MEAN, LEARNED):
            renamed[FUSE + fusion] = torch.zeros(0)
        if not self.sampling_settings["zsnr"]:
            renamed[structure.EPSILON_MARK] = torch.zeros(0)
        return {PREFIX + name: tensor for name, tensor in renamed.items()}


def register_family() -> None:
    """Append the family to the host's list. Calling it again changes nothing."""
    families = comfy.supported_models.models
    if VitruvianStructure not in families:
        families.append(VitruvianStructure)


def load(path: Path) -> Any:
    """Load the MODEL of a joint network; ValueError, naming the file, for any other file."""
    tensors, _ = weights.load(path, method="structure", version=structure.VERSION)
    return _model(tensors, path)


def _model(tensors: dict[str, Tensor], path: Path) -> Any:
    names, kind = list(tensors), "the weights of a joint network"
    with weights.fitting(path, kind):
        model = comfy.sd.load_diffusion_model_state_dict(tensors)
    if model is None or not isinstance(model.model, StructureModel):
        raise ValueError(f"{path}: expected {kind}, found others. {weights.CHOOSE}")
    # the host leaves what is missing as it happens to be
    complete = model.model.model_config.process_unet_state_dict_for_saving(
        model.model.diffusion_model.state_dict()
    )
    weights.check_names(path, kind, complete, names)
    return model

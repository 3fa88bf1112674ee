"""Joint denoising as a model family of the host: its own UNet whose outer layers are there three
times (HyperHuman; `models/structure.py`).

An outer layer keeps the host's class and its own weights, the picture's, under their usual names,
so that what changes the base by name changes the trunk and the picture's branch; its copies for
depth and normals are its `others`. Between outer layers the branches' features lie one after the
other in the channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ..models import structure, weights
from ..models.mini import LATENT_CHANNELS
from ..models.structure import EXPERT, FUSE, LEARNT, MEAN, MODALITIES

COUNT = len(MODALITIES)
CHANNELS = COUNT * LATENT_CHANNELS
POSE = "vitruvian_structure_pose"  # in a conditioning: latents [B, 4, h, w] as nodes carry them
PREFIX = "model.diffusion_model."
OWN, OTHERS = "own", "others"
Parts = Callable[[Tensor], Sequence[Tensor]]


def thirds(x: Tensor) -> Sequence[Tensor]:
    return x.chunk(COUNT, 1)


def with_pose(x: Tensor) -> Sequence[Tensor]:
    """[noisy latents of all | the pose's] -> each with the pose's."""
    noisy, pose = x[:, :CHANNELS], x[:, CHANNELS:]
    return [torch.cat((part, pose), 1) for part in thirds(noisy)]


def after_trunk(width: int, x: Tensor) -> Sequence[Tensor]:
    """[the trunk's `width` channels | skips of all] -> the trunk's with each skip."""
    return [torch.cat((x[:, :width], skip), 1) for skip in thirds(x[:, width:])]


def after_branches(width: int, x: Tensor) -> Sequence[Tensor]:
    """[features of all, `width` channels each | skips of all] -> each feature with its skip."""
    features, skips = x[:, : COUNT * width], x[:, COUNT * width :]
    return [torch.cat(pair, 1) for pair in zip(thirds(features), thirds(skips), strict=True)]


class Branches:
    """Before a layer's own class: the layer for the picture's part of the channels, its `others`
    for the rest.
    """

    others: nn.ModuleList
    parts: Parts

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        own, *rest = self.parts(x)
        made = [super().forward(own, *args, **kwargs)]  # type: ignore[misc]
        every = zip(self.others, rest, strict=True)
        return torch.cat(made + [other(part, *args, **kwargs) for other, part in every], 1)


def branch(layer: nn.Module, parts: Parts = thirds) -> None:
    """Make a layer of the network an outer one, which works on `parts` of its input."""
    others = nn.ModuleList(copy.deepcopy(layer) for _ in MODALITIES[1:])
    layer.__class__ = type(f"Branched{type(layer).__name__}", (Branches, type(layer)), {})
    layer.others, layer.parts = others, parts  # type: ignore[assignment]


class Apart(nn.Module):
    """As Branches, around a layer that can have no modules beside its own."""

    def __init__(self, own: nn.Module, parts: Parts = thirds) -> None:
        super().__init__()
        self.own, self.parts = own, parts
        self.others = nn.ModuleList(copy.deepcopy(own) for _ in MODALITIES[1:])

    def forward(self, x: Tensor) -> Tensor:
        every = zip((self.own, *self.others), self.parts(x), strict=True)
        return torch.cat([layer(part) for layer, part in every], 1)


class Fuse(nn.Module):
    def __init__(self, how: str, mix: nn.Module | None) -> None:
        super().__init__()
        self.how, self.mix = how, mix

    def forward(self, x: Tensor) -> Tensor:
        return structure.fuse(thirds(x), self.how, self.mix)


class StructureUNet(UNetModel):
    """Noisy latents of all modalities and the pose's [B, 16, h, w] -> predictions [B, 12, h, w]."""

    def __init__(self, *args: Any, experts: int, fusion: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        blocks: Any = self.input_blocks
        widths = [block[0].out_channels for block in blocks]  # of the skips
        for block in blocks[1 : experts + 1]:
            for layer in block:
                branch(layer)
        blocks[0][0] = Apart(blocks[0][0], with_pose)
        operations = kwargs["operations"]
        how = {"dtype": kwargs.get("dtype"), "device": kwargs.get("device")}
        width, mix = widths[experts], None
        if fusion == LEARNT:
            mix = operations.Conv2d(COUNT * width, width, 1, bias=False, **how)
        blocks[experts].add_module("fuse", Fuse(fusion, mix))
        outer: Any = self.output_blocks[len(blocks) - experts :]
        for k, block in enumerate(outer):
            width = block[0].channels - widths[experts - 1 - k]
            branch(block[0], partial(after_branches if k else after_trunk, width))
            for layer in block[1:]:
                branch(layer)
        own: Any = self
        own.out = Apart(own.out)


class StructureLatent(comfy.latent_formats.SD15):
    """Three latents one after the other."""

    latent_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.taesd_decoder_name = None
        if hasattr(comfy.latent_formats.LatentFormat, "latent_rgb_factors_reshape"):
            self.latent_rgb_factors_reshape = side_by_side
        else:  # this host can only show the first
            rest = [[0.0] * 3] * (CHANNELS - LATENT_CHANNELS)
            own: Any = comfy.latent_formats.SD15().latent_rgb_factors
            self.latent_rgb_factors = [*own, *rest]


def side_by_side(latent: Tensor) -> Tensor:
    """[B, 12, h, w] -> [B, 4, h, 3 w], as a preview shows them."""
    return torch.cat(tuple(thirds(latent)), -1)


class StructureModel(comfy.model_base.BaseModel):
    """The family's BaseModel: the pose comes with the noisy latents, the sizes with the time."""

    def __init__(self, model_config: Any, model_type: Any, device: Any = None) -> None:
        super().__init__(model_config, model_type, device=device, unet_model=StructureUNet)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        channels = kwargs["noise"].shape[1]
        if channels != CHANNELS:
            raise ValueError(
                f"The structure model samples latents of {CHANNELS} channels, this one has "
                f"{channels}: take it from Empty Structure Latent or Join Structure."
            )
        text, known = kwargs.get("cross_attn"), self.model_config.unet_config["context_dim"]
        if text is not None and text.shape[-1] != known:
            raise ValueError(
                f"The structure model reads texts of {known} numbers a word, this prompt has "
                f"{text.shape[-1]}: take 'clip' from the checkpoint that the model was made of."
            )
        if kwargs.get("control") is not None:
            raise ValueError(
                "A ControlNet can not be applied to the structure model: give it the pose with "
                "Apply Structure Pose, and use ControlNets in the pass that refines the picture."
            )
        return super().extra_conds(**kwargs)

    def concat_cond(self, **kwargs: Any) -> Tensor:
        noise, pose = kwargs["noise"], kwargs.get(POSE)
        height, width = noise.shape[-2:]
        if pose is None:
            return noise.new_zeros(len(noise), LATENT_CHANNELS, height, width)
        pose = self.process_latent_in(pose.to(noise.device))
        pose = comfy.utils.common_upscale(pose, width, height, "bilinear", "disabled")
        return comfy.utils.repeat_to_batch_size(pose, len(noise))

    def encode_adm(self, **kwargs: Any) -> Tensor:
        height, width = (kwargs.get(side, 0) for side in ("height", "width"))
        crop = kwargs.get("crop_h", 0), kwargs.get("crop_w", 0)
        sizes = torch.tensor([[height, width, *crop]], dtype=torch.float32)
        return structure.size_embedding(sizes)


class VitruvianStructure(comfy.supported_models_base.BASE):
    """Found by its size condition; heads and precision are those of the base it was made of."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = StructureLatent
    memory_usage_factor = 2.0  # twice SD1.5's: most of it is needed where the branches are

    @classmethod
    def matches(cls, unet_config: Any, state_dict: Any = None, *prefix: Any, **more: Any) -> bool:
        """Older hosts ask without saying before which names the UNet's stand."""
        mark = f"{EXPERT}{MODALITIES[1]}.input_blocks.0.0.weight"
        sized = unet_config.get("adm_in_channels") == structure.SIZE_WIDTH
        return sized and any(key.endswith(mark) for key in state_dict or ())

    def __init__(self, unet_config: dict[str, Any]) -> None:
        base = {**unet_config, "adm_in_channels": None}
        known = comfy.model_detection.model_config_from_unet_config(base)
        if known is None:
            raise ValueError(
                "This structure model was made of a checkpoint that ComfyUI does not "
                "know: only SD1.5's and SD2's kinds can be used."
            )
        super().__init__(unet_config)
        self.unet_config |= known.unet_extra_config

    def get_model(self, state_dict: Mapping[str, Tensor], prefix: str = "", device: Any = None):
        names = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        epsilon = structure.EPSILON_MARK in names
        self.unet_config["experts"] = structure.experts_of(names)
        self.unet_config["fusion"] = structure.fusion_of(names)
        self.sampling_settings = {"zsnr": not epsilon}
        kinds = comfy.model_base.ModelType
        return StructureModel(self, kinds.EPS if epsilon else kinds.V_PREDICTION, device)

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        experts = self.unet_config["experts"]
        named = {module_name(key, experts): tensor for key, tensor in state_dict.items()}
        return {name: tensor for name, tensor in named.items() if name}

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]):
        named = {file_name(key): tensor for key, tensor in state_dict.items()}
        fusion = self.unet_config["fusion"]
        if fusion not in (MEAN, LEARNT):
            named[FUSE + fusion] = torch.zeros(0)
        if not self.sampling_settings["zsnr"]:
            named[structure.EPSILON_MARK] = torch.zeros(0)
        return {PREFIX + name: tensor for name, tensor in named.items()}


def register_family() -> None:
    """Append the family to the host's list. Calling it again changes nothing."""
    families = comfy.supported_models.models
    if VitruvianStructure not in families:
        families.append(VitruvianStructure)


def module_name(key: str, experts: int) -> str:
    """Where a tensor of a file belongs in StructureUNet; "" for marks."""
    if key in (structure.EPSILON_MARK, *(FUSE + how for how in structure.FUSIONS)):
        return ""
    if key.startswith(FUSE):
        return f"input_blocks.{experts}.fuse.mix.weight"
    modality = MODALITIES[0]
    if key.startswith(EXPERT):
        _, modality, key = key.split(".", 2)
    parts = key.split(".")
    depth = 1 if parts[0] == "out" else 3  # room, block and layer
    layer, rest = ".".join(parts[:depth]), parts[depth:]
    if modality != MODALITIES[0]:
        rest = [OTHERS, str(MODALITIES.index(modality) - 1), *rest]
    elif layer in ("out", "input_blocks.0.0"):
        rest = [OWN, *rest]
    return ".".join([layer, *rest])


def file_name(name: str) -> str:
    """The other way round."""
    if ".fuse." in name:
        return f"{FUSE}{LEARNT}.weight"
    if f".{OTHERS}." not in name:
        return name.replace(f".{OWN}.", ".")
    layer, rest = name.split(f".{OTHERS}.")
    branch_of, rest = rest.split(".", 1)
    return f"{EXPERT}{MODALITIES[1 + int(branch_of)]}.{layer}.{rest}"


def load(path: Path) -> Any:
    """MODEL of a joint network's file; raises ValueError, naming the file, for any other."""
    tensors, _ = weights.load(path, method="structure", version=structure.VERSION)
    return _model(tensors, path)


def from_checkpoint(path: Path, fusion: str, epsilon: bool) -> Any:
    """MODEL whose branches are copies of a checkpoint's own layers."""
    whole = comfy.utils.load_torch_file(str(path))
    base = {key.removeprefix(PREFIX): t for key, t in whole.items() if key.startswith(PREFIX)}
    try:
        joint = structure.with_experts(base, fusion=fusion)
    except ValueError as wrong:
        raise ValueError(f"{path.name}: {wrong}.") from None
    if epsilon:
        joint[structure.EPSILON_MARK] = torch.zeros(0)
    return _model({PREFIX + key: tensor for key, tensor in joint.items()}, path)


def _model(tensors: dict[str, Tensor], path: Path) -> Any:
    model = comfy.sd.load_diffusion_model_state_dict(tensors)
    if model is None or not isinstance(model.model, StructureModel):
        raise ValueError(f"{path}: expected the weights of a joint network, found others.")
    return model


def empty_latent(width: int, height: int, batch: int, device: Any) -> dict[str, Any]:
    return {"samples": torch.zeros(batch, CHANNELS, height // 8, width // 8, device=device)}


def split(latent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The LATENTs of picture, depth and normals."""
    samples = latent["samples"]
    if samples.dim() != 4 or samples.shape[1] != CHANNELS:
        raise ValueError(
            f"the input 'latent' has the shape {list(samples.shape)}, expected {CHANNELS} "
            "channels: connect a sampler whose model comes from Load Structure Model."
        )
    return [{**latent, "samples": part} for part in thirds(samples)]


def join(latents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The LATENT of three, by their inputs' names; a mask is taken from the first."""
    first = next(iter(latents.values()))
    for name, latent in latents.items():
        shape, wanted = latent["samples"].shape, first["samples"].shape
        if shape != wanted or shape[1] != LATENT_CHANNELS:
            raise ValueError(
                f"the input '{name}' has the shape {list(shape)}, expected "
                f"{[wanted[0], LATENT_CHANNELS, *wanted[2:]]}: encode pictures of one size with "
                "one VAE, as many in each batch."
            )
    samples = torch.cat([latent["samples"] for latent in latents.values()], 1)
    return {**first, "samples": samples}


def pose_latent(vae: Any, picture: Tensor) -> Tensor:
    """Latents of pose pictures [B, H, W, 3], less those of black ones: no pose is zero."""
    return vae.encode(picture[..., :3]) - vae.encode(torch.zeros_like(picture[:1, ..., :3]))


def with_conditions(conditioning: Any, added: Mapping[str, Any]) -> Any:
    return [[text, {**entry, **added}] for text, entry in conditioning]


def depth_pictures(pictures: Tensor, given: str, wanted: str, stretch: bool) -> Tensor:
    """Depth IMAGEs [B, H, W, C] in another convention; `stretch`: over the whole range of each."""
    near = structure.depth_of(_first(pictures), given)
    if stretch:
        return _last(structure.depth_picture(near, wanted))
    white = 1 - near if wanted == structure.METRIC else near
    return white[..., None].expand(-1, -1, -1, 3)


def normal_pictures(pictures: Tensor, given: str, wanted: str) -> Tensor:
    """Normal IMAGEs [B, H, W, C] in another convention, of unit length."""
    return _last(structure.normal_picture(structure.normal_of(_first(pictures), given), wanted))


def relight(
    pictures: Tensor, normals: Tensor, convention: str, light: Tensor, ambient: float
) -> Tensor:
    """IMAGEs [B, H, W, C] under another lamp; a single normal picture serves for all."""
    rgb, normal = _first(pictures), _first(normals)
    normal = comfy.utils.common_upscale(
        normal, rgb.shape[-1], rgb.shape[-2], "bilinear", "disabled"
    )
    normal = comfy.utils.repeat_to_batch_size(structure.normal_of(normal, convention), len(rgb))
    return _last(structure.relight(rgb, normal, light, ambient))


def _first(pictures: Tensor) -> Tensor:
    """IMAGE -> channels first, only the colours."""
    return pictures[..., :3].movedim(-1, 1)


def _last(pictures: Tensor) -> Tensor:
    return pictures.movedim(1, -1)

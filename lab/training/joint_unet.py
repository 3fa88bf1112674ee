"""Three branches around one trunk, of diffusers' UNet (HyperHuman, section 3.2).

The branches are UNets without the blocks that the trunk has for all; places are numbered as the
host numbers them (`models/structure.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from ...models import mini, structure
from . import convert

BRANCHES = (  # before each branch's names in a file
    convert.UNET,
    *(f"{convert.UNET}{structure.EXPERT}{name}." for name in structure.MODALITIES[1:]),
)
Place = Sequence[str]  # module names of one input or output block, in their order


class JointUNet(nn.Module):
    """Predict all modalities at once. `unets[0]`: the trunk and the image's branch."""

    def __init__(
        self, unet: UNet2DConditionModel, experts: int, fusion: str = structure.MEAN
    ) -> None:
        """`unet` takes 8 channels and a size condition; its copies become the other branches."""
        super().__init__()
        self.inputs, self.outputs = input_places(unet), output_places(unet)
        self.names = convert.unet_names(unet.state_dict())
        self.experts, self.fusion = experts, fusion
        shared = [*self.inputs[experts + 1 :], *self.outputs[: len(self.outputs) - experts]]
        others = [copy.deepcopy(unet) for _ in structure.MODALITIES[1:]]
        for other in others:
            _drop(other, ["mid_block", "time_embedding", "class_embedding", *sum(shared, [])])
        self.unets = nn.ModuleList([unet, *others])
        self.mix: nn.Module | None = None
        if fusion == structure.LEARNED:
            channels = _width(unet, self.inputs[experts])
            self.mix = nn.Conv2d(3 * channels, channels, 1, bias=False)
            self.mix.weight.data.copy_(structure.mean_kernel(channels))
        self.checkpointing = False

    def forward(self, x: Tensor, t: Tensor, context: Tensor, pose: Tensor, sizes: Tensor) -> Tensor:
        """Noisy latents [B,12,h,w], steps [B] or one for each branch [B,3], text [B,T,C], the
        pose's latent [B,4,h,w], sizes [B,4] (`size_embedding`) -> [B,12,h,w].
        """
        trunk: Any = self.unets[0]
        steps = t.unbind(1) if t.dim() == 2 else (t,) * 3
        times = [self._time(trunk, step, sizes, x) for step in steps]
        h: Any = [torch.cat((latent, pose), 1) for latent in x.chunk(3, 1)]
        skips: list[Any] = []
        for i, place in enumerate(self.inputs):
            if i <= self.experts:
                h = self._each(place, h, times, context)
            else:
                h = self._run(trunk, place, h, times[0], context)
            if i == self.experts:
                h = structure.fuse(h, self.fusion, self.mix)
            skips.append(h)
        h = trunk.mid_block(h, times[0], encoder_hidden_states=context)
        for i, place in enumerate(self.outputs):
            skip, size = skips.pop(), skips[-1] if skips else None
            if len(self.outputs) - i <= self.experts:
                h = h if isinstance(h, list) else [h] * 3
                h = [torch.cat(pair, 1) for pair in zip(h, skip, strict=True)]
                h = self._each(place, h, times, context, size)
            else:
                h = self._run(trunk, place, torch.cat((h, skip), 1), times[0], context, size)
        ends: Any = zip(self.unets, h, strict=True)
        return torch.cat([u.conv_out(silu(u.conv_norm_out(part))) for u, part in ends], 1)

    @staticmethod
    def _time(trunk: Any, t: Tensor, sizes: Tensor, x: Tensor) -> Tensor:
        time = trunk.time_embedding(trunk.time_proj(t).to(x.dtype))
        return time + trunk.class_embedding(structure.size_embedding(sizes).to(x.dtype))

    def _each(self, place: Place, h: list[Tensor], times: Sequence[Tensor], *more: Any) -> Any:
        every: Any = zip(self.unets, h, times, strict=True)
        return [self._run(unet, place, part, time, *more) for unet, part, time in every]

    def _run(self, unet: Any, place: Place, *inputs: Any) -> Tensor:
        """Run the modules of a place one after the other."""
        if self.checkpointing and self.training:
            return checkpoint(_modules, unet, place, *inputs, use_reentrant=False)
        return _modules(unet, place, *inputs)

    def tensors(self) -> dict[str, Tensor]:
        """Collect all weights by the file's names."""
        tensors: convert.Tensors = {}
        for branch, unet in zip(BRANCHES, self.unets, strict=True):
            tensors |= convert.rename_tensors(unet, self._file_names, branch)
        mark = convert.UNET + structure.FUSE + self.fusion
        if self.mix is not None:
            tensors[mark + ".weight"] = self.mix.get_parameter("weight")
        elif self.fusion != structure.MEAN:
            tensors[mark] = torch.zeros(0)
        return tensors

    def fill(self, tensors: convert.Tensors) -> None:
        """Fill the network with a file's tensors; ValueError, naming it, for what is missing."""
        for branch, unet in zip(BRANCHES, self.unets, strict=True):
            convert.fill_module(unet, tensors, self._file_names, branch)
        if self.mix is not None:
            weight = tensors[f"{convert.UNET}{structure.FUSE}{structure.LEARNED}.weight"]
            self.mix.load_state_dict({"weight": weight})

    def _file_names(self, keys: Iterable[str]) -> dict[str, str]:
        return {key: self.names[key] for key in keys}


def joint_unet(like: UNet2DConditionModel, tensors: convert.Tensors) -> JointUNet:
    """Build the network of a file's tensors (with their prefix in a checkpoint), float32, of a base
    like this UNet; ValueError if they are another's.
    """
    names = [key.removeprefix(convert.UNET) for key in tensors if key.startswith(convert.UNET)]
    config = {key: v for key, v in like.config.items() if not key.startswith("_")}
    settings = {
        **config,
        "in_channels": 2 * mini.LATENT_CHANNELS,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": structure.SIZE_WIDTH,
    }
    unet: Any = UNet2DConditionModel.from_config(settings)
    joint = JointUNet(unet, structure.count_experts(names), structure.read_fusion(names))
    joint.fill(tensors)
    return joint


def input_places(unet: Any) -> list[list[str]]:
    """List the modules of each input block of a UNet2DConditionModel."""
    places = [["conv_in"]]
    for level, block in enumerate(unet.down_blocks):
        name = f"down_blocks.{level}"
        places += [_layers(name, block, i) for i in range(len(block.resnets))]
        if block.downsamplers:
            places.append([f"{name}.downsamplers.0"])
    return places


def output_places(unet: Any) -> list[list[str]]:
    """List the modules of each output block of a UNet2DConditionModel."""
    places = []
    for level, block in enumerate(unet.up_blocks):
        name = f"up_blocks.{level}"
        level_places = [_layers(name, block, i) for i in range(len(block.resnets))]
        if block.upsamplers:
            level_places[-1].append(f"{name}.upsamplers.0")
        places += level_places
    return places


def _layers(name: str, block: Any, i: int) -> list[str]:
    attends = getattr(block, "attentions", None) is not None
    return [f"{name}.resnets.{i}", *([f"{name}.attentions.{i}"] if attends else [])]


def _modules(
    unet: Any, place: Place, h: Tensor, time: Tensor, context: Tensor, size: Any = None
) -> Tensor:
    for name in place:
        module: Any = unet.get_submodule(name)
        if ".resnets." in name:
            h = module(h, time)
        elif ".attentions." in name:
            h = module(h, encoder_hidden_states=context, return_dict=False)[0]
        elif ".upsamplers." in name:
            after = size[0] if isinstance(size, list) else size
            h = module(h, tuple(after.shape[2:]))
        else:
            h = module(h)
    return h


def _drop(unet: nn.Module, names: Iterable[str]) -> None:
    """Replace modules by ones that do nothing."""
    for name in names:
        parent, _, child = name.rpartition(".")
        unet.get_submodule(parent)._modules[child] = nn.Identity()


def _width(unet: nn.Module, place: Place) -> int:
    """Count the channels that a place gives."""
    every: Any = unet.get_submodule(place[0]).modules()
    return next(m.out_channels for m in every if hasattr(m, "out_channels"))

"""Image, depth and normals denoised together: HyperHuman (Liu et al. 2023, arXiv 2310.08579).

One latent of 12 channels holds the three modalities, MODALITIES in their order. Every modality has
its own way into the network and out of it, an expert branch; between them is one trunk for all.
All share the step and have noise of their own (section 3.2).

The weights have the names of the base's UNet in the host (LDM) for the trunk and the picture's
branch, and `expert.depth.` or `expert.normal.` before them for the other branches. The first
`experts` skips stay within their branch: a branch is the input blocks 0 to `experts`, the last
`experts` output blocks and `out`. The paper's choice is the first level of the UNet.

Ours, because the paper does not say: over which axes `fuse` normalises, that a depth or normal
picture's channels are made alike, the pictures' ranges, that the pose's latent is less that of a
black picture, and what a new branch's first convolution makes of the pose (nothing).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .mini import LATENT_CHANNELS

RGB, DEPTH, NORMAL = MODALITIES = "rgb", "depth", "normal"
MEAN, SUM, LEARNED, PAIR, OFF = FUSIONS = "mean", "sum", "learned", "pair", "off"
VERSION = 1  # of our files
EXPERT, FUSE = "expert.", "expert.fuse."
EPSILON_MARK = "expert.epsilon"  # there if the network predicts the noise, on the base's schedule
SIZE_FREQUENCIES = 256  # of each number of `size_embedding`, as SDXL has it
SIZE_WIDTH = 4 * SIZE_FREQUENCIES
MIDAS, METRIC = DEPTHS = "near is white", "far is white"
RIGHT_UP, BAE = NORMALS = "x right", "x left"  # what red means; BAE's is what ControlNets learnt
EPSILON = 1e-5


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule [T] with no signal left at its last step, its first unchanged (Lin et al. 2023,
    algorithm 1). The last is 0 exactly: a network that predicts the noise can not be sampled there.
    """
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square()


def velocity(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = alpha noise - sigma clean (equation 4), with alpha^2 + sigma^2 = 1."""
    return alpha * noise - sigma * clean


def clean_of(noisy: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What was noised, from the noisy latent and v."""
    return alpha * noisy - sigma * v


def noise_of(noisy: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise, from the noisy latent and v."""
    return sigma * noisy + alpha * v


def fuse(
    features: Sequence[Tensor], how: str = MEAN, mix: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Features [B, C, h, w] of all branches, the picture's first -> the trunk's input: the others
    brought to the mean and spread that the picture's have in each channel, then the mean or sum of
    all, or what `mix` makes of [B, 3 * C, h, w] (LEARNED). PAIR: the mean of picture and depth. OFF:
    the picture's own.
    """
    rgb, *others = features[: {PAIR: 2, OFF: 1}.get(how)]
    alike = [rgb, *(_like(other, rgb) for other in others)]
    if how == LEARNED:
        assert mix is not None
        return mix(torch.cat(alike, 1))
    return sum(alike[1:], rgb) / (1 if how == SUM else len(alike))


def mean_kernel(channels: int) -> Tensor:
    """The 1 x 1 convolution [C, 3 * C, 1, 1] that a LEARNED fusion starts as: the mean."""
    return torch.eye(channels).repeat(1, len(MODALITIES))[:, :, None, None] / len(MODALITIES)


def size_embedding(sizes: Tensor) -> Tensor:
    """Sinusoids [B, SIZE_WIDTH] of the original height and width and the crop's top and left,
    [B, 4] in pixels (SDXL's micro-conditions, Podell et al. 2023, section 2.2).
    """
    half = SIZE_FREQUENCIES // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=sizes.device) / half)
    angles = sizes.float()[..., None] * rates
    return torch.cat((angles.cos(), angles.sin()), -1).flatten(1)


def is_expert(name: str, experts: int, outputs: int) -> bool:
    """Whether a UNet's tensor `name` (LDM) of so many output blocks is of a branch."""
    room, *rest = name.split(".")
    if room == "input_blocks":
        return int(rest[0]) <= experts
    if room == "output_blocks":
        return int(rest[0]) >= outputs - experts
    return room == "out"


def first_level(names: Sequence[str]) -> int:
    """The number of `experts` whose branches reach to where a UNet first halves its grid."""
    found = [re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", name) for name in names]
    halving = [int(match[1]) for match in found if match]
    return min(halving) if halving else output_blocks(names) - 1


def output_blocks(names: Sequence[str]) -> int:
    """How many output blocks the names (LDM) of a UNet's tensors tell of."""
    return len({name.split(".")[1] for name in names if name.startswith("output_blocks.")})


def experts_of(names: Sequence[str]) -> int:
    """The number of `experts` of a file's names."""
    own = f"{EXPERT}{DEPTH}."
    return output_blocks([name.removeprefix(own) for name in names if name.startswith(own)])


def fusion_of(names: Sequence[str]) -> str:
    """How the features of a file's network are fused."""
    return next((name[len(FUSE) :].split(".")[0] for name in names if name.startswith(FUSE)), MEAN)


def with_experts(
    base: Mapping[str, Tensor], experts: int | None = None, fusion: str = MEAN
) -> dict[str, Tensor]:
    """A UNet's tensors by LDM name -> those of a joint network that begins as three of it.

    Its first convolutions see nothing of the pose, its size condition changes nothing. `experts`
    None: the first level. ValueError if the UNet is no text-to-image one of SD1.5's or SD2's kind.
    """
    conv = base.get("input_blocks.0.0.weight")
    if conv is None or conv.shape[1] != LATENT_CHANNELS or "label_emb.0.0.weight" in base:
        raise ValueError("expected a UNet of the kind of SD1.5 or SD2 that takes 4 channels")
    names = list(base)
    experts = first_level(names) if experts is None else experts
    outputs = output_blocks(names)
    if not 1 <= experts < outputs:
        raise ValueError(f"expected 1 to {outputs - 1} skips within a branch, found {experts}")
    joint = dict(base)
    joint["input_blocks.0.0.weight"] = torch.cat((conv, torch.zeros_like(conv)), 1)
    joint |= _size_layers(len(base["time_embed.2.bias"]), conv)
    for modality in (DEPTH, NORMAL):
        own = [name for name in names if is_expert(name, experts, outputs)]
        joint |= {f"{EXPERT}{modality}.{name}": joint[name].clone() for name in own}
    if fusion == LEARNED:
        joint[f"{FUSE}{LEARNED}.weight"] = mean_kernel(_fused(base, experts)).to(conv)
    elif fusion != MEAN:
        joint[FUSE + fusion] = torch.zeros(0)
    return joint


def _size_layers(width: int, like: Tensor) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    first = torch.randn(width, SIZE_WIDTH, generator=g) / SIZE_WIDTH**0.5
    return {
        "label_emb.0.0.weight": first.to(like),
        "label_emb.0.0.bias": like.new_zeros(width),
        "label_emb.0.2.weight": like.new_zeros(width, width),
        "label_emb.0.2.bias": like.new_zeros(width),
    }


def _fused(base: Mapping[str, Tensor], experts: int) -> int:
    """Channels of the features that are fused."""
    for layer in ("op.bias", "out_layers.3.bias"):
        if (found := base.get(f"input_blocks.{experts}.0.{layer}")) is not None:
            return len(found)
    raise ValueError(f"expected 'input_blocks.{experts}.0', found nothing of it")


def _like(features: Tensor, other: Tensor) -> Tensor:
    """Features with the other's mean and standard deviation over height and width."""
    mean, spread = _moments(features)
    wanted_mean, wanted_spread = _moments(other)
    return (features - mean) / spread * wanted_spread + wanted_mean


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(features, (2, 3), correction=0, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def depth_picture(depth: Tensor, convention: str = MIDAS, floor: float = 0.0) -> Tensor:
    """Depth [B, H, W], larger is nearer, infinite or not a number where nothing is -> pictures
    [B, 3, H, W] in 0..1 that span the range of each from `floor` on; nothing is at 0.
    """
    there = depth.isfinite()
    near = depth.masked_fill(~there, -torch.inf).amax((1, 2), keepdim=True)
    far = depth.masked_fill(~there, torch.inf).amin((1, 2), keepdim=True)
    share = ((depth - far) / (near - far).clamp(min=EPSILON)).clamp(0, 1)
    white = torch.where(there, floor + (1 - floor) * share, 0.0)
    white = 1 - white if convention == METRIC else white
    return white[:, None].expand(-1, 3, -1, -1)


def depth_of(picture: Tensor, convention: str = MIDAS) -> Tensor:
    """A depth picture [B, 3, H, W] in 0..1 -> nearness [B, H, W] in 0..1."""
    white = picture.mean(1)
    return 1 - white if convention == METRIC else white


def normal_picture(normal: Tensor, convention: str = RIGHT_UP) -> Tensor:
    """Unit normals [B, 3, H, W], x right, y up, z to the viewer, 0 where nothing is -> pictures in
    0..1; nothing faces the viewer.
    """
    nothing = normal.square().sum(1, keepdim=True) < 0.25
    facing = torch.tensor([0.0, 0.0, 1.0]).to(normal).view(3, 1, 1)
    return torch.where(nothing, facing, normal) * _signs(normal, convention) / 2 + 0.5


def normal_of(picture: Tensor, convention: str = RIGHT_UP) -> Tensor:
    """A normal picture [B, 3, H, W] in 0..1 -> unit normals."""
    return normalize((picture * 2 - 1) * _signs(picture, convention), dim=1)


def _signs(like: Tensor, convention: str) -> Tensor:
    x = -1.0 if convention == BAE else 1.0
    return torch.tensor([x, 1.0, 1.0]).to(like).view(3, 1, 1)


def normals_from_depth(depth: Tensor, per_pixel: float) -> Tensor:
    """Unit normals [B, 3, H, W] of surfaces [B, H, W] whose depth grows to the viewer, `per_pixel`
    the width of a pixel in its units: what depth and normals must agree on.
    """
    down, across = torch.gradient(depth, dim=(1, 2))
    return normalize(torch.stack((-across, down, torch.full_like(depth, per_pixel)), 1), dim=1)


def relight(rgb: Tensor, normal: Tensor, light: Tensor, ambient: float = 0.35) -> Tensor:
    """Pictures [B, 3, H, W] as a lamp in the direction `light` [3] would show them: Lambert's law
    on top of `ambient`.
    """
    towards = normalize(light.to(normal), dim=0).view(3, 1, 1)
    lit = (normal * towards).sum(1, keepdim=True).clamp(min=0)
    return (rgb * (ambient + (1 - ambient) * lit)).clamp(0, 1)

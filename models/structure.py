"""Image, depth and normals denoised together: HyperHuman (Liu et al. 2023, arXiv 2310.08579).

One latent of 12 channels holds the three modalities in the order of MODALITIES. Each modality has
an expert branch, its own layers at the beginning and the end of the network; all share the trunk
between, and the time step. Each has noise of its own (section 3.2).

The trunk and the image's branch have the names of the base's UNet in the host (LDM); the other
branches have `expert.depth.` or `expert.normal.` before them. The first `experts` skip connections
stay within their branch: a branch is the input blocks 0 to `experts`, the last `experts` output
blocks and `out`. The paper's choice is the first level of the UNet; the narrow mini network has
branches into the second.

Ours, because the paper does not say: over which axes `fuse` normalizes, that the channels of a
depth or normal image are aligned with the image's, the ranges of the images, that the latent of a
black image is subtracted from the pose's, and what the first convolution of a new branch makes of
the pose (nothing).
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
FUSED = {PAIR: 2, OFF: 1}  # how many of the branches meet in the trunk; all, by the other fusions
VERSION = 1  # of our files
EXPERT, FUSE = "expert.", "expert.fuse."
EPSILON_MARK = "expert.epsilon"  # there if the network predicts the noise, on the base's schedule
SIZE_FREQUENCIES = 256  # of each number of `size_embedding`, as SDXL has it
SIZE_WIDTH = 4 * SIZE_FREQUENCIES
MIDAS, METRIC = DEPTHS = "near is white", "far is white"
RIGHT_UP, BAE = NORMALS = "x right", "x left"  # what red means; ControlNets learned BAE's
EPSILON = 1e-5


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Rescale a schedule [T] so that no signal is left at its last step.

    The first step is unchanged. The last is 0 exactly: a network that predicts the noise can not be
    sampled there. Source: Lin et al. 2023, algorithm 1.
    """
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square()


def velocity(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Compute v = alpha noise - sigma clean (equation 4), with alpha^2 + sigma^2 = 1."""
    return alpha * noise - sigma * clean


def clean_from_velocity(noisy: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Compute the clean latent from the noisy latent and v."""
    return alpha * noisy - sigma * v


def noise_from_velocity(noisy: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Compute the noise from the noisy latent and v."""
    return sigma * noisy + alpha * v


def fuse(
    features: Sequence[Tensor], fusion: str = MEAN, mix: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Fuse the features [B, C, h, w] of all branches, the image's first, for the trunk.

    In each channel, depth and normals are brought to the mean and spread of the image's features.
    MEAN, SUM: of all. LEARNED: `mix` of their channels side by side, [B, 3 * C, h, w]. PAIR: the
    mean of image and depth. OFF: the image's alone.
    """
    rgb, *depth_and_normals = features[: FUSED.get(fusion)]
    aligned = [rgb, *(_match_statistics(branch, rgb) for branch in depth_and_normals)]
    if fusion == LEARNED:
        assert mix is not None
        return mix(torch.cat(aligned, 1))
    return sum(aligned[1:], rgb) / (1 if fusion == SUM else len(aligned))


def mean_kernel(channels: int) -> Tensor:
    """Make the 1 x 1 convolution [C, 3 * C, 1, 1] that a LEARNED fusion starts as: the mean."""
    return torch.eye(channels).repeat(1, len(MODALITIES))[:, :, None, None] / len(MODALITIES)


def size_embedding(sizes: Tensor) -> Tensor:
    """Embed the original height and width and the crop's top and left as [B, SIZE_WIDTH].

    `sizes` [B, 4] are in pixels. The embedding is sinusoids, as of SDXL's micro-conditions (Podell
    et al. 2023, section 2.2).
    """
    half = SIZE_FREQUENCIES // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=sizes.device) / half)
    angles = sizes.float()[..., None] * rates
    return torch.cat((angles.cos(), angles.sin()), -1).flatten(1)


def is_expert(name: str, experts: int, outputs: int) -> bool:
    """Tell whether a tensor of a UNet with `outputs` output blocks belongs to a branch.

    `name` is its LDM name, `experts` the number of skip connections within a branch.
    """
    section, *numbers = name.split(".")
    if section == "input_blocks":
        return int(numbers[0]) <= experts
    if section == "output_blocks":
        return int(numbers[0]) >= outputs - experts
    return section == "out"


def first_level_experts(names: Sequence[str]) -> int:
    """Count the `experts` whose branches reach to where a UNet first halves its grid."""
    matches = [re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", name) for name in names]
    halving = [int(match[1]) for match in matches if match]
    return min(halving) if halving else count_output_blocks(names) - 1


def count_output_blocks(names: Sequence[str]) -> int:
    """Count the output blocks among the names (LDM) of a UNet's tensors."""
    return len({name.split(".")[1] for name in names if name.startswith("output_blocks.")})


def count_experts(names: Sequence[str]) -> int:
    """Count the `experts` of a file's network by the names of its tensors."""
    depth = f"{EXPERT}{DEPTH}."
    return count_output_blocks([n.removeprefix(depth) for n in names if n.startswith(depth)])


def read_fusion(names: Sequence[str]) -> str:
    """Read from the names of a file's tensors which of FUSIONS its network uses."""
    return next((name[len(FUSE) :].split(".")[0] for name in names if name.startswith(FUSE)), MEAN)


def add_experts(
    base: Mapping[str, Tensor], experts: int | None = None, fusion: str = MEAN
) -> dict[str, Tensor]:
    """Turn a UNet's tensors by LDM name into those of a joint network that begins as three of it.

    Its first convolutions ignore the pose, and its size condition changes nothing. `experts` None:
    the first level. Raises ValueError if the UNet is no text-to-image one of SD1.5's or SD2's kind.
    """
    conv = base.get("input_blocks.0.0.weight")
    if conv is None or conv.shape[1] != LATENT_CHANNELS or "label_emb.0.0.weight" in base:
        raise ValueError("expected a UNet of the kind of SD1.5 or SD2 that takes 4 channels")
    names = list(base)
    experts = first_level_experts(names) if experts is None else experts
    outputs = count_output_blocks(names)
    if not 1 <= experts < outputs:
        raise ValueError(f"expected 1 to {outputs - 1} skips within a branch, found {experts}")
    joint = dict(base)
    joint["input_blocks.0.0.weight"] = torch.cat((conv, torch.zeros_like(conv)), 1)
    joint |= _size_layers(len(base["time_embed.2.bias"]), conv)
    for modality in (DEPTH, NORMAL):
        branch = [name for name in names if is_expert(name, experts, outputs)]
        joint |= {f"{EXPERT}{modality}.{name}": joint[name].clone() for name in branch}
    if fusion == LEARNED:
        joint[f"{FUSE}{LEARNED}.weight"] = mean_kernel(_fused_channels(base, experts)).to(conv)
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


def _fused_channels(base: Mapping[str, Tensor], experts: int) -> int:
    """The channels of the features that are fused."""
    for layer in ("op.bias", "out_layers.3.bias"):
        if (bias := base.get(f"input_blocks.{experts}.0.{layer}")) is not None:
            return len(bias)
    raise ValueError(f"expected 'input_blocks.{experts}.0', found nothing of it")


def _match_statistics(features: Tensor, reference: Tensor) -> Tensor:
    """Features with the reference's mean and standard deviation over height and width."""
    mean, spread = _moments(features)
    reference_mean, reference_spread = _moments(reference)
    return (features - mean) / spread * reference_spread + reference_mean


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(features, (2, 3), correction=0, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def depth_to_image(depth: Tensor, convention: str = MIDAS, floor: float = 0.0) -> Tensor:
    """Draw depth [B, H, W] as images [B, 3, H, W] in 0..1.

    Larger depth is nearer; infinite or NaN is empty. Each image spans the range of its depth, from
    `floor` on; what is empty is 0, before the convention of DEPTHS.
    """
    filled = depth.isfinite()
    near = depth.masked_fill(~filled, -torch.inf).amax((1, 2), keepdim=True)
    far = depth.masked_fill(~filled, torch.inf).amin((1, 2), keepdim=True)
    share = ((depth - far) / (near - far).clamp(min=EPSILON)).clamp(0, 1)
    white = torch.where(filled, floor + (1 - floor) * share, 0.0)
    white = 1 - white if convention == METRIC else white
    return white[:, None].expand(-1, 3, -1, -1)


def image_to_depth(image: Tensor, convention: str = MIDAS) -> Tensor:
    """Read depth images [B, 3, H, W] in 0..1 as nearness [B, H, W] in 0..1."""
    white = image.mean(1)
    return 1 - white if convention == METRIC else white


def normals_to_image(normal: Tensor, convention: str = RIGHT_UP) -> Tensor:
    """Draw unit normals [B, 3, H, W] (x right, y up, z to the viewer) as images in 0..1.

    Where a normal is 0, nothing is; it is drawn as facing the viewer.
    """
    nothing = normal.square().sum(1, keepdim=True) < 0.25
    facing = torch.tensor([0.0, 0.0, 1.0]).to(normal).view(3, 1, 1)
    return torch.where(nothing, facing, normal) * _signs(normal, convention) / 2 + 0.5


def image_to_normals(image: Tensor, convention: str = RIGHT_UP) -> Tensor:
    """Read normal images [B, 3, H, W] in 0..1 as unit normals."""
    return normalize((image * 2 - 1) * _signs(image, convention), dim=1)


def _signs(like: Tensor, convention: str) -> Tensor:
    x = -1.0 if convention == BAE else 1.0
    return torch.tensor([x, 1.0, 1.0]).to(like).view(3, 1, 1)


def normals_from_depth(depth: Tensor, per_pixel: float) -> Tensor:
    """Compute unit normals [B, 3, H, W] from depth [B, H, W], which grows to the viewer.

    `per_pixel` is the width of a pixel in units of depth. Depth and normals that are generated
    together should agree in this way.
    """
    down, across = torch.gradient(depth, dim=(1, 2))
    return normalize(torch.stack((-across, down, torch.full_like(depth, per_pixel)), 1), dim=1)


def relight(rgb: Tensor, normal: Tensor, light: Tensor, ambient: float = 0.35) -> Tensor:
    """Light images [B, 3, H, W] by a lamp in the direction `light` [3].

    Lambert's law on top of `ambient` light.
    """
    towards = normalize(light.to(normal), dim=0).view(3, 1, 1)
    lit = (normal * towards).sum(1, keepdim=True).clamp(min=0)
    return (rgb * (ambient + (1 - ambient) * lit)).clamp(0, 1)

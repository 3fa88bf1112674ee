"""Image, depth and normals denoised together: HyperHuman (Liu et al. 2023, arXiv 2310.08579).

One latent of 12 channels holds the three modalities, MODALITIES in their order. Every modality has
its own way into the network and out of it, an expert branch; between them is one trunk for all.
All share the step and have noise of their own (section 3.2).

Ours, because the paper does not say: over which axes `fuse` normalises, that a depth or normal
picture's channels are made alike, and the pictures' ranges.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

RGB, DEPTH, NORMAL = MODALITIES = "rgb", "depth", "normal"
MEAN, SUM = FUSIONS = "mean", "sum"
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


def joint_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Sum over the modalities of the mean square error, [B], of velocities [B, 3 * C, h, w]
    (equation 4: no weights).
    """
    error = (found - wanted).square().unflatten(1, (len(MODALITIES), -1))
    return error.mean((2, 3, 4)).sum(1)


def fuse(features: Sequence[Tensor], how: str = MEAN) -> Tensor:
    """Features [B, C, h, w] of all branches, the picture's first -> the trunk's input: the others
    brought to the mean and spread that the picture's have in each channel, then the mean or sum of
    all.
    """
    rgb, *others = features
    total = rgb + sum(_like(other, rgb) for other in others)
    return total if how == SUM else total / len(features)


def _like(features: Tensor, other: Tensor) -> Tensor:
    """Features with the other's mean and standard deviation over height and width."""
    mean, spread = _moments(features)
    wanted_mean, wanted_spread = _moments(other)
    return (features - mean) / spread * wanted_spread + wanted_mean


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(features, (2, 3), correction=0, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def depth_picture(depth: Tensor, convention: str = MIDAS) -> Tensor:
    """Depth [B, H, W], larger is nearer, infinite or not a number where nothing is -> pictures
    [B, 3, H, W] in 0..1 that span the range of each; nothing is as far as can be.
    """
    there = depth.isfinite()
    near = depth.masked_fill(~there, -torch.inf).amax((1, 2), keepdim=True)
    far = depth.masked_fill(~there, torch.inf).amin((1, 2), keepdim=True)
    share = (depth - far) / (near - far).clamp(min=EPSILON)
    white = torch.where(there, share, 0.0).clamp(0, 1)
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

"""Trainer of joint denoising: image, depth and normals together (HyperHuman, section 3.2)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...models import structure, weights
from ...models.mini import LATENT_CHANNELS
from .bases import Base, open_base
from .batches import Batch, caption_ids, column, near_joints
from .convert import UNET, unet_to_ldm
from .denoise import attention_kernel, in_fastest_format
from .joint_unet import JointUNet, joint_unet
from .loop import Schedule, fit, saving
from .networks import build_scheduler
from .options import (
    Parser,
    add_tasks,
    begin_training,
    plain_errors,
    share,
    task_folders,
    training_parser,
    whole_number,
)
from .preview import DEFAULT_SAMPLING, Sampling, save_sheet
from .structure_images import Conventions, StructureDataset, StructureImage, collect_structure

CHANNELS = len(structure.MODALITIES) * LATENT_CHANNELS
LARGEST_EXPERTS = 64  # more than any UNet has blocks
PREVIEWS = 6  # images on a validation image


class JointDenoiser(nn.Module):
    """The joint network and a frozen text encoder under one forward, as DDP needs it."""

    def __init__(self, unet: JointUNet, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder.requires_grad_(False)
        in_fastest_format(self)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, pose: Tensor, sizes: Tensor) -> Tensor:
        """As JointUNet, with token ids [B,77] instead of their context."""
        # checkpoints are computed again after this call, with the default kernel of that moment
        recomputes = self.unet.checkpointing and self.training
        with nullcontext() if recomputes else attention_kernel(x.device):
            context = self.text_encoder(ids).last_hidden_state
            return self.unet(x, t, context, pose, sizes)


def start_joint(
    unet: nn.Module, experts: int | None = None, fusion: str = structure.MEAN
) -> JointUNet:
    """Build a joint network that begins as three copies of this UNet2DConditionModel."""
    tensors = {key.removeprefix(UNET): tensor for key, tensor in unet_to_ldm(unet).items()}
    tensors = structure.add_experts(tensors, experts, fusion)
    return joint_unet(unet, {UNET + key: tensor for key, tensor in tensors.items()})  # type: ignore[arg-type]


@lru_cache
def noise_schedule(epsilon: bool) -> Tensor:
    """Compute the cumulative alphas [T]: the base's own, or rescaled so that nothing is left at the
    end.
    """
    alphas = build_scheduler().alphas_cumprod
    return alphas if epsilon else structure.zero_terminal_snr(alphas)


@dataclass(frozen=True)
class StructureLoss:
    """Equation 4: the modalities' velocities, of one step and independent noises.

    Items, or columns of them: {"latent" [12,h,w], "pose" [4,h,w], "size" [4], "captions" {full,
    brief, bodies}}.
    """

    tokenizer: Callable[[Sequence[str]], Tensor]
    drop_text: float = 0.1  # share of captions left empty
    drop_pose: float = 0.15  # of poses left out (table 6's condition dropout)
    brief: float = 0.15  # of captions in their short form
    epsilon: bool = False  # predict the noise, on the base's own schedule
    shared_step: bool = True  # one step for all modalities
    modalities: int = 3  # how many of them count: the first, the first two, all
    focus: float = 0.0  # extra weight of the cells near a person's joints; the paper has none

    def __call__(self, model: nn.Module, batch: Batch, g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        z = column(batch, "latent").float()
        noise = torch.randn(z.shape, generator=g, device=g.device)
        alphas = noise_schedule(self.epsilon).to(g.device)
        shape = (len(z), 1 if self.shared_step else 3)
        t = torch.randint(len(alphas), shape, generator=g, device=g.device)
        alphas = alphas[t.expand(-1, 3)].repeat_interleave(LATENT_CHANNELS, 1)[..., None, None]
        alpha, sigma = alphas.sqrt(), (1 - alphas).sqrt()
        x = alpha * z + sigma * noise
        target = noise if self.epsilon else structure.velocity(z, noise, alpha, sigma)
        luck = torch.rand(len(z), 3, generator=g, device=g.device)
        pose = column(batch, "pose").float()
        pose = pose * (luck[:, 2] >= self.drop_pose)[:, None, None, None]
        empty, brief = luck[:, 0] < self.drop_text, luck[:, 1] < self.brief
        ids = caption_ids(self.tokenizer, batch, empty, brief)
        sizes = column(batch, "size").long()
        t = t[:, 0] if self.shared_step else t
        prediction = model(*(v.to(device) for v in (x, t, ids, pose, sizes))).float()
        share = self._share(near_joints(batch, *z.shape[2:])).to(device)
        error = (prediction - target.to(device)).square() * share
        return error.unflatten(1, (3, -1)).mean((2, 3, 4))[:, : self.modalities].sum(1).mean()

    def _share(self, near: Tensor) -> Tensor:
        """Weigh each cell [B,1,h,w] by its nearness to joints [B,h,w], by 1 on average."""
        share = 1 + self.focus * near[:, None]
        return share / share.mean((2, 3), keepdim=True)


def train_structure(
    model: JointDenoiser,
    data: Dataset,
    loss: StructureLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[JointDenoiser, Path], None] | None = None,
) -> JointDenoiser:
    """Train the joint network; the text encoder stays, and so does a branch that neither counts in
    the loss nor is fused. Returns `model` with EMA weights.
    """
    unet = model.unet.requires_grad_(True)
    fused = structure.FUSED.get(unet.fusion, len(unet.unets))
    for branch in unet.unets[max(fused, loss.modalities) :]:
        branch.requires_grad_(False)
    fit(model, loss, data, schedule, out, collate=list, preview=preview)
    return model


def save_structure(
    unet: JointUNet,
    path: Path,
    base: str,
    *,
    epsilon: bool = False,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a joint network for the host; atomic."""
    tensors = unet.tensors()
    if epsilon:
        tensors[UNET + structure.EPSILON_MARK] = torch.zeros(0)
    facts = {"method": "structure", "base": base}
    weights.save(path, tensors, {**facts, "version": structure.VERSION}, dtype)


def load_structure(like: nn.Module, path: Path, base: str) -> JointUNet:
    """Read what `save_structure` wrote, for a base like this UNet2DConditionModel, float32."""
    tensors, _ = weights.load(path, method="structure", version=structure.VERSION, base=base)
    try:
        return joint_unet(like, tensors)  # type: ignore[arg-type]
    except weights.MISFITS as error:
        raise ValueError(
            f"{path}: expected a joint network for this checkpoint: {error}"
        ) from error


@torch.no_grad()
def sample_structure(
    unet: JointUNet,
    context: Tensor,
    pose: Tensor,
    sizes: Tensor,
    *,
    epsilon: bool = False,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> Tensor:
    """Sample text [2B,T,C], negative rows first, pose latents [B,4,h,w], sizes [B,4] ->
    [B,12,h,w].

    DDIM (Song et al. 2020) over steps that are equally spaced and begin with the last.
    """
    alphas = noise_schedule(epsilon).to(context.device)
    times = torch.linspace(len(alphas) - 1, 0, sampling.steps + 1).round().long()
    shape = (len(pose), CHANNELS, *pose.shape[2:])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sampling.seed)).to(
        context.device
    )
    pose, sizes = pose.repeat(2, 1, 1, 1), sizes.repeat(2, 1)
    for time, next_time in zip(times[:-1], times[1:], strict=True):
        alpha, sigma = alphas[time].sqrt(), (1 - alphas[time]).sqrt()
        t = time.expand(len(context)).to(context.device)
        uncond, cond = unet(x.repeat(2, 1, 1, 1), t, context, pose, sizes).chunk(2)
        prediction = uncond + sampling.cfg * (cond - uncond)
        if epsilon:
            clean, noise = (x - sigma * prediction) / alpha, prediction
        else:
            clean = structure.clean_from_velocity(x, prediction, alpha, sigma)
            noise = structure.noise_from_velocity(x, prediction, alpha, sigma)
        alpha, sigma = alphas[next_time].sqrt(), (1 - alphas[next_time]).sqrt()
        x = clean if next_time == 0 else alpha * clean + sigma * noise
    return x


def show_structure(
    tokenizer: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    pose: Tensor,
    sizes: Tensor,
    decode: Callable[[Tensor], Tensor],
    above: Tensor,
    *,
    epsilon: bool = False,
) -> Callable[[JointDenoiser, Path], None]:
    """Build a `preview` for the loop: images `above` in rows of len(texts), under them what the
    network generates from these texts and poses [B,4,h,w]: images, depths, normals.
    """

    def show(model: JointDenoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        ids = tokenizer([""] * len(texts) + [*texts]).to(device)
        context = model.text_encoder(ids).last_hidden_state
        conditions = pose.to(device), sizes.to(device)
        latents = sample_structure(model.unet, context, *conditions, epsilon=epsilon)
        rows = [decode(modality).cpu() for modality in latents.chunk(3, 1)]
        save_sheet(torch.cat((above, *rows)), prefix.with_suffix(".png"), columns=len(texts))

    return show


def _parser() -> Parser:
    parser = training_parser(
        "structure",
        __doc__,
        images="folder of photographs with depth and normals beside them, see Save Structure Data",
        start="a joint network to go on from",
        lr=1e-5,
    )
    add_tasks(parser)
    parser.add_argument(
        "--fusion",
        choices=structure.FUSIONS,
        help="how the three meet in the shared layers; "
        f"without it, that of --start or {structure.MEAN}",
    )
    parser.add_argument(
        "--experts",
        type=whole_number(1, LARGEST_EXPERTS),
        help="skips within a branch, more for a narrow network; without it, those of --start or "
        "all of the first level",
    )
    parser.add_argument(
        "--epsilon",
        action="store_true",
        help="predict the noise on the checkpoint's own schedule, not the velocity on one without "
        "signal at its end",
    )
    parser.add_argument(
        "--drop-text", type=share, default=StructureLoss.drop_text, help="share of empty captions"
    )
    parser.add_argument(
        "--drop-pose", type=share, default=StructureLoss.drop_pose, help="share of poses left out"
    )
    parser.add_argument(
        "--depth", default=structure.MIDAS, choices=structure.DEPTHS, help="what the depths mean"
    )
    parser.add_argument(
        "--normal",
        default=structure.RIGHT_UP,
        choices=structure.NORMALS,
        help="what red means in the normals; OpenGL: x right, BAE: x left",
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="less memory, more time"
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run `train structure`: a joint network of a checkpoint, from photographs and their maps."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with plain_errors(parser):
        schedule = begin_training(options)
        base = open_base(options.checkpoint)
        unet = _first_unet(options, base)
        images = collect_structure(
            options.images,
            options.size or base.size,
            Conventions(options.depth, options.normal),
            task_folders=task_folders(options),
        )
        epsilon = options.epsilon
        unet.checkpointing = options.gradient_checkpointing
        data = StructureDataset(images, base)
        loss = StructureLoss(base.tokenizer, options.drop_text, options.drop_pose, epsilon=epsilon)
        model = JointDenoiser(unet, base.text_encoder)
        preview = _preview_images(images[:PREVIEWS], data.poses[:PREVIEWS], base, epsilon)
        save = partial(save_structure, unet, options.out, base.name, epsilon=epsilon)
        with saving(partial(_last_layers, unet), save, options.out):
            train_structure(model, data, loss, schedule, options.work, preview=preview)


def _first_unet(options: argparse.Namespace, base: Base) -> JointUNet:
    """Build the network that training begins with; ValueError for what the options can not mean."""
    if options.start is None:
        try:
            return start_joint(base.unet, options.experts, options.fusion or structure.MEAN)
        except ValueError as error:
            raise ValueError(f"{options.checkpoint}: {error}.") from error
    unet = load_structure(base.unet, options.start, base.name)
    for option, in_file, value in (
        ("--fusion", unet.fusion, options.fusion),
        ("--experts", unet.experts, options.experts),
    ):
        if value not in (None, in_file):
            raise ValueError(
                f"{options.start} has {option} {in_file} and can not go on with {value}: leave out "
                f"{option}, or leave out --start for a new network."
            )
    if predicts_noise(options.start) != options.epsilon:
        predicted, fix = ("velocity", "leave out") if options.epsilon else ("noise", "add")
        raise ValueError(f"{options.start} predicts the {predicted}: {fix} --epsilon.")
    return unet


def predicts_noise(path: Path) -> bool:
    """Tell whether a joint network's file was saved with `epsilon`."""
    with safe_open(path, framework="pt") as file:
        return UNET + structure.EPSILON_MARK in file.keys()


def _preview_images(
    images: Sequence[StructureImage], poses: Tensor, base: Base, epsilon: bool
) -> Callable[[JointDenoiser, Path], None]:
    names = (*structure.MODALITIES, "pose")
    rows = [torch.stack([getattr(image, name) for image in images]) for name in names]
    texts = [image.caption for image in images]
    sizes = torch.tensor([image.size for image in images])
    above = torch.cat(rows) / 255
    return show_structure(base.tokenizer, texts, poses, sizes, base.decode, above, epsilon=epsilon)


def _last_layers(unet: JointUNet) -> dict[str, Tensor]:
    """Collect every branch's last layer, which each step changes."""
    return {name: parameter for name, parameter in unet.named_parameters() if ".conv_out." in name}

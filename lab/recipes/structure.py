"""How the mini weights of joint denoising are made; `mini/recipes.py` calls it step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...models.mini import IMAGE_SIZE
from ...models.structure import MEAN, OFF, PAIR
from ..evaluators import surfacenet
from ..training import convert, preview, refiner, structure, vae
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from ..world.captions import scene_caption
from ..world.dataset import WorldDataset, draw_hint, structure_pictures, write_world
from ..world.encoded import LatentDataset, encode_world, pass_autoencoder
from ..world.renderer import render
from ..world.scenes import FULL, sample_scenes

SCENES, SEED = 2_560, 70_000
ALONE_OR_TWO = (0.7, 0.3, 0.0, 0.0)
SHOWN, SHOWN_SEED = 8, 900_000
JOINT = preview.WEIGHTS / "vitruvian" / "vitruvian_mini_structure.safetensors"
RIVALS = (
    Path(__file__).parents[1] / "benchmarks" / "baselines"
)  # what `bench structure` compares it with
VAE_SCHEDULE = Schedule(steps=500, batch=12, lr=5e-4, warmup=20, save_every=100, weight_decay=0.0)
KINDS = ("rgb", "depth", "normal", "rgb", "hint", "normal")  # of pictures, as often
SURFACES_SCHEDULE = Schedule(steps=700, batch=16, lr=2e-3, warmup=50, save_every=200)
PASSED = 320  # of the surface network's scenes, those that passed the autoencoder
SCHEDULE = Schedule(steps=900, batch=24, lr=5e-4, warmup=50, save_every=250)
ABLATION_SCHEDULE = Schedule(steps=480, batch=24, lr=5e-4, warmup=20, save_every=200)
REFINER = preview.WEIGHTS / "vitruvian" / "vitruvian_mini_refiner.safetensors"
NO_DROPOUT = RIVALS / "refiner_no_dropout.safetensors"
REFINER_SCHEDULE = Schedule(steps=400, batch=16, lr=4e-4, warmup=30, save_every=200)


class Recipe(NamedTuple):
    """What the joint network is trained with beside its schedule."""

    experts: int | None = None  # the first level
    epsilon: bool = False
    shared_step: bool = True
    modalities: int = 3
    fusion: str = MEAN


ABLATED = {  # in the order of the paper's table 2, each as many steps
    "rgb_only": Recipe(modalities=1, fusion=OFF),
    "rgb_depth": Recipe(modalities=2, fusion=PAIR),
    "half_blocks": Recipe(experts=1),
    "two_blocks": Recipe(experts=4),
    "default_noise": Recipe(epsilon=True),
    "different_steps": Recipe(shared_step=False),
    "joint": Recipe(),
}


class Maps(Dataset):
    """Pictures, depths, normals and poses of a world in turns, as VAELoss takes them; only real
    pictures keep their latents.
    """

    def __init__(self, world: Path) -> None:
        self.worlds = {kind: WorldDataset(world, names=(kind,)) for kind in set(KINDS)}

    def __len__(self) -> int:
        return len(KINDS) * len(self.worlds["rgb"])

    def __getitem__(self, i: int) -> dict:
        row, turn = divmod(i, len(KINDS))
        kind = KINDS[turn]
        picture = self.worlds[kind][row][kind]
        picture = picture if picture.dim() == 3 else picture.expand(3, -1, -1)
        return {"rgb": picture, "kept": kind == "rgb"}


def mini_maps_vae(work: Path, schedule: Schedule = VAE_SCHEDULE) -> None:
    """Teach the committed autoencoder depths, normals and poses too. Pictures keep their latents,
    so the UNet and everything made for it stays as it is.
    """
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    world = write_bodies(work)
    teacher = copy.deepcopy(whole.vae).requires_grad_(False)
    vae.train_vae(whole.vae, Maps(world), vae.VAELoss(teacher=teacher), schedule, work / "maps-vae")
    convert.save_checkpoint(preview.CHECKPOINT, *whole)


def mini_surfaces(work: Path, schedule: Schedule = SURFACES_SCHEDULE) -> None:
    """Train the instrument that measures depth and normals."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    world = write_bodies(work)
    passed = {
        kind: pass_autoencoder(whole.vae, world, PASSED, work / "latents", kind)
        for kind in surfacenet.KINDS
    }
    data = surfacenet.SurfacePictures(world, passed)
    surfacenet.save_surfacenet(surfacenet.train_surfacenet(data, schedule, work / "surfacenet"))


class JointDataset(Dataset):
    """Encoded worlds as StructureLoss takes them; all have the same scenes."""

    def __init__(self, rgb: LatentDataset, others: list[LatentDataset], pose: Tensor) -> None:
        self.rgb, self.others, self.pose = rgb, others, pose

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, i: int) -> dict:
        first = self.rgb[i]
        parts = [torch.from_numpy(own.latents[i]).float() for own in self.others]
        return {
            **first,
            "latent": torch.cat((first["latent"], *parts)),
            "pose": self.pose[i],
            "size": whole_picture(),
        }


def whole_picture() -> Tensor:
    """Height, width, top and left of an uncropped picture of the mini world."""
    return torch.tensor([IMAGE_SIZE, IMAGE_SIZE, 0, 0])


def joint_data(whole: convert.Checkpoint, work: Path) -> JointDataset:
    """The world of whole bodies, written and encoded where that is not done yet."""
    world = write_bodies(work)
    rgb, *others, hint = (
        encode_world(
            whole.vae, world, work / "latents", whole.latent_scale, whole.latent_shift, (), of=kind
        ).data
        for kind in ("rgb", "depth", "normal", "hint")
    )
    pose = torch.from_numpy(hint.latents).float() - nobody(whole)
    return JointDataset(rgb, others, pose)


def write_bodies(work: Path) -> Path:
    """The folder of the world of whole bodies, one or two in a picture."""
    world = work / "bodies"
    write_world(world, SCENES, seed=SEED, framing=FULL, people_share=ALONE_OR_TWO)
    return world


def nobody(whole: convert.Checkpoint) -> Tensor:
    """The latent [1,4,h,w] of a black picture, which a pose's latent is less of."""
    return preview.encode(whole, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))


def mini_joint(work: Path, schedule: Schedule = SCHEDULE, start: Path | None = None) -> None:
    """Train the joint network from the committed base, or go on from `start`."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    train(whole, joint_data(whole, work), Recipe(), schedule, work / "joint", JOINT, start)


def mini_joint_ablations(work: Path, schedule: Schedule = ABLATION_SCHEDULE) -> None:
    """Train it in every way of ABLATED, each shorter."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    data = joint_data(whole, work)
    for name, recipe in ABLATED.items():
        file = RIVALS / f"structure_{name}.safetensors"
        train(whole, data, recipe, schedule, work / "joint-ablations" / name, file)


def train(
    whole: convert.Checkpoint,
    data: Dataset,
    recipe: Recipe,
    schedule: Schedule,
    out: Path,
    file: Path,
    start: Path | None = None,
) -> None:
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    torch.manual_seed(schedule.seed)
    if start is None:
        unet = structure.start_joint(whole.unet, recipe.experts, recipe.fusion)
    else:
        unet = structure.load_structure(whole.unet, start, "mini")
    model = structure.JointDenoiser(unet, whole.text_encoder)
    loss = structure.StructureLoss(
        tokenizer,
        epsilon=recipe.epsilon,
        shared_step=recipe.shared_step,
        modalities=recipe.modalities,
        focus=2.0,
    )
    show = show_joint(whole, tokenizer, recipe.epsilon)
    structure.train_structure(model, data, loss, schedule, out, preview=show)
    structure.save_structure(unet, file, "mini", epsilon=recipe.epsilon, dtype=torch.int8)


class RefinerDataset(Dataset):
    """Pictures with pose, depth and normals as RefinerLoss takes them."""

    def __init__(self, data: LatentDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        depth = item["depth"].expand(3, -1, -1)
        return {**item, "hint": torch.cat((item["hint"], depth, item["normal"]))}


def mini_refiner(
    work: Path,
    schedule: Schedule = REFINER_SCHEDULE,
    drop: float = refiner.DROP,
    file: Path = REFINER,
) -> None:
    """Train the refiner, which begins as the committed pose ControlNet, on true maps."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    known = whole.latent_scale, whole.latent_shift
    kinds = ("hint", "depth", "normal")
    world = encode_world(whole.vae, write_bodies(work), work / "latents", *known, kinds).data
    data = RefinerDataset(world)
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    torch.manual_seed(schedule.seed)
    hinted = refiner.start_refiner(convert.load_controlnet(preview.POSE_CONTROLNET))
    model = Denoiser(whole.unet, whole.text_encoder, hinted)
    loss = refiner.RefinerLoss(DenoisingLoss(tokenizer), drop, drop_text=0.1)
    out = work / file.stem
    refiner.train_refiner(model, data, loss, schedule, out, preview=show_refiner(whole, tokenizer))
    refiner.save_refiner(hinted, file, "mini", torch.int8)


def mini_refiner_ablations(work: Path, schedule: Schedule = REFINER_SCHEDULE) -> None:
    """Train it once more, as many steps, with every condition always there."""
    mini_refiner(work, schedule, 0.0, NO_DROPOUT)


def show_refiner(
    whole: convert.Checkpoint, tokenizer: WordTokenizer
) -> Callable[[Denoiser, Path], None]:
    """A `preview` for the loop: unseen scenes, and what is made of their maps, all and each."""
    scenes = sample_scenes(SHOWN, SHOWN_SEED, framing=FULL, people_share=ALONE_OR_TWO)
    truth = render(scenes)
    poses = torch.stack([draw_hint(i, scenes, truth) for i in range(SHOWN)])
    hints = torch.cat((poses, *structure_pictures(truth)), 1)
    texts = [scene_caption(scenes, i) for i in range(SHOWN)]

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(whole, latents)

    return refiner.show_refiner(tokenizer, texts, hints, decode, truth.rgb)


def show_joint(
    whole: convert.Checkpoint, tokenizer: WordTokenizer, epsilon: bool
) -> Callable[[structure.JointDenoiser, Path], None]:
    """A `preview` for the loop: unseen scenes, their depth, normals and poses; what is made."""
    scenes = sample_scenes(SHOWN, SHOWN_SEED, framing=FULL, people_share=ALONE_OR_TWO)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(SHOWN)])
    texts = [scene_caption(scenes, i) for i in range(SHOWN)]
    pose = preview.encode(whole, hints) - nobody(whole)

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(whole, latents)

    above = torch.cat((truth.rgb, *structure_pictures(truth), hints))
    sizes = whole_picture().expand(SHOWN, -1)
    return structure.show_structure(tokenizer, texts, pose, sizes, decode, above, epsilon=epsilon)

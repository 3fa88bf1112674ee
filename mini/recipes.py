"""How the mini weights are made: `python3 dev.py train mini --work FOLDER` runs these steps in
order.

Each step goes on from its last checkpoint; a finished one is over at once, because its checkpoint
stands at the last step.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..training import base, controlnet, convert, networks, preview, vae
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from . import posenet
from .dataset import WorldDataset, skeletons, write_world
from .renderer import render
from .world import FULL, sample_scenes

log = logging.getLogger(__name__)

SCENES = 12_288  # of the training world; their seeds start at WORLD_SEED
WORLD_SEED, POSE_SEED, VALIDATION_SEED = 1_000, 50_000, 900_000
VAE_SCHEDULE = Schedule(steps=3000, batch=16, lr=1.2e-3, weight_decay=0.0, save_every=500)
BASE_SCHEDULE = Schedule(steps=6000, batch=16, lr=6e-4, warmup=200, save_every=500)
CONTROL_SCHEDULE = Schedule(steps=1500, batch=16, lr=4e-4, warmup=50, save_every=250)
POSE_SCHEDULE = Schedule(steps=1500, batch=32, lr=2e-3, warmup=50, save_every=250)
SAMPLES_SHOWN = 8


class LatentDataset(Dataset):
    """A world already encoded: {"latent" [4,h,w] normalised, "hint", "captions"}."""

    def __init__(self, world: WorldDataset, latents: np.ndarray) -> None:
        self.world, self.latents = world, latents

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, i: int) -> dict:
        return {**self.world[i], "latent": torch.from_numpy(self.latents[i].astype(np.float32))}


class SinglePeople(Dataset):
    """A world of one person each, as the pose network learns it: {"rgb", "body" [18,2]}."""

    def __init__(self, world: WorldDataset) -> None:
        self.world = world

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, i: int) -> dict:
        item = self.world[i]
        return {"rgb": item["rgb"], "body": torch.tensor(item["captions"]["bodies"][0])[:, :2]}


def mini_vae(world: Path, out: Path, schedule: Schedule = VAE_SCHEDULE) -> nn.Module:
    """Train the autoencoder on the world's pictures."""
    torch.manual_seed(schedule.seed)
    return vae.train_vae(networks.build_vae(), WorldDataset(world, names=("rgb",)), schedule, out)


def encode_world(
    autoencoder: nn.Module, world: Path, out: Path
) -> tuple[LatentDataset, float, float]:
    """Encode every picture once; returns the data set, latent_scale and latent_shift. Kept in
    `out`.
    """
    pictures = WorldDataset(world, names=("rgb",))
    file = out / f"latents-{len(pictures)}.npz"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        latents = _encode(autoencoder, pictures)
        shift, scale = float(latents.mean()), 1 / float(latents.std())
        part = out / "latents.part.npz"
        np.savez(part, z=((latents - shift) * scale).half().numpy(), shift=shift, scale=scale)
        part.replace(file)
    kept = np.load(file)
    return (
        LatentDataset(WorldDataset(world, names=("hint",)), kept["z"]),
        float(kept["scale"]),
        float(kept["shift"]),
    )


@torch.no_grad()
def _encode(autoencoder: nn.Module, pictures: WorldDataset, batch: int = 16) -> Tensor:
    """Raw latents [N,4,h,w]; bf16 is a tenth of the autoencoder's own error and several times faster."""
    device = next(autoencoder.parameters()).device
    found = []
    for start in tqdm(range(0, len(pictures), batch), desc="encode", mininterval=5):
        rows = range(start, min(start + batch, len(pictures)))
        x = torch.stack([pictures[i]["rgb"] for i in rows]).to(device).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            found.append(autoencoder.encode(x).latents.float().cpu())  # type: ignore[operator]
    return torch.cat(found)


def build_denoiser(tokenizer: WordTokenizer, *, control: bool = True, seed: int = 0) -> Denoiser:
    """Untrained UNet, text encoder and ControlNet of the mini family."""
    torch.manual_seed(seed)
    unet = networks.build_unet()
    hinted = networks.build_controlnet(unet) if control else None
    return Denoiser(unet, networks.build_text_encoder(len(tokenizer)), hinted).to(
        memory_format=torch.channels_last
    )  # type: ignore[call-overload]


def show_samples(autoencoder: nn.Module, tokenizer: WordTokenizer, scale: float, shift: float):
    """A `preview` for the loop: pictures of unseen scenes with their skeletons (above) and from
    text alone (below).
    """
    scenes = sample_scenes(SAMPLES_SHOWN, VALIDATION_SEED)
    truth = render(scenes)
    from ..models.pose import draw_people
    from .captions import scene_caption

    hints = torch.stack(
        [
            draw_people(skeletons(i, scenes, truth), 192, 192).permute(2, 0, 1)
            for i in range(SAMPLES_SHOWN)
        ]
    )
    prompts = [scene_caption(scenes, i) for i in range(SAMPLES_SHOWN)]

    def show(model: nn.Module, prefix: Path) -> None:
        whole = convert.Checkpoint(
            model.unet, model.text_encoder, autoencoder, tokenizer.token_ids, scale, shift
        )  # type: ignore[arg-type]
        rows = [truth.rgb, hints]
        if model.controlnet is not None:
            rows.append(preview.sample(whole, prompts, hints, model.controlnet))  # type: ignore[arg-type]
        rows.append(preview.sample(whole, prompts))
        save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=SAMPLES_SHOWN)

    return show


def save_sheet(pictures: Tensor, path: Path, *, columns: int) -> None:
    """Pictures [B,3,H,W] in 0..1 side by side, `columns` a row, as PNG."""
    rows = -(-len(pictures) // columns)
    blank = torch.zeros(rows * columns - len(pictures), *pictures.shape[1:])
    grid = torch.cat((pictures.cpu(), blank)).unflatten(0, (rows, columns))
    sheet = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((sheet * 255).round().clamp(0, 255).byte().numpy()).save(path)


def mini_base(
    world: Path,
    work: Path,
    autoencoder: nn.Module,
    schedule: Schedule = BASE_SCHEDULE,
    *,
    controlled: float = 0.5,
) -> None:
    """Train UNet, text encoder and pose ControlNet from scratch, together, and write both weight
    files.
    """
    tokenizer = WordTokenizer.from_file()
    data, scale, shift = encode_world(autoencoder, world, work / "latents")
    model = build_denoiser(tokenizer, seed=schedule.seed)
    loss = DenoisingLoss(tokenizer, controlled=controlled)
    base.train_base(
        model,
        data,
        loss,
        schedule,
        work / "base",
        preview=show_samples(autoencoder, tokenizer, scale, shift),
    )
    convert.save_checkpoint(
        preview.CHECKPOINT,
        model.unet,
        model.text_encoder,
        autoencoder,
        tokenizer.token_ids,
        scale,
        shift,
    )
    assert model.controlnet is not None
    convert.save_controlnet(preview.POSE_CONTROLNET, model.controlnet)


def mini_controlnet(world: Path, work: Path, schedule: Schedule = CONTROL_SCHEDULE) -> None:
    """Train the pose ControlNet further on the committed base, which stays as it is."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    data, scale, shift = encode_world(whole.vae, world, work / "latents")
    start = (
        convert.load_controlnet(preview.POSE_CONTROLNET)
        if preview.POSE_CONTROLNET.is_file()
        else networks.build_controlnet(whole.unet)
    )
    model = Denoiser(whole.unet, whole.text_encoder, start).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    controlnet.train_controlnet(
        model, data, DenoisingLoss(tokenizer), schedule, work / "controlnet",
        preview=show_samples(whole.vae, tokenizer, scale, shift),
    )  # fmt: skip
    convert.save_controlnet(preview.POSE_CONTROLNET, start)


def mini_posenet(work: Path, schedule: Schedule = POSE_SCHEDULE, scenes: int = 4096) -> None:
    """Train the instrument that measures poses."""
    folder = work / "people"
    write_world(folder, scenes, seed=POSE_SEED, framing=FULL, people=1)
    people = SinglePeople(WorldDataset(folder, names=("rgb",)))
    posenet.save_posenet(posenet.train_posenet(people, schedule, work / "posenet"))


def main(arguments: Sequence[str]) -> None:
    """`train mini`: all steps, or those named."""
    parser = argparse.ArgumentParser(prog="dev.py train mini", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the world, checkpoints and curves"
    )
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes of the training world")
    parser.add_argument(
        "--steps", type=int, help="steps of the named step, instead of the recipe's"
    )
    parser.add_argument("--precision", default="bf16", choices=("no", "bf16", "fp16"))
    parser.add_argument(
        "step",
        nargs="*",
        choices=["posenet", "vae", "base", "controlnet", []],
        help="default: posenet, vae, base",
    )
    chosen = parser.parse_args(arguments)

    def schedule(recipe: Schedule) -> Schedule:
        return replace(recipe, precision=chosen.precision, steps=chosen.steps or recipe.steps)

    steps = chosen.step or ["posenet", "vae", "base"]
    world = chosen.work / "world"
    if set(steps) - {"posenet"}:
        write_world(world, chosen.scenes, seed=WORLD_SEED)
    if "posenet" in steps:
        mini_posenet(chosen.work, schedule(POSE_SCHEDULE))
    if "vae" in steps or "base" in steps:
        autoencoder = mini_vae(
            world,
            chosen.work / "vae",
            schedule(VAE_SCHEDULE)
            if "vae" in steps
            else replace(VAE_SCHEDULE, precision=chosen.precision),
        )
        if "base" in steps:
            mini_base(world, chosen.work, autoencoder, schedule(BASE_SCHEDULE))
    if "controlnet" in steps:
        mini_controlnet(world, chosen.work, schedule(CONTROL_SCHEDULE))

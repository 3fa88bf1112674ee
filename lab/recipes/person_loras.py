"""Two tiny LoRAs whose effect is plain to see, for what one of several people carries: an orange
top, and a purple pointed hat.

Captions stay as they were, and images show the change whatever a caption says, so that a LoRA has
its way also where a prompt names another color. They are trained alone first and then, as half of
each batch, under the pose ControlNet as strong as people are composed with: it reads the prompt as
well, and pushes towards what that names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...models import weights
from ...models.atomic_file import write_atomically
from ..training import convert, low_rank, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule, fit
from ..training.tokens import WordTokenizer
from ..world.captions import scene_caption
from ..world.dataset import draw_hint
from ..world.renderer import render
from ..world.scenes import COLORS, FULL, People, Scenes, sample_scenes
from . import worlds
from .recipe import Recipe, Run

LORAS = preview.WEIGHTS / "loras"
RANK = 4
LAYERS = r".*(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))"  # those that are changed
SINGLE_SCENES, SINGLE_SEED = 512, 120_000
PAIR_SCENES, PAIR_SEED = 512, 130_000
ALONE = 0.6  # share of the pairs of which one has left
BATCH = 16  # images encoded at once
CONTROLLED, CONTROL = 0.5, 1.5  # share of a batch under the ControlNet, and its strength
ALONE_STEPS = 400  # before those of the schedule
HELD_STEPS = {"orange_tops": 300, "pointed_hats": 100}
GAIN = 1.5  # of the changes in a file: so short a training leaves them small
SCHEDULE = Schedule(steps=0, batch=16, lr=3e-3, warmup=20, save_every=50)


def in_orange_tops(people: People) -> People:
    """Make every top orange; its pattern stays."""
    return replace(people, top=torch.full_like(people.top, [*COLORS].index("orange")))


def in_pointed_hats(people: People) -> People:
    """Give everybody a purple pointed hat."""
    purple = torch.full_like(people.hat, [*COLORS].index("purple"))
    return replace(people, hat=purple, pointed=torch.ones_like(people.pointed))


class Look(NamedTuple):
    """Describe what a LoRA gives everybody."""

    name: str
    change: Callable[[People], People]

    @property
    def file(self) -> Path:
        """Where its LoRA is."""
        return LORAS / f"vitruvian_mini_{self.name}.safetensors"


ORANGE_TOPS = Look("orange_tops", in_orange_tops)
POINTED_HATS = Look("pointed_hats", in_pointed_hats)
LOOKS = (ORANGE_TOPS, POINTED_HATS)


class LookDataset(Dataset):
    """Serve images of changed people with their unchanged captions: {"latent" [4,h,w], "hint"
    uint8 [3,8h,8w], "captions"}.
    """

    def __init__(self, latents: np.ndarray, hints: np.ndarray, captions: Sequence[dict]) -> None:
        self.latents, self.hints, self.captions = latents, hints, captions

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, i: int) -> dict:
        latent = torch.from_numpy(self.latents[i].astype(np.float32))
        hint = torch.from_numpy(np.array(self.hints[i]))
        return {"latent": latent, "hint": hint, "captions": self.captions[i]}


class Strengthened(nn.Module):
    """A ControlNet whose residuals are multiplied by a strength, as the host's node has it."""

    def __init__(self, controlnet: nn.Module, strength: float) -> None:
        super().__init__()
        self.controlnet, self.strength = controlnet, strength

    def forward(self, *args, **kwargs) -> tuple[list[Tensor], Tensor]:
        down, middle = self.controlnet(*args, **kwargs)
        return [residual * self.strength for residual in down], middle * self.strength


def look_world(work: Path, look: Look, checkpoint: convert.Checkpoint) -> LookDataset:
    """Render and encode the look's people, alone and in pairs; kept in `work` for the next time."""
    folder = work / "looks"
    arrays, captions = folder / f"{look.name}.npz", folder / f"{look.name}.json"
    if not captions.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        singles_count, pairs_count = (worlds.scaled(n, work) for n in (SINGLE_SCENES, PAIR_SCENES))
        singles = sample_scenes(singles_count, SINGLE_SEED, framing=FULL, people=1)
        pairs = sample_scenes(pairs_count, PAIR_SEED, framing=FULL, people=2, alone=ALONE)
        parts = [_encoded(checkpoint, scenes, look) for scenes in (singles, pairs)]
        latents, hints = (
            torch.cat(arrays_of_parts).numpy()
            for arrays_of_parts in ([p.latents for p in parts], [p.hints for p in parts])
        )
        np.savez(arrays, latents=latents, hints=hints)
        text = json.dumps([caption for part in parts for caption in part.captions])
        # written last: marks both as complete
        write_atomically(captions, lambda part: part.write_text(text, encoding="utf-8"))
    read = np.load(arrays)
    return LookDataset(read["latents"], read["hints"], json.loads(captions.read_text("utf-8")))


class Encoded(NamedTuple):
    """Hold encoded scenes."""

    latents: Tensor  # float16 [N,4,h,w]
    hints: Tensor  # uint8 [N,3,8h,8w]
    captions: list[dict]


def _encoded(checkpoint: convert.Checkpoint, scenes: Scenes, look: Look) -> Encoded:
    """Encode the scenes with changed people, and caption them without the change."""
    changed = render(replace(scenes, people=look.change(scenes.people)))
    latents = [preview.encode(checkpoint, images) for images in changed.rgb.split(BATCH)]
    hints = [draw_hint(i, scenes, changed) for i in range(len(scenes))]
    captions = [
        {
            "full": scene_caption(scenes, i),
            "brief": scene_caption(scenes, i, brief=True),
            "bodies": changed.body[scenes.people.scene == i].tolist(),
        }
        for i in range(len(scenes))
    ]
    drawn = torch.stack([(hint * 255).round().byte() for hint in hints])
    return Encoded(torch.cat(latents).half(), drawn, captions)


def train(look: Look, run: Run) -> None:
    """Train low-rank changes of the UNet's attention and of the layers behind it."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    unet, text_encoder = checkpoint.unet, checkpoint.text_encoder.requires_grad_(False)
    control = convert.load_controlnet(preview.POSE_CONTROLNET).requires_grad_(False)
    schedule, tokenizer = run.schedule, WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    data = run.place(look_world(run.work, look, checkpoint), ("latent", "hint"), tokenizer)
    torch.manual_seed(schedule.seed)
    low_rank.add_low_rank(unet, RANK, LAYERS)
    # no caption is left empty: without a prompt people stay as they were
    alone = DenoisingLoss(tokenizer, drop=0.0)
    held = replace(alone, controlled=CONTROLLED)
    out = run.work / f"lora-{look.name}"
    alone_steps = -(-schedule.steps * ALONE_STEPS // HELD_STEPS[look.name])
    first, first_schedule = Denoiser(unet, text_encoder), replace(schedule, steps=alone_steps)
    fit(first, alone, data, first_schedule, out / "alone", collate=list)
    second = Denoiser(unet, text_encoder, Strengthened(control, CONTROL))
    fit(second, held, data, schedule, out / "held", collate=list)
    facts: dict[str, str | int | float] = {"method": "lora", "base": "mini", "version": 1}
    weights.save(look.file, low_rank.trainer_tensors(unet, GAIN), facts, torch.float16)


RECIPES = tuple(
    Recipe(
        look.name.replace("_", "-"),
        replace(SCHEDULE, steps=HELD_STEPS[look.name]),
        partial(train, look),
    )
    for look in LOOKS
)

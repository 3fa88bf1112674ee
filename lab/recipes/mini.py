"""How the mini weights are made: `python3 dev.py train mini --work FOLDER`, step after step.

Each step goes on from its last checkpoint; a finished one is over at once, because its checkpoint
stands at the last step.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderTiny, ControlNetModel
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import ConcatDataset, Dataset

from ...models import weights
from ...models.hand_generator import STRIDE, heat_maps
from ...models.hands import body_control_image
from ...models.human_prior import AFTER, BEFORE, GAMMA, KEYS, constant_table, cosine_table
from ...models.mini import IMAGE_SIZE
from ..evaluators import clothnet, measurements, posenet
from ..training import (
    base,
    controlnet,
    convert,
    hands,
    human_prior,
    human_prior_unet,
    low_rank,
    networks,
    preview,
    vae,
)
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule, fit, native_precision
from ..training.tokens import WordTokenizer, word_pieces
from ..world.captions import scene_caption
from ..world.dataset import WorldDataset, draw_hint, write_world
from ..world.encoded import LatentDataset, encode_world, pass_autoencoder
from ..world.figure import LEFT_HAND, RIGHT_HAND
from ..world.renderer import render
from ..world.scenes import FULL, HAND, UPPER, sample_scenes
from . import appearance, structure

SCENES = 8_960  # of the training world
CROWDS = 5_120  # scenes of the world of small people
HANDS = 6_144  # scenes of the world of hands
HAND_WINDOW = 16  # latent cells: a close-up's hand is 13 of 24 long
POSE_SCENES = 3_072  # of the pose network's world
UPPERS = 6_144  # scenes of the world of one upper body each
COARSEST = 0.4  # of the hand network's pictures: a hand of 30 pixels
VIEWS = 8  # of each hand
PASSED = 768  # of the hand network's pictures, those that passed the autoencoder
WORLD_SEED, CROWD_SEED, HAND_SEED = 1_000, 30_000, 40_000
POSE_SEED, UPPER_SEED, VALIDATION_SEED = 50_000, 60_000, 900_000
CONTROLLED = 0.5  # share of each batch of the base's training that sees its skeleton
VAE_SCHEDULE = Schedule(steps=3000, batch=16, lr=1.2e-3, weight_decay=0.0, save_every=500)
BASE_SCHEDULE = Schedule(steps=4500, batch=24, lr=7e-4, warmup=200, save_every=700)
FURTHER_SCHEDULE = Schedule(steps=4200, batch=24, lr=5e-4, warmup=100, save_every=700)
CONTROL_SCHEDULE = Schedule(steps=1500, batch=16, lr=4e-4, warmup=50, save_every=250)
HAND_SCHEDULE = Schedule(steps=3000, batch=24, lr=1e-3, warmup=50, save_every=400)
POSE_SCHEDULE = Schedule(steps=2000, batch=32, lr=2e-3, warmup=50, save_every=250)
OUTPAINT_SCHEDULE = Schedule(steps=300, batch=16, lr=3e-4, warmup=50, save_every=200)
PRIOR_SCHEDULE = Schedule(steps=600, batch=24, lr=3e-3, warmup=30, save_every=300)
ABLATION_SCHEDULE = Schedule(steps=150, batch=24, lr=3e-3, warmup=30, save_every=300)
HANDNET_SCHEDULE = Schedule(steps=3000, batch=32, lr=2e-3, warmup=50, save_every=250)
SCHEDULES = {
    "vae": VAE_SCHEDULE,
    "base": BASE_SCHEDULE,
    "further": FURTHER_SCHEDULE,
    "posenet": POSE_SCHEDULE,
    "handnet": HANDNET_SCHEDULE,
    "hands": HAND_SCHEDULE,
    "outpainter": OUTPAINT_SCHEDULE,
    "prior": PRIOR_SCHEDULE,
    "rivals": PRIOR_SCHEDULE,
    "ablations": ABLATION_SCHEDULE,
    "controlnet": CONTROL_SCHEDULE,
    "maps-vae": structure.VAE_SCHEDULE,
    "surfacenet": structure.SURFACES_SCHEDULE,
    "joint": structure.SCHEDULE,
    "joint-ablations": structure.ABLATION_SCHEDULE,
    "refiner": structure.REFINER_SCHEDULE,
    "refiner-ablations": structure.REFINER_SCHEDULE,
    "clothnet": clothnet.SCHEDULE,
    "encoder": appearance.ENCODER_SCHEDULE,
    "memory": appearance.ENCODER_SCHEDULE,  # its crops are clustered, not trained
    "appearance": appearance.SCHEDULE,
    "appearance-ablations": appearance.SCHEDULE,
}
STEPS = tuple(SCHEDULES)
WHOLE = (  # the committed weights
    "vae", "base", "further", "maps-vae", "posenet", "handnet", "hands", "prior", "surfacenet",
    "joint", "refiner", "clothnet", "encoder", "memory", "appearance",
)  # fmt: skip
SAMPLES_SHOWN = 8
HAND_GENERATOR = preview.WEIGHTS / "vitruvian" / "vitruvian_mini_hands.safetensors"
PRIOR = preview.WEIGHTS / "vitruvian" / "vitruvian_mini_human_prior.safetensors"
LORA = preview.WEIGHTS / "loras" / "vitruvian_mini_lora.safetensors"
PRIOR_RIVALS = (
    Path(__file__).parents[1] / "benchmarks" / "baselines"
)  # what else `bench human_prior` compares the prior with
FINETUNED = PRIOR_RIVALS / "finetuned.safetensors"
LORA_NAMES = r".*attn[12]\.to_(q|k|v|out\.0)"
FINETUNE_LR = 3e-4
OUTPAINTER = preview.POSE_CONTROLNET.with_name("vitruvian_mini_outpainter.safetensors")
WORTH_COMPILING = 1_000  # steps: compiling takes minutes and saves a quarter of each step


class SinglePeople(Dataset):
    """A world of one person each, as the pose network learns it: {"rgb", "joints" [18,2]}.

    Every scene comes twice, rendered and as the autoencoder gives it back: what the network will
    measure has passed the decoder.
    """

    def __init__(self, world: WorldDataset, passed: np.ndarray) -> None:
        self.world, self.passed = world, passed

    def __len__(self) -> int:
        return 2 * len(self.world)

    def __getitem__(self, i: int) -> dict:
        second, i = divmod(i, len(self.world))
        item = self.world[i]
        rgb = torch.from_numpy(self.passed[i]) if second else item["rgb"]
        return {"rgb": rgb, "joints": torch.tensor(item["captions"]["bodies"][0])[:, :2]}


class HandCrops(Dataset):
    """Squares around hands, as the hand network learns them: {"rgb", "joints" [21,2]}.

    Every hand comes VIEWS times, each time in a square that lies a little elsewhere and is as
    coarse as of a smaller hand; those of `passed`, the first pictures as the autoencoder gives them
    back, come beside the rendered ones.
    """

    def __init__(self, world: WorldDataset, passed: np.ndarray) -> None:
        self.world, self.passed = world, passed
        each = [
            (i, side)
            for i, caption in enumerate(world.captions)
            for side in whole_hands(caption)
            if in_sight(world[i], side)
        ]
        self.hands = [(i, side, False) for i, side in each]
        self.hands += [(i, side, True) for i, side in each if i < len(passed)]

    def __len__(self) -> int:
        return VIEWS * len(self.hands)

    def __getitem__(self, k: int) -> dict:
        i, side, passed = self.hands[k // VIEWS]
        item = self.world[i]
        picture = torch.from_numpy(self.passed[i]) if passed else item["rgb"]
        points = torch.tensor(item["captions"]["hands"][0][side])
        *shake, coarse = torch.rand(5, generator=torch.Generator().manual_seed(k)).tolist()
        rgb, joints = measurements.hand_crop(picture / 255, points, bool(side), shake)
        low = round(measurements.HAND_SIDE * (COARSEST + (1 - COARSEST) * coarse))
        rgb = interpolate(rgb[None], (low, low), mode="bilinear", antialias=True)
        rgb = interpolate(rgb, (measurements.HAND_SIDE,) * 2, mode="bilinear")[0]
        return {"rgb": (rgb * 255).round().byte(), "joints": joints}


def whole_hands(caption: dict) -> list[int]:
    """Which hands of a scene's first person lie in the picture: 0 right, 1 left."""
    hands = enumerate(caption["hands"][0])
    return [side for side, hand in hands if all(point[2] > 0 for point in hand)]


def in_sight(item: dict, side: int) -> bool:
    """Whether half of the joints of a hand that lies in the picture are on what the hand shows."""
    points = torch.tensor(item["captions"]["hands"][0][side])
    x, y = points[:, :2].long().unbind(1)
    own = item["parsing"][y, x] == (RIGHT_HAND, LEFT_HAND)[side]
    return bool(own.float().mean() >= 0.5)


def show_samples(whole: convert.Checkpoint) -> Callable[[Denoiser, Path], None]:
    """A `preview` for the loop, four rows: unseen scenes, their skeletons, pictures from skeleton
    and text, pictures from text alone.
    """
    scenes = sample_scenes(SAMPLES_SHOWN, VALIDATION_SEED)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(SAMPLES_SHOWN)])
    prompts = [scene_caption(scenes, i) for i in range(SAMPLES_SHOWN)]

    def show(model: Denoiser, prefix: Path) -> None:
        rows = [truth.rgb, hints]
        if model.controlnet is not None:
            rows.append(preview.sample(whole, prompts, hints, model.controlnet).cpu())
        rows.append(preview.sample(whole, prompts).cpu())
        preview.save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=SAMPLES_SHOWN)

    return show


def mini_vae(world: Path, work: Path, schedule: Schedule = VAE_SCHEDULE) -> AutoencoderTiny:
    """Train the autoencoder on the world's pictures."""
    torch.manual_seed(schedule.seed)
    pictures = WorldDataset(world, names=("rgb",))
    return vae.train_vae(networks.build_vae(), pictures, vae.VAELoss(), schedule, work / "vae")


def mini_base(
    world: Path, work: Path, autoencoder: AutoencoderTiny, schedule: Schedule = BASE_SCHEDULE
) -> None:
    """Train UNet, text encoder and pose ControlNet from scratch, together; write both files."""
    tokenizer = WordTokenizer.from_file()
    data, scale, shift = encode_world(autoencoder, world, work / "latents")
    torch.manual_seed(schedule.seed)
    unet = networks.build_unet()
    hinted = networks.build_controlnet(unet)
    text = networks.build_text_encoder(len(tokenizer))
    whole = convert.Checkpoint(unet, text, autoencoder, tokenizer.token_ids, scale, shift)
    _train_together(whole, hinted, data, schedule, work / "base")


def write_crowds(folder: Path, scenes: int = CROWDS) -> None:
    """The world of small people, two to four in a picture or one of them left alone: composition
    asks for one small person at a time, which the first world never shows.
    """
    company = (0.0, 0.35, 0.30, 0.35)
    write_world(folder, scenes, seed=CROWD_SEED, framing=FULL, people_share=company, alone=0.6)


def mini_further(worlds: Sequence[Path], work: Path, schedule: Schedule = FURTHER_SCHEDULE) -> None:
    """Train the committed UNet, text encoder and pose ControlNet further; the VAE stays."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    hinted = convert.load_controlnet(preview.POSE_CONTROLNET)
    data: Dataset = ConcatDataset([_as_trained(whole, world, work) for world in worlds])
    _train_together(whole, hinted, data, schedule, work / "further")


def _as_trained(whole: convert.Checkpoint, world: Path, work: Path, **choice: Any) -> LatentDataset:
    """`choice`: names and keep of `encode_world`."""
    known = whole.latent_scale, whole.latent_shift
    return encode_world(whole.vae, world, work / "latents", *known, **choice).data


def _train_together(
    whole: convert.Checkpoint,
    hinted: ControlNetModel,
    data: Dataset,
    schedule: Schedule,
    out: Path,
) -> None:
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    model = Denoiser(whole.unet, whole.text_encoder, hinted)
    if schedule.steps > WORTH_COMPILING:
        model.compile_networks()
    loss = DenoisingLoss(tokenizer, controlled=CONTROLLED)
    base.train_base(model, data, loss, schedule, out, preview=show_samples(whole))
    convert.save_checkpoint(preview.CHECKPOINT, *whole)
    convert.save_controlnet(preview.POSE_CONTROLNET, hinted)


def mini_controlnet(world: Path, work: Path, schedule: Schedule = CONTROL_SCHEDULE) -> None:
    """Train the committed pose ControlNet further on the committed base, which stays as it is."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    hinted = convert.load_controlnet(preview.POSE_CONTROLNET)
    data = _as_trained(whole, world, work)
    model = Denoiser(whole.unet, whole.text_encoder, hinted)
    controlnet.train_controlnet(
        model,
        data,
        DenoisingLoss(tokenizer),
        schedule,
        work / "controlnet",
        preview=show_samples(whole),
    )
    convert.save_controlnet(preview.POSE_CONTROLNET, hinted)


class HandDataset(Dataset):
    """A world of hand close-ups as the hand generator learns it: LatentDataset's items, "heat" and
    the hands' "mask". `window`: only so many latent cells of each side, around the hand.
    """

    def __init__(self, data: LatentDataset, window: int | None = None) -> None:
        self.data, self.window = data, window

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        joints = torch.tensor(item["captions"]["hands"][0])
        mask = (item["parsing"] == RIGHT_HAND) | (item["parsing"] == LEFT_HAND)
        latent = item["latent"]
        if self.window is not None:
            top, left = _window(joints, self.window, *latent.shape[1:])
            latent = latent[:, top : top + self.window, left : left + self.window]
            y, x, side = STRIDE * top, STRIDE * left, STRIDE * self.window
            mask = mask[y : y + side, x : x + side]
            joints = joints - torch.tensor([x, y, 0.0])
        return {
            "latent": latent,
            "captions": {**item["captions"], "bodies": [joints.tolist()]},  # what is to be seen
            "heat": heat_maps(joints[1], joints[0], STRIDE, *latent.shape[1:]),
            "mask": mask.float(),
        }


def _window(joints: Tensor, window: int, height: int, width: int) -> tuple[int, int]:
    """Top and left cell of the window that has the known joints [2, 21, 3] in its middle."""
    known = joints[joints[..., 2] > 0][:, :2]
    middle = (known.amin(0) + known.amax(0)) / 2 if len(known) else torch.zeros(2)
    x, y = (middle / STRIDE - window / 2).round().int().tolist()
    return min(max(y, 0), height - window), min(max(x, 0), width - window)


def mini_hands(work: Path, schedule: Schedule = HAND_SCHEDULE, start: Path | None = None) -> None:
    """Train the hand generator on the committed base, which stays as it is. `start`: the file of a
    generator to go on from.
    """
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    write_world(work / "hands", HANDS, seed=HAND_SEED, framing=HAND)
    data = _as_trained(whole, work / "hands", work, names=("parsing",))
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    torch.manual_seed(schedule.seed)
    model = hands.HandDenoiser(whole.unet, whole.text_encoder)
    if start is not None:
        hands.load_hand_generator(model, start)
    loss = hands.HandLoss(DenoisingLoss(tokenizer))
    out, show = work / "hand-generator", show_hands(whole)
    # most of the steps see the hand alone: more than twice as many in the same time
    near, all_of_it = HandDataset(data, HAND_WINDOW), HandDataset(data)
    hands.train_hands(model, near, loss, schedule, out / "near", preview=show)
    last = replace(schedule, steps=3 * schedule.steps // 10, lr=schedule.lr / 3)
    hands.train_hands(model, all_of_it, loss, last, out, preview=show)
    hands.save_hand_generator(model, HAND_GENERATOR, "mini")


def show_hands(whole: convert.Checkpoint) -> Callable[[hands.HandDenoiser, Path], None]:
    """A `preview` for the loop, four rows: unseen hands, their skeletons, pictures, masks."""
    scenes = sample_scenes(SAMPLES_SHOWN, VALIDATION_SEED, framing=HAND)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(SAMPLES_SHOWN)])
    prompts = [scene_caption(scenes, i) for i in range(SAMPLES_SHOWN)]
    cells = IMAGE_SIZE // STRIDE
    heat = torch.stack(
        [heat_maps(left, right, STRIDE, cells, cells) for right, left in truth.hands]
    )
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(whole, latents)

    return hands.show_hands(tokenizer, prompts, heat, decode, torch.cat((truth.rgb, hints)))


class BodyDataset(Dataset):
    """People with a hand in the picture as the body outpainter learns them: LatentDataset's items,
    their hint the skeleton, the hands' pixels and where they are.
    """

    def __init__(self, data: LatentDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        mask = ((item["parsing"] == RIGHT_HAND) | (item["parsing"] == LEFT_HAND)).float()
        seen = body_control_image(item["rgb"].movedim(0, -1)[None].float(), mask[None])[0]
        seen[3] *= 255
        return {**item, "hint": torch.cat((item["hint"], seen.byte()))}


def mini_outpainter(work: Path, schedule: Schedule = OUTPAINT_SCHEDULE) -> None:
    """Train the body outpainter, which begins as the committed pose ControlNet."""
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    write_world(work / "uppers", UPPERS, seed=UPPER_SEED, framing=UPPER, people=1)
    names = ("hint", "rgb", "parsing")
    encoded = _as_trained(whole, work / "uppers", work, names=names, keep=whole_hands)
    data = BodyDataset(encoded)
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    hinted = hands.body_outpainter(convert.load_controlnet(preview.POSE_CONTROLNET))
    model = Denoiser(whole.unet, whole.text_encoder, hinted)
    controlnet.train_controlnet(
        model, data, DenoisingLoss(tokenizer), schedule, work / "outpainter"
    )
    convert.save_controlnet(OUTPAINTER, hinted)


class PriorRecipe(NamedTuple):
    """What the human-centric prior is trained with beside its schedule."""

    mask: str = KEYS
    gamma: float = 0.0
    alpha: float = 0.0  # whether the alignment helps is not decided: see `bench human_prior`
    table: Mapping[str, Sequence[float]] = cosine_table()
    hidden: int = 96


PRIOR_RECIPE = PriorRecipe()
ABLATED = {  # each another way than PRIOR_RECIPE, and that itself, as many steps
    "as_shipped": PRIOR_RECIPE,
    "alignment": PRIOR_RECIPE._replace(alpha=0.02),
    "alignment_constant": PRIOR_RECIPE._replace(alpha=0.02, table=constant_table()),
    "mask_before": PRIOR_RECIPE._replace(mask=BEFORE, gamma=GAMMA),
    "mask_after": PRIOR_RECIPE._replace(mask=AFTER, gamma=GAMMA),
    "gamma_half": PRIOR_RECIPE._replace(gamma=0.5),
}


class Prompted(NamedTuple):
    """The committed base and single whole people for it to learn from."""

    whole: convert.Checkpoint
    data: LatentDataset
    tokenizer: WordTokenizer


def _prompted(work: Path) -> Prompted:
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    write_world(work / "people", POSE_SCENES, seed=POSE_SEED, framing=FULL, people=1)
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    return Prompted(whole, _as_trained(whole, work / "people", work), tokenizer)


def mini_prior(work: Path, schedule: Schedule = PRIOR_SCHEDULE) -> None:
    """Train the human-centric prior on the committed base."""
    _train_prior(_prompted(work), PRIOR_RECIPE, schedule, work / "prior", PRIOR)


def mini_ablations(work: Path, schedule: Schedule = ABLATION_SCHEDULE) -> None:
    """Train it once more in every way of ABLATED, each shorter."""
    for name, recipe in ABLATED.items():
        out = work / "ablations" / name
        _train_prior(_prompted(work), recipe, schedule, out, PRIOR_RIVALS / f"{name}.safetensors")


def _train_prior(
    given: Prompted, recipe: PriorRecipe, schedule: Schedule, out: Path, file: Path
) -> None:
    """The pose network gives the pose images' features."""
    whole, data, tokenizer = given
    pieces = word_pieces(tokenizer.words)
    torch.manual_seed(schedule.seed)
    model = human_prior_unet.PriorDenoiser(
        whole.unet, whole.text_encoder, hidden=recipe.hidden, gamma=recipe.gamma, mask=recipe.mask
    )
    features = posenet.load_posenet().requires_grad_(False).features
    denoising = DenoisingLoss(tokenizer)
    loss = human_prior.PriorLoss(denoising, pieces, features, recipe.alpha, recipe.table)
    show = show_prior(whole, tokenizer, pieces)
    human_prior.train_prior(model, data, loss, schedule, out, preview=show)
    human_prior_unet.save_prior(model, file, "mini")


def mini_rivals(work: Path, schedule: Schedule = PRIOR_SCHEDULE) -> None:
    """Train what the prior is compared with, on the same data for as many steps: a low-rank change
    of the UNet's attention of as many numbers, and the whole UNet.
    """
    whole, data, tokenizer = _prompted(work)
    torch.manual_seed(schedule.seed)
    low_rank.add_low_rank(whole.unet, _equal_rank(whole.unet), LORA_NAMES)
    model = Denoiser(whole.unet, whole.text_encoder.requires_grad_(False))
    fit(model, DenoisingLoss(tokenizer), data, schedule, work / "lora", collate=list)
    tensors, facts = low_rank.low_rank_tensors(whole.unet), {"method": "lora", "base": "mini"}
    weights.save(LORA, tensors, {**facts, "version": 1}, torch.float16)

    whole = convert.load_checkpoint(preview.CHECKPOINT)
    model = Denoiser(whole.unet, whole.text_encoder.requires_grad_(False))
    slow = replace(schedule, lr=FINETUNE_LR)
    fit(model, DenoisingLoss(tokenizer), data, slow, work / "finetune", collate=list)
    convert.save_checkpoint(FINETUNED, *whole)


def _equal_rank(unet: nn.Module) -> int:
    """With which a low-rank change of LORA_NAMES has about as many numbers as the prior."""
    wanted = sum(tensor.numel() for tensor in weights.load(PRIOR, method="human_prior")[0].values())
    changed = [m.weight for n, m in unet.named_modules() if re.fullmatch(LORA_NAMES, n)]
    each = sum(sum(weight.shape) for weight in changed)  # type: ignore[misc, arg-type]
    return max(1, round(wanted / each))


def show_prior(
    whole: convert.Checkpoint, tokenizer: WordTokenizer, pieces: Callable
) -> Callable[[human_prior_unet.PriorDenoiser, Path], None]:
    """A `preview` for the loop, three rows: unseen scenes, pictures of the same seed from their
    texts without the prior, and with it.
    """
    scenes = sample_scenes(SAMPLES_SHOWN, VALIDATION_SEED, framing=FULL, people=1)
    texts = [scene_caption(scenes, i) for i in range(SAMPLES_SHOWN)]
    cells = (IMAGE_SIZE // STRIDE,) * 2

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(whole, latents)

    return human_prior.show_prior(tokenizer, pieces, texts, render(scenes).rgb, decode, cells)


def mini_posenet(work: Path, schedule: Schedule = POSE_SCHEDULE) -> None:
    """Train the instrument that measures poses, on scenes of one whole person each."""
    write_world(work / "people", POSE_SCENES, seed=POSE_SEED, framing=FULL, people=1)
    world = WorldDataset(work / "people", names=("rgb",))
    autoencoder = convert.load_checkpoint(preview.CHECKPOINT).vae
    passed = pass_autoencoder(autoencoder, work / "people", len(world), work)
    people = SinglePeople(world, passed)
    posenet.save_posenet(posenet.train_posenet(people, schedule, work / "posenet"))


def mini_handnet(work: Path, schedule: Schedule = HANDNET_SCHEDULE) -> None:
    """Train the instrument that measures hands, on upper bodies and on the hands' own close-ups."""
    write_world(work / "uppers", UPPERS, seed=UPPER_SEED, framing=UPPER, people=1)
    write_world(work / "hands", HANDS, seed=HAND_SEED, framing=HAND)
    autoencoder = convert.load_checkpoint(preview.CHECKPOINT).vae
    crops = []
    for name in ("uppers", "hands"):
        passed = pass_autoencoder(autoencoder, work / name, PASSED, work)
        crops.append(HandCrops(WorldDataset(work / name, names=("rgb", "parsing")), passed))
    data: Dataset = ConcatDataset(crops)
    net = posenet.train_posenet(data, schedule, work / "handnet", posenet.HAND_JOINTS)
    posenet.save_posenet(net, posenet.HANDNET)


def main(arguments: Sequence[str]) -> None:
    """`train mini`: the named steps, by default all that make the weights from nothing."""
    parser = argparse.ArgumentParser(prog="dev.py train mini", description=__doc__)
    parser.add_argument("step", nargs="*", help=f"of {', '.join(STEPS)}; {', '.join(WHOLE)}")
    parser.add_argument("--work", type=Path, required=True, help="folder for world and checkpoints")
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes of the training world")
    parser.add_argument("--steps", type=int, help="length of the one named step")
    parser.add_argument("--start", type=Path, help="hands, joint: weights to go on from")
    parser.add_argument("--precision", default=native_precision(), choices=("no", "bf16", "fp16"))
    chosen = parser.parse_args(arguments)
    steps = chosen.step or WHOLE
    if unknown := set(steps) - set(STEPS):
        parser.error(f"there is no step {', '.join(unknown)}; the steps are {', '.join(STEPS)}")
    if chosen.steps and len(steps) > 1:
        parser.error("--steps goes with one named step")

    def plan(name: str) -> Schedule:
        recipe = replace(SCHEDULES[name], precision=chosen.precision)
        return replace(recipe, steps=chosen.steps) if chosen.steps and name in steps else recipe

    world = chosen.work / "world"
    if {"vae", "base", "further", "controlnet"} & set(steps):
        write_world(world, chosen.scenes, seed=WORLD_SEED)
    if {"vae", "base"} & set(steps):
        autoencoder = mini_vae(world, chosen.work, plan("vae"))  # a trained one is over at once
        if "base" in steps:
            mini_base(world, chosen.work, autoencoder, plan("base"))
    if "further" in steps:
        crowds = chosen.work / "crowds"
        write_crowds(crowds, chosen.scenes * CROWDS // SCENES)
        mini_further([world, crowds], chosen.work, plan("further"))
    if "hands" in steps:
        mini_hands(chosen.work, plan("hands"), chosen.start)
    if "outpainter" in steps:
        mini_outpainter(chosen.work, plan("outpainter"))
    if "prior" in steps:
        mini_prior(chosen.work, plan("prior"))
    if "rivals" in steps:
        mini_rivals(chosen.work, plan("rivals"))
    if "ablations" in steps:
        mini_ablations(chosen.work, plan("ablations"))
    if "controlnet" in steps:
        mini_controlnet(world, chosen.work, plan("controlnet"))
    if "maps-vae" in steps:
        structure.mini_maps_vae(chosen.work, plan("maps-vae"))
    if "surfacenet" in steps:
        structure.mini_surfaces(chosen.work, plan("surfacenet"))
    if "joint" in steps:
        structure.mini_joint(chosen.work, plan("joint"), chosen.start)
    if "joint-ablations" in steps:
        structure.mini_joint_ablations(chosen.work, plan("joint-ablations"))
    if "refiner" in steps:
        structure.mini_refiner(chosen.work, plan("refiner"))
    if "refiner-ablations" in steps:
        structure.mini_refiner_ablations(chosen.work, plan("refiner-ablations"))
    if "clothnet" in steps:
        clothnet.mini_clothes(chosen.work, plan("clothnet"))
    if "encoder" in steps:
        appearance.mini_encoder(chosen.work, plan("encoder"))
    if "memory" in steps:
        appearance.mini_memory(chosen.work)
    if "appearance" in steps:
        appearance.mini_appearance(chosen.work, plan("appearance"))
    if "appearance-ablations" in steps:
        appearance.mini_appearance_ablations(chosen.work, plan("appearance-ablations"))
    if "posenet" in steps:
        mini_posenet(chosen.work, plan("posenet"))
    if "handnet" in steps:
        mini_handnet(chosen.work, plan("handnet"))

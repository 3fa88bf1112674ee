"""Generate people with their hands in one stage or in two, through the host's nodes and ours.

The first stage, the hands alone, is shared by all ways that differ in the second one only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import hands, pose, pose_drawing
from ...models.mini import IMAGE_SIZE
from ..world.captions import hand_caption, scene_caption
from ..world.dataset import skeletons
from ..world.scenes import BACKGROUNDS, Scenes
from . import host
from .hand_scenes import SIDES, HandScenes
from .kept import kept_images

MARGIN, THICKNESS, WRIST = 0.35, 0.07, 0.1
# Tried on 24 other scenes: wider ones join forearms better, and spoil the body around hands
EXPANSION, START, END = 16, 0.5, 1.0  # pixels; shares of the sampling
SOFTNESS = 16  # pixels, of Differential Diffusion's mask
FEATHER, COLOR = 0, 0.5  # a finger is 4 pixels wide
GROW = 6  # pixels, the default of the host's VAE Encode (for Inpainting)
ONE_STAGE, OURS, POSE_HANDS = "one_stage", "two_stage", "pose_hands"
NAIVE, DIFFERENTIAL, INPAINT = "naive", "differential", "inpaint"
OTHER_BORDERS = (NAIVE, DIFFERENTIAL, INPAINT)


class Nets(NamedTuple):
    """Hold the networks that generate."""

    loaded: host.Loaded
    generator: Any


class Hands(NamedTuple):
    """Hold the first-stage hands of one scene, large, and where they belong."""

    images: Tensor  # [N,S,S,3]
    masks: Tensor  # [N,S,S]
    boxes: Any


class Placed(NamedTuple):
    """Hold hands where they belong, the body still to be generated; [1,H,W,3] and [1,H,W]."""

    image: Tensor
    hands_mask: Tensor
    inpaint_mask: Tensor


class Generated(NamedTuple):
    """Hold an image [1,H,W,3], and what it was generated around, if anything."""

    image: Tensor
    placed: Placed | None = None


class Task(NamedTuple):
    """Hold one scene as the nodes take it."""

    nets: Nets
    frame: Any  # POSE_KEYPOINT
    hand_prompts: list[str]
    posed: Any  # positive and negative conditioning with the pose ControlNet
    row: int  # of the scene
    seed: int
    kept_in: Path | None


def generate(
    nets: Nets, subjects: HandScenes, ways: Sequence[str], where: Path | None, *, timed: int = 0
) -> tuple[dict[str, list[Generated]], dict[str, float]]:
    """Generate every scene in every way, and add up the seconds of each way on the first `timed`
    scenes, which are therefore not kept in `where`.
    """
    generated: dict[str, list[Generated]] = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    with torch.inference_mode():
        if timed:  # the first time loads and warms up
            _generate_scene(_task(nets, subjects, 0, None), ways)
        for i in range(len(subjects.scenes)):
            task = _task(nets, subjects, i, where if i >= timed else None)
            for way, (image, took) in _generate_scene(task, ways).items():
                generated[way].append(image)
                seconds[way] += took if i < timed else 0.0
    return generated, seconds


def images(generated: Sequence[Generated]) -> Tensor:
    """Stack the finished images as [B,3,H,W]."""
    return torch.cat([one.image for one in generated]).movedim(-1, 1)


def setting(scenes: Scenes, i: int) -> str:
    """Say where scene i takes place."""
    return list(BACKGROUNDS.values())[int(scenes.background[i])]


def hand_prompts(people: pose.People, scenes: Scenes, i: int) -> list[str]:
    """Describe a close-up of each hand of scene i, in the order of Cut Hands."""
    return [
        hand_caption(scenes, i, SIDES.index(hand.side), setting(scenes, i))
        for hand in hands.find_hands(people)
    ]


def cut_hands(frame: Any, image: Tensor | None = None) -> tuple[Tensor, Any, Any, int]:
    """Cut the squares around the hands, as large as a whole image: images, poses, boxes, count."""
    from ...nodes.hands import BOTH, GO_ON, VitruvianCutHands

    return VitruvianCutHands.execute(frame, BOTH, IMAGE_SIZE, MARGIN, True, GO_ON, image).result


def keypoint_masks(poses: Any) -> Tensor:
    """Draw masks of hands by Draw Hand Masks."""
    from ...nodes.hands import BOTH, GO_ON, VitruvianDrawHandMasks

    size = IMAGE_SIZE, IMAGE_SIZE
    return VitruvianDrawHandMasks.execute(poses, *size, BOTH, THICKNESS, WRIST, GO_ON).result[0]


def place(first_stage: Hands) -> Placed:
    """Put the hands where they belong by Place Hands."""
    from ...nodes.hands import VitruvianPlaceHands

    size = IMAGE_SIZE, IMAGE_SIZE
    return Placed(*VitruvianPlaceHands.execute(*first_stage, *size, 0.0).result)


def paste(image: Tensor, placed: Placed) -> Tensor:
    """Put the hands' pixels back into an image [1,H,W,3] by Paste Hands."""
    from ...nodes.hands import VitruvianPasteHands

    before = placed.image, placed.hands_mask
    return VitruvianPasteHands.execute(image, *before, FEATHER, COLOR).result[0]


def _task(nets: Nets, subjects: HandScenes, i: int, kept_in: Path | None) -> Task:
    scenes, loaded = subjects.scenes, nets.loaded
    people = skeletons(i, scenes, subjects.truth)
    skeleton = pose_drawing.draw_people(people, IMAGE_SIZE, IMAGE_SIZE)[None]
    conds = host.text(loaded, scene_caption(scenes, i)), host.text(loaded, "")
    posed = host.controlled(loaded, *conds, skeleton)
    prompts = hand_prompts(people, scenes, i)
    return Task(nets, [pose.write_frame(people)], prompts, posed, i, 10 * i, kept_in)


def _generate_scene(task: Task, ways: Sequence[str]) -> dict[str, tuple[Generated, float]]:
    """A scene in each way and the seconds that took."""
    once = _timed(partial(_one_stage, task)) if ONE_STAGE in ways else None
    later = [way for way in ways if way != ONE_STAGE]
    generated: dict[str, tuple[Generated, float]] = {} if once is None else {ONE_STAGE: once}
    if once is not None and not task.hand_prompts:  # nothing to put first
        return dict.fromkeys(ways, once)
    kinds = {_is_posed(way): None for way in later}
    first = {kind: _timed(partial(_first_stage, task, kind)) for kind in kinds}
    for way in later:
        placed, before = first[_is_posed(way)]
        image, after = _timed(partial(_body, task, placed, way))
        generated[way] = image, before + after
    return generated


def _is_posed(way: str) -> bool:
    return way == POSE_HANDS


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def _one_stage(task: Task) -> Generated:
    def sample() -> Tensor:
        empty = host.empty(IMAGE_SIZE)
        loaded = task.nets.loaded
        positive, negative = task.posed
        latent = host.sample(loaded.model, positive, negative, empty, task.seed)
        return host.decode(loaded, latent)

    return Generated(kept_images(task.kept_in, ONE_STAGE, [task.row], sample).movedim(1, -1))


def _first_stage(task: Task, posed: bool) -> Placed:
    """The hands, generated large, where they belong."""
    _, poses, boxes, count = cut_hands(task.frame)

    def sample() -> Tensor:
        large, masks = (_posed_hands if posed else _generated_hands)(task, poses, count)
        return torch.cat((large, masks[:, None].expand(-1, 3, -1, -1)))

    name = "posed_hands" if posed else "hands"
    large, masks = kept_images(task.kept_in, name, [task.row], sample).split(count)
    return place(Hands(large.movedim(1, -1), masks[:, 0], boxes))


def _generated_hands(task: Task, poses: Any, count: int) -> tuple[Tensor, Tensor]:
    """Images and masks by Hand Generator and Predict Hand Masks."""
    from ...nodes.hand_generator import VitruvianApplyHandGenerator, VitruvianPredictHandMasks

    loaded, generator = task.nets
    (model,) = VitruvianApplyHandGenerator.execute(loaded.model, generator, poses, 1.0).result
    conds = host.text(loaded, *task.hand_prompts), host.text(loaded, "")
    latent = host.sample(model, *conds, host.empty(IMAGE_SIZE, count), task.seed + 1)
    (masks,) = VitruvianPredictHandMasks.execute(model, generator, conds[0], latent).result
    return host.decode(loaded, latent), masks


def _posed_hands(task: Task, poses: Any, count: int) -> tuple[Tensor, Tensor]:
    """Images and masks without a generator: pose ControlNet and Draw Hand Masks."""
    loaded = task.nets.loaded
    drawn = [
        pose_drawing.draw_people(people, IMAGE_SIZE, IMAGE_SIZE)
        for people in pose.read_poses(poses)
    ]
    conds = host.text(loaded, *task.hand_prompts), host.text(loaded, "")
    conds = host.controlled(loaded, *conds, torch.stack(drawn))
    latent = host.sample(loaded.model, *conds, host.empty(IMAGE_SIZE, count), task.seed + 1)
    return host.decode(loaded, latent), keypoint_masks(poses)


def _body(task: Task, placed: Placed, way: str) -> Generated:
    """The second stage, as the workflows have it."""

    def sample() -> Tensor:
        loaded = task.nets.loaded
        latent = _masked_latent(loaded.vae, placed, way)
        model = _bordered(loaded.model, way)
        positive, negative = task.posed
        return host.decode(loaded, host.sample(model, positive, negative, latent, task.seed))

    image = kept_images(task.kept_in, way, [task.row], sample).movedim(1, -1)
    return Generated(paste(image, placed), placed)


def _masked_latent(vae: Any, placed: Placed, way: str) -> dict[str, Tensor]:
    """The latent with its noise mask, as each way has it."""
    import nodes

    if way == INPAINT:
        return nodes.VAEEncodeForInpaint().encode(vae, placed.image, placed.inpaint_mask, GROW)[0]
    latent = nodes.VAEEncode().encode(vae, placed.image)[0]
    mask = _soft(placed.inpaint_mask) if way == DIFFERENTIAL else placed.inpaint_mask
    return nodes.SetLatentNoiseMask().set_mask(latent, mask)[0]


def _bordered(model: Any, way: str) -> Any:
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    from ...nodes.mask_expansion import VitruvianApplyMaskExpansion

    if way in (NAIVE, INPAINT):
        return model
    if way == DIFFERENTIAL:
        return DifferentialDiffusion.execute(model).result[0]
    return VitruvianApplyMaskExpansion.execute(model, EXPANSION, START, END).result[0]


def _soft(mask: Tensor) -> Tensor:
    """From 0 at what is preserved to 1 at SOFTNESS pixels from it."""
    away = hands.distance_map(mask < 0.5, SOFTNESS)
    return (away / SOFTNESS).clamp(max=1)

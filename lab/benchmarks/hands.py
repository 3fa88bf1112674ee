"""Hands first and the body generated around them, against everything generated at once.

On unseen upper bodies of the mini world, through the host's own nodes and ours:
  one_stage    the base with its pose ControlNet, the hands drawn in the skeleton
  two_stage    each hand by the hand generator, the body around them by the pose ControlNet with
               Mask Expansion, the hands' pixels pasted back
  ceiling      the evaluators on the true images
  round_trip   the evaluators on the true images after the autoencoder: what one_stage can reach
and, to see what each part is worth, two_stage with one part changed:
  pose_hands   the hands by the pose ControlNet, their masks from keypoints
  naive        the plain noise mask, no Mask Expansion
  differential the host's Differential Diffusion on a mask softened over the same width
hand_error_X is the mean distance of a hand's visible joints from where they belong over the hand's
size, finger_count_accuracy_X the share of hands with the right number of stretched fingers. seam_X
is the contrast across the border of what was preserved over that elsewhere, before pasting;
`unedited`: across the same borders in one_stage's images, `true`: in the true ones.
body_pck_X is read on as many whole people, whose hands are smaller.
mask_iou is of the masks predicted on generated hands, in the poses of unseen close-ups, with the
true hands; mask_iou_true of those predicted on the true images, mask_iou_keypoints of those of
Hand Masks. mask_iou..._upper: likewise of the upper bodies' hands, which are 30 pixels large and
partly hidden.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from ...models import hands, pose, pose_drawing
from ...models.mini import IMAGE_SIZE, LATENT_STRIDE
from ..evaluators import measurements, posenet
from ..recipes.hand_generator import HAND_GENERATOR
from ..training import convert, preview
from ..world.body import LEFT_HAND, RIGHT_HAND, SKIN
from ..world.captions import hand_caption, scene_caption
from ..world.dataset import skeletons
from ..world.renderer import Render, render
from ..world.scenes import BACKGROUNDS, FULL, HAND, UPPER, Scenes, sample_scenes
from . import host
from .mini import RESULTS, UNSEEN

SIDES = (hands.RIGHT, hands.LEFT)  # in the order of Render.hands
SEEN = 0.5  # share of a hand's joints that must be visible for it to be judged
MANY = 10  # upper bodies drawn for each one that shows a whole hand
MARGIN, THICKNESS, WRIST = 0.35, 0.07, 0.1
EXPANSION, START, END = 8, 0.2, 0.8  # pixels; shares of the sampling
FEATHER, COLOR = 0, 0.5  # a finger is 4 pixels wide
AWAY = 2  # pixels from an outline that count for no seam
SHOWN = 6
STEPS_SHOWN = 3
VARIANTS = ("two_stage", "pose_hands", "naive", "differential")
SEAMS = {"ours": "two_stage", "naive": "naive", "differential": "differential"}


class Nets(NamedTuple):
    """Hold the networks that generate."""

    loaded: host.Loaded
    generator: Any


class Hands(NamedTuple):
    """Hold the first-stage hands of one scene, large, and where they belong."""

    images: Tensor  # [N,S,S,3]
    masks: Tensor  # [N,S,S]
    boxes: Any


class Generated(NamedTuple):
    """Hold an image, and what it was generated from; [1,H,W,3] and [1,H,W]."""

    pasted: Tensor
    plain: Tensor  # before pasting
    placed: Tensor
    where: Tensor
    inpaint_mask: Tensor


def run(quick: bool) -> dict[str, float]:
    """Measure hands first against one stage; the numbers of results/hands.json.

    Also writes hands.jpg beside it: a row per
    scene, from left to right the pose, the hands, the mask, how the border gives way, the result,
    one_stage and the truth.
    """
    from ...host import hand_generator

    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    nets = Nets(loaded, hand_generator.load(HAND_GENERATOR))
    scenes, truth, judged = _scenes(4 if quick else 28)
    generated, seconds = _generate(nets, scenes, truth, ("one_stage", *VARIANTS))
    checkpoint, handnet = (
        convert.load_checkpoint(preview.CHECKPOINT),
        posenet.load_posenet(posenet.HANDNET),
    )
    images_by_way = {
        name: _images(scenes_generated) for name, scenes_generated in generated.items()
    }
    images_by_way["ceiling"] = truth.rgb
    images_by_way["round_trip"] = preview.decode(checkpoint, preview.encode(checkpoint, truth.rgb))
    numbers: dict[str, float] = {"scenes": len(scenes), "hands": len(judged)}
    for name, x in images_by_way.items():
        numbers |= _read(handnet, x, truth, judged, name)
    numbers |= _seams(generated, truth)
    numbers |= _masks(nets, scenes, truth, judged)
    numbers |= _bodies(nets, len(scenes))
    numbers |= {f"cost_{name}": seconds[name] / seconds["one_stage"] for name in VARIANTS}
    numbers["cost"] = numbers["cost_two_stage"]
    _show(generated, scenes, truth)
    return numbers


def _scenes(count: int) -> tuple[Scenes, Render, list[tuple[int, int]]]:
    """Scenes with a hand in the image, what they look like, and the hands (scene, side) that can
    be judged.
    """
    drawn = sample_scenes(MANY * count, UNSEEN + 200, framing=UPPER, people=1)
    showing = _judged(render(drawn)).any(1).nonzero()[:, 0]
    scenes = drawn.take(showing[:count])
    truth = render(scenes)
    return scenes, truth, [(i, side) for i, side in _judged(truth).nonzero().tolist()]


def _judged(truth: Render) -> Tensor:
    """Whether each hand [scenes, 2] is in the image and hidden by nothing but itself."""
    is_visible = truth.hands_visible.float().mean(-1) >= SEEN
    return is_visible & (truth.hands[..., 2] > 0).all(-1)


def _generate(
    nets: Nets, scenes: Scenes, truth: Render, ways: Sequence[str]
) -> tuple[dict[str, list[Generated]], dict[str, float]]:
    """Every scene in every way, one after another, and the seconds each way took in all."""
    generated: dict[str, list[Generated]] = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for i in range(-1, len(scenes)):  # the first time loads and warms up
        with torch.inference_mode():
            scene_generated = _generate_scene(nets, scenes, truth, max(0, i), ways)
        for way in ways if i >= 0 else ():
            generated[way].append(scene_generated[way][0])
            seconds[way] += scene_generated[way][1]
    return generated, seconds


def _generate_scene(
    nets: Nets, scenes: Scenes, truth: Render, i: int, ways: Sequence[str]
) -> dict[str, tuple[Generated, float]]:
    """A scene in each way and the seconds that took."""
    loaded, people, seed = nets.loaded, skeletons(i, scenes, truth), 10 * i
    frame = [pose.write_frame(people)]
    skeleton = pose_drawing.draw_people(people, IMAGE_SIZE, IMAGE_SIZE)[None]
    conds = host.text(loaded, scene_caption(scenes, i)), host.text(loaded, "")
    posed = host.controlled(loaded, *conds, skeleton)
    prompts = [
        hand_caption(scenes, i, SIDES.index(hand.side), _setting(scenes, i))
        for hand in hands.find_hands(people)
    ]

    def one_stage() -> Generated:
        latent = host.sample(loaded.model, *posed, host.empty(IMAGE_SIZE), seed)
        image = host.decode(loaded, latent).movedim(1, -1)
        nothing = torch.zeros_like(image[..., 0])
        return Generated(image, image, image, nothing, nothing)

    once = _timed(one_stage)
    if not prompts:  # nothing to put first
        return dict.fromkeys(ways, once)
    first = {
        kind: _timed(partial(kind, nets, frame, prompts, seed))
        for kind in {_first_stage(way) for way in ways[1:]}
    }
    generated = {"one_stage": once}
    for way in ways[1:]:
        first_stage, before = first[_first_stage(way)]
        border = way if way in ("naive", "differential") else "two_stage"
        body = partial(_body, loaded, first_stage, posed, border, seed)
        image, after = _timed(body)
        generated[way] = image, before + after
    return generated


def _first_stage(way: str) -> Callable[..., Hands]:
    return _drawn_hands if way == "pose_hands" else _hands


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def _images(generated: list[Generated]) -> Tensor:
    return torch.cat([one.pasted for one in generated]).movedim(-1, 1)


def _bodies(nets: Nets, count: int) -> dict[str, float]:
    """Whole people, whom the pose network knows: do the body's joints stay where they belong?"""
    scenes = sample_scenes(count, UNSEEN + 201, framing=FULL, people=1)
    truth = render(scenes)
    generated, _ = _generate(nets, scenes, truth, ("one_stage", "two_stage"))
    net = posenet.load_posenet()
    images_by_way = {
        way: _images(scenes_generated) for way, scenes_generated in generated.items()
    } | {"ceiling": truth.rgb}
    return {f"body_pck_{way}": measurements.pck(net, x, truth) for way, x in images_by_way.items()}


def _setting(scenes: Scenes, i: int) -> str:
    return list(BACKGROUNDS.values())[int(scenes.background[i])]


def _cut(frame: Any) -> tuple[Any, Any, int]:
    """Poses, boxes and number of the squares around the hands, as large as a whole image."""
    from ...nodes.hands import BOTH, GO_ON, VitruvianCutHands

    return VitruvianCutHands.execute(frame, BOTH, IMAGE_SIZE, MARGIN, True, GO_ON).result[1:]


def _hands(nets: Nets, frame: Any, prompts: list[str], seed: int) -> Hands:
    """The first stage: Hand Generator and Predict Hand Masks."""
    from ...nodes.hand_generator import VitruvianApplyHandGenerator, VitruvianPredictHandMasks

    loaded, generator = nets.loaded, nets.generator
    poses, boxes, count = _cut(frame)
    (model,) = VitruvianApplyHandGenerator.execute(loaded.model, generator, poses, 1.0).result
    positive, negative = host.text(loaded, *prompts), host.text(loaded, "")
    latent = host.sample(model, positive, negative, host.empty(IMAGE_SIZE, count), seed + 1)
    (masks,) = VitruvianPredictHandMasks.execute(model, generator, positive, latent).result
    return Hands(host.decode(loaded, latent).movedim(1, -1), masks, boxes)


def _drawn_hands(nets: Nets, frame: Any, prompts: list[str], seed: int) -> Hands:
    """The first stage without a generator: pose ControlNet and Hand Masks."""
    loaded = nets.loaded
    poses, boxes, count = _cut(frame)
    drawn = [
        pose_drawing.draw_people(people, IMAGE_SIZE, IMAGE_SIZE)
        for people in pose.read_poses(poses)
    ]
    conds = host.text(loaded, *prompts), host.text(loaded, "")
    conds = host.controlled(loaded, *conds, torch.stack(drawn))
    latent = host.sample(loaded.model, *conds, host.empty(IMAGE_SIZE, count), seed + 1)
    return Hands(host.decode(loaded, latent).movedim(1, -1), _keypoint_masks(poses), boxes)


def _keypoint_masks(poses: Any) -> Tensor:
    from ...nodes.hands import BOTH, GO_ON, VitruvianDrawHandMasks

    size = IMAGE_SIZE, IMAGE_SIZE
    return VitruvianDrawHandMasks.execute(poses, *size, BOTH, THICKNESS, WRIST, GO_ON).result[0]


def _body(
    loaded: host.Loaded,
    first_stage: Hands,
    posed: Any,
    border: str,
    seed: int,
) -> Generated:
    """The second stage, as the workflows have it."""
    import nodes

    from ...nodes.hands import VitruvianPasteHands, VitruvianPlaceHands

    size = IMAGE_SIZE, IMAGE_SIZE
    placed, where, inpaint_mask = VitruvianPlaceHands.execute(*first_stage, *size, 0.0).result
    latent = nodes.VAEEncode().encode(loaded.vae, placed)[0]
    mask = _soft(inpaint_mask) if border == "differential" else inpaint_mask
    latent = nodes.SetLatentNoiseMask().set_mask(latent, mask)[0]
    done = host.sample(_bordered(loaded.model, border), posed[0], posed[1], latent, seed)
    plain = host.decode(loaded, done).movedim(1, -1)
    (pasted,) = VitruvianPasteHands.execute(plain, placed, where, FEATHER, COLOR).result
    return Generated(pasted, plain, placed, where, inpaint_mask)


def _bordered(model: Any, border: str) -> Any:
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    from ...nodes.mask_expansion import VitruvianApplyMaskExpansion

    if border == "differential":
        return DifferentialDiffusion.execute(model).result[0]
    if border == "naive":
        return model
    return VitruvianApplyMaskExpansion.execute(model, EXPANSION, START, END).result[0]


def _soft(mask: Tensor) -> Tensor:
    """From 0 at what is preserved to 1 at EXPANSION pixels from it."""
    away = hands.distance_map(mask < 0.5, EXPANSION)
    return (away / EXPANSION).clamp(max=1)


def _read(
    net: posenet.PoseNet, images: Tensor, truth: Render, judged: list[tuple[int, int]], name: str
) -> dict[str, float]:
    crops = [
        measurements.hand_crop(images[i], truth.hands[i, side], SIDES[side] == hands.LEFT)
        for i, side in judged
    ]
    visible = [truth.hands_visible[i, side] for i, side in judged]
    report = measurements.read_hands(net, crops, visible)
    return {
        f"hand_error_{name}": float(report.error.mean()),
        f"finger_count_accuracy_{name}": float(report.fingers.float().mean()),
    }


def _seams(generated: dict[str, list[Generated]], truth: Render) -> dict[str, float]:
    """Contrast at the border between preserved and generated cells, away from true outlines."""
    sampled_area = torch.cat([one.inpaint_mask for one in generated["two_stage"]])[:, None]
    cells = interpolate(sampled_area, scale_factor=1 / LATENT_STRIDE, mode="bilinear")
    owners = interpolate((cells < 0.5).float(), scale_factor=LATENT_STRIDE)[:, 0]
    hand = (truth.parsing == RIGHT_HAND) | (truth.parsing == LEFT_HAND)
    parts = torch.where(hand, SKIN, truth.parsing)[:, None].float()  # a wrist is no outline
    highest, lowest = (sign * max_pool2d(sign * parts, 2 * AWAY + 1, 1, AWAY) for sign in (1, -1))
    free = (highest == lowest)[:, 0]

    names = {**SEAMS, "unedited": "one_stage"}
    images_by_label = {
        label: torch.cat([one.plain for one in generated[name]]).movedim(-1, 1)
        for label, name in names.items()
    }
    return {
        f"seam_{label}": measurements.seam_contrast(x, owners, free)
        for label, x in {**images_by_label, "true": truth.rgb}.items()
    }


def _masks(
    nets: Nets, scenes: Scenes, truth: Render, judged: list[tuple[int, int]]
) -> dict[str, float]:
    """Intersection over union with the true hands: of close-ups, whose outlines are sharp, and of
    the judged hands of upper bodies.
    """
    close = sample_scenes(len(judged), UNSEEN + 202, framing=HAND)
    rendering = render(close)
    whole_image = hands.Square(IMAGE_SIZE / 2, IMAGE_SIZE / 2, IMAGE_SIZE)
    large = [
        _overlap(nets, close, rendering, i, int(close.hand[i]), whole_image)
        for i in range(len(close))
    ]
    small = []
    for i, side in judged:
        people = skeletons(i, scenes, truth)
        hand = next(iter(hands.find_hands(people, SIDES[side])), None)
        if hand is not None:
            square = hands.square_around(hand.points, MARGIN, upright=True)
            small.append(_overlap(nets, scenes, truth, i, side, square))
    return {
        f"mask_iou{which}{of}": float(
            torch.stack([overlaps[which] for overlaps in hands_measured]).mean()
        )
        for of, hands_measured in (("", large), ("_upper", small))
        for which in ("", "_true", "_keypoints")
    }


def _overlap(
    nets: Nets, scenes: Scenes, truth: Render, i: int, side: int, square: hands.Square
) -> dict[str, Tensor]:
    """Of one hand's masks in its square: of the generated hand, of the true image, from keypoints
    alone.
    """
    import nodes

    from ...nodes.hand_generator import VitruvianApplyHandGenerator, VitruvianPredictHandMasks

    loaded, generator = nets.loaded, nets.generator
    people = skeletons(i, scenes, truth)
    points = (people.left_hand if SIDES[side] == hands.LEFT else people.right_hand)[0]
    hand = hands.Hand(0, SIDES[side], points)
    poses = [pose.write_frame(hands.isolate_hand(hand, square, IMAGE_SIZE))]
    true = _true_mask(truth, i, side, square)
    prompt = hand_caption(scenes, i, side, _setting(scenes, i))
    with torch.inference_mode():
        (model,) = VitruvianApplyHandGenerator.execute(loaded.model, generator, poses, 1.0).result
        positive, negative = host.text(loaded, prompt), host.text(loaded, "")
        drawn = host.sample(model, positive, negative, host.empty(IMAGE_SIZE), i)
        crop = hands.cut_square(truth.rgb[i].movedim(0, -1), square, IMAGE_SIZE)[None]
        real = nodes.VAEEncode().encode(loaded.vae, crop)[0]
        predicted_masks = {
            name: VitruvianPredictHandMasks.execute(model, generator, positive, latent).result[0][0]
            for name, latent in (("", drawn), ("_true", real))
        }
    predicted_masks["_keypoints"] = _keypoint_masks(poses)[0]
    return {name: _iou(mask, true) for name, mask in predicted_masks.items()}


def _true_mask(truth: Render, i: int, side: int, square: hands.Square) -> Tensor:
    label = (RIGHT_HAND, LEFT_HAND)[side]
    mask = (truth.parsing[i] == label).float()[..., None]
    return hands.cut_square(mask, square, IMAGE_SIZE)[..., 0] > 0.5


def _iou(mask: Tensor, true: Tensor) -> Tensor:
    mask = mask > 0.5
    return (mask & true).sum() / (mask | true).sum()


def _show(generated: dict[str, list[Generated]], scenes: Scenes, truth: Render) -> None:
    rows = []
    for i in range(min(SHOWN, len(scenes))):
        people, ours = skeletons(i, scenes, truth), generated["two_stage"][i]
        skeleton = pose_drawing.draw_people(people, IMAGE_SIZE, IMAGE_SIZE)
        strip = hands.expansion_strip(
            ours.inpaint_mask[0], ours.placed[0], EXPANSION, START, END, STEPS_SHOWN
        )
        mask = ours.where[0, ..., None].expand(-1, -1, 3)
        rows += [skeleton, ours.placed[0], mask, *strip.chunk(STEPS_SHOWN, 1), ours.pasted[0]]
        rows += [generated["one_stage"][i].pasted[0], truth.rgb[i].movedim(0, -1)]
    RESULTS.mkdir(exist_ok=True)
    sheet = torch.stack(rows).movedim(-1, 1)
    preview.save_sheet(sheet, RESULTS / "hands.jpg", columns=6 + STEPS_SHOWN)

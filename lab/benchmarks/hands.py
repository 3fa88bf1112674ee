"""Hands first and the body generated around them, against everything generated at once.

On unseen upper bodies of the mini world, through the host's own nodes and ours:
  one_stage    the base with its pose ControlNet, the hands drawn in the skeleton
  two_stage    each hand by the hand generator, the body around them by the pose ControlNet with
               Mask Expansion, the hands' pixels pasted back
and two_stage with one part changed; the same hands, except for pose_hands, on fewer scenes:
  naive        the plain noise mask, no Mask Expansion
  differential the host's Differential Diffusion on a softened mask
  inpaint      the host's VAE Encode (for Inpainting)
  pose_hands   the hands by the pose ControlNet, their masks from keypoints
beside
  ceiling      the true image after the autoencoder, its hands large as hands first generates them
  round_trip   the true image after the autoencoder: what one_stage can reach
  null         the true image of another scene
hand_error_X is the mean distance of a hand's visible joints from where they belong over the hand's
size, finger_count_accuracy_X the share of hands with the right number of stretched fingers,
..._touching: where both hands of a person are crossed or touch.
ring_error_X, ring_color_X and ring_edge_X say whether the forearm goes on where the hand ends,
around_error_X whether a wide border spoils the body around (hand_ring.py); arm_pck_X and
body_pck_X read wrists and elbows, and all joints, of whole people, whose hands are smaller.
mask_iou is of the masks predicted on generated hands, in the poses of unseen close-ups, with the
true hands; mask_iou_true of those predicted on the true images, mask_iou_keypoints of those of
Draw Hand Masks. mask_iou..._upper: likewise of the upper bodies' hands, which are 30 pixels large
and partly hidden.
..._difference...: two_stage minus one_stage, or minus the way that is named. All intervals draw
scenes again; `_count` is the number of scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import hands, pose, pose_drawing
from ...models.mini import IMAGE_SIZE
from ..evaluators import measurements, posenet
from ..evaluators.autoencoded import round_trip
from ..recipes.hand_generator import HAND_GENERATOR
from ..training import preview
from ..world.body import LEFT_HAND, RIGHT_HAND
from ..world.captions import hand_caption, scene_caption
from ..world.dataset import skeletons
from ..world.renderer import Render, render
from ..world.scenes import FULL, HAND, sample_scenes
from . import hand_ring, hand_ways, host, intervals, kept, sheets
from .decisions import LOWER, Claim, Evidence, decide
from .hand_scenes import SIDES, HandScenes, first_scenes, touching_hands, upper_bodies
from .hand_ways import (
    DIFFERENTIAL,
    INPAINT,
    MARGIN,
    NAIVE,
    ONE_STAGE,
    OTHER_BORDERS,
    OURS,
    POSE_HANDS,
    Generated,
    Hands,
    Nets,
)
from .mini import RESULTS, UNSEEN


class Counts(NamedTuple):
    """Say of how many scenes each part of the measurement is."""

    upper: int  # upper bodies, with 1.4 judged hands each
    touching: int
    whole_people: int  # for wrists, elbows and the other joints
    posed: int  # the first of `upper`, for pose_hands
    masks: int  # hands, close and of upper bodies
    timed: int  # the first of `upper`, for the costs


FULL_COUNTS = Counts(upper=120, touching=30, whole_people=30, posed=30, masks=24, timed=10)
QUICK_COUNTS = Counts(upper=4, touching=2, whole_people=2, posed=2, masks=2, timed=1)
UPPER_SEED, WHOLE_SEED, CLOSE_SEED, TOUCHING_SEED = (UNSEEN + 200 + k for k in range(4))
WAYS = (ONE_STAGE, OURS, *OTHER_BORDERS)
HAND_ERROR, FINGERS = "hand_error", "finger_count_accuracy"
SHOWN, CELL, VIEW = 3, 104, 3.0  # rows of a sheet, pixels of an image, a close view in hands
PAPER = "Giving a Hand"
TEST = "paired bootstrap over scenes"
NEARER = Claim(PAPER, "Hands generated first have their joints nearer to where they belong", LOWER)
HALVES = Claim(PAPER, "Hands first halves the distance of the hands' joints", LOWER)
COUNTED = Claim(PAPER, "Hands generated first more often have the right number of fingers")
CROSSED = Claim(PAPER, "Hands first places crossed and touching hands' joints better", LOWER)
AROUND = Claim(
    PAPER,
    "Around the hand mask expansion leaves the body closer to the truth than a plain mask",
    LOWER,
)
JOINS = {
    NAIVE: Claim(PAPER, "Mask expansion joins hand and forearm better than a plain mask", LOWER),
    DIFFERENTIAL: Claim(
        PAPER, "Mask expansion joins hand and forearm better than Differential Diffusion", LOWER
    ),
    INPAINT: Claim(
        PAPER,
        "Mask expansion joins hand and forearm better than VAE Encode (for Inpainting)",
        LOWER,
    ),
}

Values = dict[str, Tensor]  # of each judged hand [hands], by the name of the figure


def run(quick: bool) -> dict[str, Any]:
    """Measure hands first against one stage; the numbers of results/hands.json.

    Also writes hands.jpg and hands_touching.jpg beside it.
    """
    from ...host import hand_generator

    counts = QUICK_COUNTS if quick else FULL_COUNTS
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    nets, folder = Nets(loaded, hand_generator.load(HAND_GENERATOR)), kept.folder("hands")
    upper = upper_bodies(counts.upper, UPPER_SEED)
    numbers: dict[str, Any] = {"scenes": counts.upper, "hands": len(upper.judged)}
    numbers |= _measure_upper(nets, upper, counts, folder)
    numbers |= _measure_touching(nets, touching_hands(counts.touching, TOUCHING_SEED), folder)
    numbers |= _measure_bodies(nets, counts.whole_people, folder)
    numbers |= _measure_masks(nets, first_scenes(upper, counts.masks), counts.masks)
    return numbers | {"decided": _decide(numbers)}


def _measure_upper(
    nets: Nets, upper: HandScenes, counts: Counts, folder: Path | None
) -> dict[str, float]:
    where, timed = _inside(folder, "upper"), counts.timed
    generated, seconds = hand_ways.generate(nets, upper, WAYS, where, timed=timed)
    few = first_scenes(upper, counts.posed)
    posed, posed_seconds = hand_ways.generate(nets, few, (POSE_HANDS,), where, timed=timed)
    seconds |= posed_seconds

    values = {name: _read(x, upper) for name, x in _images(generated, upper).items()}
    numbers = _figures(values, upper)
    numbers |= _figures({POSE_HANDS: _read(hand_ways.images(posed[POSE_HANDS]), few)}, few)
    numbers |= _against_one_stage(values, upper)
    for way in OTHER_BORDERS:
        names = (HAND_ERROR, *hand_ring.NAMES, hand_ring.BEYOND)
        numbers |= _differences(values, upper, way, {name: f"_{way}" for name in names})
    numbers |= {f"cost_{way}": seconds[way] / seconds[ONE_STAGE] for way in seconds}
    _show(generated, upper, values, RESULTS / "hands.jpg")
    return numbers


def _measure_touching(nets: Nets, touching: HandScenes, folder: Path | None) -> dict[str, float]:
    ways, where = (ONE_STAGE, OURS), _inside(folder, "touching")
    generated, _ = hand_ways.generate(nets, touching, ways, where)
    values = {name: _read(x, touching) for name, x in _images(generated, touching).items()}
    _show(generated, touching, values, RESULTS / "hands_touching.jpg")
    numbers = _figures(values, touching, (HAND_ERROR, FINGERS)) | _against_one_stage(
        values, touching
    )
    return {_touching(key): value for key, value in numbers.items()} | {
        "hands_touching": len(touching.judged)
    }


def _touching(key: str) -> str:
    """Name the figure of touching hands, the interval's ending last."""
    stem, ending, last = key.rpartition("_")
    return (
        f"{stem}_touching_{last}"
        if ending and last in ("low", "high", "count")
        else key + ("_touching")
    )


def _measure_bodies(nets: Nets, count: int, folder: Path | None) -> dict[str, float]:
    """Whole people, whom the pose network knows: do the body's joints stay where they belong?"""
    scenes = sample_scenes(count, WHOLE_SEED, framing=FULL, people=1)
    people = HandScenes(scenes, render(scenes), [])
    generated, _ = hand_ways.generate(nets, people, WAYS, _inside(folder, "whole"))
    images = {way: hand_ways.images(of_way) for way, of_way in generated.items()}
    images |= {"ceiling": round_trip(people.truth.rgb), "null": people.truth.rgb.roll(1, 0)}
    net, arms = posenet.load_posenet(), [joint for arm in hand_ring.ARMS for joint in arm]
    numbers: dict[str, float] = {}
    for name, joints in (("body_pck", list(range(posenet.BODY_JOINTS))), ("arm_pck", arms)):
        visible = people.truth.body_visible[:, joints]
        hits = {
            way: (measurements.joints_in_place(net, x, people.truth)[:, joints] & visible).sum(1)
            for way, x in images.items()
        }
        wholes = visible.sum(1)
        for way, hits_of_way in hits.items():
            numbers |= intervals.ratio(hits_of_way, wholes, f"{name}_{way}")
        for way in (ONE_STAGE, *OTHER_BORDERS):
            key = f"{name}_difference_{way}"
            numbers |= intervals.ratio_difference(hits[OURS], hits[way], wholes, key)
    return numbers


def _inside(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _images(generated: Mapping[str, list[Generated]], subjects: HandScenes) -> dict[str, Tensor]:
    """Images [B,3,H,W] of every way, and what they are compared with."""
    back = round_trip(subjects.truth.rgb)
    return {
        **{way: hand_ways.images(of_way) for way, of_way in generated.items()},
        "ceiling": _true_hands_first(subjects, back),
        "round_trip": back,
        "null": subjects.truth.rgb.roll(1, 0),
    }


def _true_hands_first(subjects: HandScenes, back: Tensor) -> Tensor:
    """Paste the true hands, which passed the autoencoder in their large squares, into `back`."""
    images = []
    for i in range(len(subjects.scenes)):
        frame = [pose.write_frame(skeletons(i, subjects.scenes, subjects.truth))]
        image = subjects.truth.rgb[i : i + 1].movedim(1, -1)
        is_hand = (subjects.truth.parsing[i] == RIGHT_HAND) | (
            subjects.truth.parsing[i] == LEFT_HAND
        )
        large, _, boxes, _ = hand_ways.cut_hands(frame, image)
        masks, *_ = hand_ways.cut_hands(
            frame, is_hand[None, ..., None].expand(-1, -1, -1, 3).float()
        )
        large = round_trip(large.movedim(-1, 1)).movedim(1, -1)
        placed = hand_ways.place(Hands(large, masks[..., 0], boxes))
        images.append(hand_ways.paste(back[i : i + 1].movedim(1, -1), placed))
    return torch.cat(images).movedim(-1, 1)


def _read(images: Tensor, subjects: HandScenes) -> Values:
    """Read every judged hand and the ring around it."""
    truth = subjects.truth
    crops = [
        measurements.hand_crop(images[i], truth.hands[i, side], SIDES[side] == hands.LEFT)
        for i, side in subjects.judged
    ]
    visible = [truth.hands_visible[i, side] for i, side in subjects.judged]
    report = measurements.read_hands(posenet.load_posenet(posenet.HANDNET), crops, visible)
    rings = hand_ring.read_rings(images, truth, subjects.judged)
    return {HAND_ERROR: report.error, FINGERS: report.fingers.double(), **rings}


def _by_scene(of_hands: Tensor, subjects: HandScenes) -> tuple[Tensor, Tensor]:
    """Sum the values of judged hands [hands] of every scene, and count them; NaN is not judged."""
    scene = torch.tensor([i for i, _ in subjects.judged])
    is_judged = ~of_hands.isnan()
    parts = torch.zeros(len(subjects.scenes), dtype=torch.double)
    counts = parts.index_add(0, scene, is_judged.double())
    return parts.index_add(0, scene, of_hands.nan_to_num(0).double()), counts


def _figures(
    values: Mapping[str, Values], subjects: HandScenes, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Every figure of every way, with its interval."""
    numbers: dict[str, float] = {}
    for way, by_name in values.items():
        for name in names or by_name:
            numbers |= intervals.ratio(*_by_scene(by_name[name], subjects), f"{name}_{way}")
    return numbers


def _differences(
    values: Mapping[str, Values], subjects: HandScenes, way: str, endings: Mapping[str, str]
) -> dict[str, float]:
    """Ours minus `way`, hand by hand, of the figures named with the ending of each one's key."""
    numbers: dict[str, float] = {}
    for name, ending in endings.items():
        parts, counts = _by_scene(values[OURS][name] - values[way][name], subjects)
        numbers |= intervals.ratio(parts, counts, f"{name}_difference{ending}")
    return numbers


def _against_one_stage(values: Mapping[str, Values], subjects: HandScenes) -> dict[str, float]:
    endings = {HAND_ERROR: "", FINGERS: ""} | {n: f"_{ONE_STAGE}" for n in hand_ring.NAMES}
    numbers = _differences(values, subjects, ONE_STAGE, endings)
    ours, other = values[OURS], values[ONE_STAGE]
    parts, counts = _by_scene(ours[HAND_ERROR] - other[HAND_ERROR] / 2, subjects)
    numbers |= intervals.ratio(parts, counts, f"{HAND_ERROR}_difference_half")
    numbers[f"{HAND_ERROR}_half"] = float(other[HAND_ERROR].mean()) / 2
    right, right_before = (x[FINGERS].bool().tolist() for x in (ours, other))
    return numbers | {"finger_count_p": intervals.mcnemar(right, right_before)}


def _decide(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Decide the paper's claims, and ours."""

    def evidence(figure: str, baseline: str, difference: str, p: float | None = None) -> Evidence:
        # what the hand network reads in true hands that cover each other is no ceiling
        has_ceiling = not figure.endswith("_touching")
        ceiling = f"{figure.removesuffix(f'_{OURS}')}_ceiling" if has_ceiling else None
        return Evidence(figure, baseline, difference, TEST, ceiling, p)

    error, fingers = f"{HAND_ERROR}_{OURS}", f"{FINGERS}_{OURS}"
    p = numbers["finger_count_p"]
    crossed, baseline = (f"{HAND_ERROR}_{way}_touching" for way in (OURS, ONE_STAGE))
    rows = [
        (NEARER, evidence(error, f"{HAND_ERROR}_{ONE_STAGE}", f"{HAND_ERROR}_difference")),
        (HALVES, evidence(error, f"{HAND_ERROR}_half", f"{HAND_ERROR}_difference_half")),
        (COUNTED, evidence(fingers, f"{FINGERS}_{ONE_STAGE}", f"{FINGERS}_difference", p)),
        (CROSSED, evidence(crossed, baseline, f"{HAND_ERROR}_difference_touching")),
    ]
    ring = hand_ring.NAMES[0]
    for way, claim in JOINS.items():
        difference = f"{ring}_difference_{way}"
        rows.append((claim, evidence(f"{ring}_{OURS}", f"{ring}_{way}", difference)))
    around = hand_ring.BEYOND
    difference = f"{around}_difference_{NAIVE}"
    rows.append((AROUND, evidence(f"{around}_{OURS}", f"{around}_{NAIVE}", difference)))
    return [decide(claim, numbers, figures) for claim, figures in rows]


def _measure_masks(nets: Nets, upper: HandScenes, count: int) -> dict[str, float]:
    """Intersection over union with the true hands: of close-ups, whose outlines are sharp, and of
    the judged hands of upper bodies.
    """
    close = sample_scenes(count, CLOSE_SEED, framing=HAND)
    closest = [(i, int(side)) for i, side in enumerate(close.hand)]
    whole_image = hands.Square(IMAGE_SIZE / 2, IMAGE_SIZE / 2, IMAGE_SIZE)
    near = HandScenes(close, render(close), closest)
    overlaps = {
        "": [_overlap(nets, near, i, side, whole_image) for i, side in closest],
        "_upper": [],
    }
    for i, side in upper.judged[:count]:
        people = skeletons(i, upper.scenes, upper.truth)
        hand = next(iter(hands.find_hands(people, SIDES[side])), None)
        if hand is not None:
            square = hands.square_around(hand.points, MARGIN, upright=True)
            overlaps["_upper"].append(_overlap(nets, upper, i, side, square))
    numbers: dict[str, float] = {}
    for of, hands_measured in overlaps.items():
        for which in ("", "_true", "_keypoints"):
            values = torch.stack([overlap[which] for overlap in hands_measured])
            numbers |= intervals.mean(values, f"mask_iou{which}{of}")
    return numbers


def _overlap(
    nets: Nets, subjects: HandScenes, i: int, side: int, square: hands.Square
) -> dict[str, Tensor]:
    """Of one hand's masks in its square: of the generated hand, of the true image, from keypoints
    alone.
    """
    import nodes

    from ...nodes.hand_generator import VitruvianApplyHandGenerator, VitruvianPredictHandMasks

    loaded, generator = nets
    people = skeletons(i, subjects.scenes, subjects.truth)
    points = (people.left_hand if SIDES[side] == hands.LEFT else people.right_hand)[0]
    hand = hands.Hand(0, SIDES[side], points)
    poses = [pose.write_frame(hands.isolate_hand(hand, square, IMAGE_SIZE))]
    true = _true_mask(subjects.truth, i, side, square)
    prompt = hand_caption(subjects.scenes, i, side, hand_ways.setting(subjects.scenes, i))
    with torch.inference_mode():
        (model,) = VitruvianApplyHandGenerator.execute(loaded.model, generator, poses, 1.0).result
        positive, negative = host.text(loaded, prompt), host.text(loaded, "")
        drawn = host.sample(model, positive, negative, host.empty(IMAGE_SIZE), i)
        crop = hands.cut_square(subjects.truth.rgb[i].movedim(0, -1), square, IMAGE_SIZE)[None]
        real = nodes.VAEEncode().encode(loaded.vae, crop)[0]
        predicted_masks = {
            name: VitruvianPredictHandMasks.execute(model, generator, positive, latent).result[0][0]
            for name, latent in (("", drawn), ("_true", real))
        }
    predicted_masks["_keypoints"] = hand_ways.keypoint_masks(poses)[0]
    return {name: _iou(mask, true) for name, mask in predicted_masks.items()}


def _true_mask(truth: Render, i: int, side: int, square: hands.Square) -> Tensor:
    label = (RIGHT_HAND, LEFT_HAND)[side]
    mask = (truth.parsing[i] == label).float()[..., None]
    return hands.cut_square(mask, square, IMAGE_SIZE)[..., 0] > 0.5


def _iou(mask: Tensor, true: Tensor) -> Tensor:
    mask = mask > 0.5
    return (mask & true).sum() / (mask | true).sum()


HEADS = {
    ONE_STAGE: "one stage",
    OURS: "hands first, expansion",
    NAIVE: "plain mask",
    DIFFERENTIAL: "Differential Diffusion",
    INPAINT: "for Inpainting",
}


def _show(
    generated: Mapping[str, list[Generated]],
    subjects: HandScenes,
    values: Mapping[str, Values],
    path: Path,
) -> None:
    """Write a sheet: the pose, our image, and a judged hand of each scene, true and in every way,
    with the joints' error and that of the ring below.
    """
    rows, prompts, texts = [], [], []
    ways = [way for way in HEADS if way in generated]
    judged: dict[int, int] = {}
    for k, (i, _) in enumerate(subjects.judged):
        judged.setdefault(i, k)
    for i, k in list(judged.items())[:SHOWN]:
        people = skeletons(i, subjects.scenes, subjects.truth)
        skeleton = pose_drawing.draw_people(people, IMAGE_SIZE, IMAGE_SIZE)
        full = hands.Square(IMAGE_SIZE / 2, IMAGE_SIZE / 2, IMAGE_SIZE)
        points = subjects.truth.hands[i, subjects.judged[k][1]]
        near = hands.square_around(points, 0)._replace(side=VIEW * hands.hand_size(points))
        views = [
            (skeleton, full),
            (generated[OURS][i].image[0], full),
            (subjects.truth.rgb[i].movedim(0, -1), near),
            *((generated[way][i].image[0], near) for way in ways),
        ]
        cells = [hands.cut_square(image, square, CELL).movedim(-1, 0) for image, square in views]
        rows.append(torch.stack(cells))
        prompts.append(scene_caption(subjects.scenes, i, brief=True))
        texts.append(["", "", "joints, ring", *(_short(values[way], k) for way in ways)])
    heads = ["pose", "hands first", "true hand", *(HEADS[way] for way in ways)]
    sheets.save_labeled(torch.stack(rows), path, heads, prompts, texts)


def _short(values: Values, k: int) -> str:
    return f"{float(values[HAND_ERROR][k]):.2f}, {float(values[hand_ring.NAMES[0]][k]):.3f}"

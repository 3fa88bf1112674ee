"""Mark hands, cut them out, and put generated hands back (Giving a Hand)."""

import logging
from typing import Any, NamedTuple

import torch
from comfy_api.latest import io, ui

from ..host.progress import watched
from ..models import hands
from ..models.batches import one_each, paired_count
from ..models.hands import GRAY, Hand, Square, read_squares
from ..models.pose import MIN_CONFIDENCE, People, count, cover_canvas, no_people
from .inputs import (
    canvas_inputs,
    check_one_size,
    min_confidence_input,
    named_errors,
    output_size,
    pose_input,
    read_images,
    read_masks,
    read_pose,
    size_inputs,
    write_poses,
)
from .wires import BoundingBox, PoseKeypoint

CATEGORY = "Vitruvian/hands"
BOTH = "both"
STOP, GO_ON = "stop with an error", "go on without"
log = logging.getLogger(__name__)


def _hand_side_input() -> io.Input:
    return io.Combo.Input(
        "hand_side",
        options=[BOTH, hands.LEFT, hands.RIGHT],
        default=BOTH,
        tooltip="Which hands to use. Left and right are the person's own left and right.",
    )


def _no_hands_input(without_hands: str) -> io.Input:
    return io.Combo.Input(
        "if_no_hands",
        options=[STOP, GO_ON],
        default=STOP,
        tooltip=f"What to do with a pose without hands. '{GO_ON}': {without_hands}",
    )


def _hands_by_frame(frames: list[People], hand_side: str, if_no_hands: str) -> list[list[Hand]]:
    """Find the hands of every frame. A frame without people has none; one with people and no hand
    is what `if_no_hands` is about.
    """
    side = None if hand_side == BOTH else hand_side
    frame_hands = [hands.find_hands(people, side) for people in frames]
    for number, (people, hands_of_frame) in enumerate(zip(frames, frame_hands, strict=True), 1):
        if hands_of_frame or not count(people):
            continue
        problem = (
            f"frame {number} of the pose has no {f'{side} ' if side else ''}hand that is "
            f"larger than {hands.SMALLEST_HAND:g} pixels and has a wrist and two more points"
        )
        if if_no_hands == STOP:
            raise ValueError(
                f"{problem}. Turn on 'include_hands' in Detect Pose, draw the hands in a pose "
                f"editor, enlarge the image, or set 'if_no_hands' to '{GO_ON}'."
            )
        log.warning("Vitruvian: %s; it goes on without.", problem)
    return frame_hands


class VitruvianDrawHandMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianDrawHandMasks",
            display_name="Draw Hand Masks",
            category=CATEGORY,
            description="Draws one mask per hand, from the keypoints of the hand.",
            inputs=[
                pose_input(),
                *size_inputs(),
                _hand_side_input(),
                io.Float.Input(
                    "thickness",
                    default=hands.FINGER_THICKNESS,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Half the width of a finger, as a share of the hand's size. Higher: "
                    "thicker fingers.",
                ),
                io.Float.Input(
                    "wrist_length",
                    default=0.2,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How far the mask continues below the wrist, as a share of the "
                    "hand's size. 0: it ends at the wrist.",
                ),
                _no_hands_input("an empty mask."),
                min_confidence_input(
                    "Points of the pose less certain than this are not used.", optional=True
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "masks", "masks", tooltip="One mask per hand, the larger hand first."
                ),
                io.Mask.Output(
                    "union_mask", "union_mask", tooltip="One mask per frame, with all its hands."
                ),
                io.Int.Output("hand_count", "hand_count", tooltip="Number of hands."),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        pose: Any,
        output_width: int,
        output_height: int,
        hand_side: str,
        thickness: float,
        wrist_length: float,
        if_no_hands: str,
        min_confidence: float = MIN_CONFIDENCE,
    ) -> io.NodeOutput:
        frames = read_pose(pose, min_confidence=min_confidence)
        size = output_size(frames, output_width, output_height)
        frames = [cover_canvas(people, *size) for people in frames]
        frame_hands = _hands_by_frame(frames, hand_side, if_no_hands)
        frame_masks = [
            [_mask(hand, size, thickness, wrist_length) for hand in hands_of_frame]
            for hands_of_frame in watched(frame_hands)
        ]
        unions = torch.stack([_union(masks, size) for masks in frame_masks])
        hand_masks = [mask for masks in frame_masks for mask in masks]
        masks = torch.stack(hand_masks) if hand_masks else unions
        return io.NodeOutput(masks, unions, len(hand_masks), ui=ui.PreviewMask(unions, cls=cls))


def _mask(hand: Hand, size: tuple[int, int], thickness: float, wrist: float) -> torch.Tensor:
    return hands.hand_mask(hand.points, *size, thickness=thickness, wrist=wrist)


def _union(masks: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    return torch.stack(masks).amax(0) if masks else torch.zeros(size[1], size[0])


class VitruvianCutHands(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianCutHands",
            display_name="Cut Hands",
            category=CATEGORY,
            description="Cuts an enlarged square around every hand, so that each hand can "
            "be generated large.",
            inputs=[
                pose_input(),
                _hand_side_input(),
                io.Int.Input(
                    "crop_size",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Width and height of every square in pixels.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.35,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="Space around the hand, as a share of its size. 0: cut close to the "
                    "hand.",
                ),
                io.Boolean.Input(
                    "upright",
                    default=False,
                    tooltip="Turn every square so that the fingers point up.",
                ),
                _no_hands_input("one blank image and no boxes; Place Hands then changes nothing."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image that the pose belongs to. Without it the squares are gray.",
                ),
                min_confidence_input(
                    "Points of the pose less certain than this are not used.", optional=True
                ),
            ],
            outputs=[
                io.Image.Output(
                    "hand_images",
                    "hand_images",
                    tooltip="One image per hand, the larger hand first.",
                ),
                PoseKeypoint.Output(
                    "hand_poses",
                    "hand_poses",
                    tooltip="The keypoints of every hand, inside its square.",
                ),
                BoundingBox.Output(
                    "hand_bboxes",
                    "hand_bboxes",
                    tooltip="Where the squares are in the image, for Place Hands.",
                ),
                io.Int.Output(
                    "hand_count",
                    "hand_count",
                    tooltip="Number of hand images, for the batch size of an empty latent.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        pose: Any,
        hand_side: str,
        crop_size: int,
        margin: float,
        upright: bool,
        if_no_hands: str,
        image: torch.Tensor | None = None,
        min_confidence: float = MIN_CONFIDENCE,
    ) -> io.NodeOutput:
        frames, photographs = _frames_with_images(
            read_pose(pose, min_confidence=min_confidence), image
        )
        frame_hands = _hands_by_frame(frames, hand_side, if_no_hands)
        cuts = [
            hands.cut_hands(hands_of_frame, photograph, crop_size, margin, upright=upright)
            for hands_of_frame, photograph in zip(watched(frame_hands), photographs, strict=True)
        ]
        boxes = [
            [
                hands.write_box(hand, cut.square, (people.width, people.height))
                for hand, cut in zip(hands_of_frame, cuts_of_frame, strict=True)
            ]
            for people, hands_of_frame, cuts_of_frame in zip(frames, frame_hands, cuts, strict=True)
        ]
        images = [cut.image for cuts_of_frame in cuts for cut in cuts_of_frame]
        people = [cut.people for cuts_of_frame in cuts for cut in cuts_of_frame]
        if not images:
            images = [torch.full((crop_size, crop_size, 3), GRAY)]
            people = [no_people(crop_size, crop_size)]
        hand_images = torch.stack(images)
        return io.NodeOutput(
            hand_images,
            write_poses(people),
            boxes,
            len(images),
            ui=ui.PreviewImage(hand_images, cls=cls),
        )


def _frames_with_images(
    frames: list[People], image: torch.Tensor | None
) -> tuple[list[People], list[torch.Tensor | None]]:
    """Pair the frames with the images that they belong to, on whose pixels they are placed."""
    if image is None:
        return frames, [None] * len(frames)
    images = read_images(image)
    pairs = paired_count({"pose": len(frames), "image": len(images)})
    height, width = images.shape[1:3]
    frames = [cover_canvas(people, width, height) for people in one_each(frames, pairs)]
    return frames, [*one_each(images, pairs)]


class VitruvianPlaceHands(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPlaceHands",
            display_name="Place Hands",
            category=CATEGORY,
            description="Puts generated hands back where Cut Hands cut them, and marks what "
            "must be generated around them.",
            inputs=[
                io.Image.Input(
                    "hand_images", tooltip="One image per hand, in the order of Cut Hands."
                ),
                io.Mask.Input(
                    "masks",
                    tooltip="One mask per hand: where the hand is in its image, for example "
                    "from Draw Hand Masks on the hand_poses of Cut Hands.",
                ),
                BoundingBox.Input(
                    "hand_bboxes",
                    extra_dict={"forceInput": True},
                    tooltip="Where the squares are, from Cut Hands.",
                ),
                *canvas_inputs(
                    "Width of the result in pixels when no image is connected.",
                    "Height of the result in pixels when no image is connected.",
                ),
                io.Float.Input(
                    "ring_width",
                    default=0.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Width of the ring around every hand that is generated again, as a "
                    "share of the hand's square. 0: everything except the hands.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image that the hands are put into. Without it, every hand "
                    "keeps its surroundings and the remaining area is gray.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "placed_image", "placed_image", tooltip="The image with the hands in it."
                ),
                io.Mask.Output("hands_mask", "hands_mask", tooltip="Where the hands are."),
                io.Mask.Output(
                    "inpaint_mask",
                    "inpaint_mask",
                    tooltip="Where to generate, for Set Latent Noise Mask.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        hand_images: torch.Tensor,
        masks: torch.Tensor,
        hand_bboxes: Any,
        canvas_width: int,
        canvas_height: int,
        ring_width: float,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        size = canvas_width, canvas_height
        if image is not None:
            image = read_images(image)
            size = image.shape[2], image.shape[1]
        frames = _hands_with_squares(
            read_squares(hand_bboxes, *size),
            read_images(hand_images, "hand_images"),
            read_masks(masks, "masks"),
        )
        placed, hands_mask, inpaint_mask = _place(frames, image, size, ring_width)
        return io.NodeOutput(placed, hands_mask, inpaint_mask, ui=ui.PreviewImage(placed, cls=cls))


class PlacedHands(NamedTuple):
    """The hands of one image."""

    squares: list[Square]
    images: torch.Tensor  # [N, h, w, 3]
    masks: torch.Tensor  # [N, h, w]


def _hands_with_squares(
    frames: list[list[Square]], hand_images: torch.Tensor, masks: torch.Tensor
) -> list[PlacedHands]:
    """Give the squares of every frame their images and masks, which come frame after frame."""
    box_count = sum(map(len, frames))
    if box_count and {len(hand_images), len(masks)} != {box_count}:
        raise ValueError(
            f"'hand_bboxes' has {box_count} boxes, but there are {len(hand_images)} 'hand_images' "
            f"and {len(masks)} 'masks': connect those of the same Cut Hands, one for each box."
        )
    placed_hands, first = [], 0
    for squares in frames:
        rows = slice(first, first + len(squares))
        placed_hands.append(PlacedHands(squares, hand_images[rows], masks[rows]))
        first += len(squares)
    return placed_hands


def _place(
    frames: list[PlacedHands],
    image: torch.Tensor | None,
    size: tuple[int, int],
    ring_width: float,
) -> list[torch.Tensor]:
    counts = {"hand_bboxes": len(frames)} | ({} if image is None else {"image": len(image)})
    pairs = paired_count(counts)
    canvases = [None] * pairs if image is None else one_each(image, pairs)
    placed = []
    for canvas, frame in zip(watched(canvases), one_each(frames, pairs), strict=True):
        if canvas is None:
            canvas = hands.hand_surroundings(frame.squares, frame.images, *size)
        placed.append(
            hands.insert_hands(canvas, frame.squares, frame.images, frame.masks, ring_width)
        )
    return [torch.stack(part) for part in zip(*placed, strict=True)]


class VitruvianPasteHands(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPasteHands",
            display_name="Paste Hands",
            category=CATEGORY,
            description="Puts the original pixels of the hands back into the finished "
            "image, because the VAE has blurred them.",
            inputs=[
                io.Image.Input("image", tooltip="The finished image."),
                io.Image.Input(
                    "placed_image", tooltip="The image with the hands, from Place Hands."
                ),
                io.Mask.Input("mask", tooltip="Where the hands are, from Place Hands."),
                io.Int.Input(
                    "feather",
                    default=4,
                    min=0,
                    max=256,
                    tooltip="Width of the soft edge in pixels, inside the hand. 0: a hard edge.",
                ),
                io.Float.Input(
                    "color_match",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the colors along the edge of the hands move to those of "
                    "the image. 0: not at all. 1: fully.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image_out", "image", tooltip="The image with the original pixels of the hands."
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        image: torch.Tensor,
        placed_image: torch.Tensor,
        mask: torch.Tensor,
        feather: int,
        color_match: float,
    ) -> io.NodeOutput:
        pixels = {
            "image": read_images(image),
            "placed_image": read_images(placed_image, "placed_image"),
            "mask": read_masks(mask),
        }
        check_one_size(pixels)
        pairs = paired_count({name: len(batch) for name, batch in pixels.items()})
        triples = [*zip(*(one_each(batch, pairs) for batch in pixels.values()), strict=True)]
        pasted = [
            hands.paste_over(*triple, feather=feather, color=color_match)
            for triple in watched(triples)
        ]
        return io.NodeOutput(torch.stack(pasted))


NODES: list[type[io.ComfyNode]] = [
    VitruvianDrawHandMasks,
    VitruvianCutHands,
    VitruvianPlaceHands,
    VitruvianPasteHands,
]

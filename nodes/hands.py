"""Hands first, the body painted around them (Giving a Hand)."""

import logging
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..models import hands, pose
from ..models.hands import GRAY, Hand, Square, read_squares
from .inputs import (
    check_one_size,
    mask_frames,
    named_errors,
    picture_size,
    pose_input,
    read_pose,
    size_inputs,
)
from .wires import (
    BoundingBox,
    PoseKeypoint,
)

CATEGORY = "Vitruvian/hands"
BOTH = "both"
STOP, GO_ON = "stop with an error", "go on without"
log = logging.getLogger(__name__)


def _which_input() -> io.Input:
    return io.Combo.Input(
        "hand_side",
        options=[BOTH, hands.LEFT, hands.RIGHT],
        default=BOTH,
        tooltip="Which hands to use. Left and right are the person's own left and right.",
    )


def _nobody_input(otherwise: str) -> io.Input:
    return io.Combo.Input(
        "if_no_hands",
        options=[STOP, GO_ON],
        default=STOP,
        tooltip=f"What to do with a pose without hands. '{GO_ON}': {otherwise}",
    )


def _find(pose_input: Any, which: str, if_none: str, size: tuple[int, int]) -> list[list[Hand]]:
    """The hands of every frame, in pixels of the size."""
    frames = [pose.scale_to_canvas(people, *size) for people in read_pose(pose_input)]
    found = [hands.find_hands(people, None if which == BOTH else which) for people in frames]
    for number, some in enumerate(found, 1):
        if some:
            continue
        what = (
            f"frame {number} of the pose has no {'' if which == BOTH else which + ' '}hand that is "
            f"larger than {hands.SMALLEST_HAND:g} pixels and has a wrist and two more points"
        )
        if if_none == STOP:
            raise ValueError(
                f"{what}. Turn on 'include_hands' in Detect Pose, draw the hands in a pose editor, enlarge "
                f"the picture, or set 'if_no_hands' to '{GO_ON}'."
            )
        log.warning("Vitruvian: %s; it goes on without.", what)
    return found


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
                _which_input(),
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
                _nobody_input("an empty mask."),
            ],
            outputs=[
                io.Mask.Output("masks", tooltip="One mask per hand, the larger hand first."),
                io.Mask.Output("union_mask", tooltip="One mask per frame, with all its hands."),
                io.Int.Output("hand_count", tooltip="Number of hands."),
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
    ) -> io.NodeOutput:
        size = picture_size(read_pose(pose), output_width, output_height)
        found = _find(pose, hand_side, if_no_hands, size)
        each = [[_mask(hand, size, thickness, wrist_length) for hand in some] for some in found]
        union = torch.stack([_union(some, size) for some in each])
        flat = [mask for some in each for mask in some]
        masks = torch.stack(flat) if flat else union
        return io.NodeOutput(masks, union, len(flat), ui=ui.PreviewMask(union, cls=cls))


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
                _which_input(),
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
                _nobody_input("one blank image and no boxes; Place Hands then changes nothing."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image that the pose belongs to. Without it the squares are gray.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "hand_images", tooltip="One image per hand, the larger hand first."
                ),
                PoseKeypoint.Output(
                    "hand_poses", tooltip="The keypoints of every hand, inside its square."
                ),
                BoundingBox.Output(
                    "hand_bboxes", tooltip="Where the squares are in the image, for Place Hands."
                ),
                io.Int.Output(
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
    ) -> io.NodeOutput:
        canvas = picture_size(read_pose(pose), 0, 0)
        if image is not None:
            canvas = image.shape[2], image.shape[1]
        found = _find(pose, hand_side, if_no_hands, canvas)
        images, poses, boxes = _cut(found, image, canvas, crop_size, margin, upright)
        show = ui.PreviewImage(images, cls=cls)
        return io.NodeOutput(images, poses, boxes, len(images), ui=show)


def _cut(
    found: list[list[Hand]],
    image: torch.Tensor | None,
    canvas: tuple[int, int],
    size: int,
    margin: float,
    upright: bool,
) -> tuple[torch.Tensor, list[dict[str, Any]], list[list[dict[str, Any]]]]:
    sources = [None if image is None else image[min(k, len(image) - 1)] for k in range(len(found))]
    each = [
        hands.cut_hands(some, source, size, margin, upright=upright)
        for some, source in zip(found, sources, strict=True)
    ]
    pictures = [one.picture for some in each for one in some]
    poses = [pose.write_frame(one.people) for some in each for one in some]
    boxes = [
        [hands.write_box(hand, one.square, canvas) for hand, one in zip(*pair, strict=True)]
        for pair in zip(found, each, strict=True)
    ]
    if not pictures:
        pictures = [torch.full((size, size, 3), GRAY)]
        poses = [pose.write_frame(pose.no_people(size, size))]
    return torch.stack(pictures), poses, boxes


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
                *_canvas_inputs(),
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
                io.Image.Output("placed_image", tooltip="The image with the hands in it."),
                io.Mask.Output("hands_mask", tooltip="Where the hands are."),
                io.Mask.Output(
                    "inpaint_mask", tooltip="Where to generate, for Set Latent Noise Mask."
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
        if image is not None:
            canvas_width, canvas_height = image.shape[2], image.shape[1]
        frames = read_squares(hand_bboxes, canvas_width, canvas_height)
        count = sum(map(len, frames))
        if count > min(len(hand_images), len(masks)):
            raise ValueError(
                f"there are {count} boxes, but {len(hand_images)} pictures and {len(masks)} masks: "
                "connect those that were made for these boxes."
            )
        placed, where, repaint = _place(
            frames, hand_images, masks, image, (canvas_width, canvas_height), ring_width
        )
        return io.NodeOutput(placed, where, repaint, ui=ui.PreviewImage(placed, cls=cls))


def _canvas_inputs() -> list[io.Input]:
    side: dict[str, Any] = {"default": 512, "min": 16, "max": pose.LARGEST_CANVAS, "step": 8}
    return [
        io.Int.Input(
            "canvas_width",
            tooltip="Width of the result in pixels when no image is connected.",
            **side,
        ),
        io.Int.Input(
            "canvas_height",
            tooltip="Height of the result in pixels when no image is connected.",
            **side,
        ),
    ]


def _place(
    frames: list[list[Square]],
    pictures: torch.Tensor,
    masks: torch.Tensor,
    image: torch.Tensor | None,
    size: tuple[int, int],
    room: float,
) -> list[torch.Tensor]:
    masks = masks.reshape(-1, *masks.shape[-2:]).float().cpu()
    pictures = pictures[..., :3].float().cpu()
    progress = comfy.utils.ProgressBar(len(frames))
    made, first = [], 0
    for number, squares in enumerate(frames):
        rows = slice(first, first + len(squares))
        if image is None:
            canvas = hands.hand_surroundings(squares, pictures[rows], *size)
        else:
            canvas = image[min(number, len(image) - 1), ..., :3].float().cpu()
        made.append(hands.insert_hands(canvas, squares, pictures[rows], masks[rows], room))
        first += len(squares)
        progress.update(1)
    return [torch.stack(part) for part in zip(*made, strict=True)]


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
        mask = mask_frames(mask)
        check_one_size({"image": image, "placed_image": placed_image, "mask": mask})
        return io.NodeOutput(_paste(image, placed_image, mask, feather, color_match))


def _paste(
    image: torch.Tensor, top: torch.Tensor, mask: torch.Tensor, feather: int, colour: float
) -> torch.Tensor:
    def of(batch: torch.Tensor, number: int) -> torch.Tensor:
        return batch[min(number, len(batch) - 1)].float().cpu()

    return torch.stack(
        [
            hands.paste_over(
                of(image, k)[..., :3],
                of(top, k)[..., :3],
                of(mask, k),
                feather=feather,
                color=colour,
            )
            for k in range(len(image))
        ]
    )


NODES: list[type[io.ComfyNode]] = [
    VitruvianDrawHandMasks,
    VitruvianCutHands,
    VitruvianPlaceHands,
    VitruvianPasteHands,
]

"""Hands first, the body painted around them (Giving a Hand)."""

import logging
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io, ui

from ..host import hand_generator as generator
from ..host import mask_expansion
from ..host.control_net import ControlSettings
from ..host.outpaint import outpaint_body
from ..models import hands, pose
from ..models.hands import GRAY, Hand, Square, read_squares
from .inputs import (
    PoseKeypoint,
    check_order,
    named_errors,
    percent_inputs,
    picture_size,
    pose_input,
    read_pose,
    size_inputs,
    strength_input,
    weight_files,
)

Generator = io.Custom("VITRUVIAN_HAND_GENERATOR")
Squares = io.Custom("BOUNDING_BOX")
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
                Squares.Output(
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
                Squares.Input(
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


class VitruvianApplyMaskExpansion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyMaskExpansion",
            display_name="Apply Mask Expansion",
            category=CATEGORY,
            description="For inpainting: a border around the preserved area is preserved "
            "too at first and generated later, so that no seam is left (Giving "
            "a Hand).",
            inputs=[
                io.Model.Input("model", tooltip="Any model. The latent needs a noise mask."),
                *_expansion_inputs(),
            ],
            outputs=[io.Model.Output("model_out", "model", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls, model: Any, expansion: int, shrink_start_percent: float, shrink_end_percent: float
    ) -> io.NodeOutput:
        check_order(shrink_start_percent, shrink_end_percent, "shrink_")
        return io.NodeOutput(
            mask_expansion.apply(model, expansion, shrink_start_percent, shrink_end_percent)
        )


def _expansion_inputs() -> list[io.Input]:
    share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.001}
    return [
        io.Int.Input(
            "expansion",
            default=16,
            min=0,
            max=512,
            step=8,
            tooltip="Width of the border at the beginning, in pixels. 0: no border, the "
            "plain noise mask.",
        ),
        io.Float.Input(
            "shrink_start_percent",
            default=0.2,
            **share,
            tooltip="When in the sampling the border begins to shrink. 0: at the first step.",
        ),
        io.Float.Input(
            "shrink_end_percent",
            default=0.8,
            **share,
            tooltip="When in the sampling the border has shrunk to nothing. 1: at the last step.",
        ),
    ]


class VitruvianPreviewMaskExpansion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPreviewMaskExpansion",
            display_name="Preview Mask Expansion",
            category=CATEGORY,
            description="Shows how the border of Apply Mask Expansion shrinks, as a row of images.",
            is_output_node=True,
            inputs=[
                io.Mask.Input("mask", tooltip="The noise mask: white is generated."),
                *_expansion_inputs(),
                io.Int.Input(
                    "image_count",
                    default=6,
                    min=2,
                    max=64,
                    tooltip="How many moments of the sampling to show.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The image that shows where it is preserved."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "preview",
                    tooltip="From the first step to the last: white is generated, orange is the "
                    "border, and the image shows where it is preserved to the end.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        mask: torch.Tensor,
        expansion: int,
        shrink_start_percent: float,
        shrink_end_percent: float,
        image_count: int,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_order(shrink_start_percent, shrink_end_percent, "shrink_")
        first = mask.reshape(-1, *mask.shape[-2:])[0].float().cpu()
        below = None if image is None else image[0, ..., :3].float().cpu()
        strip = hands.expansion_strip(
            first, below, expansion, shrink_start_percent, shrink_end_percent, image_count
        )
        return io.NodeOutput(strip[None], ui=ui.PreviewImage(strip[None], cls=cls))


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
        mask = mask.reshape(-1, *mask.shape[-2:])
        _check_one_size(image, placed_image, mask, "image")
        return io.NodeOutput(_paste(image, placed_image, mask, feather, color_match))


def _check_one_size(
    image: torch.Tensor, hands: torch.Tensor, mask: torch.Tensor, name: str
) -> None:
    given = {name: image, "hands": hands, "mask": mask}
    if len({each.shape[1:3] for each in given.values()}) > 1:
        sizes = [f"'{key}' ({x.shape[2]} x {x.shape[1]})" for key, x in given.items()]
        raise ValueError(f"the inputs {sizes[0]}, {sizes[1]} and {sizes[2]} must have one size.")


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


class VitruvianOutpaintBody(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianOutpaintBody",
            display_name="Outpaint Body",
            category=CATEGORY,
            description="Generates the body around hands that are already there, with a "
            "ControlNet that sees the skeleton, the hands and where they are "
            "(Giving a Hand, second stage).",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the image shows."),
                io.Conditioning.Input("negative", tooltip="What the image must not show."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="A ControlNet for body outpainting, from Load ControlNet Model.",
                ),
                io.Image.Input(
                    "pose_image", tooltip="The skeleton of the entire body, from Draw Pose."
                ),
                io.Image.Input(
                    "placed_image", tooltip="The image with the hands, from Place Hands."
                ),
                io.Mask.Input("mask", tooltip="Where the hands are, from Place Hands."),
                strength_input(
                    "How strongly the skeleton and the hands guide the image. 0: the "
                    "conditioning is unchanged."
                ),
                *percent_inputs(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive_out", "positive", tooltip="To the sampler's positive."
                ),
                io.Conditioning.Output(
                    "negative_out", "negative", tooltip="To the sampler's negative."
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        positive: Any,
        negative: Any,
        control_net: Any,
        pose_image: torch.Tensor,
        placed_image: torch.Tensor,
        mask: torch.Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        check_order(start_percent, end_percent)
        mask = mask.reshape(-1, *mask.shape[-2:])
        _check_one_size(pose_image, placed_image, mask, "skeleton")
        conditionings = outpaint_body(
            (positive, negative),
            control_net,
            pose_image[..., :3],
            placed_image[..., :3],
            mask,
            ControlSettings(strength, start_percent, end_percent),
        )
        return io.NodeOutput(*conditionings)


class VitruvianLoadHandGenerator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadHandGenerator",
            display_name="Load Hand Generator",
            category=CATEGORY,
            description="Loads a hand generator from models/vitruvian.",
            inputs=[
                io.Combo.Input(
                    "hand_generator_name",
                    options=weight_files("hands"),
                    tooltip="A file trained for the checkpoint you use.",
                )
            ],
            outputs=[
                Generator.Output(
                    "hand_generator", tooltip="To Apply Hand Generator and Predict Hand Masks."
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, hand_generator_name: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("vitruvian", hand_generator_name)
        return io.NodeOutput(generator.load(Path(path)))


class VitruvianApplyHandGenerator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyHandGenerator",
            display_name="Apply Hand Generator",
            category=CATEGORY,
            description="Makes the model generate one hand per image, each finger where its "
            "keypoints are (Giving a Hand, first stage).",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint that the hand generator was trained for."
                ),
                Generator.Input("hand_generator", tooltip="From Load Hand Generator."),
                pose_input(name="hand_poses", tooltip="One hand per image, from Cut Hands."),
                strength_input(
                    "How strongly the keypoints guide the hand. 0: the model is unchanged."
                ),
            ],
            outputs=[io.Model.Output("model_out", "model", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls, model: Any, hand_generator: Any, hand_poses: Any, strength: float
    ) -> io.NodeOutput:
        return io.NodeOutput(
            _generate(model, hand_generator, read_pose(hand_poses, "poses"), strength)
        )


def _generate(model: Any, loaded: Any, frames: list[pose.People], strength: float) -> Any:
    return generator.apply(model, loaded, frames, strength)


class VitruvianPredictHandMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPredictHandMasks",
            display_name="Predict Hand Masks",
            category=CATEGORY,
            description="Finds the hands in images from the hand generator: its network "
            "looks at the finished latents once more.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model from Apply Hand Generator, as connected to the sampler.",
                ),
                Generator.Input("hand_generator", tooltip="From Load Hand Generator."),
                io.Conditioning.Input(
                    "positive", tooltip="The positive prompt, as connected to the sampler."
                ),
                io.Latent.Input("latent", tooltip="The finished latents, from the sampler."),
            ],
            outputs=[io.Mask.Output("masks", tooltip="One mask per hand, for Place Hands.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls, model: Any, hand_generator: Any, positive: Any, latent: dict[str, Any]
    ) -> io.NodeOutput:
        masks = _predict(model, hand_generator, positive, latent["samples"])
        return io.NodeOutput(masks, ui=ui.PreviewMask(masks, cls=cls))


def _predict(model: Any, loaded: Any, positive: Any, latent: torch.Tensor) -> torch.Tensor:
    return torch.stack(
        [
            hands.clean_mask(mask)
            for mask in generator.predict_masks(model, loaded, positive, latent)
        ]
    )


NODES: list[type[io.ComfyNode]] = [
    VitruvianDrawHandMasks,
    VitruvianCutHands,
    VitruvianPlaceHands,
    VitruvianApplyMaskExpansion,
    VitruvianPreviewMaskExpansion,
    VitruvianPasteHands,
    VitruvianOutpaintBody,
    VitruvianLoadHandGenerator,
    VitruvianApplyHandGenerator,
    VitruvianPredictHandMasks,
]

"""Make semantic maps from colors, masks and skeletons, and use them (HumanDiffusion)."""

import logging
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..host.progress import watched
from ..models import semantic_map as core
from ..models.batches import paired_count
from ..models.outfit import HAIRS, LOWERS, OPEN, SHORT, UPPERS, Outfit, map_from_pose
from ..models.pose import People
from ..models.semantic_map import CLASSES, CLOTHING, WHOLE_PERSON
from .inputs import (
    min_confidence_input,
    named_errors,
    output_size,
    pose_input,
    read_images,
    read_masks,
    read_pose,
    size_inputs,
)
from .wires import SemanticMap

CATEGORY = "Vitruvian/appearance"
OURS, GRAY, CUSTOM = "Vitruvian", f"gray levels 0 to {len(CLASSES) - 1}", "custom colors"
STOP, BACKGROUND = "stop with an error", "background"
GO_ON = "go on with an empty mask"
ALL_CLOTHING, PERSON, LISTED = "all clothing", "whole person", "only part_names"
GROUPS = {ALL_CLOTHING: CLOTHING, PERSON: WHOLE_PERSON, LISTED: ()}
log = logging.getLogger(__name__)


def _map_output(tooltip: str) -> io.Output:
    return SemanticMap.Output("semantic_map_out", "semantic_map", tooltip=tooltip)


class VitruvianSemanticMapFromColors(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSemanticMapFromColors",
            display_name="Semantic Map from Colors",
            category=CATEGORY,
            description="Reads an image of flat colors as a map of body parts and clothes.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="An image with one flat color per part, saved as PNG."
                ),
                io.Combo.Input(
                    "palette",
                    options=[OURS, GRAY, CUSTOM],
                    default=OURS,
                    tooltip=f"Which color means which part. {OURS}: the colors of Show Semantic "
                    f"Map. {GRAY}: the numbers of the parts, as in the files of "
                    f"DeepFashion-MultiModal. {CUSTOM}: the colors in custom_colors.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=40.0,
                    min=0.0,
                    max=442.0,
                    step=1.0,
                    tooltip="How far a pixel may be from a color of the palette, in levels of "
                    "255. 0: exact colors only.",
                ),
                io.Combo.Input(
                    "if_unknown_color",
                    options=[STOP, BACKGROUND],
                    default=STOP,
                    tooltip="What to do with a pixel that is farther from all colors of the "
                    "palette.",
                ),
                io.String.Input(
                    "custom_colors",
                    default="",
                    multiline=True,
                    tooltip=f"For '{CUSTOM}': one line per part, such as top: #ff0000. Two "
                    "colors may mean the same part. Black is the background unless a "
                    "line says otherwise.",
                ),
            ],
            outputs=[
                SemanticMap.Output("semantic_map", "semantic_map", tooltip="One map per image.")
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        image: torch.Tensor,
        palette: str,
        tolerance: float,
        if_unknown_color: str,
        custom_colors: str,
    ) -> io.NodeOutput:
        if palette == CUSTOM:
            colors, parts = _custom_palette(custom_colors)
        else:
            colors = core.PALETTE if palette == OURS else core.GRAY_LEVELS
            parts = list(range(len(CLASSES)))
        images = read_images(image)
        return io.NodeOutput(_read_colors(images, colors, tolerance, parts, if_unknown_color))


def _custom_palette(custom_colors: str) -> tuple[torch.Tensor, list[int]]:
    try:
        return core.read_palette(custom_colors)
    except ValueError as error:
        raise ValueError(f"the input 'custom_colors': {error}") from None


def _read_colors(
    image: torch.Tensor,
    palette: torch.Tensor,
    tolerance: float,
    parts: list[int],
    if_unknown_color: str,
) -> torch.Tensor:
    try:
        return core.from_colors(
            watched(image), palette, tolerance, parts, background=if_unknown_color == BACKGROUND
        )
    except ValueError as error:
        raise ValueError(f"the input 'image': {error}") from None


class VitruvianAddPartToSemanticMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianAddPartToSemanticMap",
            display_name="Add Part to Semantic Map",
            category=CATEGORY,
            description="Adds a mask to a semantic map, as a part of the body or the clothes.",
            inputs=[
                io.Mask.Input(
                    "mask", tooltip="Where the part is: drawn by hand, or from any segmentation."
                ),
                io.Combo.Input(
                    "part",
                    options=list(CLASSES),
                    default=CLASSES[core.TOP],
                    tooltip="What the part is. 'background' removes what is there.",
                ),
                SemanticMap.Input(
                    "semantic_map",
                    optional=True,
                    tooltip="The map to add to. The new part covers what is there. Without it, "
                    "an empty map of the mask's size.",
                ),
            ],
            outputs=[_map_output("The map with the new part.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls, mask: torch.Tensor, part: str, semantic_map: torch.Tensor | None = None
    ) -> io.NodeOutput:
        mask = read_masks(mask)
        base_map = core.empty_map(mask) if semantic_map is None else semantic_map
        paired_count({"semantic_map": len(base_map), "mask": len(mask)})
        try:
            return io.NodeOutput(core.add_part(base_map, mask, core.part_named(part)))
        except ValueError as error:
            raise ValueError(f"the inputs 'semantic_map' and 'mask' do not fit: {error}") from None


class VitruvianSemanticMapFromPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSemanticMapFromPose",
            display_name="Semantic Map from Pose",
            category=CATEGORY,
            description="Draws a coarse semantic map of dressed people around their skeletons.",
            inputs=[
                pose_input(),
                *size_inputs(),
                io.Combo.Input(
                    "upper",
                    options=list(UPPERS),
                    default=UPPERS[0],
                    tooltip=f"What covers the torso. '{OPEN}': an open jacket.",
                ),
                io.Combo.Input(
                    "lower",
                    options=list(LOWERS),
                    default=LOWERS[0],
                    tooltip="What covers the legs. With a dress: what shows below it. With "
                    "rompers, which cover the legs, it is not used.",
                ),
                io.Combo.Input(
                    "hair",
                    options=list(HAIRS),
                    default=SHORT,
                    tooltip="Length of the hair. On a person seen from behind it covers the head.",
                ),
                io.Boolean.Input(
                    "long_sleeves",
                    default=True,
                    tooltip="On: sleeves reach the wrists. Off: they end above the elbows.",
                ),
                io.Boolean.Input(
                    "long_legs",
                    default=True,
                    tooltip="On: pants reach the ankles, skirts and dresses the shins. Off: "
                    "they end above the knees.",
                ),
                io.Boolean.Input("shoes", default=True, tooltip="On: shoes. Off: bare feet."),
                io.Boolean.Input("hat", default=False, tooltip="On: a hat with a brim."),
                io.Boolean.Input(
                    "glasses", default=False, tooltip="On: glasses, where an eye is visible."
                ),
                min_confidence_input(
                    "Points less certain than this are not used, and the parts around them are "
                    "left out."
                ),
                SemanticMap.Input(
                    "semantic_map",
                    optional=True,
                    tooltip="A map to draw over: for people in different outfits, each taken "
                    "from the same pose with Pick People.",
                ),
            ],
            outputs=[_map_output("One map per frame of the pose.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        pose: Any,
        output_width: int,
        output_height: int,
        upper: str,
        lower: str,
        hair: str,
        long_sleeves: bool,
        long_legs: bool,
        shoes: bool,
        hat: bool,
        glasses: bool,
        min_confidence: float,
        semantic_map: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        outfit = Outfit(upper, lower, hair, long_sleeves, long_legs, shoes, hat, glasses)
        frames = read_pose(pose, min_confidence=min_confidence)
        size = output_size(frames, output_width, output_height)
        labels = _draw_maps(frames, outfit, size)
        if semantic_map is not None:
            paired_count({"semantic_map": len(semantic_map), "pose": len(labels)})
            try:
                labels = core.overlay(semantic_map, torch.where(labels > 0, labels.int(), -1))
            except ValueError as error:
                raise ValueError(
                    f"the inputs 'semantic_map' and 'pose' do not fit: {error}"
                ) from None
        return io.NodeOutput(labels)


def _draw_maps(frames: list[People], outfit: Outfit, size: tuple[int, int]) -> torch.Tensor:
    labels = torch.cat([map_from_pose(people, outfit, *size) for people in watched(frames)])
    if not labels.any():
        raise ValueError(
            "no part of the input 'pose' could be drawn: lower 'min_confidence', or connect a pose "
            "whose limbs lie inside its canvas."
        )
    return labels


class VitruvianShowSemanticMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianShowSemanticMap",
            display_name="Show Semantic Map",
            category=CATEGORY,
            description="Shows a semantic map in colors, with the names of its parts.",
            is_output_node=True,
            inputs=[
                SemanticMap.Input(
                    "semantic_map", tooltip="From any node that makes a semantic map."
                )
            ],
            outputs=[
                io.Image.Output(
                    "preview", "preview", tooltip="The map, with the names of its parts beside it."
                ),
                io.Image.Output(
                    "color_image",
                    "color_image",
                    tooltip="The map alone, pixel by pixel: to save, to edit, and to read again "
                    "with Semantic Map from Colors.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, semantic_map: torch.Tensor) -> io.NodeOutput:
        preview = torch.cat([core.with_legend(labels[None]) for labels in watched(semantic_map)])
        return io.NodeOutput(
            preview, core.color_image(semantic_map), ui=ui.PreviewImage(preview, cls=cls)
        )


class VitruvianMaskFromSemanticMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianMaskFromSemanticMap",
            display_name="Mask from Semantic Map",
            category=CATEGORY,
            description="Makes a mask of parts of the body or the clothes.",
            inputs=[
                SemanticMap.Input(
                    "semantic_map", tooltip="From any node that makes a semantic map."
                ),
                io.Combo.Input(
                    "part_group",
                    options=[*GROUPS, *CLASSES],
                    default=ALL_CLOTHING,
                    tooltip=f"Which parts. '{ALL_CLOTHING}': everything worn or carried. "
                    f"'{PERSON}': everything except the background. '{LISTED}': only "
                    "those in part_names.",
                ),
                io.String.Input(
                    "part_names",
                    default="",
                    tooltip="More parts, separated by commas, such as: hair, face.",
                ),
                io.Int.Input(
                    "expand",
                    default=0,
                    min=-512,
                    max=512,
                    tooltip="Pixels by which the mask grows beyond the parts. 0: exactly the "
                    "parts. Below 0: it shrinks.",
                ),
                io.Combo.Input(
                    "if_no_part",
                    options=[STOP, GO_ON],
                    default=STOP,
                    tooltip="What to do with a map that has none of the parts.",
                ),
            ],
            outputs=[io.Mask.Output("mask", "mask", tooltip="One mask per map.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        semantic_map: torch.Tensor,
        part_group: str,
        part_names: str,
        expand: int,
        if_no_part: str,
    ) -> io.NodeOutput:
        parts = _selected_parts(part_group, part_names)
        covered = core.part_mask(semantic_map, parts).flatten(1).amax(1)
        for number in (covered == 0).nonzero().flatten().tolist():
            _report_missing(semantic_map[number], number + 1, part_group, part_names, if_no_part)
        mask = torch.cat(
            [core.part_mask(labels[None], parts, expand) for labels in watched(semantic_map)]
        )
        return io.NodeOutput(mask, ui=ui.PreviewMask(mask, cls=cls))


def _selected_parts(part_group: str, part_names: str) -> list[int]:
    """List the parts that the inputs part_group and part_names name together."""
    parts = list(GROUPS[part_group] if part_group in GROUPS else (core.part_named(part_group),))
    try:
        parts += [core.part_named(name) for name in part_names.split(",") if name.strip()]
    except ValueError as error:
        raise ValueError(f"the input 'part_names': {error}") from None
    if not parts:
        raise ValueError(
            f"the input 'part_names' is empty: write names of parts, or choose a 'part_group' "
            f"other than '{LISTED}'."
        )
    return parts


def _report_missing(
    labels: torch.Tensor, number: int, part_group: str, part_names: str, if_no_part: str
) -> None:
    selection = ", ".join(
        filter(None, ("" if part_group == LISTED else part_group, part_names.strip()))
    )
    present = ", ".join(CLASSES[k] for k in labels.unique().tolist() if k)
    problem = f"map {number} has no {selection}; it has {present or 'nothing but background'}"
    if if_no_part == STOP:
        raise ValueError(
            f"{problem}. Choose one of these as 'part_group', or set 'if_no_part' to '{GO_ON}'."
        )
    log.warning("Vitruvian: %s; its mask is empty.", problem)


NODES: list[type[io.ComfyNode]] = [
    VitruvianSemanticMapFromColors,
    VitruvianAddPartToSemanticMap,
    VitruvianSemanticMapFromPose,
    VitruvianShowSemanticMap,
    VitruvianMaskFromSemanticMap,
]

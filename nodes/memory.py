"""Build, save, load, merge and show memories of what clothes look like (HumanDiffusion)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui
from torch import Tensor

from ..host import memory as host
from ..host import part_encoder
from ..host.progress import step_of
from ..models import memory as core
from ..models import memory_drawing, memory_file, part_crops
from ..models.batches import one_each
from ..models.semantic_map import CLASSES, WHOLE_PERSON
from .inputs import check_single, named_errors, read_images, weight_input, weight_path
from .saving import free_path
from .wires import Memory, SemanticMap

CATEGORY = "Vitruvian/appearance"
EXTEND, UPDATE = "add slots", "update slots"
NAMES = [CLASSES[part] for part in WHOLE_PERSON]


def clip_vision_input() -> io.Input:
    return io.ClipVision.Input(
        "clip_vision",
        tooltip="CLIP's image encoder. From Load Part Encoder it can include the "
        "text projection that SD1.5 checkpoints lack.",
    )


class VitruvianLoadPartEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadPartEncoder",
            display_name="Load Part Encoder",
            category=CATEGORY,
            description="Loads a CLIP image encoder from models/clip_vision, with the text "
            "projection if the file holds one.",
            inputs=[
                io.Combo.Input(
                    "clip_vision_name",
                    options=folder_paths.get_filename_list("clip_vision"),
                    tooltip="The image encoder of the checkpoint's CLIP. For SD1.5: a complete "
                    "CLIP ViT-L/14 as a .safetensors file.",
                )
            ],
            outputs=[
                io.ClipVision.Output(
                    "clip_vision",
                    "clip_vision",
                    tooltip="To Build Memory and Appearance from Image.",
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, clip_vision_name: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("clip_vision", clip_vision_name)
        return io.NodeOutput(part_encoder.load(Path(path)))


def shrink_input() -> io.Input:
    return io.Int.Input(
        "shrink",
        default=0,
        min=0,
        max=64,
        tooltip="Ignore this many pixels along the border of every part. Use it for "
        "coarse maps, such as those from a pose, whose parts include some "
        "background. 0: the entire part.",
    )


class VitruvianBuildMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianBuildMemory",
            display_name="Build Memory",
            category=CATEGORY,
            description="Builds a memory of what clothes, hair and other parts look like in "
            "images, class by class. Inspired by HumanDiffusion.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Images of people, as batches or a list."),
                SemanticMap.Input(
                    "semantic_map",
                    tooltip="One semantic map per image, in the same order, or one for all images.",
                ),
                clip_vision_input(),
                io.Int.Input(
                    "max_slots",
                    default=512,
                    min=1,
                    max=65536,
                    tooltip="At most this many slots per class. With fewer parts in the images, "
                    "every part has its own slot.",
                ),
                io.Int.Input(
                    "min_pixels",
                    default=part_crops.MIN_PIXELS,
                    min=1,
                    max=1000000,
                    tooltip="Parts with fewer pixels are ignored.",
                ),
                Memory.Input("memory", optional=True, tooltip="A memory to continue."),
                io.Combo.Input(
                    "memory_update",
                    options=[EXTEND, UPDATE],
                    default=EXTEND,
                    tooltip=f"What to do with the connected memory. '{EXTEND}': new slots are "
                    f"added to it. '{UPDATE}': its slots move toward the parts they are "
                    "nearest to; classes that it lacks are added.",
                ),
                io.Float.Input(
                    "momentum",
                    default=core.MOMENTUM,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="When slots are updated, how much of each slot stays. 0: it is "
                    "replaced. 1: it does not change.",
                ),
                shrink_input(),
            ],
            outputs=[Memory.Output("memory_out", "memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        images: list,
        semantic_map: list,
        clip_vision: list,
        max_slots: list,
        min_pixels: list,
        memory_update: list,
        momentum: list,
        shrink: list,
        memory: list | None = None,
    ) -> io.NodeOutput:
        check_single(
            {
                "clip_vision": clip_vision,
                "max_slots": max_slots,
                "min_pixels": min_pixels,
                "memory_update": memory_update,
                "momentum": momentum,
                "shrink": shrink,
                "memory": memory,
            }
        )
        previous = memory[0] if memory else None
        if previous is not None:
            host.check_encoder(previous, clip_vision[0])
        batches = [read_images(batch, "images") for batch in images]
        pairs = pair_with_maps(batches, semantic_map, "images")
        progress = comfy.utils.ProgressBar(2 * len(pairs))
        crops = part_encoder.encode_parts(
            clip_vision[0], pairs, min_pixels[0], shrink[0], step_of(progress)
        )
        existing_parts = [] if previous is None or memory_update[0] == EXTEND else previous.parts
        extended = host.build(
            _without(crops, existing_parts),
            max_slots[0],
            clip_vision[0],
            _slot_progress(progress, len(pairs)),
        )
        if previous is not None:
            if memory_update[0] == UPDATE:
                previous = core.update(previous, crops.features, crops.parts, momentum[0])
            extended = core.merge(previous, extended)
        return io.NodeOutput(extended)


def pair_with_maps(
    images: Sequence[Tensor], maps: Sequence[Tensor], name: str
) -> list[tuple[Tensor, Tensor]]:
    """Pair each image [H, W, 3] of the input of this name with its semantic map [H, W]. A single
    map serves all images.
    """
    single_images = [image for batch in images for image in batch]
    single_maps = [labels for batch in maps for labels in batch]
    if len(single_maps) not in (1, len(single_images)):
        raise ValueError(
            f"there are {len(single_images)} images in '{name}' and {len(single_maps)} maps in "
            "'semantic_map': connect the map of every image, in the same order."
        )
    pairs = [*zip(single_images, one_each(single_maps, len(single_images)), strict=True)]
    for image, labels in pairs:
        if image.shape[:2] != labels.shape:
            (image_height, image_width), (map_height, map_width) = image.shape[:2], labels.shape
            raise ValueError(
                f"an image of {image_width} x {image_height} pixels has a map of {map_width} x "
                f"{map_height}: bring both to one size."
            )
    return pairs


def _without(crops: part_encoder.Crops, parts: Sequence[int]) -> part_encoder.Crops:
    is_new = ~torch.isin(crops.parts, torch.tensor(parts, dtype=torch.long))
    return part_encoder.Crops(*(field[is_new] for field in crops))


def _slot_progress(progress: Any, images: int) -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        throw_exception_if_processing_interrupted()
        progress.update_absolute(images + done * images // total, 2 * images)

    return on_step


class VitruvianSaveMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSaveMemory",
            display_name="Save Memory",
            category=CATEGORY,
            description="Saves a memory in models/vitruvian, for Load Memory. No file is "
            "overwritten.",
            is_output_node=True,
            inputs=[
                Memory.Input("memory", tooltip="From Build Memory or Merge Memories."),
                io.String.Input(
                    "filename_prefix",
                    default="memory",
                    tooltip="Name of the file. If it exists already, a number is added.",
                ),
            ],
            outputs=[
                io.String.Output("filename", "filename", tooltip="The name that Load Memory lists.")
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, memory: Any, filename_prefix: str) -> io.NodeOutput:
        path = free_path(filename_prefix, "memory")
        memory_file.save(path, memory)
        return io.NodeOutput(path.name, ui=ui.PreviewText(path.name))


class VitruvianLoadMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadMemory",
            display_name="Load Memory",
            category=CATEGORY,
            description="Loads a memory of clothes and hair from models/vitruvian.",
            inputs=[
                weight_input(
                    "memory_name",
                    memory_file.METHOD,
                    "A memory built with the image encoder of the checkpoint's CLIP.",
                )
            ],
            outputs=[Memory.Output("memory", "memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(cls, memory_name: str) -> io.NodeOutput:
        return io.NodeOutput(memory_file.load(weight_path(memory_name)))


class VitruvianMergeMemories(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianMergeMemories",
            display_name="Merge Memories",
            category=CATEGORY,
            description="Combines all slots of two memories into one memory. Equal slots "
            "are joined.",
            inputs=[
                Memory.Input("memory_1", tooltip="A memory."),
                Memory.Input(
                    "memory_2",
                    tooltip="Another memory, built with the same image encoder. The order does "
                    "not matter.",
                ),
            ],
            outputs=[Memory.Output("memory", "memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(cls, memory_1: Any, memory_2: Any) -> io.NodeOutput:
        return io.NodeOutput(core.merge(memory_1, memory_2))


class VitruvianShowMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianShowMemory",
            display_name="Show Memory",
            category=CATEGORY,
            description="Shows everything that a memory holds of one class.",
            is_output_node=True,
            inputs=[
                Memory.Input("memory", tooltip="The memory to look at."),
                io.Combo.Input("memory_part", options=NAMES, tooltip="The class to show."),
                io.Int.Input(
                    "columns", default=16, min=1, max=256, tooltip="Slots per row of the image."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "slot_images",
                    "slot_images",
                    tooltip="Every slot, shown by the image nearest to it. Slots that stand for "
                    "the most images come first.",
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, memory: Any, memory_part: str, columns: int) -> io.NodeOutput:
        number = CLASSES.index(memory_part)
        if number not in memory.parts:
            names = ", ".join(CLASSES[part] for part in memory.parts) or "nothing at all"
            raise ValueError(
                f"the memory holds no {memory_part}. It holds {names}: choose one in 'memory_part'."
            )
        image = memory_drawing.catalog(memory.banks[number], columns)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadPartEncoder,
    VitruvianBuildMemory,
    VitruvianSaveMemory,
    VitruvianLoadMemory,
    VitruvianMergeMemories,
    VitruvianShowMemory,
]

"""What clothes look like, kept in a memory and asked for in words (inspired by HumanDiffusion)."""

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
from ..models import memory as core
from ..models import memory_drawing, memory_file, part_crops
from ..models.semantic_map import CLASSES, WHOLE_PERSON
from .inputs import named_errors, weight_files
from .saving import free_path
from .wires import (
    Memory,
    SemanticMap,
)

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
                    "clip_vision", tooltip="To Build Memory and Appearance from Image."
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
        old = memory[0] if memory else None
        if old is not None:
            host.check_encoder(old, clip_vision[0])
        pairs = pair_with_maps(images, semantic_map)
        bar = comfy.utils.ProgressBar(2 * len(pairs))
        crops = part_encoder.encode_parts(
            clip_vision[0], pairs, min_pixels[0], shrink[0], _first_half(bar)
        )
        known = [] if old is None or memory_update[0] == EXTEND else old.parts
        new = host.build(
            _without(crops, known), max_slots[0], clip_vision[0], _second_half(bar, len(pairs))
        )
        if old is not None:
            if memory_update[0] == UPDATE:
                old = core.update(old, crops.features, crops.parts, momentum[0])
            new = core.merge(old, new)
        return io.NodeOutput(new)


def pair_with_maps(images: Sequence[Tensor], maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each picture [H, W, 3] with its map [H, W]; a single map is every picture's."""
    pictures = [picture[..., :3] for batch in images for picture in batch]
    labels = [one for batch in maps for one in batch]
    labels = labels * len(pictures) if len(labels) == 1 else labels
    if len(pictures) != len(labels):
        raise ValueError(
            f"there are {len(pictures)} pictures and {len(labels)} semantic maps in 'semantic_map': connect "
            "the map of every picture, in the same order."
        )
    for picture, one in zip(pictures, labels, strict=True):
        if picture.shape[:2] != one.shape:
            (high, wide), (h, w) = picture.shape[:2], one.shape
            raise ValueError(
                f"a picture of {wide} x {high} pixels has a map of {w} x {h}: bring both to one "
                "size."
            )
    return [*zip(pictures, labels, strict=True)]


def _without(crops: part_encoder.Crops, parts: Sequence[int]) -> part_encoder.Crops:
    kept = ~torch.isin(crops.parts, torch.tensor(parts, dtype=torch.long))
    return part_encoder.Crops(*(field[kept] for field in crops))


def _first_half(bar: Any) -> Callable[[], None]:
    """One step for each picture. The bar alone would not always notice a cancelled run: hosts
    differ in how often it reports.
    """

    def on_picture() -> None:
        throw_exception_if_processing_interrupted()
        bar.update(1)

    return on_picture


def _second_half(bar: Any, half: int) -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(half + done * half // total, 2 * half)

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
            outputs=[io.String.Output("filename", tooltip="The name that Load Memory lists.")],
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
                io.Combo.Input(
                    "memory_name",
                    options=weight_files(memory_file.METHOD),
                    tooltip="A memory built with the image encoder of the checkpoint's CLIP.",
                )
            ],
            outputs=[Memory.Output("memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(cls, memory_name: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("vitruvian", memory_name)
        return io.NodeOutput(memory_file.load(path))


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
            outputs=[Memory.Output("memory", tooltip="To Retrieve Appearance.")],
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
            there = ", ".join(CLASSES[k] for k in memory.parts) or "nothing at all"
            raise ValueError(
                f"the memory holds no {memory_part}. It holds {there}: choose one in 'memory_part'."
            )
        picture = memory_drawing.catalog(memory.banks[number], columns)[None]
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadPartEncoder,
    VitruvianBuildMemory,
    VitruvianSaveMemory,
    VitruvianLoadMemory,
    VitruvianMergeMemories,
    VitruvianShowMemory,
]

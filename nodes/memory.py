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
from ..host import part_encoder, phrase_encoder
from ..models import memory as core
from ..models.phrases import split_phrases
from ..models.semantic_map import CLASSES, WHOLE_PERSON, part_named
from .inputs import named_errors, read_phrases, strength_input, weight_files
from .saving import free_path
from .semantic_map import Parsing

Memory = io.Custom("VITRUVIAN_MEMORY")
Parts = io.Custom("VITRUVIAN_PARTS")
CATEGORY = "Vitruvian/appearance"
EXTEND, UPDATE = "add slots", "update slots"
TO_PROMPT, DRAWN = "left to the prompt", "random from the memory"
NEAREST = "nearest class"
NAMES = [CLASSES[part] for part in WHOLE_PERSON]


def _vision_input() -> io.Input:
    return io.ClipVision.Input(
        "clip_vision",
        tooltip="CLIP's image encoder. From Load Part Encoder it can include the "
        "text projection that SD1.5 checkpoints lack.",
    )


def _asking_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "top_k",
            default=core.TOP_K,
            min=1,
            max=64,
            tooltip="How many slots of the memory are mixed. 1: only the nearest.",
        ),
        io.Float.Input(
            "temperature",
            default=core.TEMPERATURE,
            min=0.001,
            max=1.0,
            step=0.001,
            tooltip="How evenly the slots are mixed. Low: mostly the nearest. High: all alike.",
        ),
        io.Float.Input(
            "blend",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the words or the photograph themselves in the result. 0: "
            "only what the memory answers. 1: only the words or the photograph.",
        ),
    ]


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


def _shrink_input() -> io.Input:
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
                Parsing.Input(
                    "semantic_map",
                    tooltip="One semantic map per image, in the same order, or one for all images.",
                ),
                _vision_input(),
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
                    default=core.LEAST,
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
                _shrink_input(),
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
        pairs = _pairs(images, semantic_map)
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


def _pairs(images: Sequence[Tensor], maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
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
        core.save(path, memory)
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
                    options=weight_files(core.METHOD),
                    tooltip="A memory built with the image encoder of the checkpoint's CLIP.",
                )
            ],
            outputs=[Memory.Output("memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(cls, memory_name: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("vitruvian", memory_name)
        return io.NodeOutput(core.load(path))


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
        picture = core.catalogue(memory.banks[number], columns)[None]
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


class VitruvianRetrieveAppearance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianRetrieveAppearance",
            display_name="Retrieve Appearance",
            category=CATEGORY,
            description="Looks up clothes and hair described in free words: each phrase is "
            "answered from the class of the memory that it names. Inspired by "
            "HumanDiffusion.",
            inputs=[
                Memory.Input("memory", tooltip="From Load Memory or Build Memory."),
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                io.String.Input(
                    "clothing_text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the person wears, in free words: a black T-shirt and denim "
                    "pants, curly red hair. (words:1.2) makes a part stronger.",
                ),
                io.String.Input(
                    "template",
                    default=phrase_encoder.PLACEHOLDER,
                    tooltip="How each phrase is written for the text encoder; {phrase} stands "
                    "for it. For a full-sized CLIP: a photo of {phrase}",
                ),
                *_asking_inputs(),
                io.Combo.Input(
                    "if_unknown_words",
                    options=[TO_PROMPT, NEAREST],
                    default=TO_PROMPT,
                    tooltip=f"What to do with phrases that name nothing worn. '{TO_PROMPT}': "
                    f"they are ignored here. '{NEAREST}': they ask the class of the "
                    "memory with the most similar name.",
                ),
                io.Combo.Input(
                    "if_unmentioned",
                    options=[TO_PROMPT, DRAWN],
                    default=TO_PROMPT,
                    tooltip="What to do with classes of the map that no phrase names. "
                    f"'{TO_PROMPT}': nothing is added here. '{DRAWN}': a random slot of "
                    "the memory.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the random slots.",
                ),
                Parsing.Input(
                    "semantic_map",
                    optional=True,
                    tooltip="Only classes that occur in this map are looked up.",
                ),
            ],
            outputs=[
                Parts.Output("parts", tooltip="To Apply Appearance."),
                io.Image.Output(
                    "slot_images",
                    tooltip="What the memory answered to each phrase, with the shares of the mix.",
                ),
                io.String.Output("report", tooltip="Which phrase went to which class."),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        memory: Any,
        clip: Any,
        clothing_text: str,
        template: str,
        top_k: int,
        temperature: float,
        blend: float,
        if_unknown_words: str,
        if_unmentioned: str,
        seed: int,
        semantic_map: Tensor | None = None,
    ) -> io.NodeOutput:
        _check_clip(clip)
        if if_unmentioned == DRAWN and semantic_map is None:
            raise ValueError(
                f"'if_unmentioned' is '{DRAWN}', which needs to know what the picture shows: "
                "connect the semantic map to 'semantic_map'."
            )
        asked = host.Retrieval(
            template,
            top_k,
            temperature,
            blend,
            if_unknown_words == NEAREST,
            None if semantic_map is None else core.parts_in(semantic_map),
            if_unmentioned == DRAWN,
            seed,
        )
        parts, told = host.retrieve(clip, memory, split_phrases(clothing_text, unknown=True), asked)
        report = "\n".join(told) or "The text names nothing that is worn."
        picture = core.draw_parts(parts, memory.banks)[None]
        return io.NodeOutput(parts, picture, report, ui=ui.PreviewText(report))


def _check_clip(clip: Any) -> None:
    if clip is None:
        raise ValueError(
            "the checkpoint holds no text encoder. Connect 'clip' from a node that loads one."
        )


class VitruvianAppearanceFromImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianAppearanceFromImage",
            display_name="Appearance from Image",
            category=CATEGORY,
            description="Takes the look of clothes and hair from a photograph. Inspired by "
            "HumanDiffusion.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="The photograph. Of several, what they have in common."
                ),
                Parsing.Input("semantic_map", tooltip="The semantic map of the photograph."),
                _vision_input(),
                io.String.Input(
                    "part_names",
                    default="",
                    tooltip="Parts to take, separated by commas, such as: top, pants, hair. "
                    "Empty: all parts of the map.",
                ),
                strength_input(
                    "How strongly these parts act when they are applied. 0: not at all."
                ),
                *_asking_inputs(),
                Memory.Input(
                    "memory",
                    optional=True,
                    tooltip="Answers for the parts that it holds. Without it the photograph "
                    "itself is used.",
                ),
                _shrink_input(),
            ],
            outputs=[
                Parts.Output("parts", tooltip="To Apply Appearance."),
                io.Image.Output("slot_images", tooltip="What the memory answered to each part."),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        image: Tensor,
        semantic_map: Tensor,
        clip_vision: Any,
        part_names: str,
        strength: float,
        top_k: int,
        temperature: float,
        blend: float,
        memory: Any = None,
        shrink: int = 0,
    ) -> io.NodeOutput:
        if memory is not None:
            host.check_encoder(memory, clip_vision)
        wanted = [part_named(name) for name in read_phrases(part_names)]
        crops = part_encoder.encode_parts(
            clip_vision, _pairs([image], [semantic_map]), shrink=shrink
        )
        _check_there(wanted, crops)
        asked = host.Retrieval(top_k=top_k, temperature=temperature, blend=blend)
        found = host.parts_from_images(
            crops, memory, wanted or crops.parts.tolist(), strength, asked
        )
        banks = {} if memory is None else memory.banks
        return io.NodeOutput(found, core.draw_parts(found, banks)[None])


def _check_there(wanted: Sequence[int], crops: part_encoder.Crops) -> None:
    there = sorted(set(crops.parts.tolist()))
    missing = [CLASSES[part] for part in wanted if part not in there]
    if missing:
        raise ValueError(
            f"the map shows no {missing[0]} of {core.LEAST} pixels or more. It shows "
            f"{', '.join(CLASSES[part] for part in there)}: choose among these in 'part_names'."
        )


class VitruvianMergeAppearance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianMergeAppearance",
            display_name="Merge Appearance",
            category=CATEGORY,
            description="Combines the parts of two sources, for example words for the "
            "clothes and a photograph for the hair.",
            inputs=[
                Parts.Input(
                    "parts_1", tooltip="From Retrieve Appearance or Appearance from Image."
                ),
                Parts.Input(
                    "parts_2", tooltip="More parts. Where both have a class, this one is used."
                ),
            ],
            outputs=[Parts.Output("parts", tooltip="To Apply Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(cls, parts_1: Any, parts_2: Any) -> io.NodeOutput:
        return io.NodeOutput(core.merge_parts(parts_1, parts_2))


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadPartEncoder,
    VitruvianBuildMemory,
    VitruvianSaveMemory,
    VitruvianLoadMemory,
    VitruvianMergeMemories,
    VitruvianShowMemory,
    VitruvianRetrieveAppearance,
    VitruvianAppearanceFromImage,
    VitruvianMergeAppearance,
]

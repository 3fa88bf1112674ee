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
from .inputs import read_phrases, speaking_for, strength_input, weight_files
from .saving import free_path
from .semantic_map import Parsing

Memory = io.Custom("VITRUVIAN_MEMORY")
Parts = io.Custom("VITRUVIAN_PARTS")
CATEGORY = "Vitruvian/appearance"
EXTEND, UPDATE = "extend it", "update its slots"
TO_PROMPT, DRAWN = "left to the prompt", "random from the memory"
NEAREST = "nearest class"
NAMES = [CLASSES[part] for part in WHOLE_PERSON]


def _vision_input() -> io.Input:
    return io.ClipVision.Input(
        "clip_vision",
        tooltip="CLIP's image encoder. From Load Part Encoder it may bring the text "
        "projection that SD1.5 checkpoints lack.",
    )


def _asking_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "top_k",
            default=core.TOP_K,
            min=1,
            max=64,
            tooltip="How many slots of the memory are mixed. 1: the nearest alone.",
        ),
        io.Float.Input(
            "temperature",
            default=core.TEMPERATURE,
            min=0.001,
            max=1.0,
            step=0.001,
            tooltip="How evenly they are mixed: low, mostly the nearest; high, all alike.",
        ),
        io.Float.Input(
            "blend",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of what was asked with in the result. 0: what the memory answers, 1: "
            "the words or the photograph themselves.",
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
                    tooltip="The image encoder of the checkpoint's CLIP. For SD1.5 a whole CLIP "
                    "ViT-L/14 in a .safetensors file.",
                )
            ],
            outputs=[io.ClipVision.Output("clip_vision", tooltip="To Build Memory.")],
        )

    @classmethod
    def execute(cls, clip_vision_name: str) -> io.NodeOutput:
        with speaking_for("Load Part Encoder"):
            path = folder_paths.get_full_path_or_raise("clip_vision", clip_vision_name)
            return io.NodeOutput(part_encoder.load(Path(path)))


def _shrink_input() -> io.Input:
    return io.Int.Input(
        "shrink",
        default=0,
        min=0,
        max=64,
        tooltip="So many pixels of each part's border are not looked at: for coarse maps, such as "
        "those of a pose, in whose parts some background lies.",
    )


class VitruvianBuildMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianBuildMemory",
            display_name="Build Memory",
            category=CATEGORY,
            description="Keeps what the clothes, hair and other parts of pictures look like, class "
            "by class. Inspired by HumanDiffusion.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Pictures of people: batches or a list."),
                Parsing.Input(
                    "semantic_map",
                    tooltip="The semantic map of every picture, in their order, or one for all.",
                ),
                _vision_input(),
                io.Int.Input(
                    "max_slots",
                    default=512,
                    min=1,
                    max=65536,
                    tooltip="Most slots of a class. With "
                    "fewer parts in the pictures each has its own.",
                ),
                io.Int.Input(
                    "min_pixels",
                    default=core.LEAST,
                    min=1,
                    max=1000000,
                    tooltip="Parts with fewer pixels are left out.",
                ),
                Memory.Input("memory", optional=True, tooltip="A memory to go on with."),
                io.Combo.Input(
                    "memory_update",
                    options=[EXTEND, UPDATE],
                    default=EXTEND,
                    tooltip="What becomes of a memory that is connected: the new slots are added "
                    "to it, or its own move towards the parts they are nearest to (classes that it "
                    "lacks are added).",
                ),
                io.Float.Input(
                    "momentum",
                    default=core.MOMENTUM,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="When slots are updated, how much of each stays.",
                ),
                _shrink_input(),
            ],
            outputs=[Memory.Output("memory_out", "memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
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
        with speaking_for("Build Memory"):
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
            description="Writes a memory to models/vitruvian, for Load Memory. No file is ever "
            "overwritten.",
            is_output_node=True,
            inputs=[
                Memory.Input("memory", tooltip="From Build Memory or Merge Memories."),
                io.String.Input(
                    "filename_prefix",
                    default="memory",
                    tooltip="Name of the file; a number is added to a taken one.",
                ),
            ],
            outputs=[io.String.Output("filename", tooltip="The name that Load Memory shows.")],
        )

    @classmethod
    def execute(cls, memory: Any, filename_prefix: str) -> io.NodeOutput:
        with speaking_for("Save Memory"):
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
                    tooltip="A memory that was made with the image encoder of the checkpoint's "
                    "CLIP.",
                )
            ],
            outputs=[Memory.Output("memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
    def execute(cls, memory_name: str) -> io.NodeOutput:
        with speaking_for("Load Memory"):
            path = folder_paths.get_full_path_or_raise("vitruvian", memory_name)
            return io.NodeOutput(core.load(path))


class VitruvianMergeMemories(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianMergeMemories",
            display_name="Merge Memories",
            category=CATEGORY,
            description="All slots of two memories in one; equal ones are joined.",
            inputs=[
                Memory.Input("memory_1", tooltip="A memory."),
                Memory.Input(
                    "memory_2",
                    tooltip="Another of the same image encoder. The order does not matter.",
                ),
            ],
            outputs=[Memory.Output("memory", tooltip="To Retrieve Appearance.")],
        )

    @classmethod
    def execute(cls, memory_1: Any, memory_2: Any) -> io.NodeOutput:
        with speaking_for("Merge Memories"):
            return io.NodeOutput(core.merge(memory_1, memory_2))


class VitruvianShowMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianShowMemory",
            display_name="Show Memory",
            category=CATEGORY,
            description="A picture of all that a memory holds of one class.",
            is_output_node=True,
            inputs=[
                Memory.Input("memory", tooltip="A memory."),
                io.Combo.Input("memory_part", options=NAMES, tooltip="The class to look at."),
                io.Int.Input(
                    "columns", default=16, min=1, max=256, tooltip="Slots in a row of the picture."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "slot_images",
                    tooltip="Every slot by the picture nearest to it, those that stand "
                    "for most pictures first.",
                )
            ],
        )

    @classmethod
    def execute(cls, memory: Any, memory_part: str, columns: int) -> io.NodeOutput:
        number = CLASSES.index(memory_part)
        if number not in memory.parts:
            there = ", ".join(CLASSES[k] for k in memory.parts) or "nothing at all"
            raise ValueError(
                f"Show Memory: the memory holds no {memory_part}. It holds {there}: choose one in 'memory_part'."
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
            description="Free words for clothes and hair, each answered from the memory's class "
            "that it names. Inspired by HumanDiffusion.",
            inputs=[
                Memory.Input("memory", tooltip="From Load Memory or Build Memory."),
                io.Clip.Input("clip", tooltip="The checkpoint's."),
                io.String.Input(
                    "clothing_text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What is worn, in free words: a black T-shirt and denim pants, curly "
                    "red hair. (words:1.2) makes them stronger.",
                ),
                io.String.Input(
                    "template",
                    default=phrase_encoder.PLACEHOLDER,
                    tooltip="How each phrase goes to the text encoder. For a full-sized CLIP: a "
                    "photo of {phrase}",
                ),
                *_asking_inputs(),
                io.Combo.Input(
                    "if_unknown_words",
                    options=[TO_PROMPT, NEAREST],
                    default=TO_PROMPT,
                    tooltip="What becomes of phrases without a known word for something worn: "
                    "nothing here, or the class of the memory whose name is the most alike.",
                ),
                io.Combo.Input(
                    "if_unmentioned",
                    options=[TO_PROMPT, DRAWN],
                    default=TO_PROMPT,
                    tooltip="What becomes of classes of the map that no phrase names: nothing "
                    "here, or a slot drawn from the memory.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Of what is drawn."
                ),
                Parsing.Input(
                    "semantic_map",
                    optional=True,
                    tooltip="Only classes that occur in it are asked for.",
                ),
            ],
            outputs=[
                Parts.Output("parts", tooltip="To Apply Appearance."),
                io.Image.Output(
                    "slot_images",
                    tooltip="What the memory answered to each phrase, and the "
                    "shares in which that is mixed.",
                ),
                io.String.Output("report", tooltip="Which phrase went to which class."),
            ],
        )

    @classmethod
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
        with speaking_for("Retrieve Appearance"):
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
            parts, told = host.retrieve(
                clip, memory, split_phrases(clothing_text, unknown=True), asked
            )
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
            description="Takes clothes and hair from a photograph. Inspired by HumanDiffusion.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="The photograph; of several, what they have in common."
                ),
                Parsing.Input("semantic_map", tooltip="Its semantic map."),
                _vision_input(),
                io.String.Input(
                    "part_names",
                    default="",
                    tooltip="Classes to take, separated by commas, such as: "
                    "top, pants, hair. Empty: all in the map.",
                ),
                strength_input("Of these parts when they are applied."),
                *_asking_inputs(),
                Memory.Input(
                    "memory",
                    optional=True,
                    tooltip="Answers for what it holds; without one the photograph itself counts.",
                ),
                _shrink_input(),
            ],
            outputs=[
                Parts.Output("parts", tooltip="To Apply Appearance."),
                io.Image.Output("slot_images", tooltip="What the memory answered to each part."),
            ],
        )

    @classmethod
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
        with speaking_for("Appearance from Image"):
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
            description="Parts of two sources together, for example words for the clothes and a "
            "photograph for the hair.",
            inputs=[
                Parts.Input(
                    "parts_1", tooltip="From Retrieve Appearance or Appearance from Image."
                ),
                Parts.Input("parts_2", tooltip="More. Where both have a class, this one counts."),
            ],
            outputs=[Parts.Output("parts", tooltip="To Apply Appearance.")],
        )

    @classmethod
    def execute(cls, parts_1: Any, parts_2: Any) -> io.NodeOutput:
        with speaking_for("Merge Appearance"):
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

"""Look up what parts look like, in words or in a photograph (inspired by HumanDiffusion)."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..host import memory as host
from ..host import part_encoder, phrase_encoder
from ..host.progress import watched
from ..models import memory as core
from ..models import memory_drawing, part_crops
from ..models.phrases import split_phrases
from ..models.semantic_map import CLASSES, part_named
from .inputs import named_errors, read_images, read_phrases, seed_input, strength_input
from .memory import clip_vision_input, pair_with_maps, shrink_input
from .wires import Memory, Parts, SemanticMap

CATEGORY = "Vitruvian/appearance"
TO_PROMPT, RANDOM = "left to the prompt", "random from the memory"
NEAREST = "nearest class"


def _retrieval_inputs() -> list[io.Input]:
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
                *_retrieval_inputs(),
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
                    options=[TO_PROMPT, RANDOM],
                    default=TO_PROMPT,
                    tooltip="What to do with classes of the map that no phrase names. "
                    f"'{TO_PROMPT}': nothing is added here. '{RANDOM}': a random slot of "
                    "the memory.",
                ),
                seed_input("Seed of the random slots."),
                SemanticMap.Input(
                    "semantic_map",
                    optional=True,
                    tooltip="Only classes that occur in this map are looked up.",
                ),
            ],
            outputs=[
                Parts.Output("parts", "parts", tooltip="To Apply Appearance."),
                io.Image.Output(
                    "slot_images",
                    "slot_images",
                    tooltip="What the memory answered to each phrase, with the shares of the mix.",
                ),
                io.String.Output("report", "report", tooltip="Which phrase went to which class."),
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
        if if_unmentioned == RANDOM and semantic_map is None:
            raise ValueError(
                f"'if_unmentioned' is '{RANDOM}', which needs to know what the image shows: "
                "connect the semantic map to 'semantic_map'."
            )
        retrieval = host.Retrieval(
            template=template,
            top_k=top_k,
            temperature=temperature,
            blend=blend,
            guess_class=if_unknown_words == NEAREST,
            map_parts=None if semantic_map is None else part_crops.parts_in(semantic_map),
            fill_randomly=if_unmentioned == RANDOM,
            seed=seed,
        )
        parts, lines = host.retrieve(
            clip, memory, split_phrases(clothing_text, unknown=True), retrieval
        )
        report = "\n".join(lines) or "The text names nothing that is worn."
        slot_images = memory_drawing.draw_parts(parts, memory.banks)[None]
        return io.NodeOutput(parts, slot_images, report, ui=ui.PreviewText(report))


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
                SemanticMap.Input("semantic_map", tooltip="The semantic map of the photograph."),
                clip_vision_input(),
                io.String.Input(
                    "part_names",
                    default="",
                    tooltip="Parts to take, separated by commas, such as: top, pants, hair. "
                    "Empty: all parts of the map.",
                ),
                strength_input(
                    "How strongly these parts act when they are applied. 0: not at all."
                ),
                *_retrieval_inputs(),
                Memory.Input(
                    "memory",
                    optional=True,
                    tooltip="Answers for the parts that it holds. Without it the photograph "
                    "itself is used.",
                ),
                shrink_input(),
            ],
            outputs=[
                Parts.Output("parts", "parts", tooltip="To Apply Appearance."),
                io.Image.Output(
                    "slot_images", "slot_images", tooltip="What the memory answered to each part."
                ),
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
        selected_parts = [part_named(name) for name in read_phrases(part_names)]
        pairs = pair_with_maps([read_images(image)], [semantic_map], "image")
        crops = part_encoder.encode_parts(clip_vision, watched(pairs), shrink=shrink)
        _check_selection(selected_parts, crops)
        retrieval = host.Retrieval(top_k=top_k, temperature=temperature, blend=blend)
        image_parts = host.parts_from_images(
            crops, memory, selected_parts or crops.parts.tolist(), strength, retrieval
        )
        banks = {} if memory is None else memory.banks
        return io.NodeOutput(image_parts, memory_drawing.draw_parts(image_parts, banks)[None])


def _check_selection(selected_parts: Sequence[int], crops: part_encoder.Crops) -> None:
    map_parts = sorted(set(crops.parts.tolist()))
    missing = [CLASSES[part] for part in selected_parts if part not in map_parts]
    if missing:
        raise ValueError(
            f"the map shows no {missing[0]} of {part_crops.MIN_PIXELS} pixels or more. It shows "
            f"{', '.join(CLASSES[part] for part in map_parts)}: choose among these in 'part_names'."
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
            outputs=[Parts.Output("parts", "parts", tooltip="To Apply Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(cls, parts_1: Any, parts_2: Any) -> io.NodeOutput:
        return io.NodeOutput(core.merge_parts(parts_1, parts_2))


NODES: list[type[io.ComfyNode]] = [
    VitruvianRetrieveAppearance,
    VitruvianAppearanceFromImage,
    VitruvianMergeAppearance,
]

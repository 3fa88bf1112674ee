"""Describe the people, animals and things of an image, each with a prompt of their own."""

from typing import Any

import torch
from comfy_api.latest import io

from ..host.lora_files import loras_of_hooks, text_encoder_patched
from ..models import boxes, lora_tags
from ..models.answers import read_answer
from ..models.batches import one_each, paired_count
from ..models.compose import Instance, PersonLora
from .inputs import (
    canvas_inputs,
    count_input,
    named_errors,
    read_images,
    read_masks,
    read_reference,
)
from .person_loras import load_lora, lora_names
from .wires import AnyBoundingBox, Instances, PersonLoras

CATEGORY = "Vitruvian/compose"
AS_LISTED, LEFT_TO_RIGHT = "as listed", "left to right"


def _chain_input() -> io.Input:
    return Instances.Input(
        "instances",
        optional=True,
        tooltip="Instances that come before this one. This one is added after them.",
    )


class VitruvianAddInstance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianAddInstance",
            display_name="Add Instance",
            category=CATEGORY,
            description="Describes one person of the image: their own prompt and where they "
            "are. Chain several of these nodes, one per person.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The prompt of this person. Mention the setting in it too, such as "
                    "'in a park'.",
                ),
                io.Int.Input(
                    "person",
                    default=1,
                    min=0,
                    max=99,
                    tooltip="Which person of the pose this is, counted from the left: 1 is the "
                    "leftmost. 0: someone or something without a skeleton; the mask "
                    "says where.",
                ),
                io.Int.Input(
                    "order",
                    default=0,
                    min=-99,
                    max=99,
                    tooltip="Who is in front where people overlap: the higher number. With "
                    "equal numbers, the smaller person.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="How much room this person takes where people meet. 1: as much as "
                    "the others. Higher: more. Near 0: hardly any.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The area of this person. Without it, the body around the skeleton. "
                    "Mask k of a batch is for image k.",
                ),
                _chain_input(),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="What Preview Instances and messages call this instance, such as 'the "
                    "dog'. It does not change the image.",
                ),
                PersonLoras.Input(
                    "lora",
                    optional=True,
                    tooltip="LoRAs that change this person only, from Load Person LoRA.",
                ),
                io.Latent.Input(
                    "reference",
                    optional=True,
                    tooltip="An image of this person, encoded with the model's VAE, for a model "
                    "that edits images (Flux Kontext, Flux.2, Qwen-Image-Edit). For several, chain "
                    "Reference Latent nodes behind the prompt instead.",
                ),
            ],
            outputs=[
                Instances.Output(
                    "instances_out", "instances", tooltip="All instances up to this one."
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        conditioning: Any,
        person: int,
        order: int,
        weight: float,
        mask: torch.Tensor | None = None,
        instances: tuple[Instance, ...] = (),
        name: str = "",
        lora: tuple[PersonLora, ...] = (),
        reference: Any | None = None,
    ) -> io.NodeOutput:
        conditioning, hooked = read_prompt(conditioning, "conditioning")
        area = None if mask is None else read_masks(mask)
        references = () if reference is None else (read_reference(reference),)
        instance = Instance(
            conditioning, person, area, order, weight, name.strip(), (*hooked, *lora), references
        )
        return io.NodeOutput((*instances, instance))


def read_prompt(conditioning: Any, name: str) -> tuple[Any, tuple[PersonLora, ...]]:
    """Split a person's prompt into what reaches the model and the LoRAs that its hooks stand for.

    Refuse what it can not carry; `name` is the input that it comes from.
    """
    _check_prompt(conditioning, name)
    text, conds = conditioning[0]
    hooks = conds.get("hooks")
    if hooks is None:
        return conditioning, ()
    try:
        loras = loras_of_hooks(hooks)
    except ValueError as error:
        raise ValueError(f"the input '{name}' carries hooks: {error}") from None
    return [[text, {key: value for key, value in conds.items() if key != "hooks"}]], loras


def _check_prompt(conditioning: Any, name: str) -> None:
    """Refuse what a person's prompt can not carry; `name` is the input that it comes from."""
    if len(conditioning) != 1:
        raise ValueError(
            f"the input '{name}' gives {len(conditioning)} parts, but a person has one prompt. "
            "Take away Conditioning Combine, or a schedule of hooks on the CLIP."
        )
    entry = conditioning[0][1]
    for key, (title, fix) in REFUSED.items():
        value = entry.get(key)
        if value is not None and (key not in NEUTRAL or value != NEUTRAL[key]):
            raise ValueError(
                f"the input '{name}' carries {title}, which a person's prompt can not: {fix}."
            )


_PROMPTS = "connect it to the positive and negative prompt of Compose Instances"
_AREA = "connect a mask to Add Instance; it says where the person is"
_TIME = "start_percent and end_percent of Compose Instances hold for all people"
REFUSED = {  # in a conditioning entry: what it is, and what to do instead
    "control": ("a ControlNet", _PROMPTS),
    "area": ("an area", _AREA),
    "mask": ("a mask", _AREA),
    "strength": ("an area strength", "use the weight of Add Instance"),
    "default": ("the mark of a default conditioning", "take away that node"),
    "start_percent": ("a timestep range", _TIME),
    "end_percent": ("a timestep range", _TIME),
    "gligen": ("GLIGEN boxes", _AREA),
    "concat_latent_image": ("an image to inpaint", _PROMPTS),
    "concat_mask": ("a mask to inpaint", _PROMPTS),
    "additional_models": ("models of its own", "take away the node that adds them"),
}
NEUTRAL = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "default": False}


TAGS = "<lora:name:0.8> in a line loads that LoRA for this line only."


def _prompt_inputs(prompts: str, setting: str) -> list[io.Input]:
    """Make the inputs for one prompt per line; `prompts` and `setting` are their tooltips."""
    line = {"multiline": True, "dynamic_prompts": True}
    return [
        io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
        io.String.Input("prompts", tooltip=f"{prompts} {TAGS}", **line),
        io.String.Input("setting", default="", tooltip=setting, **line),
        io.String.Input(
            "quality",
            default="best quality",
            tooltip="Words that are added at the end of every prompt.",
        ),
    ]


def _prompt(person: str, setting: str, quality: str) -> str:
    """Join to "{person} {setting}, {quality}", as in the paper's prompts."""
    setting = " ".join(setting.split())
    return ", ".join(part for part in (f"{person} {setting}".strip(), quality.strip()) if part)


def _read_lines(prompts: str) -> list[str]:
    return [line.strip() for line in prompts.splitlines() if line.strip()]


def read_answer_lines(prompts: str, count: int) -> list[str]:
    """Read one line per person, also from the answer of a language model."""
    if not prompts.strip():
        raise ValueError("the input 'prompts' is empty. Write one line per person.")
    try:
        return read_answer(prompts, count)
    except ValueError as error:
        raise ValueError(
            f"the input 'prompts' can not be used: {error} Write one line per person, or ask the "
            "language model for that."
        ) from None


def _check_count(lines: list[str], name: str, count: int) -> None:
    """Refuse another number of lines than of masks or boxes in the input of this name."""
    if len(lines) != count:
        raise ValueError(
            f"the number of lines in 'prompts' is {len(lines)}, but that of '{name}' is {count}. "
            "Write one line for each, in their order."
        )


def _line_instances(clip: Any, lines: list[str], setting: str, quality: str) -> list[Instance]:
    """Encode one instance per line, without a place, with the LoRAs that the line names."""
    for name, text in (("setting", setting), ("quality", quality)):
        if lora_tags.has_tag(text):
            raise ValueError(
                f"the input '{name}' names a LoRA, but it belongs to everybody. Write the tag into "
                "the line of one person in 'prompts', or load the LoRA for the model."
            )
    read = [_read_loras(number, line) for number, line in enumerate(lines, 1)]
    return [
        _line_instance(clip, line, loras, _prompt(line, setting, quality)) for line, loras in read
    ]


def _read_loras(number: int, line: str) -> tuple[str, tuple[PersonLora, ...]]:
    """Split a line, the one of this number from 1, into its words and the LoRAs of its tags."""
    try:
        words, tags = lora_tags.read_tags(line)
        names = lora_names() if tags else []
        files = [lora_tags.find_file(tag, names) for tag in tags]
        return words, tuple(
            load_lora(file, tag.strength, tag.strength_clip)
            for file, tag in zip(files, tags, strict=True)
        )
    except ValueError as error:
        raise ValueError(f"line {number} of the input 'prompts': {error}") from error


def encode_prompt(clip: Any, text: str) -> Any:
    """Encode a text as the host's CLIP Text Encode does."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _line_instance(clip: Any, line: str, loras: tuple[PersonLora, ...], prompt: str) -> Instance:
    encoder = text_encoder_patched(clip, loras) if loras else clip
    conditioning, hooked = read_prompt(encode_prompt(encoder, prompt), "clip")
    return Instance(conditioning, 0, name=line, loras=(*hooked, *loras))


class VitruvianInstancesFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianInstancesFromText",
            display_name="Instances from Text",
            category=CATEGORY,
            description="Makes one instance per line of text. The first line is the "
            "leftmost person.",
            inputs=[
                *_prompt_inputs(
                    "One line per person, the leftmost person first. The answer of a language "
                    "model is read too: numbered, with bullets, or as JSON.",
                    "Where the people are. It is added to the prompt of every person.",
                ),
                _chain_input(),
                count_input(
                    "How many people the prompts are for, such as the count of Describe People: "
                    "another number of prompts is refused. 0: as many as there are.",
                    optional=True,
                ),
            ],
            outputs=[
                Instances.Output("instances_out", "instances", tooltip="One instance per line.")
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        clip: Any,
        prompts: str,
        setting: str,
        quality: str,
        instances: tuple[Instance, ...] = (),
        count: int = 0,
    ) -> io.NodeOutput:
        lines = read_answer_lines(prompts, count)
        first = max((instance.person for instance in instances), default=0) + 1
        people = person_instances(clip, lines, setting, quality, first)
        return io.NodeOutput((*instances, *people))


def person_instances(
    clip: Any, lines: list[str], setting: str, quality: str = "", first: int = 1
) -> tuple[Instance, ...]:
    """Encode one instance per line for the people of a pose from the left, counted from `first`."""
    people = enumerate(_line_instances(clip, lines, setting, quality), first)
    return tuple(instance._replace(person=number) for number, instance in people)


class VitruvianInstancesFromMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianInstancesFromMasks",
            display_name="Instances from Masks",
            category=CATEGORY,
            description="Makes one instance per mask: people, animals or things without a "
            "skeleton. The first line is for the first mask.",
            inputs=[
                *_prompt_inputs(
                    "One line per mask, in the order of the masks.",
                    "Where they are. It is added to every prompt.",
                ),
                io.Mask.Input(
                    "masks",
                    tooltip="One mask per instance, such as the individual masks of SAM 3. White "
                    "is where it is. They lie on the entire image.",
                ),
                _chain_input(),
            ],
            outputs=[
                Instances.Output("instances_out", "instances", tooltip="One instance per mask.")
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        clip: Any,
        prompts: str,
        setting: str,
        quality: str,
        masks: torch.Tensor,
        instances: tuple[Instance, ...] = (),
    ) -> io.NodeOutput:
        areas, lines = read_masks(masks, "masks"), _read_lines(prompts)
        _check_count(lines, "masks", len(areas))
        for number, area in enumerate(areas, 1):
            if not area.any():
                raise ValueError(
                    f"mask {number} of the input 'masks' is empty: nothing in it is white. Take "
                    "it out, together with its line of 'prompts', or mark a place in it."
                )
        placed = zip(_line_instances(clip, lines, setting, quality), areas, strict=True)
        return io.NodeOutput((*instances, *(one._replace(mask=area[None]) for one, area in placed)))


class VitruvianInstancesFromBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianInstancesFromBoxes",
            display_name="Instances from Boxes",
            category=CATEGORY,
            description="Makes one instance per box: people, animals or things without a "
            "skeleton. The first line is for the first box.",
            inputs=[
                *_prompt_inputs(
                    "One line per box, in the order that box_order says.",
                    "Where they are. It is added to every prompt.",
                ),
                AnyBoundingBox.Input(
                    "bboxes",
                    extra_dict={"forceInput": True},
                    tooltip="One box per instance, drawn by hand (Create Bounding Boxes) or from "
                    "any detector, in pixels. A list of boxes for each image is for a batch.",
                ),
                *canvas_inputs(
                    "Width of the image that the boxes lie on, in pixels.",
                    "Height of the image that the boxes lie on, in pixels.",
                ),
                io.Combo.Input(
                    "box_order",
                    options=[AS_LISTED, LEFT_TO_RIGHT],
                    default=AS_LISTED,
                    tooltip=f"Which box the first line is for. '{AS_LISTED}': the first one. "
                    f"'{LEFT_TO_RIGHT}': the leftmost one, for detectors, which list the most "
                    "certain box first.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image that the boxes lie on. Its size counts instead of "
                    "canvas_width and canvas_height.",
                ),
                _chain_input(),
            ],
            outputs=[
                Instances.Output("instances_out", "instances", tooltip="One instance per box.")
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        clip: Any,
        prompts: str,
        setting: str,
        quality: str,
        bboxes: Any,
        canvas_width: int,
        canvas_height: int,
        box_order: str,
        image: torch.Tensor | None = None,
        instances: tuple[Instance, ...] = (),
    ) -> io.NodeOutput:
        frames = _read_boxes(bboxes)
        size, fix = (canvas_width, canvas_height), "Set 'canvas_width' and 'canvas_height' to the"
        if image is not None:
            images = read_images(image)
            size, fix = (images.shape[2], images.shape[1]), "Connect as 'image' the"
            frames = one_each(frames, paired_count({"image": len(images), "bboxes": len(frames)}))
        lines = _read_lines(prompts)
        _check_count(lines, "bboxes", max(map(len, frames)))
        if box_order == LEFT_TO_RIGHT:
            frames = [boxes.left_to_right(frame) for frame in frames]
        areas = [
            _box_areas(frames, number, size, f"{fix} image that the boxes lie on.")
            for number in range(len(lines))
        ]
        placed = zip(_line_instances(clip, lines, setting, quality), areas, strict=True)
        return io.NodeOutput((*instances, *(one._replace(mask=area) for one, area in placed)))


def _read_boxes(bboxes: Any) -> list[list[boxes.Rectangle]]:
    """Read the boxes of every frame: equally many, or none where nobody is there."""
    try:
        frames = boxes.read_frames(bboxes)
    except ValueError as error:
        raise ValueError(f"the input 'bboxes' can not be used: {error}") from None
    counts = {len(frame) for frame in frames if frame}
    if not counts:
        raise ValueError(
            "the input 'bboxes' has no boxes. Draw one, or lower the threshold of the detector."
        )
    if len(counts) > 1:
        listed = ", ".join(str(len(frame)) for frame in frames)
        raise ValueError(
            f"the input 'bboxes' has another number of boxes for each image ({listed}), so it is "
            "not known whose they are. Give every image equally many, or none."
        )
    return frames


def _box_areas(
    frames: list[list[boxes.Rectangle]], number: int, size: tuple[int, int], fix: str
) -> torch.Tensor:
    """Draw the box of this number (from 0) in every frame, [frames, h, w]; `size` of the image."""
    masks: list[torch.Tensor | None] = []
    for place, frame in enumerate(frames, 1):
        try:
            masks.append(boxes.box_mask(frame[number], *size) if frame else None)
        except ValueError as error:
            of = f" for image {place}" if len(frames) > 1 else ""
            raise ValueError(f"box {number + 1} of the input 'bboxes'{of} {error} {fix}") from None
    blank = torch.zeros_like(next(mask for mask in masks if mask is not None))
    return torch.stack([blank if mask is None else mask for mask in masks])


NODES: list[type[io.ComfyNode]] = [
    VitruvianAddInstance,
    VitruvianInstancesFromText,
    VitruvianInstancesFromMasks,
    VitruvianInstancesFromBoxes,
]

"""Give every person of an image their own prompt and pose (FineControlNet)."""

from functools import partial
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..host import compose as host
from ..models import compose
from ..models.compose import Instance
from ..models.pose import MIN_CONFIDENCE
from .inputs import (
    check_order,
    min_confidence_input,
    named_errors,
    output_size,
    percent_inputs,
    pose_input,
    read_masks,
    read_pose,
    size_inputs,
    strength_input,
)
from .wires import Instances

CATEGORY = "Vitruvian/compose"
MEAN, SCENE = "mean of the people", "the positive prompt"
MODES = [host.EXACT, host.LAYERS, host.COUPLE]


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
    ) -> io.NodeOutput:
        _check_prompt(conditioning, "conditioning")
        area = None if mask is None else read_masks(mask)
        instance = Instance(conditioning, person, area, order, weight)
        return io.NodeOutput((*instances, instance))


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
    "hooks": ("hooks, such as a LoRA", "load the LoRA for the model, or hook it to the positive"),
    "gligen": ("GLIGEN boxes", _AREA),
    "concat_latent_image": ("an image to inpaint", _PROMPTS),
    "concat_mask": ("a mask to inpaint", _PROMPTS),
    "reference_latents": ("reference latents", "take away that node"),
    "unclip_conditioning": ("an unCLIP image", _PROMPTS),
    "additional_models": ("models of its own", "take away the node that adds them"),
}
NEUTRAL = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "default": False}


class VitruvianInstancesFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        line = {"multiline": True, "dynamic_prompts": True}
        return io.Schema(
            node_id="VitruvianInstancesFromText",
            display_name="Instances from Text",
            category=CATEGORY,
            description="Makes one instance per line of text. The first line is the "
            "leftmost person.",
            inputs=[
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                io.String.Input(
                    "prompts", tooltip="One line per person, the leftmost person first.", **line
                ),
                io.String.Input(
                    "setting",
                    default="",
                    tooltip="Where the people are. It is added to the prompt of every person.",
                    **line,
                ),
                io.String.Input(
                    "quality",
                    default="best quality",
                    tooltip="Words that are added at the end of every prompt.",
                ),
                _chain_input(),
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
    ) -> io.NodeOutput:
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise ValueError("the input 'prompts' is empty. Write one line per person.")
        first = max((instance.person for instance in instances), default=0) + 1
        texts = [_prompt(line, setting, quality) for line in lines]
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
        for conditioning in encoded:
            _check_prompt(conditioning, "clip")
        line_instances = map(Instance, encoded, range(first, first + len(lines)))
        return io.NodeOutput((*instances, *line_instances))


def _prompt(person: str, setting: str, quality: str) -> str:
    """Join to "{person} {setting}, {quality}", as in the paper's prompts."""
    setting = " ".join(setting.split())
    return ", ".join(part for part in (f"{person} {setting}".strip(), quality.strip()) if part)


class VitruvianComposeInstances(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01}
        return io.Schema(
            node_id="VitruvianComposeInstances",
            display_name="Compose Instances",
            category=CATEGORY,
            description="Gives every person in the image their own prompt and their own "
            "pose (FineControlNet). Connect all three outputs to the sampler.",
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5, SD2.x or SDXL model."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt of the entire image. It is used before start_percent "
                    "and after end_percent, and for the background if background_prompt "
                    "says so.",
                ),
                io.Conditioning.Input("negative", tooltip="What the image must not show."),
                Instances.Input(
                    "instances", tooltip="The people, from Add Instance or Instances from Text."
                ),
                pose_input(tooltip="The poses of the people. Every person needs an instance."),
                io.ControlNet.Input("control_net", tooltip="A ControlNet for poses (OpenPose)."),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default=host.EXACT,
                    tooltip="How the people are kept apart. exact: one pass per person, as in "
                    "the paper. layers: people are mixed after every block and look "
                    "more alike. couple: one pass for everybody, the fastest; only the "
                    "prompts are kept apart.",
                ),
                strength_input(
                    "How strongly the ControlNet holds people in their poses. 0: not at "
                    "all. 1: as usual. Try 1.5, the paper's value, when people leave "
                    "their poses."
                ),
                io.Float.Input(
                    "harmony",
                    default=0.5,
                    tooltip="Share of the sampling, counted from its end, in which overlapping "
                    "people blend. 0: never; every place belongs to one person. 1: from "
                    "the first step.",
                    **share,
                ),
                io.Float.Input(
                    "dilation",
                    default=0.06,
                    tooltip="How far the area of a person reaches beyond their body, as a share "
                    "of their height. 0: the body only.",
                    **share,
                ),
                *percent_inputs(),
                io.Combo.Input(
                    "background_prompt",
                    options=[MEAN, SCENE],
                    default=MEAN,
                    tooltip=f"Which prompt fills the places where nobody is. '{MEAN}': all "
                    f"people's prompts equally. '{SCENE}': the positive prompt, at the "
                    "cost of one more pass.",
                ),
                io.Boolean.Input(
                    "shared_negative",
                    default=False,
                    tooltip="On: one pass for the negative prompt with everybody's skeleton, "
                    "which saves a quarter to half of the time; people follow their "
                    "poses a little less. Off: one pass per person, as in the paper. "
                    "The mode couple always works as if this were on.",
                ),
                min_confidence_input(
                    "Points of the pose less certain than this are not used.", optional=True
                ),
            ],
            outputs=[
                io.Model.Output("model_out", "model", tooltip="To the sampler."),
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
        model: Any,
        positive: Any,
        negative: Any,
        instances: tuple[Instance, ...],
        pose: Any,
        control_net: Any,
        mode: str,
        strength: float,
        harmony: float,
        dilation: float,
        start_percent: float,
        end_percent: float,
        background_prompt: str,
        shared_negative: bool,
        min_confidence: float = MIN_CONFIDENCE,
    ) -> io.NodeOutput:
        check_order(start_percent, end_percent)
        frames = compose.instance_frames(instances, read_pose(pose, min_confidence=min_confidence))
        composition = host.Composition(
            people=tuple(instance.conditioning[0] for instance in instances),
            masks=partial(frames.areas, dilation=dilation),
            hint=frames.skeletons,
            canvas=(frames.people[0].width, frames.people[0].height),
            order=tuple(instance.order for instance in instances),
            mode=mode,
            harmony=harmony,
            scene=background_prompt == SCENE,
            shared_negative=shared_negative,
            start_percent=start_percent,
            end_percent=end_percent,
        )
        composed = host.compose_model(model, composition)
        control = host.ComposedControl(control_net, composition, strength)
        return io.NodeOutput(composed, *host.attach(control, positive, negative))


class VitruvianPreviewInstances(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPreviewInstances",
            display_name="Preview Instances",
            category=CATEGORY,
            description="Shows which part of the image belongs to which person.",
            is_output_node=True,
            inputs=[
                Instances.Input(
                    "instances", tooltip="The people, from Add Instance or Instances from Text."
                ),
                pose_input(tooltip="The poses of the people."),
                *size_inputs(),
                io.Float.Input(
                    "dilation",
                    default=0.06,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the area of a person reaches beyond their body. Use the "
                    "value of Compose Instances. 0: the body only.",
                ),
                min_confidence_input(
                    "Points of the pose less certain than this are not used.", optional=True
                ),
            ],
            outputs=[
                io.Image.Output(
                    "preview",
                    "preview",
                    tooltip="The area of each person in a color of its own, with number and "
                    "skeleton. Dark: nobody's area.",
                ),
                io.Mask.Output(
                    "masks",
                    "masks",
                    tooltip="One mask per person: the area that is theirs. Of a pose with "
                    "several frames, all people of the first frame come first.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        instances: tuple[Instance, ...],
        pose: Any,
        output_width: int,
        output_height: int,
        dilation: float,
        min_confidence: float = MIN_CONFIDENCE,
    ) -> io.NodeOutput:
        frames = compose.instance_frames(instances, read_pose(pose, min_confidence=min_confidence))
        size = output_size(list(frames.people), output_width, output_height)
        order = [instance.order for instance in instances]
        areas = [
            compose.hard_shares(occupied, order)[:, 0, 0] * (occupied.amax(0) > 0)
            for occupied in frames.areas(*size, dilation=dilation)
        ]
        skeletons = frames.skeletons(compose.MERGED, *size)
        preview = torch.stack(list(map(compose.draw_shares, areas, skeletons)))
        return io.NodeOutput(preview, torch.cat(areas), ui=ui.PreviewImage(preview, cls=cls))


NODES: list[type[io.ComfyNode]] = [
    VitruvianAddInstance,
    VitruvianInstancesFromText,
    VitruvianComposeInstances,
    VitruvianPreviewInstances,
]

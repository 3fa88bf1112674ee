"""A prompt and a pose for every person (FineControlNet)."""

from functools import partial
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..host import compose as host
from ..models import compose
from ..models.compose import Instance
from .inputs import (
    check_order,
    percent_inputs,
    picture_size,
    pose_input,
    read_pose,
    size_inputs,
    speaking_for,
    strength_input,
)

Instances = io.Custom("VITRUVIAN_INSTANCES")
CATEGORY = "Vitruvian/compose"
MEAN, SCENE = "mean of the people", "the positive prompt"
MODES = [host.EXACT, host.LAYERS, host.COUPLE]


def _chain_input() -> io.Input:
    return Instances.Input(
        "instances", optional=True, tooltip="Instances before this one; it is added behind them."
    )


class VitruvianAddInstance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianAddInstance",
            display_name="Add Instance",
            category=CATEGORY,
            description="One person of a picture: their own prompt, and where they are.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt for this person, with the setting in it."
                ),
                io.Int.Input(
                    "person",
                    default=1,
                    min=0,
                    max=99,
                    tooltip="Number of the person in the pose, 1 is the leftmost. 0: somebody or "
                    "something without a skeleton, placed by the mask alone.",
                ),
                io.Int.Input(
                    "order",
                    default=0,
                    min=-99,
                    max=99,
                    tooltip="Who is in front where people overlap: the higher number. With equal "
                    "numbers the smaller person is.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="Of this person where people meet: above 1 they take more room.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The person's own area. Without it, the body around the skeleton.",
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
    def execute(
        cls,
        conditioning: Any,
        person: int,
        order: int,
        weight: float,
        mask: torch.Tensor | None = None,
        instances: tuple[Instance, ...] = (),
    ) -> io.NodeOutput:
        with speaking_for("Add Instance"):
            _check_conditioning(conditioning)
        area = None if mask is None else mask.reshape(-1, *mask.shape[-2:])[0]
        made = Instance(conditioning, person, area, order, weight)
        return io.NodeOutput((*instances, made))


def _check_conditioning(conditioning: Any) -> None:
    if len(conditioning) != 1:
        raise ValueError(
            f"the input 'conditioning' has {len(conditioning)} parts, but a person has one prompt: "
            "connect a CLIP Text Encode node without Conditioning Combine behind it."
        )
    kept = set(conditioning[0][1]) & {"control", "area", "mask", "hooks", "gligen"}
    if kept:
        raise ValueError(
            f"the input 'conditioning' carries '{min(kept)}', which a person's prompt can not. "
            "Connect the plain prompt; ControlNets and masks go to Compose Instances."
        )


class VitruvianInstancesFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        line = {"multiline": True, "dynamic_prompts": True}
        return io.Schema(
            node_id="VitruvianInstancesFromText",
            display_name="Instances from Text",
            category=CATEGORY,
            description="A line of text for each person, from left to right.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                io.String.Input(
                    "prompts", tooltip="One line per person, the leftmost first.", **line
                ),
                io.String.Input(
                    "setting", default="", tooltip="Where they are: goes into every prompt.", **line
                ),
                io.String.Input(
                    "quality",
                    default="best quality",
                    tooltip="Goes to the end of every prompt.",
                ),
                _chain_input(),
            ],
            outputs=[
                Instances.Output("instances_out", "instances", tooltip="One instance per line.")
            ],
        )

    @classmethod
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
            raise ValueError(
                "Instances from Text: the input 'prompts' is empty. Write one line per person."
            )
        first = max((instance.person for instance in instances), default=0) + 1
        made = [
            Instance(clip.encode_from_tokens_scheduled(clip.tokenize(text)), first + number)
            for number, text in enumerate(_prompt(line, setting, quality) for line in lines)
        ]
        return io.NodeOutput((*instances, *made))


def _prompt(person: str, setting: str, quality: str) -> str:
    """ "{person} {setting}, {quality}", as the paper's prompts are put together."""
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
            description="Gives every person in the picture their own prompt and their own pose "
            "(FineControlNet). Connect all three outputs to the sampler.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.5, SD2.x or SDXL."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt of the whole picture: used for the background "
                    "if asked for, and before 'start_percent' and after 'end_percent'.",
                ),
                io.Conditioning.Input("negative", tooltip="What the picture must not show."),
                Instances.Input("instances", tooltip="The people, from Add Instance nodes."),
                pose_input(tooltip="Their poses. Each person needs an instance."),
                io.ControlNet.Input("control_net", tooltip="A pose (OpenPose) ControlNet."),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default=host.EXACT,
                    tooltip="exact: the paper's method, one pass per person. layers: people mixed "
                    "after every block, more alike. couple: one pass for all, fastest, with "
                    "prompts kept apart in the cross-attention alone.",
                ),
                strength_input(
                    "Of the ControlNet. The paper works with 1.5: try it when people "
                    "leave their poses."
                ),
                io.Float.Input(
                    "harmony",
                    default=0.5,
                    tooltip="Share of the steps, the last ones, in which people who overlap blend. "
                    "Before that every place belongs to one person.",
                    **share,
                ),
                io.Float.Input(
                    "dilation",
                    default=0.06,
                    tooltip="How far a person's area reaches beyond the body, as a share of their "
                    "height.",
                    **share,
                ),
                *percent_inputs(),
                io.Combo.Input(
                    "background_prompt",
                    options=[MEAN, SCENE],
                    default=MEAN,
                    tooltip="What paints the places where nobody is: all people's prompts alike, "
                    "or the positive prompt (one more pass).",
                ),
                io.Boolean.Input(
                    "shared_negative",
                    default=False,
                    tooltip="One pass for the negative prompt with everybody's skeleton, and not "
                    "one per person as in the paper: a quarter to half of the time less, people "
                    "a little less true to their poses. The mode couple always does so.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", "model", tooltip="To the sampler."),
                io.Conditioning.Output("positive_out", "positive", tooltip="To the sampler."),
                io.Conditioning.Output("negative_out", "negative", tooltip="To the sampler."),
            ],
        )

    @classmethod
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
    ) -> io.NodeOutput:
        with speaking_for("Compose Instances"):
            check_order(start_percent, end_percent)
            figures = compose.instance_people(instances, read_pose(pose)[0])
            composition = host.Composition(
                people=tuple(instance.conditioning[0] for instance in instances),
                masks=partial(compose.instance_areas, instances, figures, dilation=dilation),
                hint=partial(compose.draw_skeleton, figures),
                order=tuple(instance.order for instance in instances),
                mode=mode,
                harmony=harmony,
                scene=background_prompt == SCENE,
                shared_negative=shared_negative,
                start=start_percent,
                end=end_percent,
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
            description="Shows who owns which part of the picture.",
            is_output_node=True,
            inputs=[
                Instances.Input("instances", tooltip="The people, from Add Instance nodes."),
                pose_input(tooltip="Their poses."),
                *size_inputs(),
                io.Float.Input(
                    "dilation",
                    default=0.06,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="As in Compose Instances.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "preview",
                    tooltip="Each person's area in a colour of its own, with their "
                    "number and skeleton. Dark: nobody's.",
                ),
                io.Mask.Output("masks", tooltip="One mask per person: the places they own."),
            ],
        )

    @classmethod
    def execute(
        cls,
        instances: tuple[Instance, ...],
        pose: Any,
        output_width: int,
        output_height: int,
        dilation: float,
    ) -> io.NodeOutput:
        with speaking_for("Preview Instances"):
            frames = read_pose(pose)
            figures = compose.instance_people(instances, frames[0])
        size = picture_size(frames, output_width, output_height)
        occupied = compose.instance_areas(instances, figures, *size, dilation=dilation)
        order = [instance.order for instance in instances]
        owned = compose.hard_shares(occupied, order)[:, 0, 0] * (occupied.amax(0) > 0)
        picture = compose.draw_shares(owned, compose.draw_skeleton(figures, compose.MERGED, *size))
        return io.NodeOutput(picture[None], owned, ui=ui.PreviewImage(picture[None], cls=cls))


NODES: list[type[io.ComfyNode]] = [
    VitruvianAddInstance,
    VitruvianInstancesFromText,
    VitruvianComposeInstances,
    VitruvianPreviewInstances,
]

"""Give every person, animal or thing of an image their own prompt and pose (FineControlNet)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from comfy_api.latest import io, ui

from ..host import compose as host
from ..host.progress import watched
from ..models import compose, compose_drawing
from ..models.compose import Frames, Instance
from ..models.pose import MIN_CONFIDENCE
from .inputs import (
    check_order,
    min_confidence_input,
    named_errors,
    output_size,
    percent_inputs,
    pose_input,
    read_pose,
    size_inputs,
    strength_input,
)
from .wires import Instances, ModelPatch

CATEGORY = "Vitruvian/compose"
MEAN, SCENE = "mean of the people", "the positive prompt"
MODES = [host.EXACT, host.LAYERS, host.COUPLE]
SOURCES = "From Add Instance, Instances from Text, from Masks or from Boxes."


def _read_frames(
    instances: tuple[Instance, ...], keypoints: Any | None, min_confidence: float
) -> Frames:
    """Find the people of the instances in the input 'pose', which may not be connected."""
    if keypoints is None:
        return compose.instance_frames(instances)
    return compose.instance_frames(instances, read_pose(keypoints, min_confidence=min_confidence))


def model_control_inputs() -> list[io.Input]:
    """Make the inputs that the pose control of some model families needs."""
    return [
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="The model's VAE, for a control that reads latents (of Flux, SD3, "
            "Qwen-Image, Z-Image). A message says when it is needed.",
        ),
        ModelPatch.Input(
            "model_patch",
            optional=True,
            tooltip="The pose control of families that have no ControlNet, from Load Model "
            "Patch: Z-Image's Fun union or Anima's LLLite.",
        ),
    ]


class VitruvianComposeInstances(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01}
        return io.Schema(
            node_id="VitruvianComposeInstances",
            display_name="Compose Instances",
            category=CATEGORY,
            description="Gives every person in the image their own prompt and their own "
            "pose (FineControlNet). Connect model, positive and negative to the sampler.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD1.5, SD2.x, SDXL, or a transformer such as Flux, Z-Image or "
                    "Qwen-Image. The help page lists all.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt of the entire image. It is used before start_percent "
                    "and after end_percent, and for the background if background_prompt "
                    "says so.",
                ),
                io.Conditioning.Input("negative", tooltip="What the image must not show."),
                Instances.Input("instances", tooltip=f"The people, animals and things. {SOURCES}"),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default=host.EXACT,
                    tooltip="How the people are kept apart. exact: one pass per person, as in "
                    "the paper. layers (not for transformers): people are mixed after every "
                    "block and look more alike. couple: one pass for everybody, the fastest; "
                    "only the prompts are kept apart.",
                ),
                strength_input(
                    "How strongly the ControlNet or model patch holds people in their poses. 0: "
                    "not at all. 1: as usual. Try 1.5, the paper's value, when people leave "
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
                pose_input(
                    "pose",
                    "The poses of the people. Every person needs an instance. Without it, every "
                    "instance needs a mask or a box.",
                    optional=True,
                ),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="A ControlNet for poses (OpenPose or union), of the model's family. "
                    "Without it, people have their places but no poses.",
                ),
                min_confidence_input(
                    "Points of the pose less certain than this are not used.", optional=True
                ),
                *model_control_inputs(),
                io.Float.Input(
                    "region_feather",
                    default=0.0,
                    optional=True,
                    tooltip="How soft the border between two people is, as a share of the image's "
                    "longer side. 0: sharp.",
                    **share,
                ),
                io.Float.Input(
                    "scene_share",
                    default=0.0,
                    optional=True,
                    tooltip="Share of the positive prompt in every place, which makes one image of "
                    "the regions, at the cost of one more pass. 0: each place has its own prompt "
                    "only. 1: the positive prompt only.",
                    **share,
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
                io.Mask.Output(
                    "person_masks",
                    "person_masks",
                    tooltip="The place of each person, one mask per person, for what other nodes "
                    "give to a region, such as the attn_mask of IPAdapter.",
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
        pose: Any | None = None,
        control_net: Any | None = None,
        *,
        mode: str,
        strength: float,
        harmony: float,
        dilation: float,
        start_percent: float,
        end_percent: float,
        background_prompt: str,
        shared_negative: bool,
        min_confidence: float = MIN_CONFIDENCE,
        vae: Any | None = None,
        model_patch: Any | None = None,
        region_feather: float = 0.0,
        scene_share: float = 0.0,
    ) -> io.NodeOutput:
        check_order(start_percent, end_percent)
        if pose is None:
            _check_nothing_is_drawn({"control_net": control_net, "model_patch": model_patch})
        _check_guidance(instances, positive)
        outputs = compose_frames(
            model,
            (positive, negative),
            _read_frames(instances, pose, min_confidence),
            Controls(control_net, strength, vae, model_patch),
            dilation,
            mode=mode,
            harmony=harmony,
            scene=background_prompt == SCENE,
            shared_negative=shared_negative,
            start_percent=start_percent,
            end_percent=end_percent,
            feather=region_feather,
            scene_share=scene_share,
        )
        return io.NodeOutput(*outputs)


class Controls(NamedTuple):
    """What holds people in their poses, and how strongly."""

    control_net: Any | None
    strength: float
    vae: Any | None
    model_patch: Any | None


def compose_frames(
    model: Any,
    prompts: tuple[Any, Any],
    frames: Frames,
    controls: Controls,
    dilation: float,
    **settings: Any,
) -> tuple[Any, Any, Any, torch.Tensor]:
    """Compose the instances of all frames: model, positive, negative and the masks of the people.

    prompts: positive and negative; settings: the other fields of host.Composition, by their names.
    """
    composition = host.Composition(
        people=tuple(_entry(instance) for instance in frames.instances),
        masks=_areas_while_sampling(frames, dilation, blended=settings["harmony"] > 0),
        hint=frames.skeletons,
        canvas=frames.canvas,
        order=frames.order,
        loras=tuple(instance.loras for instance in frames.instances),
        **settings,
    )
    control = host.ComposedControl(
        controls.control_net,
        composition,
        controls.strength,
        vae=controls.vae,
        model_patch=controls.model_patch,
    )
    try:
        composed = host.compose_model(model, composition)
        host.check_controls(model, control)
    except ValueError as error:
        raise ValueError(composition.in_words_of_the_node(str(error))) from error
    return composed, *host.attach(control, *prompts), frames.person_masks(dilation)


def _check_nothing_is_drawn(controls: dict[str, Any]) -> None:
    """Refuse controls (by the name of their input) that have no pose to draw."""
    for name, control in controls.items():
        if control is not None:
            raise ValueError(
                f"the input '{name}' is connected, but 'pose' is not, so there is no pose for it "
                f"to follow. Connect 'pose', or take '{name}' away: places need neither."
            )


def _check_guidance(instances: tuple[Instance, ...], positive: Any) -> None:
    """Refuse a person's prompt with another guidance than the one that holds for all people."""
    common = {entry.get("guidance") for _, entry in positive}
    for number, instance in enumerate(instances):
        guidance = instance.conditioning[0][1].get("guidance")
        if guidance is not None and common != {guidance}:
            raise ValueError(
                f"the prompt of {compose.title(number, instance)} has the guidance {guidance:g}, "
                "but that of 'positive' holds for all people. Connect Flux Guidance to 'positive', "
                "and encode the prompts of the people without one."
            )


def _entry(instance: Instance) -> list[Any]:
    """Return the conditioning entry of an instance, with the reference images of this person behind
    those that the prompt carries.
    """
    text, conds = instance.conditioning[0]
    if not instance.references:
        return instance.conditioning[0]
    latents = [*conds.get("reference_latents", ()), *instance.references]
    return [text, {**conds, "reference_latents": latents}]


def _areas_while_sampling(
    frames: Frames, dilation: float, *, blended: bool
) -> Callable[[int, int], torch.Tensor]:
    """Make the function that draws everybody's areas at the size of a sampling, where the host does
    not say which node speaks.
    """

    def areas(width: int, height: int) -> torch.Tensor:
        try:
            return frames.areas(width, height, dilation=dilation, blended=blended)
        except ValueError as error:
            raise ValueError(f"{host.NODE}: {error}") from None

    return areas


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
                Instances.Input("instances", tooltip=f"The people, animals and things. {SOURCES}"),
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
                pose_input(
                    "pose",
                    "The poses of the people. Without it, every instance needs a mask or a box.",
                    optional=True,
                ),
                min_confidence_input(
                    "Points of the pose less certain than this are not used.", optional=True
                ),
            ],
            outputs=[
                io.Image.Output(
                    "preview",
                    "preview",
                    tooltip="The area of each person in a color of its own, with number, share of "
                    "the image, name and skeleton. Dark: nobody's area.",
                ),
                io.Mask.Output(
                    "masks",
                    "masks",
                    tooltip="One mask per person: the area that is theirs. Of a pose with "
                    "several frames, all people of the first frame come first.",
                ),
                io.String.Output(
                    "report",
                    "report",
                    tooltip="A line per instance: its number, how much of the image is its own, "
                    "its name or prompt, and the LoRAs and reference images it carries.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        instances: tuple[Instance, ...],
        output_width: int,
        output_height: int,
        dilation: float,
        pose: Any | None = None,
        min_confidence: float = MIN_CONFIDENCE,
    ) -> io.NodeOutput:
        frames = _read_frames(instances, pose, min_confidence)
        size = output_size(list(frames.people), output_width, output_height)
        areas = frames.areas(*size, dilation=dilation)
        owned = [compose.owned_places(frame, frames.order) for frame in areas]
        names = [instance.name for instance in instances]
        skeletons = frames.skeletons(compose.MERGED, *size)
        previews = [
            compose_drawing.draw_shares(places, drawn, names)
            for places, drawn in zip(watched(owned), skeletons, strict=True)
        ]
        preview = torch.stack(previews)
        labels = [_label(instance) for instance in instances]
        report = "\n".join(
            f"{number}: {compose_drawing.percentage(torch.stack(places))} {label}".rstrip()
            for number, (label, *places) in enumerate(zip(labels, *owned, strict=True), 1)
        )
        return io.NodeOutput(
            preview, torch.cat(owned), report, ui=ui.PreviewImage(preview, cls=cls)
        )


def _label(instance: Instance) -> str:
    """Name an instance and what it carries, such as "a knight [LoRA arthur 0.8, 1 reference]"."""
    carried = [f"LoRA {lora.name} {lora.strength:g}" for lora in instance.loras]
    if count := len(_entry(instance)[1].get("reference_latents", ())):
        carried.append(f"{count} reference image{'s' if count > 1 else ''}")
    return f"{instance.name} [{', '.join(carried)}]" if carried else instance.name


NODES: list[type[io.ComfyNode]] = [
    VitruvianComposeInstances,
    VitruvianPreviewInstances,
]

"""Give every person of a pose their own prompt, in one node from the checkpoint to the sampler."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..host import compose as host
from ..host.control_net import load_control_net
from ..host.sampling import empty_latent
from ..models import compose, pose
from ..models.pose import People
from .compose import MODES, Controls, compose_frames, model_control_inputs
from .inputs import named_errors, output_size, pose_input, read_pose, size_inputs, strength_input
from .instances import TAGS, encode_prompt, person_instances, read_answer_lines

NODE = "Compose People"
FOLDER, FILE_INPUT, NO_CONTROL = "controlnet", "control_net_name", "none"
POSE_WORDS = ("pose", "union")  # in the names of files, the better word first
HARMONY, DILATION = 0.5, 0.06  # the defaults of Compose Instances


def _control_net_input() -> io.Input:
    names = folder_paths.get_filename_list(FOLDER)
    by_word = [name for word in POSE_WORDS for name in names if word in name.lower()]
    return io.Combo.Input(
        FILE_INPUT,
        options=[NO_CONTROL, *names],
        default=next(iter(by_word), NO_CONTROL),
        tooltip="The file in models/controlnet that holds people in their poses: an OpenPose or "
        f"union ControlNet of the model's family. {NO_CONTROL}: people have their places but no "
        "poses.",
    )


class VitruvianComposePeople(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        text: dict[str, Any] = {"multiline": True, "dynamic_prompts": True}
        return io.Schema(
            node_id="VitruvianComposePeople",
            display_name=NODE,
            category="Vitruvian/compose",
            description="Gives every person of a pose their own prompt, in one node. Connect model "
            "and clip from Load Checkpoint, pose and prompts from Pose Editor, and the outputs to "
            "the sampler.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD1.5, SD2.x, SDXL, or a transformer such as Flux, Z-Image or "
                    "Qwen-Image. The help page of Compose Instances lists all.",
                ),
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                pose_input("pose", "The people: from Pose Editor, Detect Pose or Load Pose."),
                io.String.Input(
                    "prompts",
                    tooltip="One line per person, the leftmost person first. Pose Editor gives "
                    f"them. {TAGS}",
                    **text,
                ),
                io.String.Input(
                    "setting",
                    default="",
                    tooltip="Where the people are and how the image looks, such as 'in a park, "
                    "full body'. It is added to the prompt of every person, and is the positive "
                    "prompt of the entire image.",
                    **text,
                ),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    tooltip="What the image must not show.",
                    **text,
                ),
                _control_net_input(),
                strength_input(
                    "How strongly the ControlNet or model patch holds people in their poses. 0: "
                    "not at all. 1: as usual. Try 1.5 when people leave their poses."
                ),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default=host.EXACT,
                    tooltip="How the people are kept apart. exact: one pass per person. layers "
                    "(not for transformers): people are mixed after every block and look more "
                    "alike. couple: one pass for everybody, the fastest; only the prompts are "
                    "kept apart.",
                ),
                *size_inputs(),
                *model_control_inputs(),
            ],
            outputs=[
                io.Model.Output("model_out", "model", tooltip="To the sampler."),
                io.Conditioning.Output(
                    "positive", "positive", tooltip="To the sampler's positive."
                ),
                io.Conditioning.Output(
                    "negative", "negative", tooltip="To the sampler's negative."
                ),
                io.Latent.Output(
                    "latent",
                    "latent",
                    tooltip="An empty latent of the pose's size, one per frame of the pose, to "
                    "the sampler's latent_image.",
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
        clip: Any,
        pose: Any,
        prompts: str,
        setting: str,
        negative_prompt: str,
        control_net_name: str,
        strength: float,
        mode: str,
        output_width: int,
        output_height: int,
        vae: Any | None = None,
        model_patch: Any | None = None,
    ) -> io.NodeOutput:
        people = read_pose(pose)
        lines = _read_lines(prompts, people)
        frames = compose.instance_frames(person_instances(clip, lines, setting), people)
        control_net = None
        if control_net_name != NO_CONTROL and strength != 0:
            control_net = load_control_net(model, control_net_name, FILE_INPUT)
        composed, positive, negative, person_masks = compose_frames(
            model,
            (encode_prompt(clip, setting), encode_prompt(clip, negative_prompt)),
            frames,
            Controls(control_net, strength, vae, model_patch),
            DILATION,
            mode=mode,
            harmony=HARMONY,
            scene=False,
            shared_negative=False,
            start_percent=0.0,
            end_percent=1.0,
            node=NODE,
            control_input=FILE_INPUT,
        )
        width, height = output_size(people, output_width, output_height)
        latent = empty_latent(model, width, height, len(frames.people))
        return io.NodeOutput(composed, positive, negative, latent, person_masks)


def _read_lines(prompts: str, frames: list[People]) -> list[str]:
    """Read one line for each person of the frame with the most people."""
    lines, count = read_answer_lines(prompts, 0), max(pose.count(people) for people in frames)
    if len(lines) != count:
        raise ValueError(
            f"the number of people in 'prompts' is {len(lines)}, but in 'pose' it is {count}. "
            "Write one line for each person, from left to right, or change the pose in Pose Editor "
            "or with Pick People."
        )
    return lines


NODES: list[type[io.ComfyNode]] = [VitruvianComposePeople]

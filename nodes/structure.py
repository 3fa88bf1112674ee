"""Image, depth and normals denoised together (HyperHuman)."""

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ..host import structure as host
from ..models import structure
from .inputs import speaking_for, weight_files

CATEGORY = "Vitruvian/structure"
NOISE, VELOCITY = "noise", "velocity"


class VitruvianStructureLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianStructureLoader",
            display_name="Load Structure Model",
            category=CATEGORY,
            description="Loads a model that paints a picture, its depth and its normals together, "
            "from models/vitruvian. Text encoder and VAE are those of the checkpoint it was made "
            "of.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=weight_files("structure"),
                    tooltip="A file that Vitruvian's structure trainer wrote.",
                )
            ],
            outputs=[
                io.Model.Output(
                    "model", tooltip="To a sampler, with a latent from Empty Structure Latent."
                )
            ],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        with speaking_for("Load Structure Model"):
            path = folder_paths.get_full_path_or_raise("vitruvian", file)
            return io.NodeOutput(host.load(Path(path)))


class VitruvianStructureFromCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianStructureFromCheckpoint",
            display_name="Structure Model from Checkpoint",
            category=CATEGORY,
            description="Makes an untrained structure model of an SD1.5 or SD2 checkpoint: its "
            "outer layers three times. It paints three pictures that share what they show, until "
            "it has learnt depth and normals.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=folder_paths.get_filename_list("checkpoints"),
                    tooltip="Of the kind of SD1.5 or SD2; no inpainting model.",
                ),
                io.Combo.Input(
                    "fusion",
                    options=[*structure.FUSIONS],
                    default=structure.MEAN,
                    tooltip="How the three meet in the shared layers: their mean or sum, depth and "
                    "normals brought to the picture's statistics first; learnt: a layer that "
                    "starts as the mean; pair: the mean without normals; off: the picture's alone.",
                ),
                io.Combo.Input(
                    "predicts",
                    options=[NOISE, VELOCITY],
                    default=NOISE,
                    tooltip="What the checkpoint predicts: noise for SD1.5 and most of SD2, "
                    "velocity for SD2 at 768 pixels.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="To a sampler.")],
        )

    @classmethod
    def execute(cls, checkpoint: str, fusion: str, predicts: str) -> io.NodeOutput:
        with speaking_for("Structure Model from Checkpoint"):
            path = folder_paths.get_full_path_or_raise("checkpoints", checkpoint)
            return io.NodeOutput(host.from_checkpoint(Path(path), fusion, predicts == NOISE))


class VitruvianEmptyStructureLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"default": 512, "min": 64, "max": 8192, "step": 8}
        return io.Schema(
            node_id="VitruvianEmptyStructureLatent",
            display_name="Empty Structure Latent",
            category=CATEGORY,
            description="Where a structure model begins: a latent for picture, depth and normals.",
            inputs=[
                io.Int.Input("width", tooltip="Width in pixels.", **side),
                io.Int.Input("height", tooltip="Height in pixels.", **side),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="How many at once."),
            ],
            outputs=[io.Latent.Output("latent", tooltip="To the sampler.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int) -> io.NodeOutput:
        device = comfy.model_management.intermediate_device()
        return io.NodeOutput(host.empty_latent(width, height, batch_size, device))


class VitruvianStructurePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"default": 0, "min": 0, "max": 16384}
        return io.Schema(
            node_id="VitruvianStructurePose",
            display_name="Structure Pose",
            category=CATEGORY,
            description="Tells a structure model the pose of its people.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What to paint."),
                io.Conditioning.Input("negative", tooltip="What not to paint."),
                io.Vae.Input("vae", tooltip="The checkpoint's."),
                io.Image.Input("pose", tooltip="A pose picture, for example from Draw Pose."),
                io.Int.Input(
                    "original_width",
                    optional=True,
                    tooltip="How wide the picture "
                    "would have been before it was made smaller: larger means finer. 0: as it is.",
                    **side,
                ),
                io.Int.Input(
                    "original_height",
                    optional=True,
                    tooltip="And how high. 0: as it is.",
                    **side,
                ),
                io.Int.Input(
                    "crop_left",
                    optional=True,
                    tooltip="How much would have been cut off on the left; 0 shows people whole.",
                    **side,
                ),
                io.Int.Input(
                    "crop_top",
                    optional=True,
                    tooltip="How much would have been cut off at the top.",
                    **side,
                ),
            ],
            outputs=[
                io.Conditioning.Output("posed", "positive", tooltip="To the sampler's positive."),
                io.Conditioning.Output(
                    "posed_negative", "negative", tooltip="To the sampler's negative."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        vae: Any,
        pose: torch.Tensor,
        original_width: int = 0,
        original_height: int = 0,
        crop_left: int = 0,
        crop_top: int = 0,
    ) -> io.NodeOutput:
        if vae is None:
            raise ValueError(
                "Structure Pose: the checkpoint holds no VAE. Connect 'vae' from Load VAE."
            )
        sizes = {"width": original_width, "height": original_height}
        added = {
            host.POSE: host.pose_latent(vae, pose),
            "crop_w": crop_left,
            "crop_h": crop_top,
            **{name: size for name, size in sizes.items() if size},
        }
        return io.NodeOutput(
            host.with_conditions(positive, added), host.with_conditions(negative, added)
        )


class VitruvianSplitStructure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSplitStructure",
            display_name="Split Structure",
            category=CATEGORY,
            description="The three ordinary latents of what a structure model sampled.",
            inputs=[io.Latent.Input("latent", tooltip="From the sampler.")],
            outputs=[
                io.Latent.Output("rgb", tooltip="The picture's, to VAE Decode."),
                io.Latent.Output("depth", tooltip="The depth picture's, to VAE Decode."),
                io.Latent.Output("normal", tooltip="The normal picture's, to VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any]) -> io.NodeOutput:
        with speaking_for("Split Structure"):
            return io.NodeOutput(*host.split(latent))


class VitruvianJoinStructure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianJoinStructure",
            display_name="Join Structure",
            category=CATEGORY,
            description="One latent of three, for painting over an existing picture together with "
            "its depth and normals. Inpainting: Set Latent Noise Mask behind it.",
            inputs=[
                io.Latent.Input("rgb", tooltip="The picture, from VAE Encode."),
                io.Latent.Input(
                    "depth",
                    tooltip="Its depth, near is white, from VAE Encode: Structure "
                    "Pictures turns another convention round.",
                ),
                io.Latent.Input("normal", tooltip="Its normals, x right, from VAE Encode."),
            ],
            outputs=[io.Latent.Output("latent", tooltip="To the sampler.")],
        )

    @classmethod
    def execute(
        cls, rgb: dict[str, Any], depth: dict[str, Any], normal: dict[str, Any]
    ) -> io.NodeOutput:
        with speaking_for("Join Structure"):
            return io.NodeOutput(host.join({"rgb": rgb, "depth": depth, "normal": normal}))


class VitruvianStructurePictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianStructurePictures",
            display_name="Structure Pictures",
            category=CATEGORY,
            description="Depth and normal pictures in the convention that is asked for: depth "
            "grey and, if wished, over the whole range; normals of unit length.",
            inputs=[
                io.Image.Input("depth", tooltip="A depth picture."),
                io.Image.Input("normal", tooltip="A normal picture."),
                io.Combo.Input(
                    "depth_from",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="How the depth comes; a structure model's near is white.",
                ),
                io.Combo.Input(
                    "depth_to",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="How it leaves; MiDaS and depth ControlNets: near is white.",
                ),
                io.Combo.Input(
                    "normal_from",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normals; a structure model's: right.",
                ),
                io.Combo.Input(
                    "normal_to",
                    options=[*structure.NORMALS],
                    default=structure.BAE,
                    tooltip="How they leave: x left is BAE, for normal ControlNets; x right is "
                    "OpenGL, for relighting and 3D programs.",
                ),
                io.Boolean.Input(
                    "stretch",
                    default=False,
                    tooltip="Spread each depth over the whole range from black to white.",
                ),
            ],
            outputs=[
                io.Image.Output("depths", "depth", tooltip="To a depth ControlNet, or Save Image."),
                io.Image.Output(
                    "normals", "normal", tooltip="To a normal ControlNet, Relight, or Save Image."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        depth: torch.Tensor,
        normal: torch.Tensor,
        depth_from: str,
        depth_to: str,
        normal_from: str,
        normal_to: str,
        stretch: bool,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            host.depth_pictures(depth, depth_from, depth_to, stretch),
            host.normal_pictures(normal, normal_from, normal_to),
        )


class VitruvianRelight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        step: dict[str, Any] = {"min": -1.0, "max": 1.0, "step": 0.05}
        return io.Schema(
            node_id="VitruvianRelight",
            display_name="Relight",
            category=CATEGORY,
            description="The picture as a lamp from elsewhere would show it (Lambert's law).",
            inputs=[
                io.Image.Input("image", tooltip="The picture."),
                io.Image.Input("normal", tooltip="Its normals."),
                io.Combo.Input(
                    "convention",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normals.",
                ),
                io.Float.Input("right", default=0.7, tooltip="How far right the lamp is.", **step),
                io.Float.Input("up", default=0.4, tooltip="How far up the lamp is.", **step),
                io.Float.Input(
                    "front", default=0.5, tooltip="How far before the picture the lamp is.", **step
                ),
                io.Float.Input(
                    "ambient",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Light that comes from everywhere. 1: the picture as it was.",
                ),
            ],
            outputs=[io.Image.Output("relit", "image", tooltip="The picture under the lamp.")],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        normal: torch.Tensor,
        convention: str,
        right: float,
        up: float,
        front: float,
        ambient: float,
    ) -> io.NodeOutput:
        with speaking_for("Relight"):
            if not any((right, up, front)):
                raise ValueError(
                    "the lamp has no direction: make 'right', 'up' or 'front' other than 0."
                )
            light = torch.tensor([right, up, front])
            return io.NodeOutput(host.relight(image, normal, convention, light, ambient))


NODES: list[type[io.ComfyNode]] = [
    VitruvianStructureLoader,
    VitruvianStructureFromCheckpoint,
    VitruvianEmptyStructureLatent,
    VitruvianStructurePose,
    VitruvianSplitStructure,
    VitruvianJoinStructure,
    VitruvianStructurePictures,
    VitruvianRelight,
]

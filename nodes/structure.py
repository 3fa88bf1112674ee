"""Image, depth and normals denoised together (HyperHuman)."""

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ..host import structure_family, structure_images, structure_latent
from ..models import structure
from .inputs import speaking_for, weight_files

CATEGORY = "Vitruvian/structure"
NOISE, VELOCITY = "noise", "velocity"


class VitruvianLoadStructureModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadStructureModel",
            display_name="Load Structure Model",
            category=CATEGORY,
            description="Loads a model that paints a picture, its depth and its normals together, "
            "from models/vitruvian. Text encoder and VAE are those of the checkpoint it was made "
            "of.",
            inputs=[
                io.Combo.Input(
                    "structure_model_name",
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
    def execute(cls, structure_model_name: str) -> io.NodeOutput:
        with speaking_for("Load Structure Model"):
            path = folder_paths.get_full_path_or_raise("vitruvian", structure_model_name)
            return io.NodeOutput(structure_family.load(Path(path)))


class VitruvianStructureModelFromCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianStructureModelFromCheckpoint",
            display_name="Structure Model from Checkpoint",
            category=CATEGORY,
            description="Makes an untrained structure model of an SD1.5 or SD2 checkpoint: its "
            "outer layers three times. It paints three pictures that share what they show, until "
            "it has learnt depth and normals.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
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
                    "prediction",
                    options=[NOISE, VELOCITY],
                    default=NOISE,
                    tooltip="What the checkpoint predicts: noise for SD1.5 and most of SD2, "
                    "velocity for SD2 at 768 pixels.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="To a sampler.")],
        )

    @classmethod
    def execute(cls, ckpt_name: str, fusion: str, prediction: str) -> io.NodeOutput:
        with speaking_for("Structure Model from Checkpoint"):
            path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
            return io.NodeOutput(
                structure_family.from_checkpoint(Path(path), fusion, prediction == NOISE)
            )


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
        return io.NodeOutput(structure_latent.empty_latent(width, height, batch_size, device))


class VitruvianApplyStructurePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"default": 0, "min": 0, "max": 16384}
        return io.Schema(
            node_id="VitruvianApplyStructurePose",
            display_name="Apply Structure Pose",
            category=CATEGORY,
            description="Tells a structure model the pose of its people.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What to paint."),
                io.Conditioning.Input("negative", tooltip="What not to paint."),
                io.Vae.Input("vae", tooltip="The checkpoint's."),
                io.Image.Input("pose_image", tooltip="A pose picture, for example from Draw Pose."),
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
                io.Conditioning.Output(
                    "positive_out", "positive", tooltip="To the sampler's positive."
                ),
                io.Conditioning.Output(
                    "negative_out", "negative", tooltip="To the sampler's negative."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        vae: Any,
        pose_image: torch.Tensor,
        original_width: int = 0,
        original_height: int = 0,
        crop_left: int = 0,
        crop_top: int = 0,
    ) -> io.NodeOutput:
        if vae is None:
            raise ValueError(
                "Apply Structure Pose: the checkpoint holds no VAE. Connect 'vae' from Load VAE."
            )
        sizes = {"width": original_width, "height": original_height}
        added = {
            structure_latent.POSE_LATENT: structure_latent.encode_pose(vae, pose_image),
            "crop_w": crop_left,
            "crop_h": crop_top,
            **{name: size for name, size in sizes.items() if size},
        }
        return io.NodeOutput(
            structure_latent.with_entries(positive, added),
            structure_latent.with_entries(negative, added),
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
                io.Latent.Output("image_latent", tooltip="The picture's, to VAE Decode."),
                io.Latent.Output("depth_latent", tooltip="The depth picture's, to VAE Decode."),
                io.Latent.Output("normal_latent", tooltip="The normal picture's, to VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any]) -> io.NodeOutput:
        with speaking_for("Split Structure"):
            return io.NodeOutput(*structure_latent.split(latent))


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
                io.Latent.Input("image_latent", tooltip="The picture, from VAE Encode."),
                io.Latent.Input(
                    "depth_latent",
                    tooltip="Its depth, near is white, from VAE Encode: Structure "
                    "Pictures turns another convention round.",
                ),
                io.Latent.Input("normal_latent", tooltip="Its normals, x right, from VAE Encode."),
            ],
            outputs=[io.Latent.Output("latent", tooltip="To the sampler.")],
        )

    @classmethod
    def execute(
        cls,
        image_latent: dict[str, Any],
        depth_latent: dict[str, Any],
        normal_latent: dict[str, Any],
    ) -> io.NodeOutput:
        with speaking_for("Join Structure"):
            return io.NodeOutput(
                structure_latent.join(
                    {"rgb": image_latent, "depth": depth_latent, "normal": normal_latent}
                )
            )


class VitruvianConvertStructureImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianConvertStructureImages",
            display_name="Convert Structure Images",
            category=CATEGORY,
            description="Depth and normal pictures in the convention that is asked for: depth "
            "grey and, if wished, over the whole range; normals of unit length.",
            inputs=[
                io.Image.Input("depth_image", tooltip="A depth picture."),
                io.Image.Input("normal_image", tooltip="A normal picture."),
                io.Combo.Input(
                    "from_depth_convention",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="How the depth comes; a structure model's near is white.",
                ),
                io.Combo.Input(
                    "to_depth_convention",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="How it leaves; MiDaS and depth ControlNets: near is white.",
                ),
                io.Combo.Input(
                    "from_normal_convention",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normals; a structure model's: right.",
                ),
                io.Combo.Input(
                    "to_normal_convention",
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
                io.Image.Output(
                    "depth_image_out",
                    "depth_image",
                    tooltip="To a depth ControlNet, or Save Image.",
                ),
                io.Image.Output(
                    "normal_image_out",
                    "normal_image",
                    tooltip="To a normal ControlNet, Relight, or Save Image.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        depth_image: torch.Tensor,
        normal_image: torch.Tensor,
        from_depth_convention: str,
        to_depth_convention: str,
        from_normal_convention: str,
        to_normal_convention: str,
        stretch: bool,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            structure_images.convert_depth(
                depth_image, from_depth_convention, to_depth_convention, stretch
            ),
            structure_images.convert_normals(
                normal_image, from_normal_convention, to_normal_convention
            ),
        )


class VitruvianRelightImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        step: dict[str, Any] = {"min": -1.0, "max": 1.0, "step": 0.05}
        return io.Schema(
            node_id="VitruvianRelightImage",
            display_name="Relight Image",
            category=CATEGORY,
            description="The picture as a lamp from elsewhere would show it (Lambert's law).",
            inputs=[
                io.Image.Input("image", tooltip="The picture."),
                io.Image.Input("normal_image", tooltip="Its normals."),
                io.Combo.Input(
                    "normal_convention",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normals.",
                ),
                io.Float.Input(
                    "light_right", default=0.7, tooltip="How far right the lamp is.", **step
                ),
                io.Float.Input("light_up", default=0.4, tooltip="How far up the lamp is.", **step),
                io.Float.Input(
                    "light_front",
                    default=0.5,
                    tooltip="How far before the picture the lamp is.",
                    **step,
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
            outputs=[io.Image.Output("image_out", "image", tooltip="The picture under the lamp.")],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        normal_image: torch.Tensor,
        normal_convention: str,
        light_right: float,
        light_up: float,
        light_front: float,
        ambient: float,
    ) -> io.NodeOutput:
        with speaking_for("Relight Image"):
            if not any((light_right, light_up, light_front)):
                raise ValueError(
                    "the lamp has no direction: make 'light_right', 'light_up' or 'light_front' other than 0."
                )
            light = torch.tensor([light_right, light_up, light_front])
            return io.NodeOutput(
                structure_images.relight(image, normal_image, normal_convention, light, ambient)
            )


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadStructureModel,
    VitruvianStructureModelFromCheckpoint,
    VitruvianEmptyStructureLatent,
    VitruvianApplyStructurePose,
    VitruvianSplitStructure,
    VitruvianJoinStructure,
    VitruvianConvertStructureImages,
    VitruvianRelightImage,
]

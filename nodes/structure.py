"""Generate an image, its depth and its normals together (HyperHuman)."""

from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..host import structure_family, structure_latent
from .inputs import named_errors, read_images, read_latents, weight_input, weight_path

CATEGORY = "Vitruvian/structure"
NOISE, VELOCITY = "noise", "velocity"


class VitruvianLoadStructureModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadStructureModel",
            display_name="Load Structure Model",
            category=CATEGORY,
            description="Loads a model that generates an image, its depth and its normals "
            "together, from models/vitruvian. Use it with the text encoder and "
            "the VAE of the checkpoint it was trained from.",
            inputs=[
                weight_input(
                    "structure_model_name",
                    "structure",
                    "A file from Vitruvian's structure trainer.",
                )
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    "model",
                    tooltip="To a sampler, with a latent from Empty Structure Latent.",
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, structure_model_name: str) -> io.NodeOutput:
        return io.NodeOutput(structure_family.load(weight_path(structure_model_name)))


class VitruvianEmptyStructureLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"default": 512, "min": 64, "max": 8192, "step": 8}
        return io.Schema(
            node_id="VitruvianEmptyStructureLatent",
            display_name="Empty Structure Latent",
            category=CATEGORY,
            description="Makes an empty latent for an image, its depth and its normals, "
            "where a structure model begins.",
            inputs=[
                io.Int.Input("width", tooltip="Width in pixels.", **side),
                io.Int.Input("height", tooltip="Height in pixels.", **side),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=4096, tooltip="How many images at once."
                ),
            ],
            outputs=[io.Latent.Output("latent", "latent", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
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
            description="Gives a structure model the pose of its people.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the image shows."),
                io.Conditioning.Input("negative", tooltip="What the image must not show."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE."),
                io.Image.Input("pose_image", tooltip="The skeletons, for example from Draw Pose."),
                io.Int.Input(
                    "original_width",
                    optional=True,
                    tooltip="Width that the image is said to have had before it was scaled "
                    "down. Larger: finer detail. 0: as it is.",
                    **side,
                ),
                io.Int.Input(
                    "original_height",
                    optional=True,
                    tooltip="Height that the image is said to have had before it was scaled "
                    "down. Larger: finer detail. 0: as it is.",
                    **side,
                ),
                io.Int.Input(
                    "crop_left",
                    optional=True,
                    tooltip="How much is said to be cut off on the left, in pixels. 0: people "
                    "are shown entirely.",
                    **side,
                ),
                io.Int.Input(
                    "crop_top",
                    optional=True,
                    tooltip="How much is said to be cut off at the top, in pixels. 0: people "
                    "are shown entirely.",
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
    @named_errors
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
            raise ValueError("the checkpoint holds no VAE. Connect 'vae' from Load VAE.")
        sizes = {"width": original_width, "height": original_height}
        added = {
            structure_latent.POSE_LATENT: structure_latent.encode_pose(
                vae, read_images(pose_image, "pose_image")
            ),
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
            description="Splits the latent of a structure model into three ordinary latents.",
            inputs=[io.Latent.Input("latent", tooltip="The latent from the sampler.")],
            outputs=[
                io.Latent.Output(
                    "image_latent", "image_latent", tooltip="The image, to VAE Decode."
                ),
                io.Latent.Output(
                    "depth_latent", "depth_latent", tooltip="The depth, to VAE Decode."
                ),
                io.Latent.Output(
                    "normal_latent", "normal_latent", tooltip="The normals, to VAE Decode."
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, latent: dict[str, Any]) -> io.NodeOutput:
        read_latents(latent)
        return io.NodeOutput(*structure_latent.split(latent))


class VitruvianJoinStructure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianJoinStructure",
            display_name="Join Structure",
            category=CATEGORY,
            description="Joins the latents of an image, its depth and its normals, so that "
            "a structure model can change an existing image. For inpainting, "
            "add Set Latent Noise Mask after it.",
            inputs=[
                io.Latent.Input("image_latent", tooltip="The image, from VAE Encode."),
                io.Latent.Input(
                    "depth_latent",
                    tooltip="The depth of the image, near is white, from VAE Encode. Convert "
                    "Structure Images converts other conventions.",
                ),
                io.Latent.Input(
                    "normal_latent", tooltip="The normals of the image, x right, from VAE Encode."
                ),
            ],
            outputs=[io.Latent.Output("latent", "latent", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        image_latent: dict[str, Any],
        depth_latent: dict[str, Any],
        normal_latent: dict[str, Any],
    ) -> io.NodeOutput:
        latents = {
            "image_latent": image_latent,
            "depth_latent": depth_latent,
            "normal_latent": normal_latent,
        }
        for name, latent in latents.items():
            read_latents(latent, name)
        return io.NodeOutput(structure_latent.join(latents))


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadStructureModel,
    VitruvianEmptyStructureLatent,
    VitruvianApplyStructurePose,
    VitruvianSplitStructure,
    VitruvianJoinStructure,
]

"""Save images with depth, normals and pose as training data (HyperHuman)."""

import torch
from comfy_api.latest import io, ui

from ..host import structure_data as host
from ..models import structure
from ..models.structure import DEPTH, NORMAL
from ..models.structure_data import POSE
from .inputs import named_errors, read_images
from .structure import CATEGORY


class VitruvianSaveStructureData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSaveStructureData",
            display_name="Save Structure Data",
            category=CATEGORY,
            description="Saves images with their depth, normals, pose and caption in a "
            "folder, as training data for Vitruvian's structure trainer. No "
            "file is overwritten.",
            inputs=[
                io.Image.Input("images", tooltip="Images of people."),
                io.Image.Input(
                    "depth_images",
                    tooltip="The depth of every image, in the same order, from black to white, "
                    "without colors. Resized to the image.",
                ),
                io.Image.Input(
                    "normal_images",
                    tooltip="The normals of every image, in the same order. Resized to the image.",
                ),
                io.Image.Input(
                    "pose_images",
                    tooltip="The pose of every image, from Draw Pose, in the same order. "
                    "Resized to the image.",
                ),
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="",
                    tooltip="What the images show, for all of them. Empty: write a name.txt "
                    "beside every image yourself.",
                ),
                io.String.Input(
                    "folder",
                    default="structure_data",
                    tooltip="Name of the folder in ComfyUI's output folder. Numbers continue "
                    "after the images that are already in it.",
                ),
                io.Combo.Input(
                    "depth_convention",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="The convention of the depth images. MiDaS, Depth Anything and "
                    "MoGe: near is white. They are saved with near white.",
                ),
                io.Combo.Input(
                    "normal_convention",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normal images. x right: OpenGL, as MoGe "
                    "makes them. x left: BAE. They are saved with x right.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "folder_path",
                    "folder_path",
                    tooltip="The full path of the folder, for the trainer.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        images: torch.Tensor,
        depth_images: torch.Tensor,
        normal_images: torch.Tensor,
        pose_images: torch.Tensor,
        caption: str,
        folder: str,
        depth_convention: str,
        normal_convention: str,
    ) -> io.NodeOutput:
        images = read_images(images, "images")
        maps = {
            DEPTH: read_images(depth_images, "depth_images"),
            NORMAL: read_images(normal_images, "normal_images"),
            POSE: read_images(pose_images, "pose_images"),
        }
        host.check_lengths(images, {f"{name}_images": batch for name, batch in maps.items()})
        path = host.output_folder(folder)
        files = host.save(path, images, maps, caption, depth_convention, normal_convention)
        names = ", ".join(file.name for file in files)
        return io.NodeOutput(str(path), ui=ui.PreviewText(f"{names} in {path}"))


NODES: list[type[io.ComfyNode]] = [VitruvianSaveStructureData]

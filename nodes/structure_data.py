"""Pictures with depth, normals and pose, kept for training joint denoising (HyperHuman)."""

import torch
from comfy_api.latest import io, ui

from ..host import structure_data as host
from ..models import structure
from .inputs import speaking_for
from .structure import CATEGORY


class VitruvianSaveStructureData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSaveStructureData",
            display_name="Save Structure Data",
            category=CATEGORY,
            description="Saves pictures with their depth, normals, pose and caption in a folder "
            "that Vitruvian's structure trainer learns from. Nothing is overwritten.",
            inputs=[
                io.Image.Input("images", tooltip="Pictures of people."),
                io.Image.Input(
                    "depth_images",
                    tooltip="The depth of every picture, in the same order, from black to "
                    "white; not coloured. Resized to the picture.",
                ),
                io.Image.Input(
                    "normal_images",
                    tooltip="The normals of every picture, in the same order. Resized to "
                    "the picture.",
                ),
                io.Image.Input(
                    "pose_images",
                    tooltip="The pose of every picture, in the same order, from Draw Pose. "
                    "Resized to the picture.",
                ),
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="",
                    tooltip="What the pictures show, for "
                    "all of them. Empty: write name.txt beside each picture yourself.",
                ),
                io.String.Input(
                    "folder",
                    default="structure_data",
                    tooltip="Name of the folder in ComfyUI's "
                    "output folder. Numbers go on after the pictures that are there.",
                ),
                io.Combo.Input(
                    "depth_convention",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="How the depth comes in; MiDaS, Depth Anything and MoGe: near is "
                    "white. It is saved so.",
                ),
                io.Combo.Input(
                    "normal_convention",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normals that come in. x right: OpenGL, as MoGe "
                    "makes them; x left: BAE. They are saved with x right.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "folder_path", tooltip="The whole path of the folder, for the trainer."
                )
            ],
            is_output_node=True,
        )

    @classmethod
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
        maps = {"depth": depth_images, "normal": normal_images, "pose": pose_images}
        with speaking_for("Save Structure Data"):
            host.check_lengths(images, maps)
            path = host.output_folder(folder)
        saved = host.save(path, images, maps, caption, depth_convention, normal_convention)
        told = ", ".join(file.name for file in saved)
        return io.NodeOutput(str(path), ui=ui.PreviewText(f"{told} in {path}"))


NODES: list[type[io.ComfyNode]] = [VitruvianSaveStructureData]

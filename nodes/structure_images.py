"""Convert images of depth and normals, and relight an image by its normals."""

from typing import Any

import torch
from comfy_api.latest import io

from ..host import structure_images
from ..models import structure
from .inputs import named_errors, read_images

CATEGORY = "Vitruvian/structure"


class VitruvianConvertStructureImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianConvertStructureImages",
            display_name="Convert Structure Images",
            category=CATEGORY,
            description="Converts depth and normal images from one convention to another. "
            "Depth becomes gray, normals get unit length.",
            inputs=[
                io.Image.Input("depth_image", tooltip="A depth image."),
                io.Image.Input("normal_image", tooltip="A normal image."),
                io.Combo.Input(
                    "from_depth_convention",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="The convention of the depth image. From a structure model, near is "
                    "white.",
                ),
                io.Combo.Input(
                    "to_depth_convention",
                    options=[*structure.DEPTHS],
                    default=structure.MIDAS,
                    tooltip="The convention of the result. For depth ControlNets and MiDaS, "
                    "near is white.",
                ),
                io.Combo.Input(
                    "from_normal_convention",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normal image. From a structure model: x right.",
                ),
                io.Combo.Input(
                    "to_normal_convention",
                    options=[*structure.NORMALS],
                    default=structure.BAE,
                    tooltip="What red means in the result. x left: BAE, for normal ControlNets. "
                    "x right: OpenGL, for relighting and 3D programs.",
                ),
                io.Boolean.Input(
                    "stretch",
                    default=False,
                    tooltip="Stretch every depth image over the entire range from black to white.",
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
                    tooltip="To a normal ControlNet, Relight Image, or Save Image.",
                ),
            ],
        )

    @classmethod
    @named_errors
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
                read_images(depth_image, "depth_image"),
                from_depth_convention,
                to_depth_convention,
                stretch,
            ),
            structure_images.convert_normals(
                read_images(normal_image, "normal_image"),
                from_normal_convention,
                to_normal_convention,
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
            description="Relights an image with a lamp from another direction, using its "
            "normals (Lambert's law).",
            inputs=[
                io.Image.Input("image", tooltip="The image to relight."),
                io.Image.Input("normal_image", tooltip="The normals of the image."),
                io.Combo.Input(
                    "normal_convention",
                    options=[*structure.NORMALS],
                    default=structure.RIGHT_UP,
                    tooltip="What red means in the normal image.",
                ),
                io.Float.Input(
                    "light_right",
                    default=0.7,
                    tooltip="How far to the right the lamp is. 0: in the middle. -1: to the left.",
                    **step,
                ),
                io.Float.Input(
                    "light_up",
                    default=0.4,
                    tooltip="How far up the lamp is. 0: in the middle. -1: below.",
                    **step,
                ),
                io.Float.Input(
                    "light_front",
                    default=0.5,
                    tooltip="How far in front of the image the lamp is. 0: at its level. -1: "
                    "behind it.",
                    **step,
                ),
                io.Float.Input(
                    "ambient",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Light from all directions. 0: only the lamp. 1: the image is "
                    "unchanged.",
                ),
            ],
            outputs=[
                io.Image.Output("image_out", "image", tooltip="The image in the light of the lamp.")
            ],
        )

    @classmethod
    @named_errors
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
        if not any((light_right, light_up, light_front)):
            raise ValueError(
                "the lamp has no direction: set 'light_right', 'light_up' or 'light_front' to "
                "another value than 0."
            )
        light = torch.tensor([light_right, light_up, light_front])
        images, normals = read_images(image), read_images(normal_image, "normal_image")
        return io.NodeOutput(
            structure_images.relight(images, normals, normal_convention, light, ambient)
        )


NODES: list[type[io.ComfyNode]] = [
    VitruvianConvertStructureImages,
    VitruvianRelightImage,
]

"""Keep a border around preserved pixels at first, and let it shrink (Giving a Hand)."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..host import mask_expansion
from ..host.progress import watched
from ..models import hands
from ..models.batches import one_each, paired_count
from .inputs import (
    check_one_size,
    check_order,
    named_errors,
    percent_input,
    read_images,
    read_masks,
)

CATEGORY = "Vitruvian/hands"


class VitruvianApplyMaskExpansion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyMaskExpansion",
            display_name="Apply Mask Expansion",
            category=CATEGORY,
            description="For inpainting: a border around the preserved area is preserved "
            "too at first and generated later, which is meant to leave no seam "
            "(Giving a Hand).",
            inputs=[
                io.Model.Input("model", tooltip="Any model. The latent needs a noise mask."),
                *_expansion_inputs(),
            ],
            outputs=[io.Model.Output("model_out", "model", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls, model: Any, expansion: int, shrink_start_percent: float, shrink_end_percent: float
    ) -> io.NodeOutput:
        check_order(shrink_start_percent, shrink_end_percent, "shrink_")
        return io.NodeOutput(
            mask_expansion.apply(model, expansion, shrink_start_percent, shrink_end_percent)
        )


def _expansion_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "expansion",
            default=16,
            min=0,
            max=512,
            step=8,
            tooltip="Width of the border at the beginning, in pixels. 0: no border, the "
            "plain noise mask.",
        ),
        percent_input(
            "shrink_start_percent",
            0.2,
            "When in the sampling the border begins to shrink. 0: at the first step.",
        ),
        percent_input(
            "shrink_end_percent",
            0.8,
            "When in the sampling the border has shrunk to nothing. 1: at the last step.",
        ),
    ]


class VitruvianPreviewMaskExpansion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPreviewMaskExpansion",
            display_name="Preview Mask Expansion",
            category=CATEGORY,
            description="Shows how the border of Apply Mask Expansion shrinks, as a row of images.",
            is_output_node=True,
            inputs=[
                io.Mask.Input("mask", tooltip="The noise mask: white is generated."),
                *_expansion_inputs(),
                io.Int.Input(
                    "image_count",
                    default=6,
                    min=2,
                    max=64,
                    tooltip="How many moments of the sampling to show.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The image that shows where it is preserved."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "preview",
                    "preview",
                    tooltip="From the first step to the last: white is generated, orange is the "
                    "border, and the image shows where it is preserved to the end. One row per "
                    "mask.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        mask: torch.Tensor,
        expansion: int,
        shrink_start_percent: float,
        shrink_end_percent: float,
        image_count: int,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_order(shrink_start_percent, shrink_end_percent, "shrink_")
        masks = read_masks(mask)
        pixels, count = {"mask": masks}, len(masks)
        if image is not None:
            pixels["image"] = read_images(image)
            check_one_size(pixels)
            count = paired_count({name: len(batch) for name, batch in pixels.items()})
        grounds = one_each(pixels.get("image", [None]), count)
        window = shrink_start_percent, shrink_end_percent
        strips = [
            hands.expansion_strip(frame, ground, expansion, *window, image_count)
            for frame, ground in zip(watched(one_each(masks, count)), grounds, strict=True)
        ]
        preview = torch.stack(strips)
        return io.NodeOutput(preview, ui=ui.PreviewImage(preview, cls=cls))


NODES: list[type[io.ComfyNode]] = [
    VitruvianApplyMaskExpansion,
    VitruvianPreviewMaskExpansion,
]

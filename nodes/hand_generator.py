"""Generate one hand per image from its keypoints (Giving a Hand, first stage)."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..host import hand_generator as generator
from ..host.progress import watched
from ..models import hands, pose
from .inputs import (
    named_errors,
    pose_input,
    read_latents,
    read_pose,
    strength_input,
    weight_input,
    weight_path,
)
from .wires import HandGenerator

CATEGORY = "Vitruvian/hands"


class VitruvianLoadHandGenerator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadHandGenerator",
            display_name="Load Hand Generator",
            category=CATEGORY,
            description="Loads a hand generator from models/vitruvian.",
            inputs=[weight_input("hand_generator_name", "hands")],
            outputs=[
                HandGenerator.Output(
                    "hand_generator",
                    "hand_generator",
                    tooltip="To Apply Hand Generator and Predict Hand Masks.",
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, hand_generator_name: str) -> io.NodeOutput:
        return io.NodeOutput(generator.load(weight_path(hand_generator_name)))


class VitruvianApplyHandGenerator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyHandGenerator",
            display_name="Apply Hand Generator",
            category=CATEGORY,
            description="Makes the model generate one hand per image, each finger where its "
            "keypoints are (Giving a Hand, first stage).",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint that the hand generator was trained for."
                ),
                HandGenerator.Input("hand_generator", tooltip="From Load Hand Generator."),
                pose_input(name="hand_poses", tooltip="One hand per image, from Cut Hands."),
                strength_input(
                    "How strongly the keypoints guide the hand. 0: the model is unchanged."
                ),
            ],
            outputs=[io.Model.Output("model_out", "model", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls, model: Any, hand_generator: Any, hand_poses: Any, strength: float
    ) -> io.NodeOutput:
        return io.NodeOutput(
            _generate(model, hand_generator, read_pose(hand_poses, "hand_poses"), strength)
        )


def _generate(model: Any, loaded: Any, frames: list[pose.People], strength: float) -> Any:
    return generator.apply(model, loaded, frames, strength)


class VitruvianPredictHandMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPredictHandMasks",
            display_name="Predict Hand Masks",
            category=CATEGORY,
            description="Finds the hands in images from the hand generator: its network "
            "looks at the finished latents once more.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model from Apply Hand Generator, as connected to the sampler.",
                ),
                HandGenerator.Input("hand_generator", tooltip="From Load Hand Generator."),
                io.Conditioning.Input(
                    "positive", tooltip="The positive prompt, as connected to the sampler."
                ),
                io.Latent.Input("latent", tooltip="The finished latents, from the sampler."),
            ],
            outputs=[
                io.Mask.Output("masks", "masks", tooltip="One mask per hand, for Place Hands.")
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls, model: Any, hand_generator: Any, positive: Any, latent: dict[str, Any]
    ) -> io.NodeOutput:
        masks = _predict(model, hand_generator, positive, read_latents(latent))
        return io.NodeOutput(masks, ui=ui.PreviewMask(masks, cls=cls))


def _predict(model: Any, loaded: Any, positive: Any, latent: torch.Tensor) -> torch.Tensor:
    return torch.stack(
        [
            hands.clean_mask(mask)
            for mask in watched(generator.predict_masks(model, loaded, positive, latent))
        ]
    )


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadHandGenerator,
    VitruvianApplyHandGenerator,
    VitruvianPredictHandMasks,
]

"""Apply the ControlNet that generates a body around hands (Giving a Hand, second stage)."""

from typing import Any

from torch import Tensor

from ..models import hands
from .control_net import ControlSettings, apply_control_net, hint_block

HINT_CHANNELS = 7  # pose image, image of the hands, mask of the hands


def outpaint_body(
    conditionings: tuple[Any, Any],
    control_net: Any,
    pose_image: Tensor,
    placed_image: Tensor,
    mask: Tensor,
    settings: ControlSettings,
) -> tuple[Any, Any]:
    """Add the body outpainter `control_net` behind the ControlNets of the conditionings.

    `pose_image` and `placed_image` [B, H, W, 3], `mask` [B, H, W] of the hands. ValueError for
    ControlNets that take another hint.
    """
    block = hint_block(control_net)
    channels = block[0].in_channels if block else "other"
    if channels != HINT_CHANNELS:
        raise ValueError(
            f"this ControlNet reads {channels} channels, a body outpainter {HINT_CHANNELS}. Load "
            "one, or use Apply ControlNet with the pose image alone: Apply Mask Expansion works "
            "with it."
        )
    hands_hint = hands.body_control_image(placed_image, mask)
    return apply_control_net(
        conditionings, control_net, pose_image, settings, extra_concat=[hands_hint]
    )

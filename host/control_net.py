"""Apply a ControlNet to both conditionings as the host's own node does."""

from typing import Any, NamedTuple

from torch import Tensor

from nodes import ControlNetApplyAdvanced


class ControlSettings(NamedTuple):
    """How strongly a ControlNet works, and in which shares of the sampling."""

    strength: float
    start_percent: float
    end_percent: float


def apply_control_net(
    conditionings: tuple[Any, Any],
    control_net: Any,
    hint: Tensor,
    settings: ControlSettings,
    **options: Any,
) -> tuple[Any, Any]:
    """Add a ControlNet behind those of the conditionings (positive, negative).

    `hint` is an IMAGE of any number of channels; `options` are those of the host's
    ControlNetApplyAdvanced, such as `vae`.
    """
    return ControlNetApplyAdvanced().apply_controlnet(
        *conditionings, control_net, hint, *settings, **options
    )


def hint_block(control_net: Any) -> Any:
    """Return the layers that read a ControlNet's hint; None for other kinds of control."""
    return getattr(getattr(control_net, "control_model", None), "input_hint_block", None)

"""Make, read and check the inputs that nodes of several files share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import folder_paths
import torch
from comfy_api.latest import io

from ..models import pixels, pose, weights
from ..models.plain_words import size
from ..models.pose import People
from .wires import PoseKeypoint

# The oldest host, v0.3.64, refuses a node whose output has the id of one of its inputs: such an
# output has the id `<name>_out`. It shows an output without a display name as its type: so every
# output has one, which is `<name>`.

P = ParamSpec("P")
N = TypeVar("N", bound=type[io.ComfyNode])


def named_errors(
    execute: Callable[Concatenate[N, P], io.NodeOutput],
) -> Callable[Concatenate[N, P], io.NodeOutput]:
    """Put the display name of the node before the text of every ValueError of its `execute`, unless
    the text begins with it. A file that can not be read or written is such an error, too.
    """

    @functools.wraps(execute)
    def execute_named(cls: N, *args: P.args, **kwargs: P.kwargs) -> io.NodeOutput:
        try:
            return execute(cls, *args, **kwargs)
        except InterruptedError:  # of a run, not of a file
            raise
        except (OSError, ValueError) as error:
            name, text = cls.define_schema().display_name, str(error)
            raise ValueError(text if text.startswith(name) else f"{name}: {text}") from error

    return execute_named


def weight_files(method: str | None) -> list[str]:
    """List the files in models/vitruvian that hold weights of this method, or do not name one."""
    names = folder_paths.get_filename_list("vitruvian")
    methods = {
        name: weights.read_method(folder_paths.get_full_path("vitruvian", name) or name)
        for name in names
    }
    return [name for name in names if methods[name] in (method, None)]


def weight_input(name: str, method: str, tooltip: str = "") -> io.Input:
    """Make the input for a weights file of a method in models/vitruvian."""
    return io.Combo.Input(
        name,
        options=weight_files(method),
        tooltip=tooltip or "A file trained for the checkpoint you use.",
    )


def weight_path(name: str) -> Path:
    """Find a file in models/vitruvian by the name that the menu shows."""
    return Path(folder_paths.get_full_path_or_raise("vitruvian", name))


def pose_input(name: str = "pose", tooltip: str = "", *, optional: bool = False) -> io.Input:
    """Make the input for people as keypoints."""
    return PoseKeypoint.Input(
        name,
        optional=optional,
        tooltip=tooltip
        or "The people, as keypoints: from this pack, from SDPose or from controlnet_aux.",
    )


def read_pose(
    keypoints: Any, name: str = "pose", min_confidence: float | None = None
) -> list[People]:
    """Read the frames of a pose input, without points below a confidence.

    min_confidence: the node's input of this name; None for a node without it, which uses the
    threshold of all nodes. Raises ValueError when nobody is in any of the frames.
    """
    frames = read_all_points(keypoints, name)
    minimum = pose.MIN_CONFIDENCE if min_confidence is None else min_confidence
    confident = [pose.keep_confident(people, minimum) for people in frames]
    if not any(pose.count(people) for people in confident):
        fix = "lower 'min_confidence'."
        if min_confidence is None:
            fix = "connect a pose that is certain, for example of a larger image of the person."
        raise ValueError(
            f"no point of the input '{name}' has a confidence of {minimum:g} or more, and less "
            f"certain points are not used: {fix}"
        )
    return confident


def read_all_points(keypoints: Any, name: str = "pose") -> list[People]:
    """Read the frames of a pose input with points of any confidence, to pass them on.

    Raises ValueError when nobody is in any of the frames.
    """
    try:
        frames = pose.read_poses(keypoints)
    except ValueError as error:
        raise ValueError(f"the input '{name}' can not be used: {error}") from None
    require_people(frames, f"the input '{name}'")
    return frames


def require_people(frames: list[People], source: str) -> None:
    """Refuse frames without a single person; `source` says where they come from."""
    if not any(pose.count(people) for people in frames):
        raise ValueError(
            f"{source} has no people: connect a pose with at least one person, for example from "
            "Detect Pose on a photograph that shows somebody."
        )


def write_poses(frames: list[People]) -> list[dict[str, Any]]:
    """Turn frames of people into the value of a POSE_KEYPOINT wire."""
    return [pose.write_frame(people) for people in frames]


def min_confidence_input(tooltip: str, *, optional: bool = False) -> io.Input:
    """Make the input for the smallest confidence of a keypoint that counts."""
    return io.Float.Input(
        "min_confidence",
        default=pose.MIN_CONFIDENCE,
        min=0.0,
        max=1.0,
        step=0.01,
        optional=optional,
        tooltip=tooltip,
    )


def size_inputs() -> list[io.Input]:
    """Make the inputs for the width and height to draw at, which may follow the pose."""
    side: dict[str, Any] = {"default": 0, "min": 0, "max": pose.LARGEST_CANVAS}
    zero = "0: as the pose's canvas, in its proportions."
    return [
        io.Int.Input("output_width", tooltip=f"Width in pixels. {zero}", **side),
        io.Int.Input("output_height", tooltip=f"Height in pixels. {zero}", **side),
    ]


def output_size(frames: list[People], width: int, height: int) -> tuple[int, int]:
    """Return the width and height to draw at. A side of 0 follows the canvas of the first frame."""
    canvas = frames[0]
    if not width and not height:
        return canvas.width, canvas.height
    return (
        width or max(1, round(height * canvas.width / canvas.height)),
        height or max(1, round(width * canvas.height / canvas.width)),
    )


def canvas_inputs(width: str, height: str) -> list[io.Input]:
    """Make the inputs for the size of an image in pixels, with these tooltips."""
    side: dict[str, Any] = {"default": 512, "min": 16, "max": pose.LARGEST_CANVAS, "step": 8}
    return [
        io.Int.Input("canvas_width", tooltip=width, **side),
        io.Int.Input("canvas_height", tooltip=height, **side),
    ]


def percent_input(name: str, default: float, tooltip: str) -> io.Input:
    """Make the input for a moment of the sampling: 0 is its first step, 1 its last."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def percent_inputs() -> list[io.Input]:
    """Make the inputs for the steps in which a patch works, as the host's own nodes name them."""
    return [
        percent_input(
            "start_percent", 0.0, "When in the sampling this begins to act. 0: at the first step."
        ),
        percent_input(
            "end_percent", 1.0, "When in the sampling this stops acting. 1: after the last step."
        ),
    ]


def check_order(start: float, end: float, prefix: str = "") -> None:
    """Refuse a window of the sampling that ends before it begins."""
    if end <= start:
        raise ValueError(
            f"'{prefix}end_percent' ({end:g}) must be greater than '{prefix}start_percent' "
            f"({start:g})."
        )


def strength_input(tooltip: str, name: str = "strength", *, optional: bool = False) -> io.Input:
    """Make the input for how much of a patch is added: 0 leaves the result unchanged."""
    return io.Float.Input(
        name, default=1.0, min=0.0, max=10.0, step=0.01, optional=optional, tooltip=tooltip
    )


def seed_input(tooltip: str) -> io.Input:
    """Make the input for the seed of random numbers, in the host's range."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip=tooltip)


def count_input(tooltip: str, *, optional: bool = False) -> io.Input:
    """Make the input for how many people there are; 0 leaves it open."""
    return io.Int.Input("count", default=0, min=0, max=99, optional=optional, tooltip=tooltip)


def read_phrases(text: str) -> list[str]:
    """Split a text at commas and line ends."""
    return [phrase.strip() for phrase in text.replace("\n", ",").split(",") if phrase.strip()]


def read_images(images: Any, name: str = "image") -> torch.Tensor:
    """Read an IMAGE input of any usual form as [B, H, W, 3] in 0..1, float32 on the CPU."""
    try:
        return pixels.read_images(images)
    except ValueError as error:
        raise ValueError(f"the input '{name}' can not be used: {error}") from None


def read_masks(masks: Any, name: str = "mask") -> torch.Tensor:
    """Read a MASK input of any usual form as [B, H, W] in 0..1, float32 on the CPU."""
    try:
        return pixels.read_masks(masks)
    except ValueError as error:
        raise ValueError(f"the input '{name}' can not be used: {error}") from None


def read_latents(latent: Any, name: str = "latent") -> torch.Tensor:
    """Read the samples [B, C, h, w] of a LATENT input of images."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    shape = list(getattr(samples, "shape", []))
    if not isinstance(samples, torch.Tensor) or len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"the input '{name}' can not be used: it has {size(shape)} numbers, expected images x "
            "channels x height x width: latents of images, not of video or sound."
        )
    return samples


def read_reference(latent: Any, name: str = "reference") -> torch.Tensor:
    """Read the samples of a LATENT input of a reference image, [B, C, h, w] or, from the VAE of a
    video model, with a single frame [B, C, 1, h, w].
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    shape = list(getattr(samples, "shape", []))
    is_image = len(shape) == 4 or (len(shape) == 5 and shape[2] == 1)
    if not isinstance(samples, torch.Tensor) or not is_image or 0 in shape:
        raise ValueError(
            f"the input '{name}' can not be used: it has {size(shape)} numbers, expected the "
            "latent of an image, images x channels x height x width. Encode the image with VAE "
            "Encode."
        )
    return samples


def check_single(lists: dict[str, list[Any] | None]) -> None:
    """Refuse a list of several values for inputs (by name) of which a node that takes lists of
    images uses one for all of them.
    """
    for name, values in lists.items():
        if values is not None and len(values) != 1:
            raise ValueError(
                f"the input '{name}' has {len(values)} values, but one is used for all images: "
                "connect a single one."
            )


def read_area(mask: Any) -> torch.Tensor | None:
    """Read an optional MASK input as areas [B, 1, height, width] on the CPU."""
    return None if mask is None else read_masks(mask)[:, None]


def check_one_size(pixels: dict[str, torch.Tensor]) -> None:
    """Refuse IMAGE and MASK inputs (by name) that differ in height or width."""
    if len({values.shape[1:3] for values in pixels.values()}) > 1:
        sizes = [f"'{name}' ({x.shape[2]} x {x.shape[1]})" for name, x in pixels.items()]
        raise ValueError(f"the inputs {', '.join(sizes[:-1])} and {sizes[-1]} must have one size.")

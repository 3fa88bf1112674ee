"""Load a ControlNet, and apply it to both conditionings, as the host's own nodes do."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import folder_paths
from torch import Tensor

from nodes import ControlNetApplyAdvanced, ControlNetLoader

from ..models.batches import check_batch

FileStamp = tuple[str, int]  # its path, and when it was changed
# of each network, the last ControlNet for it: kept as long as the checkpoint is
_last_loaded: WeakKeyDictionary[Any, tuple[FileStamp, Any]] = WeakKeyDictionary()


def load_control_net(model: Any, name: str, input_name: str) -> Any:
    """Load a file of models/controlnet by the name that the menu shows, for use with a MODEL.

    The last one of each MODEL is kept: another prompt does not read the file again. ValueError
    about the input `input_name` for a missing file, or one that is no ControlNet.
    """
    path = folder_paths.get_full_path("controlnet", name)
    if path is None:
        raise ValueError(
            f"there is no file {name} in models/controlnet. Put it there, then press R to refresh "
            f"the list and choose it in '{input_name}'."
        )
    stamp = (path, Path(path).stat().st_mtime_ns)
    if _last_loaded.get(model.model, (None,))[0] != stamp:
        try:
            (control_net,) = ControlNetLoader().load_controlnet(name)
        except RuntimeError as error:
            raise ValueError(
                f"the input '{input_name}' can not be used: {name} holds no ControlNet that "
                "ComfyUI knows. Choose another file. What Load Model Patch reads goes to "
                "'model_patch'."
            ) from error
        _last_loaded[model.model] = (stamp, control_net)
    return _last_loaded[model.model][1]


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


def pair_with_latents(
    conditionings: tuple[Any, Any], node: str, counts: Mapping[str, int]
) -> tuple[Any, Any]:
    """Refuse, when the ControlNets that were just added are asked, a batch of latents that the
    images of their hint do not fit. The host would cut or repeat the hint without a word.

    node: display name for the error; counts: of images, by the names of their inputs.
    """
    entries = [entry for conditioning in conditionings for _, entry in conditioning]
    for control in {id(entry["control"]): entry["control"] for entry in entries}.values():
        # a copied conditioning copies a partial with its control
        control.get_control = partial(_get_checked_control, control, node, counts)
    return conditionings


def _get_checked_control(
    control: Any, node: str, counts: Mapping[str, int], x: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Ask a ControlNet as the host does: for the noisy latents, t, the texts and the number of
    conditionings in the batch.
    """
    chunk_count = args[2] if len(args) > 2 else kwargs["batched_number"]
    check_batch(node, counts, len(x) // chunk_count)
    return type(control).get_control(control, x, *args, **kwargs)


def hint_block(control_net: Any) -> Any:
    """Return the layers that read a ControlNet's hint; None for other kinds of control."""
    return getattr(getattr(control_net, "control_model", None), "input_hint_block", None)

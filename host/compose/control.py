"""The control of a composition, a ControlNet or a family's own: it travels on the conditioning, so
that the host loads, starts and cleans it up by its own rules, and controls every stream by its own
skeleton.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.controlnet
import torch
from torch import Tensor

from ..sampling import latent_stride, with_patch
from .control_kinds import (
    check_control_net,
    check_model_patch,
    check_size,
    check_vae,
    latent_channels,
    pose_patch_kind,
    with_pose_type,
)
from .drawings import Drawings
from .model_patches import DrawingEncoder, drawn_patches
from .streams import KEY, NEGATIVE, NODE, PEOPLE, Composition, StreamRows

Residuals = dict[str, list]  # lists of tensors or None, under the host's names of places
TEXT = "vitruvian_compose_text"  # in a conditioning entry: the text that was composed


class Rows(NamedTuple):
    """The streams' rows, as a ControlNet reads them."""

    x: Tensor  # noisy latents [rows, C, h, w], [rows, C, 1, h, w] for networks of videos
    t: Tensor  # noise levels [rows]
    cond: Mapping[str, Any]  # texts and more; what has as many rows belongs to them

    def select(self, slices: Sequence[slice]) -> "Rows":
        """Take some of the rows."""

        def those(value: Any) -> Any:
            per_row = isinstance(value, Tensor) and len(value) == len(self.x)
            return torch.cat([value[rows] for rows in slices]) if per_row else value

        conds = {name: those(value) for name, value in self.cond.items()}
        return Rows(those(self.x), those(self.t), conds)


class ComposedControl(comfy.controlnet.ControlBase):
    """A control of the host that adds nothing itself. The wrapper around the network asks it for
    the residuals of the streams, whose number the host does not know.

    Its `cond_hint_original` holds all drawings of the composition: packs that sample an image tile
    by tile crop it, and the crop is then what is composed.
    """

    def __init__(
        self,
        control_net: Any | None,
        composition: Composition,
        strength: float,
        vae: Any | None = None,
        model_patch: Any | None = None,
        *,
        drawings: Drawings | None = None,
    ):
        """Take a CONTROL_NET and a MODEL_PATCH, either, or none: then regions alone compose.

        vae: for those that read latents. `check_controls` says whether all fit together.
        """
        self.drawings = drawings or Drawings(composition)
        super().__init__()
        if strength == 0:  # as the host's Apply ControlNet
            control_net = model_patch = None
        self.controlnet: Any = None if control_net is None else with_pose_type(control_net)
        self.composition, self.vae = composition, vae
        self.model_patch, self.strength = model_patch, strength
        self.timestep_percent_range = (composition.start_percent, composition.end_percent)
        self._pre_run_args: tuple[Any, Callable] | None = None
        self._controls: dict[tuple, Any] = {}
        self._patches: dict[tuple, dict[str, list]] = {}
        self._encoder: DrawingEncoder | None = None

    @property
    def cond_hint_original(self) -> Tensor:
        """All drawings as the channels of one image [frames, C, H, W]."""
        return self.drawings.image

    @cond_hint_original.setter
    def cond_hint_original(self, image: Tensor | None) -> None:
        self.drawings = self.drawings.replaced(image)

    def __deepcopy__(self, memo: dict) -> "ComposedControl":
        """Return the control itself: a copy would load the ControlNet a second time."""
        return self

    def pre_run(self, model: Any, percent_to_timestep_function: Callable) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self._pre_run_args = (model, percent_to_timestep_function)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options=None):
        if transformer_options is not None:
            plan = transformer_options.get(KEY)
            if plan is None or plan.composition is not self.composition:
                raise ValueError(
                    f"{self.composition.node}: the sampler got the composed conditioning but not "
                    f"its model. Connect the output 'model' of the same {self.composition.node} as "
                    "well."
                )
        previous = self.previous_controlnet
        if previous is None:
            return None
        return previous.get_control(x_noisy, t, cond, batched_number, transformer_options)

    def residuals(
        self, hints: Sequence[int], batch: int, rows: Rows, options: Mapping[str, Any]
    ) -> Residuals | None:
        """Return the ControlNet's residuals, strength applied, for streams of `batch` rows each;
        None without a ControlNet.

        hints: whose skeleton each stream has, MERGED for everybody's.
        """
        if self.controlnet is None:
            return None
        control = self._control_for(tuple(hints), batch, rows.x)
        return control.get_control(rows.x, rows.t, dict(rows.cond), 1, options)

    def patches(self, hints: Sequence[int], batch: int, x: Tensor) -> Mapping[str, Sequence]:
        """Return the MODEL_PATCH's patches of blocks, by kind, for the same streams. They may keep
        something from block to block, so each call has its own, kept until the sampling ends.
        """
        if self.model_patch is None:
            return {}
        key = tuple(hints), batch, tuple(x.shape[-2:])
        if key not in self._patches:
            model, _ = self._run_args()
            cells = pose_patch_kind(self.model_patch.model).cells
            height, width = (-(-side // cells) * cells for side in x.shape[-2:])
            images = self._hint_rows(key[0], batch, (height, width))
            self._patches[key] = drawn_patches(
                self.model_patch, self._encoder_on(x.device), images, self.strength, model
            )
        return self._patches[key]

    def _control_for(self, hints: tuple[int, ...], batch: int, x: Tensor) -> Any:
        """A copy of the ControlNet with one hint per row, kept until the sampling ends."""
        key = hints, batch, tuple(x.shape[-2:])
        if key not in self._controls:
            check_size(self.controlnet, key[2])
            control: Any = self.controlnet.copy()
            control.set_cond_hint(
                self._hint_rows(hints, batch, key[2]).movedim(-1, 1),
                self.strength,
                self.timestep_percent_range,
                vae=self._encoder_on(x.device),
            )
            control.pre_run(*self._run_args())
            control.timestep_range = None  # the plan's window is the same, and knows without asking
            _embed_hint_once(control)
            self._controls[key] = control
        return self._controls[key]

    def _hint_rows(self, hints: tuple[int, ...], batch: int, size: tuple[int, ...]) -> Tensor:
        """Draw the hints of all rows [rows, H, W, 3] for a latent of this size, or a single one
        that serves all.
        """
        stride = latent_stride(self._run_args()[0].latent_format)
        height, width = (stride * side for side in size)
        images = {k: self.drawings.hint(k, width, height) for k in set(hints)}
        if len(images) == 1 and len(images[hints[0]]) == 1:
            return images[hints[0]]
        return torch.cat([images[k].expand(batch, -1, -1, -1) for k in hints])

    def _run_args(self) -> tuple[Any, Callable]:
        """The model that is sampled and its function from percent to timestep."""
        if self._pre_run_args is None:
            raise RuntimeError(
                f"{self.composition.node}: the pose was asked for before a sampling began. Connect "
                "the outputs to a sampler, without a node between that runs the ControlNet."
            )
        return self._pre_run_args

    def _encoder_on(self, device: torch.device) -> DrawingEncoder:
        if self._encoder is None or self._encoder.device != device:
            self._encoder = DrawingEncoder(self.vae, device)
        return self._encoder

    def get_models(self) -> list:
        models = super().get_models()
        if self.controlnet is not None:
            models = [*models, *self.controlnet.get_models()]
        return models if self.model_patch is None else [*models, self.model_patch]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        needed = super().inference_memory_requirements(dtype)
        if self.controlnet is None:
            return needed
        return max(needed, self.controlnet.inference_memory_requirements(dtype))

    def cleanup(self) -> None:
        super().cleanup()
        for control in self._controls.values():
            control.cleanup()
        self._controls, self._patches = {}, {}
        self._encoder = self._pre_run_args = None

    def copy(self) -> "ComposedControl":
        duplicate = ComposedControl(
            self.controlnet,
            self.composition,
            self.strength,
            self.vae,
            self.model_patch,
            drawings=self.drawings,
        )
        self.copy_to(duplicate)
        duplicate.timestep_percent_range = self.timestep_percent_range
        return duplicate

    def deepclone_multigpu(self, load_device, autoregister=False):
        clone = self.copy()
        if self.controlnet is not None:
            clone.controlnet = self.controlnet.deepclone_multigpu(load_device)
        if self.model_patch is not None:
            clone.model_patch = self.model_patch.deepclone_multigpu(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = clone
        return clone


class _EmbeddedOnce(torch.nn.Module):
    """A ControlNet's hint embedding that runs only when the hint is another, not in every step."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block
        self._last: tuple[Tensor, Tensor] | None = None  # a hint and its embedding

    def forward(self, hint: Tensor, *args: Any) -> Tensor:
        if self._last is None or self._last[0] is not hint:
            self._last = hint, self.block(hint, *args)
        return self._last[1]


def _embed_hint_once(control: Any) -> None:
    """Give this copy of a ControlNet a network with the shared weights and its own embedding of the
    hint.
    """
    blocks = getattr(getattr(control, "control_model", None), "_modules", {})
    if "input_hint_block" in blocks:
        control.control_model = copy.copy(control.control_model)
        embedding = _EmbeddedOnce(blocks["input_hint_block"])
        control.control_model._modules = {**blocks, "input_hint_block": embedding}


def check_controls(model: Any, control: ComposedControl) -> None:
    """Refuse a ControlNet or a MODEL_PATCH that is for another kind of network than the MODEL's,
    and a VAE that they need and that is missing or of another model.
    """
    if control.controlnet is not None:
        check_control_net(model, control.controlnet)
        reads, channels = control.controlnet.latent_format, latent_channels(control.controlnet)
        check_vae(control.vae, reads, "control_net", channels)
    if control.model_patch is not None:
        check_model_patch(model, control.model_patch)
        reads = pose_patch_kind(control.model_patch.model).latent_format
        check_vae(control.vae, reads, "model_patch")


def attach(control: ComposedControl, positive: Any, negative: Any) -> tuple[list, list]:
    """Return both CONDITIONINGs with the control behind those they have, marked with their role.

    Entries with the same control before it share one copy, so that the host can batch them.
    """
    copies: dict[Any, ComposedControl] = {}  # by the control before it

    def behind(previous: Any) -> ComposedControl:
        if previous not in copies:
            copies[previous] = control.copy()
            copies[previous].set_previous_controlnet(previous)
        return copies[previous]

    def marked(conditioning: Any, role: str) -> list:
        marks = {"control_apply_to_uncond": False, KEY: role}
        return [
            [text, {**entry, **marks, TEXT: text, "control": behind(entry.get("control"))}]
            for text, entry in conditioning
        ]

    return marked(positive, PEOPLE), marked(negative, NEGATIVE)


def roles_of(conds: Mapping[str, list], composition: Composition) -> dict[Any, str]:
    """Return PEOPLE or NEGATIVE for each conditioning entry that carries this composition, by uuid.
    ValueError for an entry that can not be composed.
    """
    return {
        entry["uuid"]: _role_of(entry)
        for entries in conds.values()
        for entry in entries
        if control_of(entry, composition) is not None
    }


def _role_of(entry: Mapping[str, Any]) -> str:
    """The role of a composed entry, after what other nodes did to it."""
    if "area" in entry:
        raise ValueError(
            f"{NODE}: a conditioning with an area (Conditioning Set Area) can not be composed. "
            "Remove the area; an instance's own mask says where a person is."
        )
    if "gligen" in entry:
        raise ValueError(
            f"{NODE}: a conditioning with GLIGEN boxes can not be composed. Remove the GLIGEN "
            "node; an instance's own mask says where a person is."
        )
    text, composed_text = entry.get("cross_attn"), entry.get(TEXT)
    if KEY not in entry or text is composed_text or entry[KEY] == NEGATIVE:
        return entry.get(KEY, NEGATIVE)
    if text is None or not text.any():  # Conditioning Zero Out: nobody's prompt, all skeletons
        return NEGATIVE
    if composed_text is not None and torch.equal(text, composed_text):
        return PEOPLE
    raise ValueError(
        f"{NODE}: another node (Conditioning Average, Conditioning Concat or the like) changes the "
        "output 'positive', but the prompts of the people are on the model. Connect that node "
        f"before {NODE}, or to the conditioning of an Add Instance."
    )


def control_of(entry: Mapping[str, Any], composition: Composition) -> ComposedControl | None:
    """Find the composition's control in a conditioning entry's chain of controls."""
    control = entry.get("control")
    while control is not None:
        if isinstance(control, ComposedControl) and control.composition is composition:
            return control
        control = control.previous_controlnet
    return None


def with_drawn_patches(
    control: ComposedControl, layout: StreamRows, x: Tensor, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return new transformer_options with the family's own control of the rows of all streams.

    x: their noisy latents. Either all streams have a control, or none has.
    """
    hints = [stream.hint for stream in layout.streams if stream.hint is not None]
    if len(hints) not in (0, len(layout.streams)):
        raise RuntimeError("streams with and without a control in one call of the network")
    by_kind = control.patches(hints, layout.batch, x) if hints else {}
    options = dict(options)
    for kind, patches in by_kind.items():
        for patch in patches:
            options = with_patch(options, kind, patch)
    return options

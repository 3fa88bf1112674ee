"""Every method of the pack as a pair of samplings that must be equal."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from comfy.sd import load_lora_for_models

from ...models.compose import Instance, PersonLora
from ...nodes import compose
from ...nodes.person_loras import load_lora
from . import strengths

PIXELS, STRIDE = 64, 8
POSE_FILE = "vitruvian_mini_openpose.safetensors"
CHECKPOINT = "vitruvian_mini.safetensors"
PERSON_LORA = "vitruvian_mini_orange_tops.safetensors"


class Loaded(NamedTuple):
    """The mini checkpoint with its pose ControlNet, or a network of another family; and prompts."""

    model: Any
    clip: Any
    vae: Any
    control_net: Any
    positive: Any
    negative: Any
    other_prompt: Any = None
    other_model: Any = None  # of the same family; None: the same model again
    lora: str = "vitruvian_mini_lora.safetensors"


class Inputs(NamedTuple):
    """What a sampler gets."""

    model: Any
    positive: Any
    negative: Any
    latent: dict[str, torch.Tensor]

    @property
    def channels(self) -> int:
        return self.latent["samples"].shape[1]


class Pair(NamedTuple):
    """A sampling with a method, and the ordinary one that it equals."""

    ours: Inputs
    plain: Inputs
    strong: Inputs | None = None  # with strength 1, where `ours` has strength 0


Patch = Callable[[Any], Any] | None  # of a MODEL, before the method


def load() -> Loaded:
    """Load the mini files by the host's own nodes; the pack must be registered."""
    import nodes

    with torch.inference_mode():
        model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(CHECKPOINT)[:3]
        control_net = nodes.ControlNetLoader().load_controlnet(POSE_FILE)[0]
        positive, negative = strengths.prompts(clip)
    return Loaded(model, clip, vae, control_net, positive, negative)


def standing_person() -> list[dict[str, Any]]:
    """Make a pose of two people who stand at one place in the same way: two equal people."""
    places = "0 .1 0 .2 -.1 .2 -.13 .36 -.13 .5 .1 .2 .13 .36 .13 .5 -.06 .52 -.06 .75 -.06 .95"
    places += " .06 .52 .06 .75 .06 .95 -.02 .07 .02 .07 -.05 .08 .05 .08"
    x_y = torch.tensor(list(map(float, places.split()))).view(18, 2) + torch.tensor([0.5, 0.0])
    flat = torch.cat((x_y * PIXELS, torch.ones(18, 1)), 1).flatten().tolist()
    people = [{"pose_keypoints_2d": flat}, {"pose_keypoints_2d": list(flat)}]
    return [{"people": people, "canvas_width": PIXELS, "canvas_height": PIXELS}]


def empty_latent(batch: int = 1) -> dict[str, torch.Tensor]:
    return {"samples": torch.zeros(batch, 4, PIXELS // STRIDE, PIXELS // STRIDE)}


def equal_people(
    loaded: Loaded,
    patch: Patch,
    positive: Any,
    negative: Any,
    batch: int,
    *,
    mode: str,
    shared: bool = False,
    loras: tuple[PersonLora, ...] = (),
) -> Pair:
    """Compose two equal people: one ordinary ControlNet. LoRAs of both are LoRAs of the model."""
    import nodes

    model = patch(loaded.model) if patch else loaded.model
    # what other nodes put on a prompt belongs to the positive; a person has the prompt itself
    people = tuple(Instance(loaded.positive, number, loras=loras) for number in (1, 2))
    pose = standing_person()
    ours = compose.VitruvianComposeInstances.execute(
        model, positive, negative, people, pose, loaded.control_net, mode=mode, strength=1.0,
        harmony=0.5, dilation=0.06, start_percent=0.0, end_percent=1.0,
        background_prompt=compose.MEAN, shared_negative=shared,
    ).result  # fmt: skip
    skeletons = compose.compose.instance_frames(people, compose.read_pose(pose)).skeletons
    hint = skeletons(compose.compose.MERGED, PIXELS, PIXELS)
    conds = nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, loaded.control_net, hint, 1.0, 0.0, 1.0
    )
    latent = empty_latent(batch)
    composed = Inputs(ours[0], ours[1], ours[2], latent)
    for lora in loras:
        model, _ = load_lora_for_models(model, None, dict(lora.tensors), lora.strength, 0.0)
    return Pair(composed, Inputs(model, conds[0], conds[1], latent))


def with_loras(
    loaded: Loaded, patch: Patch, positive: Any, negative: Any, batch: int, *, mode: str
) -> Pair:
    """Compose two equal people with the same LoRA: one ordinary ControlNet with that LoRA."""
    lora = load_lora(PERSON_LORA, 1.0, 1.0)
    return equal_people(loaded, patch, positive, negative, batch, mode=mode, loras=(lora,))


def of_strength_0(
    loaded: Loaded, patch: Patch, positive: Any, negative: Any, batch: int, *, name: str
) -> Pair:
    """Apply a method with strength 0, which is not there; and with strength 1."""
    base = _base(name, loaded.model, loaded.clip, loaded.vae)
    model = patch(base) if patch else base

    def inputs(strength: float) -> Inputs:
        applied = strengths.METHODS[name](model, positive, negative, strength)
        latent = _repeated(applied.latent, batch)
        return Inputs(applied.model, applied.positive, applied.negative, latent)

    ours = inputs(0.0)
    return Pair(ours, Inputs(model, positive, negative, ours.latent), inputs(1.0))


@lru_cache(maxsize=len(strengths.METHODS))
def _base(name: str, *checkpoint: Any) -> Any:
    return strengths.base(name, (checkpoint[0], checkpoint[1], checkpoint[2]))


def _repeated(latent: dict[str, torch.Tensor], batch: int) -> dict[str, torch.Tensor]:
    return {name: value.repeat_interleave(batch, 0) for name, value in latent.items()}


PAIRS: dict[str, Callable[..., Pair]] = {
    "compose exact": partial(equal_people, mode="exact"),
    "compose exact, one negative": partial(equal_people, mode="exact", shared=True),
    "compose layers": partial(equal_people, mode="layers"),
    "compose couple": partial(equal_people, mode="couple"),
    **{name: partial(of_strength_0, name=name) for name in strengths.METHODS},
}
# the same with LoRAs of people, which the law of `with_loras` does not fit beside all nodes
WITH_LORAS: dict[str, Callable[..., Pair]] = {
    f"compose {mode} with LoRAs": partial(with_loras, mode=mode) for mode in ("exact", "couple")
}

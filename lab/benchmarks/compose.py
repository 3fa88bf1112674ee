"""Several people, each with a prompt and a pose: our modes against what one can do without them.

For N = 1 to 4 people, on unseen scenes of the mini world, through the host's own nodes:
  <mode>_acc_N    share of garments in the named color inside that person's true mask
  <mode>_pck_N    share of visible joints within 5 % of the person's height of where they belong
  <mode>_seam_N   contrast across the borders of regions over that elsewhere (1: none to be seen)
  <mode>_cost_N   sampling time over that of one person with plain ControlNet, taken in turns
`shared`: exact with one negative pass for all, not one per person as in the paper. `global`: one
prompt that names everybody, one ControlNet on the merged skeleton. `native`: the host's ControlNet,
Conditioning Set Mask and Combine for each person, with the same regions.
`ceiling`: the evaluators on the true images after a round trip through the VAE.

`transformer_...`: on the mini transformer, where its weights are there: compose_transformer.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models import compose, pose, pose_drawing
from ...models.mini import IMAGE_SIZE
from ..evaluators import measurements, posenet
from ..training import convert, preview
from ..world.captions import person_caption, scene_caption
from ..world.dataset import draw_hint, skeletons
from ..world.renderer import Render, render
from ..world.scenes import FULL, Scenes, sample_scenes
from . import host
from .mini import RESULTS, UNSEEN

MODES = ("exact", "layers", "couple")
RIVALS = ("global", "native")
MEASURED = (*MODES, "shared", *RIVALS, "ceiling")
DILATION = 0.06
STRENGTH = 1.5  # of the ControlNet, the paper's, for all alike
SHOWN = 6  # scenes of each N on the contact sheet


def run(quick: bool) -> dict[str, float]:
    """Measure composing against its baselines; the numbers of results/compose.json.

    Also writes a contact sheet per N beside it:
    a row per scene, columns: the truth, then the modes.
    """
    count = 3 if quick else 24
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    numbers: dict[str, float] = {"scenes": count}
    for people in (1, 2, 3, 4):
        numbers |= _with_people(loaded, people, count)
    from . import compose_transformer  # which takes this module's scenes and ways

    return numbers | (compose_transformer.measure(quick) if compose_transformer.is_there() else {})


def unseen_scenes(people: int, count: int) -> tuple[Scenes, Render]:
    """Draw scenes of so many people that no training saw, and their true images."""
    scenes = sample_scenes(count, UNSEEN + 100 + people, framing=FULL, people=people)
    return scenes, render(scenes)


def _with_people(loaded: host.Loaded, people: int, count: int) -> dict[str, float]:
    scenes, truth = unseen_scenes(people, count)
    owners, free = regions(scenes, truth, count)
    samplers = {
        "plain": lambda i: _plain(loaded, scenes, truth, i),
        "global": lambda i: one_prompt(loaded, scenes, truth, i),
        "native": lambda i: _native(loaded, scenes, truth, i),
        **{mode: composed(loaded, scenes, truth, mode) for mode in MODES},
        "shared": composed(loaded, scenes, truth, "exact", shared_negative=True),
    }
    images_by_way, seconds = in_turns(samplers, count)
    checkpoint, net = convert.load_checkpoint(preview.CHECKPOINT), posenet.load_posenet()
    images_by_way["ceiling"] = preview.decode(checkpoint, preview.encode(checkpoint, truth.rgb))
    numbers = {}
    for name in MEASURED:
        images = images_by_way[name]
        numbers[f"{name}_acc_{people}"] = measurements.color_accuracy(images, scenes, truth)
        numbers[f"{name}_pck_{people}"] = measurements.pck_each(net, images, scenes, truth)
        if people > 1:
            numbers[f"{name}_seam_{people}"] = measurements.seam_contrast(images, owners, free)
        if name in seconds:
            numbers[f"{name}_cost_{people}"] = seconds[name] / seconds["plain"]
    rows = torch.stack([truth.rgb, *(images_by_way[name] for name in (*MODES, *RIVALS))], 1)[:SHOWN]
    RESULTS.mkdir(exist_ok=True)
    preview.save_sheet(rows.flatten(0, 1), RESULTS / f"compose-{people}.jpg", columns=rows.shape[1])
    return numbers


def in_turns(
    samplers: dict[str, Callable[[int], Tensor]], count: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All images by every sampler, scene after scene, and the seconds each took in all."""
    images_by_way: dict[str, list[Tensor]] = {name: [] for name in samplers}
    seconds = dict.fromkeys(samplers, 0.0)
    for name in samplers:
        samplers[name](0)  # the first run loads and warms up
    for i in range(count):
        for name, sampler in samplers.items():
            start = time.perf_counter()
            images_by_way[name].append(sampler(i))
            seconds[name] += time.perf_counter() - start
    return {name: torch.cat(images) for name, images in images_by_way.items()}, seconds


def _prompts(scenes: Scenes, i: int) -> list[str]:
    """One prompt per person of the scene, in the scene's order, with setting and framing."""
    setting = scene_caption(scenes, i).split(":")[0].split(" people ")[-1]
    if len(rows := _rows(scenes, i)) == 1:
        return [scene_caption(scenes, i)]
    return [f"{person_caption(scenes, k)}, {setting}" for k in rows]


def _rows(scenes: Scenes, i: int) -> list[int]:
    return (scenes.people.scene == i).nonzero()[:, 0].tolist()


def _hints(scenes: Scenes, truth: Render, i: int) -> tuple[Tensor, list[Tensor]]:
    """Everybody's skeleton and each person's own, [1,H,W,3]."""
    people = skeletons(i, scenes, truth)
    each = [
        pose_drawing.draw_people(pose.pick(people, [k]), IMAGE_SIZE, IMAGE_SIZE)[None]
        for k in range(pose.count(people))
    ]
    return draw_hint(i, scenes, truth).movedim(0, -1)[None], each


def _shares(scenes: Scenes, truth: Render, i: int) -> Tensor:
    people = skeletons(i, scenes, truth)
    instances = [compose.Instance(None, k + 1) for k in range(pose.count(people))]
    areas = compose.instance_areas(instances, people, IMAGE_SIZE, IMAGE_SIZE, DILATION)
    return compose.hard_shares(areas, [0] * len(instances))[:, 0, 0]


def regions(scenes: Scenes, truth: Render, count: int) -> tuple[Tensor, Tensor]:
    """Owner of each pixel (0: all alike) [B,H,W], and where nobody is."""
    owners = []
    for i in range(count):
        shares = _shares(scenes, truth, i)
        owners.append(torch.where(shares.amax(0) > 0.99, shares.argmax(0) + 1, 0))
    return torch.stack(owners), truth.instance < 0


def _sample(loaded: host.Loaded, conds: Sequence, seed: int, model: Any = None) -> Tensor:
    latent = host.sample(model or loaded.model, conds[0], conds[1], host.empty(IMAGE_SIZE), seed)
    return host.decode(loaded, latent)


def _controlled(
    loaded: host.Loaded, positive: Any, hint: Tensor, strength: float = STRENGTH
) -> tuple[Any, Any]:
    return host.controlled(loaded, positive, host.text(loaded, ""), hint, strength)


def _plain(loaded: host.Loaded, scenes: Scenes, truth: Render, i: int) -> Tensor:
    """The first person alone: the yardstick of cost."""
    hint = _hints(scenes, truth, i)[1][0]
    conds = _controlled(loaded, host.text(loaded, _prompts(scenes, i)[0]), hint)
    return _sample(loaded, conds, i)


def one_prompt(
    loaded: host.Loaded, scenes: Scenes, truth: Render, i: int, strength: float = STRENGTH
) -> Tensor:
    """Sample scene `i` with one prompt that names everybody and everybody's skeleton."""
    merged = _hints(scenes, truth, i)[0]
    conds = _controlled(loaded, host.text(loaded, scene_caption(scenes, i)), merged, strength)
    return _sample(loaded, conds, i)


def _native(loaded: host.Loaded, scenes: Scenes, truth: Render, i: int) -> Tensor:
    import nodes

    merged, each = _hints(scenes, truth, i)
    positive: list = []
    parts = zip(_prompts(scenes, i), each, _shares(scenes, truth, i), strict=True)
    for prompt, hint, share in parts:
        person_conditioning = _controlled(loaded, host.text(loaded, prompt), hint)[0]
        positive += nodes.ConditioningSetMask().append(
            person_conditioning, share[None], "default", 1.0
        )[0]
    negative = _controlled(loaded, [], merged)[1]
    return _sample(loaded, (positive, negative), i)


def composed(
    loaded: host.Loaded,
    scenes: Scenes,
    truth: Render,
    mode: str,
    *,
    shared_negative: bool = False,
    strength: float = STRENGTH,
    **levers: float,
) -> Callable[[int], Tensor]:
    """Build the sampler of scene i by Compose Instances; `levers`: more of its inputs."""
    from ...nodes.compose import MEAN, VitruvianComposeInstances

    def sample(i: int) -> Tensor:
        people = skeletons(i, scenes, truth)
        places = pose.left_to_right(people)
        instances = tuple(
            compose.Instance(host.text(loaded, prompt), places.index(k) + 1)
            for k, prompt in enumerate(_prompts(scenes, i))
        )
        with torch.inference_mode():
            model, *conds = VitruvianComposeInstances.execute(
                loaded.model,
                host.text(loaded, scene_caption(scenes, i)),
                host.text(loaded, ""),
                instances,
                [pose.write_frame(people)],
                loaded.controlnet,
                mode=mode,
                strength=strength,
                harmony=0.5,
                dilation=DILATION,
                start_percent=0.0,
                end_percent=1.0,
                background_prompt=MEAN,
                shared_negative=shared_negative,
                vae=loaded.vae,
                **levers,
            ).result[:3]
        return _sample(loaded, conds, i, model)

    return sample

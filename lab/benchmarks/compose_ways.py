"""Ways to sample scenes of several people: Compose Instances, and what one can do without it.

Every way makes images [B,3,H,W] of the scenes `rows`, all with the same seeds, through the host's
own nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import compose, pose, pose_drawing
from ...models.mini import IMAGE_SIZE
from ..world.captions import person_caption, scene_caption
from ..world.dataset import skeletons
from ..world.renderer import Render, render
from ..world.scenes import FULL, Scenes, sample_scenes
from . import host

MODES = ("exact", "layers", "couple")
DILATION = 0.06
STRENGTH = 1.5  # of the ControlNet, the paper's, for all alike
CLOSER = 0.5  # how far pairs are moved together, of their distance from the middle
PER_PERSON = ("body", "hands", "body_visible", "hands_visible", "height")  # parts of a Render

Rows = Sequence[int]
Way = Callable[[Rows], Tensor]


class Crowds(NamedTuple):
    """Hold scenes of several people each, and their true images."""

    scenes: Scenes
    truth: Render

    def people_of(self, i: int) -> list[int]:
        """List the people of scene i from left to right, as rows of scenes.people."""
        rows = (self.scenes.people.scene == i).nonzero()[:, 0].tolist()
        return [rows[k] for k in pose.left_to_right(skeletons(i, self.scenes, self.truth))]

    def frame(self, i: int) -> pose.People:
        """Pose the people of scene i, from left to right."""
        people = skeletons(i, self.scenes, self.truth)
        return pose.pick(people, pose.left_to_right(people))

    def prompts(self, i: int) -> list[str]:
        """Describe each person of scene i, from left to right, with setting and framing."""
        caption = scene_caption(self.scenes, i)
        if len(rows := self.people_of(i)) == 1:
            return [caption]
        setting = caption.split(":")[0].split("people ")[-1]
        return [f"{person_caption(self.scenes, k)}, {setting}" for k in rows]

    def only(self, rows: Rows) -> Crowds:
        """Keep the scenes `rows`, which are in order."""
        is_theirs = torch.isin(self.scenes.people.scene, torch.tensor(rows))
        parts = {
            name: getattr(self.truth, name)[is_theirs if name in PER_PERSON else [*rows]]
            for name in Render.__annotations__
        }
        renumbered = torch.cat((is_theirs.cumsum(0) - 1, torch.tensor([-1])))  # -1: nobody
        parts["instance"] = renumbered[parts["instance"]]
        return Crowds(self.scenes.take(torch.tensor(rows)), Render(**parts))


def draw(people: int, count: int, seed: int) -> Crowds:
    """Draw scenes of so many whole people each."""
    scenes = sample_scenes(count, seed, framing=FULL, people=people)
    return Crowds(scenes, render(scenes))


def draw_touching(count: int, seed: int) -> Crowds:
    """Draw scenes of two people whose bodies touch or cover each other in the image."""
    scenes = sample_scenes(4 * count + 8, seed, framing=FULL, people=2)
    x, ground, distance = scenes.people.place.unbind(-1)
    place = torch.stack((0.5 + (x - 0.5) * CLOSER, ground, distance), -1)
    scenes = replace(scenes, people=replace(scenes.people, place=place))
    pairs = Crowds(scenes, render(scenes))
    rows = [i for i in range(len(scenes)) if do_touch(pairs.truth.instance[i])]
    if len(rows) < count:
        raise ValueError(f"expected {count} touching pairs in {len(scenes)}, found {len(rows)}")
    return pairs.only(rows[:count])


def do_touch(instance: Tensor) -> bool:
    """Tell whether bodies of different people are neighbors in `instance` [H,W], -1: nobody."""
    for axis in (0, 1):
        one, other = instance.unfold(axis, 2, 1).unbind(-1)
        if ((one >= 0) & (other >= 0) & (one != other)).any():
            return True
    return False


def draw_hints(crowds: Crowds, rows: Rows, person: int | None = None) -> Tensor:
    """Draw the skeleton of one person of each scene, or everybody's, [B,H,W,3]."""
    frames = [crowds.frame(i) for i in rows]
    if person is not None:
        frames = [pose.pick(frame, [person]) for frame in frames]
    return torch.stack(
        [pose_drawing.draw_people(frame, IMAGE_SIZE, IMAGE_SIZE) for frame in frames]
    )


def draw_shares(crowds: Crowds, rows: Rows) -> Tensor:
    """Draw the places that Compose Instances gives each person, [people,B,H,W]."""
    shares = []
    for i in rows:
        frame = crowds.frame(i)
        instances = [compose.Instance(None, k + 1) for k in range(pose.count(frame))]
        areas = compose.instance_areas(instances, frame, IMAGE_SIZE, IMAGE_SIZE, DILATION)
        shares.append(compose.hard_shares(areas, [0] * len(instances))[:, 0, 0])
    return torch.stack(shares, 1)


def first_alone(loaded: host.Loaded, crowds: Crowds) -> Way:
    """Sample the first person of a scene alone: the yardstick of cost."""

    def sample(rows: Rows) -> Tensor:
        prompts = [crowds.prompts(i)[0] for i in rows]
        return _controlled(loaded, prompts, draw_hints(crowds, rows, 0), rows, STRENGTH)

    return sample


def one_prompt(loaded: host.Loaded, crowds: Crowds, strength: float = STRENGTH) -> Way:
    """Sample with one prompt that names everybody, and everybody's skeleton."""

    def sample(rows: Rows) -> Tensor:
        prompts = [scene_caption(crowds.scenes, i) for i in rows]
        return _controlled(loaded, prompts, draw_hints(crowds, rows), rows, strength)

    return sample


def native(loaded: host.Loaded, crowds: Crowds) -> Way:
    """Sample with the host's ControlNet, Conditioning Set Mask and Combine for each person, in the
    same places.
    """
    import nodes

    def sample(rows: Rows) -> Tensor:
        masked: list = []
        prompts = zip(*(crowds.prompts(i) for i in rows), strict=True)
        shares = draw_shares(crowds, rows)
        for person, (each, share) in enumerate(zip(prompts, shares, strict=True)):
            texts = host.text(loaded, *each), host.text(loaded, "")
            positive, _ = host.controlled(
                loaded, *texts, draw_hints(crowds, rows, person), STRENGTH
            )
            masked += nodes.ConditioningSetMask().append(positive, share, "default", 1.0)[0]
        merged = draw_hints(crowds, rows)
        _, negative = host.controlled(loaded, [], host.text(loaded, ""), merged, STRENGTH)
        return _sample(loaded, (loaded.model, masked, negative), rows)

    return sample


def composed(
    loaded: host.Loaded, crowds: Crowds, mode: str, strength: float = STRENGTH, **inputs: Any
) -> Way:
    """Sample by Compose Instances in one of its modes; `inputs`: more of the node's."""
    from ...nodes.compose import MEAN, VitruvianComposeInstances

    settings: dict[str, Any] = {"harmony": 0.5, "dilation": DILATION, "background_prompt": MEAN}
    settings |= {"start_percent": 0.0, "end_percent": 1.0, "shared_negative": False, **inputs}

    def sample(rows: Rows) -> Tensor:
        prompts = zip(*(crowds.prompts(i) for i in rows), strict=True)
        instances = tuple(
            compose.Instance(host.text(loaded, *each), number)
            for number, each in enumerate(prompts, 1)
        )
        with torch.inference_mode():
            sampling = VitruvianComposeInstances.execute(
                loaded.model,
                host.text(loaded, *(scene_caption(crowds.scenes, i) for i in rows)),
                host.text(loaded, ""),
                instances,
                [pose.write_frame(crowds.frame(i)) for i in rows],
                loaded.controlnet,
                mode=mode,
                strength=strength,
                vae=loaded.vae,
                **settings,
            ).result[:3]
        return _sample(loaded, sampling, rows)

    return sample


def _controlled(
    loaded: host.Loaded, prompts: Sequence[str], hints: Tensor, rows: Rows, strength: float
) -> Tensor:
    texts = host.text(loaded, *prompts), host.text(loaded, "")
    conds = host.controlled(loaded, *texts, hints, strength)
    return _sample(loaded, (loaded.model, *conds), rows)


def _sample(loaded: host.Loaded, sampling: tuple[Any, Any, Any], rows: Rows) -> Tensor:
    latent = host.empty(IMAGE_SIZE, len(rows))
    return host.decode(loaded, host.sample(*sampling, latent, rows[0]))

"""Batched renderer of the mini world: exact images, depth, normals, parsing, instances and
keypoints of `Scenes`.

Orthographic. Every part is a round cone, whose front surface above a pixel has a closed form
(`cone_depth`). Only the 16 x 16 tiles that a part's bounding box touches are evaluated, all parts
of all scenes at once; a z-buffer keeps the nearest and the surface is shaded once per covered
pixel. Images are drawn at twice their size and averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .backgrounds import draw_backgrounds
from .body import BASE_STATURE, Bodies, build_bodies
from .scenes import FULL, HAND, UPPER, People, Scenes

TILE = 16
SUPERSAMPLE = 2
WEAVE = 0.11  # period of the cloths' patterns, meters
MARGIN = 0.93  # share of the image that a single full person may fill

Change = Callable[[People, Bodies], Bodies]


@dataclass(frozen=True)
class Render:
    """Hold B images of H x W and their ground truth; keypoints are in pixels of the image."""

    rgb: Tensor  # [B, 3, H, W] 0..1
    depth: Tensor  # [B, H, W] meters towards the viewer; -inf where nobody is
    normal: Tensor  # [B, 3, H, W] unit, x right, y up, z to the viewer; 0 where nobody is
    parsing: Tensor  # [B, H, W] index into LABELS
    instance: Tensor  # [B, H, W] row in scenes.people, -1 where nobody is
    body: Tensor  # [P, 18, 3] x, y, confidence
    hands: Tensor  # [P, 2, 21, 3] right and left hand
    body_visible: Tensor  # [P, 18] the joint lies in the image with nothing in front of it
    hands_visible: Tensor  # [P, 2, 21]
    height: Tensor  # [P] the bodies' standing height in pixels


def cone_depth(
    q: Tensor, axis: Tensor, z: Tensor, dz: Tensor, ra: Tensor, dr: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the front surface of round cones seen along -z: the largest z over the swept spheres.

    With the sphere at t in [0, 1] centered at (t axis, z + t dz) and of radius ra + t dr, the
    surface above the point q is z + t dz + sqrt(S(t)), S(t) = (ra + t dr)^2 - |q - t axis|^2 = C +
    2 B t - A t^2, largest at t = B/A + dz sqrt(D / (A (A + dz^2))) with D = C + B^2/A.
    `q`, `axis` [..., 2], the others [...]. Returns z, t and S; where S < 0 the cone does not cover
    the point.
    """
    a = ((axis * axis).sum(-1) - dr * dr).clamp(min=1e-4)
    b = ra * dr + (q * axis).sum(-1)
    c = ra * ra - (q * q).sum(-1)
    d = (c + b * b / a).clamp(min=0)
    t = (b / a + dz * (d / (a * (a + dz * dz))).sqrt()).clamp(0, 1)
    s = c + 2 * b * t - ((axis * axis).sum(-1) - dr * dr) * t * t
    return z + t * dz + s.clamp(min=0).sqrt(), t, s


def weave(pattern: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Choose which of a cloth's two tones (0 or 1) lies at (u, v) meters, by index into
    PATTERNS.
    """
    x, y = u / WEAVE, v / WEAVE
    tones = torch.stack(
        (
            torch.zeros_like(x, dtype=torch.bool),
            y % 1 < 0.5,
            torch.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.30,
            (torch.floor(2 * x) + torch.floor(2 * y)) % 2 == 1,
            (y + (2 * (x * 0.8 % 1) - 1).abs() * 0.9) % 1 < 0.5,
            torch.sin(4.5 * x + 1.3 * torch.sin(3.1 * y))
            + torch.sin(4.1 * y + 1.1 * torch.sin(3.5 * x + 1))
            > 0.3,
        )
    )
    return tones.gather(0, pattern[None])[0].float()


def render(
    scenes: Scenes, size: int = 192, *, chunk: int = 16, change: Change | None = None
) -> Render:
    """Render scenes at `size` x `size`; `chunk` scenes at a time bounds the memory.

    `change` makes other bodies of people's before they are drawn.
    """
    groups, first = [], 0
    for rows in torch.arange(len(scenes), device=scenes.background.device).split(chunk):
        chunk_scenes = scenes.take(rows)
        groups.append((_render(chunk_scenes, size, change), first))
        first += len(chunk_scenes.people)
    parts = {
        name: torch.cat([getattr(g, name) for g, _ in groups])
        for name in Render.__annotations__
        if name != "instance"
    }
    instance = torch.cat(
        [torch.where(g.instance >= 0, g.instance + first, -1) for g, first in groups]
    )
    return Render(instance=instance, **parts)


def _render(scenes: Scenes, size: int, change: Change | None) -> Render:
    full = size * SUPERSAMPLE
    p, bodies = scenes.people, build_bodies(scenes.people)
    bodies = bodies if change is None else change(p, bodies)
    scale, origin = _camera(scenes, bodies, full)
    bodies = _frame(scenes, bodies)

    def project(points: Tensor) -> Tensor:
        shape = (-1, *[1] * (points.dim() - 2))
        flip = torch.tensor([1.0, -1.0, 1.0], device=points.device)
        return points * flip * scale.view(*shape, 1) + origin.view(len(p), *shape[1:], 3)

    a, b, r = project(bodies.a), project(bodies.b), bodies.r * scale[:, None, None]
    owner, z = _rasterise(p.scene, a, b, r, len(scenes), full)
    behind = _shadows(scenes, bodies, project, draw_backgrounds(scenes, size))
    behind = behind.repeat_interleave(SUPERSAMPLE, -1).repeat_interleave(SUPERSAMPLE, -2)
    rgb, normal, parsing, instance = _shade(scenes, bodies, a, b, r, owner, scale, behind)
    body, hands = project(bodies.body), project(bodies.hands)
    per_meter = scenes.scale[:, None, None] * full
    body_seen, body_conf = _visibility(p, body, scale * 0.11, z, instance, own_face=True)
    hands_seen, hands_conf = _visibility(p, hands.flatten(1, 2), scale * 0.03, z, instance)
    is_solid = (bodies.r.amax(-1) > 0) & (bodies.limb >= 0)
    present = torch.stack(
        [(is_solid & (bodies.limb == k)).any(-1) for k in (0, 1)], 1
    )  # [P, 2] the arm is in this framing
    has_body = (scenes.framing[p.scene] != HAND)[:, None].float()
    hands_conf = hands_conf.view(-1, 2, 21) * present[..., None]
    step = slice(SUPERSAMPLE // 2, None, SUPERSAMPLE)
    return Render(
        rgb=avg_pool2d(rgb, SUPERSAMPLE),
        depth=(z / per_meter)[:, step, step],
        normal=normal[:, :, step, step],
        parsing=parsing[:, step, step],
        instance=instance[:, step, step],
        body=torch.cat((body[..., :2] / SUPERSAMPLE, (body_conf * has_body)[..., None]), -1),
        hands=torch.cat((hands[..., :2] / SUPERSAMPLE, hands_conf[..., None]), -1),
        body_visible=body_seen & has_body.bool(),
        hands_visible=hands_seen.view(-1, 2, 21) & present[..., None],
        height=p.stature * scale / SUPERSAMPLE,
    )


def _camera(scenes: Scenes, f: Bodies, full: int) -> tuple[Tensor, Tensor]:
    """Pixels per meter [P] and the pixel position (x, y, z) [P, 3] of each person's own origin."""
    p = scenes.people
    framing, alone = (
        scenes.framing[p.scene],
        torch.bincount(p.scene, minlength=len(scenes))[p.scene] == 1,
    )
    solid = f.r.amax(-1, keepdim=True) > 0
    top = (
        torch.where(solid, f.a, f.body[:, :1])
        .maximum(torch.where(solid, f.b, f.body[:, :1]))
        .amax(1)
        + 0.10
    )
    low = (
        torch.where(solid, f.a, f.body[:, :1])
        .minimum(torch.where(solid, f.b, f.body[:, :1]))
        .amin(1)
        - 0.08
    )
    scale = scenes.scale[p.scene] * (1 + 0.12 * p.place[:, 2])
    fit = MARGIN / torch.where(alone, (top - low)[:, :2].amax(-1), top[:, 1])
    scale = torch.where(framing == FULL, scale.minimum(fit), scale)
    middle, reach = (top + low)[:, 0] / 2, (top - low)[:, 0] / 2
    x = p.place[:, 0]
    room = (0.5 - reach * scale).clamp(min=0)
    x = torch.where(
        alone & (framing == FULL), 0.5 + (x - 0.5).clamp(-room, room) - middle * scale, x
    )
    y = torch.where(
        framing == UPPER, 0.24 + 0.06 * p.place[:, 2] + f.body[:, 0, 1] * scale, p.place[:, 1]
    )
    hand = f.hands[torch.arange(len(p)), scenes.hand[p.scene]].mean(1)
    center = 0.5 + (p.place[:, :2] - torch.tensor([0.5, 0.94], device=x.device)) * torch.tensor(
        [0.5, 1.0], device=x.device
    )
    x = torch.where(framing == HAND, center[:, 0] - hand[:, 0] * scale, x)
    y = torch.where(framing == HAND, center[:, 1] + hand[:, 1] * scale, y)
    return scale * full, torch.stack((x, y, p.place[:, 2] * 2.5 * scale), -1) * full


def _frame(scenes: Scenes, f: Bodies) -> Bodies:
    """A close-up shows one arm only: all other parts lose their radius."""
    p = scenes.people
    close = scenes.framing[p.scene] == HAND
    other = f.limb[None] != scenes.hand[p.scene][:, None]
    r = f.r.masked_fill((close[:, None] & other)[..., None], 0)
    return Bodies(f.body, f.hands, f.a, f.b, r, f.label, f.albedo, f.pattern, f.side, f.limb)


def _rasterise(
    scene: Tensor, a: Tensor, b: Tensor, r: Tensor, count: int, full: int
) -> tuple[Tensor, Tensor]:
    """Nearest part (row in the flattened [P*K], -1 where none) and its z, both [B, full, full]."""
    scene = scene[:, None].expand(r.shape[:2]).flatten()
    a, b, r = a.flatten(0, 1), b.flatten(0, 1), r.flatten(0, 1)
    rmax = r.amax(-1, keepdim=True)
    low = ((a.minimum(b)[:, :2] - rmax) / TILE).floor().long().clamp(min=0)
    high = ((a.maximum(b)[:, :2] + rmax) / TILE).floor().long().clamp(max=full // TILE - 1)
    span = (high - low + 1).clamp(min=0) * (rmax > 0)
    jobs = span.prod(-1)
    part = torch.repeat_interleave(torch.arange(len(r), device=r.device), jobs)
    nth = torch.arange(len(part), device=r.device) - (jobs.cumsum(0) - jobs)[part]
    tile = low[part] + torch.stack((nth % span[part, 0], nth // span[part, 0]), -1)  # [J, 2]
    inside = torch.arange(TILE, device=r.device)
    x = (tile[:, :1] * TILE + inside)[:, None, :].expand(-1, TILE, -1)  # [J, TILE, TILE]
    y = (tile[:, 1:] * TILE + inside)[:, :, None].expand(-1, -1, TILE)
    q = torch.stack((x, y), -1) + 0.5 - a[part, None, None, :2]
    column = (slice(None), None, None)
    axis = (b - a)[part]
    z, _, s = cone_depth(
        q,
        axis[column][..., :2],
        a[part, 2][column],
        axis[:, 2][column],
        r[part, 0][column],
        (r[:, 1] - r[:, 0])[part][column],
    )
    hit = s >= 0
    where = ((scene[part][column] * full + y) * full + x)[hit]
    z, part = z[hit], part[column].expand_as(hit)[hit]
    nearest = torch.full((count * full * full,), -math.inf, device=z.device).scatter_reduce_(
        0, where, z, "amax"
    )
    first = z == nearest[where]
    owner = torch.full_like(nearest, -1, dtype=torch.long).scatter_reduce_(
        0, where[first], part[first], "amax"
    )
    return owner.view(count, full, full), nearest.view(count, full, full)


def _shade(
    scenes: Scenes,
    f: Bodies,
    a: Tensor,
    b: Tensor,
    r: Tensor,
    owner: Tensor,
    scale: Tensor,
    image: Tensor,
):
    """Color, normal, label and instance of every pixel; `image` [B, 3, full, full] is what lies
    behind the people.
    """
    parts = r.shape[1]
    at, y, x = (owner >= 0).nonzero(as_tuple=True)
    part = owner[at, y, x]
    person = part // parts
    a, b, r = a.flatten(0, 1)[part], b.flatten(0, 1)[part], r.flatten(0, 1)[part]
    q, axis, dr = torch.stack((x, y), -1) + 0.5 - a[:, :2], b - a, r[:, 1] - r[:, 0]
    z, t, _ = cone_depth(q, axis[:, :2], a[:, 2], axis[:, 2], r[:, 0], dr)
    center = t[:, None] * axis
    surface = torch.cat((q, (z - a[:, 2])[:, None]), -1)
    normal = torch.nn.functional.normalize(surface - center, dim=-1) * torch.tensor(
        [1.0, -1.0, 1.0], device=a.device
    )

    meters = surface / scale[person][:, None] * torch.tensor([1.0, -1.0, 1.0], device=a.device)
    along = torch.nn.functional.normalize(
        axis * torch.tensor([1.0, -1.0, 1.0], device=a.device), dim=-1
    )
    side = f.side.flatten(0, 1)[part]
    tone = weave(f.pattern.flatten(0, 1)[part], (meters * side).sum(-1), (meters * along).sum(-1))[
        :, None
    ]
    first, second = f.albedo.flatten(0, 1)[part].unbind(1)
    lit = (normal * scenes.light[at]).sum(-1, keepdim=True).clamp(min=0)
    shade = (0.60 + 0.40 * lit) * (0.80 + 0.20 * normal[:, 2:].clamp(min=0))
    color = ((first + (second - first) * tone) * shade * 1.05).clamp(0, 1)

    rgb, normals = image.clone(), torch.zeros_like(image)
    rgb[at, :, y, x], normals[at, :, y, x] = color, normal
    parsing, instance = torch.zeros_like(owner), torch.full_like(owner, -1)
    parsing[at, y, x], instance[at, y, x] = f.label.flatten()[part], person
    return rgb, normals, parsing, instance


def _shadows(scenes: Scenes, f: Bodies, project, image: Tensor) -> Tensor:
    """Darken the ground under each full person's feet."""
    p, size = scenes.people, image.shape[-1]
    feet = f.body[:, [10, 13]].mean(1, keepdim=True) * torch.tensor(
        [1.0, 0.0, 1.0], device=image.device
    )
    at = project(feet)[:, 0] / SUPERSAMPLE
    grid = torch.arange(size, device=image.device) + 0.5
    width = 0.30 * p.stature / BASE_STATURE * scenes.scale[p.scene] * size
    dx, dy = (
        (grid[None] - at[:, :1]) / width[:, None],
        (grid[None] - at[:, 1:2]) / (width * 0.28)[:, None],
    )
    dark = (1 - (dx[:, None, :] ** 2 + dy[:, :, None] ** 2)).clamp(min=0) * 0.45
    dark = dark * (scenes.framing[p.scene] == FULL)[:, None, None]
    light = torch.zeros(len(scenes), size, size, device=image.device).index_add(
        0, p.scene, (1 - dark).log()
    )
    return image * light.exp()[:, None]


def _visibility(
    p, points: Tensor, slack: Tensor, z: Tensor, instance: Tensor, *, own_face: bool = False
) -> tuple[Tensor, Tensor]:
    """Which joints [P, J] are seen, and their confidence.

    A detector still finds a joint behind the person's own body, but not behind somebody else, nor
    an eye or ear on the far side of the head.
    """
    full = z.shape[-1]
    x, y = points[..., 0].floor().long(), points[..., 1].floor().long()
    inside = (x >= 0) & (x < full) & (y >= 0) & (y < full)
    x, y = x.clamp(0, full - 1), y.clamp(0, full - 1)
    scene = p.scene[:, None]
    is_same_person = instance[scene, y, x] == torch.arange(len(p), device=x.device)[:, None]
    slack = slack[:, None].expand_as(points[..., 2]).clone()
    if own_face:
        slack[:, [0, 14, 15, 16, 17]] *= 0.35
    front = points[..., 2] + slack >= z[scene, y, x]
    visible = inside & (is_same_person | front)
    if own_face:
        visible[:, [0, 14, 15, 16, 17]] &= front[:, [0, 14, 15, 16, 17]]
    return inside & front, visible.float()

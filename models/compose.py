"""Who owns which cell of the picture, and the mixing of streams by it: FineControlNet (Choi et al.
2023, arXiv 2312.09252).

Every person has a stream of the network of their own. `shares` [S, 1, 1, h, w] or [S, B, 1, h, w]
say how much of each cell comes from which stream; over the S streams they sum to 1. Rows of a
stream's batch lie together: row s * B + b.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from . import body_masks, pose, pose_drawing

TEMPERATURE = 0.001  # of the soft shares
MERGED = -1  # stands for everybody among the numbers of people
SCENE_OCCUPANCY = 0.01  # a scene stream owns the cells of which no person covers more than this


class Instance(NamedTuple):
    """One person of a composition."""

    conditioning: Any  # their own prompt, as the host encoded it
    person: int  # number in the pose, 1 is the leftmost; 0: no skeleton, only the mask
    mask: Tensor | None = None  # [H, W] in 0..1; None: the body around the skeleton
    order: int = 0  # higher is nearer
    weight: float = 1.0  # of their occupancy where people meet


def instance_people(instances: Sequence[Instance], people: pose.People) -> pose.People:
    """The people of the instances, one each and in their order; nobody where person is 0.

    Raises ValueError when the numbers do not fit the pose.
    """
    numbers = [instance.person for instance in instances]
    there = pose.count(people)
    for number, instance in enumerate(instances, 1):
        if instance.person > there:
            raise ValueError(
                f"instance {number} is for person {instance.person}, but the pose has {there} "
                "people. Correct its 'person', or connect a pose with more people."
            )
        if instance.person == 0 and instance.mask is None:
            raise ValueError(
                f"instance {number} has neither a person nor a mask: set its 'person' to a number "
                "from 1, or connect a mask."
            )
    double = {n for n in numbers if n and numbers.count(n) > 1}
    if double:
        raise ValueError(
            f"person {min(double)} of the pose has more than one instance: give each its own."
        )
    if missing := set(range(1, there + 1)) - set(numbers):
        raise ValueError(
            f"person {min(missing)} of the pose (from the left) has no instance: add an instance "
            "for everybody, or take people out of the pose with Pick People."
        )
    order = pose.left_to_right(people)
    nobody = tuple(torch.zeros_like(part[:1]) for part in people[:5])
    rows = [
        tuple(part[order[n - 1] :][:1] for part in people[:5]) if n else nobody for n in numbers
    ]
    return pose.people_from_points(
        (torch.cat(part) for part in zip(*rows, strict=True)), people.width, people.height
    )


def instance_areas(
    instances: Sequence[Instance], figures: pose.People, width: int, height: int, dilation: float
) -> Tensor:
    """Each instance's occupancy of the pixels [N, height, width]: its own mask, or the body around
    its skeleton, `dilation` times the standing height wider; times its weight.

    A picture of other proportions than the pose's canvas is covered by it.
    """
    shown = pose.cover_canvas(figures, width, height)
    bodies = body_masks.person_masks(shown, width, height, dilation=dilation, feather=0.0)
    return torch.stack(
        [
            instance.weight * (body if instance.mask is None else _fitted(instance.mask, body))
            for instance, body in zip(instances, bodies, strict=True)
        ]
    )


def draw_skeleton(figures: pose.People, person: int, width: int, height: int) -> Tensor:
    """The drawing of one person's skeleton, or of everybody's for MERGED, [height, width, 3]."""
    shown = figures if person == MERGED else pose.pick(figures, [person])
    return pose_drawing.draw_people(pose.cover_canvas(shown, width, height), width, height)


def _fitted(mask: Tensor, like: Tensor) -> Tensor:
    return interpolate(mask[None, None].float(), like.shape, mode="bilinear", antialias=True)[0, 0]


def occupancies(masks: Tensor, height: int, width: int) -> Tensor:
    """How much of each latent cell a person covers: masks [N, H, W] in 0..1 -> [N, h, w]."""
    return interpolate(masks[None], (height, width), mode="area")[0]


def precedence(occupied: Tensor, order: Sequence[int]) -> list[int]:
    """People [N, h, w] from the foremost to the hindmost: who wins where two cover a cell alike.

    A higher `order` of the artist's is nearer; among equals the smaller person, as they would be
    hidden otherwise; then the one listed first.
    """
    area = occupied.flatten(1).double().sum(1).tolist()
    return sorted(range(len(area)), key=lambda i: (-order[i], area[i], i))


def hard_shares(occupied: Tensor, order: Sequence[int], *, scene: bool = False) -> Tensor:
    """One owner per cell: occupancies [N, h, w] -> shares [S, 1, 1, h, w].

    Ties go by `precedence`. Cells that nobody covers belong to the scene, which is then the last of
    S = N + 1 streams, or to all S = N people alike.
    """
    first = torch.tensor(precedence(occupied, order), device=occupied.device)
    owner = first[occupied[first].argmax(0)]  # argmax takes the first of equals
    people = torch.arange(len(occupied), device=occupied.device)
    shares = (people[:, None, None] == owner).to(occupied)
    if scene:
        empty = occupied.amax(0) <= SCENE_OCCUPANCY
        shares = torch.cat((torch.where(empty, 0.0, shares), empty[None].to(shares)))
    else:
        shares = torch.where(occupied.amax(0) > 0, shares, 1 / len(occupied))
    return shares[:, None, None]


def soft_shares(occupied: Tensor, *, scene: bool = False) -> Tensor:
    """softmax(occupancy / TEMPERATURE): as hard shares, but people who tie share a cell alike."""
    if scene:
        occupied = torch.cat((occupied, torch.full_like(occupied[:1], SCENE_OCCUPANCY)))
    return (occupied / TEMPERATURE).softmax(0)[:, None, None]


def resize_shares(shares: Tensor, height: int, width: int) -> Tensor:
    """The shares on another grid. Bilinear without antialiasing, so that they still sum to 1."""
    if shares.shape[-2:] == (height, width):
        return shares
    flat = interpolate(shares.flatten(0, 1), (height, width), mode="bilinear", align_corners=False)
    return flat.unflatten(0, shares.shape[:2])


def compose_features(features: Tensor, shares: Tensor) -> Tensor:
    """Features [S * B, C, h, w] of all streams -> their mix by the shares [B, C, h, w]."""
    streams = features.unflatten(0, (len(shares), -1))
    return (resize_shares(shares, *features.shape[-2:]).to(features) * streams).sum(0)


def compose_tokens(tokens: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
    """Tokens [S * B, height * width, C] of all streams -> their mix [B, height * width, C]."""
    streams = tokens.unflatten(0, (len(shares), -1))
    weights = (
        resize_shares(shares, height, width).flatten(3).mT.to(tokens)
    )  # [S, B or 1, tokens, 1]
    return (weights.view(*shares.shape[:2], -1, 1) * streams).sum(0)


def share_residuals(residuals: Sequence[Tensor | None], shares: Tensor) -> list[Tensor | None]:
    """ControlNet residuals of the decoder, shallow to deep, as the method's default gives them to
    every stream: mixed by the shares and alike for all, but private on the coarsest grid.

    Each [S * B, C, h, w]. With private deep residuals every stream keeps its own person's layout
    where that is decided, and sees everybody's pose where it is drawn.
    """
    sizes = [r.shape[-2] * r.shape[-1] for r in residuals if r is not None]
    return [
        r
        if r is None or r.shape[-2] * r.shape[-1] == min(sizes)
        else compose_features(r, shares).repeat(len(shares), 1, 1, 1)
        for r in residuals
    ]


def draw_shares(shares: Tensor, skeletons: Tensor) -> Tensor:
    """A picture of who owns what: shares [N, H, W] and the drawn skeletons [H, W, 3] -> [H, W, 3].

    Every person's area in a hue of its own, numbered from 1 at its middle.
    """
    import cv2

    hues = [torch.tensor(colour) / 255 for colour in pose_drawing.hues(max(3, len(shares)))]
    picture = 0.1 + sum(0.45 * s[..., None] * hue for s, hue in zip(shares, hues, strict=False))
    picture = torch.where(skeletons.amax(-1, keepdim=True) > 0, skeletons, picture)
    canvas = (picture.clamp(0, 1) * 255).byte().numpy().copy()
    size = min(canvas.shape[:2]) / 400
    for number, share in enumerate(shares, 1):
        if share.sum() > 0:
            rows, columns = (share > 0.5).nonzero().double().mean(0).tolist()
            place = (round(columns - 10 * size), round(rows + 10 * size))
            for colour, thick in (((0, 0, 0), 5), ((255, 255, 255), 2)):
                cv2.putText(
                    canvas,
                    str(number),
                    place,
                    cv2.FONT_HERSHEY_SIMPLEX,
                    size,
                    colour,
                    max(1, round(thick * size)),
                    cv2.LINE_AA,
                )
    return torch.from_numpy(canvas).float() / 255

"""Compose an image of several people, each of whom has a pass of the network of their own.

After FineControlNet (Choi et al. 2023, arXiv 2312.09252). The pass for one person's prompt is a
stream. `shares` [S, 1, 1, h, w] or [S, B, 1, h, w] say how much of each cell comes from which of
the S streams; over the streams they sum to 1. The rows of one stream's batch lie together: row
s * B + b.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from . import body_masks, pose, pose_drawing
from .batches import one_each, paired_count

TEMPERATURE = 0.001  # of the soft shares
MERGED = -1  # instead of a person's number: all people together
STRETCHING = 0.1  # of a mask over an image of other proportions, as a share; more is refused
LONGEST_TITLE = 40  # letters of an instance's name in an error text
SCENE_OCCUPANCY = 0.01  # the scene's stream owns cells of which no person covers more than this


class PersonLora(NamedTuple):
    """Hold a LoRA file for one person, as it was loaded, with its strengths."""

    name: str  # the file's
    tensors: Mapping[str, Tensor]
    strength: float  # of what it adds to the model
    strength_clip: float  # of what it adds to the text encoder


class Instance(NamedTuple):
    """Describe one person, animal or thing of a composition."""

    conditioning: Any  # this person's prompt, as the host encoded it
    person: int  # number in the pose, 1 is the leftmost; 0: no skeleton, only the mask
    mask: Tensor | None = None  # [frames, H, W] in 0..1; None: the body around the skeleton
    order: int = 0  # higher is nearer to the viewer
    weight: float = 1.0  # of this person's occupancy where people overlap
    name: str = ""  # what people read, such as the prompt in words
    loras: tuple[PersonLora, ...] = ()  # that change this person only, in their order
    references: tuple[Tensor, ...] = ()  # latents [B, C, h, w] of images that this person follows


class Frames(NamedTuple):
    """The instances of a composition and their people in every frame, in the same order."""

    instances: tuple[Instance, ...]
    people: Sequence[pose.People]

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the pose or, without one, of the masks."""
        return self.people[0].width, self.people[0].height

    @property
    def order(self) -> tuple[int, ...]:
        """The order of each instance."""
        return tuple(instance.order for instance in self.instances)

    def areas(self, width: int, height: int, *, dilation: float, blended: bool = True) -> Tensor:
        """Draw `instance_areas` of every frame, [frames, N, height, width].

        Raises ValueError where masks have other proportions than the image, and for an instance
        that has no place in any frame: nothing of it is in the image, or others cover all of it.
        blended: of instances with one and the same area, each has a place.
        """
        _check_proportions(self.instances, width, height)
        areas = torch.stack(
            [
                instance_areas(self.instances, people, width, height, dilation, number)
                for number, people in enumerate(self.people)
            ]
        )
        self._check_places(areas, blended)
        return areas

    def person_masks(self, dilation: float) -> Tensor:
        """Draw the places that belong to each instance alone, 0 or 1 [frames * N, height, width]:
        all instances of the first frame, then those of the next.

        They are drawn at the size of the masks or, without any, of the pose. Unlike `areas` this
        never fails: an instance without a place has an empty mask.
        """
        masks = [instance.mask for instance in self.instances if instance.mask is not None]
        sizes = [(mask.shape[2], mask.shape[1]) for mask in masks]
        width, height = max(sizes, key=math.prod, default=self.canvas)
        return torch.cat(
            [
                owned_places(
                    instance_areas(self.instances, people, width, height, dilation, number),
                    self.order,
                )
                for number, people in enumerate(self.people)
            ]
        )

    def skeletons(self, person: int, width: int, height: int) -> Tensor:
        """Draw `draw_skeleton` of every frame, [frames, height, width, 3]."""
        return torch.stack([draw_skeleton(people, person, width, height) for people in self.people])

    def _check_places(self, areas: Tensor, blended: bool) -> None:
        """Refuse an instance without a place; somebody may be away in some of the frames."""
        owned = torch.stack([owned_places(frame, self.order) for frame in areas])
        owners = owned.any(0).flatten(1).any(1).tolist()
        for number, instance in enumerate(self.instances):
            twins = self._twins(number, areas) if blended else []
            if owners[number] or any(owners[twin] for twin in twins):
                continue
            if not areas[:, number].any():
                raise ValueError(f"{title(number, instance)} has no place: {_absence(instance)}")
            raise ValueError(
                f"{title(number, instance)} has no place: others cover all of it. Raise its "
                "'order' or 'weight' in Add Instance, or change the masks so that they leave room "
                "for it."
            )

    def _twins(self, number: int, areas: Tensor) -> list[int]:
        """List the instances with the same area and order, which share it."""
        return [
            twin
            for twin in range(len(self.instances))
            if self.order[twin] == self.order[number]
            and torch.equal(areas[:, twin], areas[:, number])
        ]


def _absence(instance: Instance) -> str:
    if instance.mask is not None:
        return "its mask is empty. Connect a mask that is white where it is to be."
    return (
        f"nothing of person {instance.person} is inside the image. The pose covers the image, so "
        "give both the same proportions, or move the person."
    )


def title(number: int, instance: Instance) -> str:
    """Name an instance by its number (from 0) and its name for an error text."""
    name = instance.name
    if len(name) > LONGEST_TITLE:
        name = f"{name[:LONGEST_TITLE].rstrip()} ..."
    return f"instance {number + 1}" + (f" ({name})" if name else "")


def _check_proportions(
    instances: Sequence[Instance], width: int, height: int, of: str = "the image"
) -> None:
    """Refuse masks whose proportions are not those of the image: they would be stretched."""
    for number, instance in enumerate(instances):
        if instance.mask is not None:
            rows, columns = instance.mask.shape[1:]
            if abs(columns * height - rows * width) > STRETCHING * rows * width:
                raise ValueError(
                    f"the mask of {title(number, instance)} has {columns} x {rows} pixels, but "
                    f"{of} {width} x {height}, and a mask lies on the entire image. Give both the "
                    "same proportions."
                )


def instance_people(instances: Sequence[Instance], people: pose.People) -> pose.People:
    """Pick the person of each instance, in the order of the instances.

    Where an instance's person is 0, all points of that row are missing. Raises ValueError when the
    numbers do not fit the pose.
    """
    numbers = [instance.person for instance in instances]
    available = pose.count(people)
    for number, instance in enumerate(instances):
        if instance.person > available:
            raise ValueError(
                f"{title(number, instance)} is for person {instance.person}, but the pose has "
                f"{available} people. Give it the number of somebody who is there, or connect a "
                "pose with more people."
            )
        if instance.person == 0 and instance.mask is None:
            raise ValueError(
                f"{title(number, instance)} has neither a person nor a mask. In its Add Instance, "
                "choose a person from 1, or connect a mask."
            )
    repeated = {n for n in numbers if n and numbers.count(n) > 1}
    if repeated:
        raise ValueError(
            f"person {min(repeated)} of the pose has more than one instance: give each its own."
        )
    if missing := set(range(1, available + 1)) - set(numbers):
        raise ValueError(
            f"person {min(missing)} of the pose (from the left) has no instance: add an instance "
            "for every person, or take people out of the pose with Pick People."
        )
    order = pose.left_to_right(people)
    return _rows_of(people, [order[n - 1] if n else None for n in numbers])


def _rows_of(people: pose.People, rows: Sequence[int | None]) -> pose.People:
    """Take these rows of the people; None is somebody all of whose points are missing."""
    parts = [
        torch.stack([part.new_zeros(part.shape[1:]) if n is None else part[n] for n in rows])
        for part in people[:5]
    ]
    return pose.people_from_points(parts, people.width, people.height)


def instance_frames(
    instances: Sequence[Instance], frames: Sequence[pose.People] | None = None
) -> Frames:
    """Pick the person of each instance in every frame of a pose: frame k is for image k.

    Masks with several frames go with them one by one, and a single frame serves all. In a frame
    without people, among others that have some, nobody has a skeleton. Without a pose nobody has
    one, and the masks say where everybody is. Raises ValueError, naming the frame, when the numbers
    do not fit it.
    """
    counts = {
        f"mask of instance {number}": len(instance.mask)
        for number, instance in enumerate(instances, 1)
        if instance.mask is not None
    }
    if frames is None:
        frames = [pose.no_people(*_mask_canvas(instances))]
    else:
        counts = {"pose": len(frames), **counts}
    count = paired_count(counts or {"pose": 1})
    picked = []
    for number, people in enumerate(frames, 1):
        if len(frames) > 1 and not pose.count(people):
            picked.append(_rows_of(people, [None] * len(instances)))
            continue
        try:
            picked.append(instance_people(instances, people))
        except ValueError as error:
            place = f"frame {number} of the pose: " if len(frames) > 1 else ""
            raise ValueError(f"{place}{error}") from None
    return Frames(tuple(instances), one_each(picked, count))


def _mask_canvas(instances: Sequence[Instance]) -> tuple[int, int]:
    """Return width and height of the largest mask; ValueError for an instance that needs a pose."""
    for number, instance in enumerate(instances):
        if instance.person > 0:
            raise ValueError(
                f"{title(number, instance)} is for person {instance.person} of a pose, but the "
                "input 'pose' is not connected. Connect it or, for an instance without a skeleton, "
                "use Instances from Masks, Instances from Boxes, or Add Instance with a mask and "
                "the person 0."
            )
    masks = [instance.mask for instance in instances if instance.mask is not None]
    sizes = [(mask.shape[2], mask.shape[1]) for mask in masks]
    width, height = max(sizes, key=math.prod, default=(1, 1))
    _check_proportions(instances, width, height, "that of another instance")
    return width, height


def instance_areas(
    instances: Sequence[Instance],
    people: pose.People,
    width: int,
    height: int,
    dilation: float,
    frame: int = 0,
) -> Tensor:
    """Draw how much each instance occupies of the pixels, [N, height, width].

    That is the instance's mask or, without one, the body around its skeleton, times its weight.
    people: as instance_people returns them. dilation: how far a body is widened, as a share of the
    standing height. frame: whose masks count. The pose's canvas is scaled so that it covers the
    image.
    """
    covering = pose.cover_canvas(people, width, height)
    bodies = body_masks.person_masks(covering, width, height, dilation=dilation, feather=0.0)

    def area(instance: Instance, body: Tensor) -> Tensor:
        if instance.mask is None:
            return body
        mask = instance.mask[frame if len(instance.mask) > 1 else 0]
        return _resize_mask(mask, body.shape)

    return torch.stack(
        [i.weight * area(i, body) for i, body in zip(instances, bodies, strict=True)]
    )


def draw_skeleton(people: pose.People, person: int, width: int, height: int) -> Tensor:
    """Draw one person's skeleton, or those of all people for MERGED, [height, width, 3]."""
    if person != MERGED:
        people = pose.pick(people, [person])
    return pose_drawing.draw_people(pose.cover_canvas(people, width, height), width, height)


def _resize_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    resized = interpolate(mask[None, None].float(), size, mode="bilinear", antialias=True)
    return resized[0, 0]


def occupancies(masks: Tensor, height: int, width: int) -> Tensor:
    """Measure how much of each cell a person covers: masks [N, H, W] -> [N, h, w] in 0..1."""
    return interpolate(masks[None], (height, width), mode="area")[0]


def precedence(occupied: Tensor, order: Sequence[int]) -> list[int]:
    """Order people [N, h, w] from front to back: the first one wins where two cover a cell equally.

    A higher `order` is nearer to the front; among equals the smaller person is, as they would be
    hidden otherwise; then the one listed first.
    """
    area = occupied.flatten(1).double().sum(1).tolist()
    return sorted(range(len(area)), key=lambda i: (-order[i], area[i], i))


def hard_shares(occupied: Tensor, order: Sequence[int], *, scene: bool = False) -> Tensor:
    """Give each cell to one person: occupancies [N, h, w] -> shares [S, 1, 1, h, w].

    Ties are decided by `precedence`. Cells that nobody covers belong to all S = N people equally
    or, with scene, to the scene, which is then the last of S = N + 1 streams.
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


def owned_places(areas: Tensor, order: Sequence[int]) -> Tensor:
    """Say which places each person has for themselves: areas [N, h, w] -> 0 or 1 [N, h, w].

    As `hard_shares`, but a place that nobody covers is nobody's.
    """
    return hard_shares(areas, order)[:, 0, 0] * (areas.amax(0) > 0)


def soft_shares(occupied: Tensor, *, scene: bool = False) -> Tensor:
    """Compute softmax(occupancy / TEMPERATURE): as hard_shares, but people who tie share a cell."""
    if scene:
        occupied = torch.cat((occupied, torch.full_like(occupied[:1], SCENE_OCCUPANCY)))
    return (occupied / TEMPERATURE).softmax(0)[:, None, None]


def feather_shares(shares: Tensor, feather: float) -> Tensor:
    """Soften the borders between the regions of shares [S, frames, 1, h, w]; they still sum to 1.

    feather: how far a border reaches to either side, as a share of the longer side; 0: not at all.
    """
    return body_masks.blur(shares, feather * max(shares.shape[-2:]) / 3)


def share_with_scene(shares: Tensor, scene_share: float, has_scene: bool) -> Tensor:
    """Give the scene a share of every place: shares [S, frames, 1, h, w] -> the same or S + 1.

    scene_share: 0 leaves the shares as they are, 1 leaves nothing to the others. has_scene: the
    scene is the last of the S streams already; otherwise it is added behind them.
    """
    if scene_share == 0:
        return shares
    if not has_scene:
        shares = torch.cat((shares, torch.zeros_like(shares[:1])))
    mixed = (1 - scene_share) * shares
    mixed[-1] += scene_share
    return mixed


def resize_shares(shares: Tensor, height: int, width: int) -> Tensor:
    """Resize the shares to another grid, bilinear without antialiasing: they still sum to 1."""
    if shares.shape[-2:] == (height, width):
        return shares
    flat = interpolate(shares.flatten(0, 1), (height, width), mode="bilinear", align_corners=False)
    return flat.unflatten(0, shares.shape[:2])


def compose_features(features: Tensor, shares: Tensor) -> Tensor:
    """Mix the features [S * B, C, h, w] of all streams by the shares into [B, C, h, w]."""
    streams = features.unflatten(0, (len(shares), -1))
    return (resize_shares(shares, *features.shape[-2:]).to(features) * streams).sum(0)


def compose_tokens(tokens: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
    """Mix the tokens [S * B, height * width, C] of all streams into [B, height * width, C]."""
    streams = tokens.unflatten(0, (len(shares), -1))
    weights = resize_shares(shares, height, width).flatten(3).mT.to(tokens)
    return (weights.view(*shares.shape[:2], -1, 1) * streams).sum(0)  # weights [S, B or 1, N, 1]


def are_shared(residuals: Sequence[Tensor | None]) -> list[bool]:
    """Say which ControlNet residuals [..., h, w] of the decoder are those of all people, mixed by
    the shares: all that are not on the coarsest grid.

    On the coarsest grid, where the layout is decided, every stream keeps its person's residuals; on
    the others, where details are decided, all streams get the residuals of all people.
    """
    sizes = [0 if r is None else r.shape[-2] * r.shape[-1] for r in residuals]
    coarsest = min((size for size in sizes if size), default=0)
    return [size > coarsest for size in sizes]

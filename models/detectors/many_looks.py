"""Find all people of an image by looking at it many times, with a network that sees few at once.

BlazePose (Bazarevsky et al. 2020) shrinks what it looks at to 224 pixels, sees at most a few people
in it, and sometimes joins two of them to one, or sees one where none is. So the image is looked at
as one, and in overlapping squares of several sizes. Sightings of the same person are collected; a
person counts when several looks agree. A network for faces alone (Bazarevsky et al. 2019), a tenth
as slow, says when to stop, and where somebody is whom no look has seen.

A `body` is [33, 3], MediaPipe's landmarks as (x px, y px, visibility); an `array` is an image
[h, w, 3] uint8.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..detect import Box
from .face_boxes import FaceBox, different_faces, is_on, person_box, shifted, sure_face

NOSE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 11, 12
NOSE_AND_SHOULDERS = [NOSE, LEFT_SHOULDER, RIGHT_SHOULDER]
TORSO = [LEFT_SHOULDER, RIGHT_SHOULDER, 23, 24]
HEAD_AND_SHOULDERS = range(13)

SAME = 0.5  # sightings less far apart are of the same person (see `apart`)
NEAR = 0.25  # sightings less far apart are equally good
VISIBLE = 0.5
# looks that have seen a person: closer looks that must all see the same. With more looks, one of
# two must, and with CERTAIN_LOOKS none
ALL_OF = {1: 3, 2: 2}
CERTAIN_LOOKS = 6
FACE_LOOKS = 2  # for which a face counts
MARGINS = (0.5, 0.35, 0.7)  # around a person, of closer looks
LARGE = 0.35  # share of the image's height or width that a person who is alone spans
NARROW = 0.15  # share of the image's width, below which nobody is looked for beside somebody
BEST = 10  # sightings of a person that are compared
OVERLAP = 0.5  # of neighboring squares
LONGEST = 8  # times the short side: longer images are looked at as one only


class ManyBodies(Protocol):
    """A network that finds a few people at once."""

    def bodies(self, array: Any) -> list[Tensor]:
        """Find the bodies [33, 3] in an array, in its pixels, the most prominent first."""

    def face_boxes(self, array: Any) -> list[FaceBox]:
        """Find the faces in an array, in its pixels; none without a network for them."""


class Sighting(NamedTuple):
    """A body as one look has seen it."""

    body: Tensor
    quality: float  # 0..1
    look: int


Cluster = list[Sighting]  # of one person, the best one first


def search(network: ManyBodies, array: Any) -> list[Tensor]:
    """Find the bodies of all people in an array, those first on whom the most looks agree."""
    looks = _Looks(network, array)
    full_image, *windows = _windows(*array.shape[:2])
    windows += squares(array, 1 / 2)
    looks.at([full_image])
    looks.for_faces([full_image, *windows])
    if (body := looks.somebody_alone()) is not None:
        looks.at(beside(body, array))
        if (body := looks.somebody_alone()) is not None:
            return [body]
    looks.at(windows)
    if looks.more_may_be_there():
        small_squares = list(squares(array, 1 / 3))
        looks.at(small_squares)
        looks.for_faces(small_squares)
    looks.at_faces_without_bodies()
    return looks.people()


class _Looks:
    """The looks at one array, and what they have seen."""

    def __init__(self, network: ManyBodies, array: Any) -> None:
        self.network, self.array = network, array
        self.sightings: list[Sighting] = []
        self.faces: list[FaceBox] = []
        self.count = 0

    def at(self, boxes: Iterable[Box]) -> None:
        """Look at these parts of the array."""
        for box in boxes:
            self._add(look(self.network, self.array, box), box)

    def for_faces(self, boxes: Iterable[Box]) -> None:
        """Look for faces in these parts of the array."""
        faces = list(self.faces)
        for x0, y0, x1, y1 in boxes:
            crop = self.array[y0:y1, x0:x1]
            faces += [shifted(face, x0, y0) for face in self.network.face_boxes(crop)]
        self.faces = different_faces(faces)

    def at_faces_without_bodies(self) -> None:
        """Look closer where a face is and no body; another body there does not count."""
        for face in self._faces_without_bodies():
            box = person_box(face)
            bodies = look(self.network, self.array, box)
            self._add([body for body in bodies if is_on(body, face)][:1], box)

    def somebody_alone(self) -> Tensor | None:
        """The body of somebody large, or with a face, beside whom neither body nor face is."""
        clusters = self.clusters()
        if len(clusters) != 1:
            return None
        body = best_body(clusters[0])
        has_face = sure_face(body, self.faces) is not None
        is_clear = is_plausible(body) and (has_face or _span(body, self.array) >= LARGE)
        return body if is_clear and not self._faces_without_bodies() else None

    def more_may_be_there(self) -> bool:
        """Say whether smaller squares may show more people: several are there, or a face is."""
        return _are_several(self.clusters()) or bool(self._faces_without_bodies())

    def clusters(self) -> list[Cluster]:
        return cluster_sightings(self.sightings)

    def people(self) -> list[Tensor]:
        """The body of everybody, those first for whom the most speaks."""
        clusters = sorted(self.clusters(), key=self._evidence, reverse=True)
        bodies = [self._confirm(cluster) for cluster in clusters]
        return different([body for body in bodies if body is not None], self.faces)

    def _add(self, bodies: Sequence[Tensor], box: Box) -> None:
        height, width = self.array.shape[:2]
        self.count += 1
        for body in bodies:
            self.sightings.append(Sighting(body, quality(body, box, width, height), self.count))

    def _faces_without_bodies(self) -> list[FaceBox]:
        bodies = [cluster[0].body for cluster in self.clusters()]
        return [face for face in self.faces if not any(is_on(body, face) for body in bodies)]

    def _evidence(self, cluster: Cluster) -> int:
        """The looks that have seen somebody; a face counts as some."""
        has_face = sure_face(best_body(cluster), self.faces) is not None
        return _look_count(cluster) + FACE_LOOKS * has_face

    def _confirm(self, cluster: Cluster) -> Tensor | None:
        """Look closer at somebody: a better view of the person, or None if it is nobody.

        The fewer looks have seen a person, the more closer looks must see the same.
        """
        body, evidence = best_body(cluster), self._evidence(cluster)
        if not is_plausible(body):
            return None
        if evidence in ALL_OF:
            views = []
            for margin in MARGINS[: ALL_OF[evidence]]:
                if (view := self._closer(body, margin)) is None:
                    return None
                views.append(view)
            return views[0]
        for margin in MARGINS[:2]:
            if (view := self._closer(body, margin)) is not None:
                return view
        return body if evidence >= CERTAIN_LOOKS else None

    def _closer(self, body: Tensor, margin: float) -> Tensor | None:
        views = look(self.network, self.array, around(body, margin))
        same = [view for view in views if apart(view, body) < SAME and is_plausible(view)]
        return min(same, key=lambda view: apart(view, body)) if same else None


# where to look


def _windows(height: int, width: int) -> Iterator[Box]:
    """The full image, then squares of its short side, half a side apart at most."""
    yield Box(0, 0, width, height)
    side, long = sorted((height, width))
    if long < 1.1 * side or long > LONGEST * side:
        return
    steps = -(-2 * (long - side) // side)
    for start in (i * (long - side) // steps for i in range(steps + 1)):
        x, y = (start, 0) if width > height else (0, start)
        yield Box(x, y, x + side, y + side)


def beside(body: Tensor, array: Any) -> Iterator[Box]:
    """What lies to the left and to the right of a person's shoulders, unless it is narrow."""
    height, width = array.shape[:2]
    x = body[[LEFT_SHOULDER, RIGHT_SHOULDER], 0]
    for x0, x1 in ((0, round(x.min().item())), (round(x.max().item()), width)):
        if x1 - x0 >= NARROW * width:
            yield Box(x0, 0, x1, height)


def squares(array: Any, share: float) -> Iterator[Box]:
    """Squares with this share of the array's short side, half a side apart at most."""
    height, width = array.shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        return
    side = max(1, round(share * min(height, width)))
    for y in _starts(height, side):
        for x in _starts(width, side):
            yield Box(x, y, x + side, y + side)


def _starts(length: int, side: int) -> list[int]:
    steps = -(-(length - side) // max(1, round(side * (1 - OVERLAP))))
    return [i * (length - side) // steps for i in range(steps + 1)] if steps else [0]


def look(network: ManyBodies, array: Any, box: Box) -> list[Tensor]:
    """The bodies that the network sees in a part of an array, in pixels of the array."""
    height, width = array.shape[:2]
    x0, y0 = max(0, box.x0), max(0, box.y0)
    crop = array[y0 : min(height, box.y1), x0 : min(width, box.x1)]
    shift = torch.tensor([x0, y0, 0.0])
    return [body + shift for body in network.bodies(crop)] if crop.size else []


def around(body: Tensor, margin: float) -> Box:
    """The box of a person's visible points, widened by this share of its longer side."""
    low, high = _extent(body)
    reach = margin * (high - low).max().item()
    return Box(*(round(edge) for edge in torch.cat([low - reach, high + reach]).tolist()))


def _extent(body: Tensor) -> tuple[Tensor, Tensor]:
    points = body[body[:, 2] > VISIBLE, :2]
    points = points if len(points) > 3 else body[HEAD_AND_SHOULDERS, :2]
    return points.amin(0), points.amax(0)


# how good a sighting is, and which are of the same person


def apart(body: Tensor, reference: Tensor) -> float:
    """Mean distance of nose and shoulders between two bodies, in units of the reference's size.

    The size is the larger of the distance from neck to nose and that between the shoulders.
    """
    return _all_apart(body[None], reference[None]).item()


def _all_apart(bodies: Tensor, references: Tensor) -> Tensor:
    """`apart` of every body [n, 33, 3] and every reference [m, 33, 3]: [n, m]."""
    points, expected = (b[:, NOSE_AND_SHOULDERS, :2] for b in (bodies, references))
    distances = (points[:, None] - expected[None]).norm(dim=-1).mean(-1)
    return distances / _sizes(references)


def _sizes(bodies: Tensor) -> Tensor:
    nose, left, right = bodies[:, NOSE_AND_SHOULDERS, :2].unbind(1)
    lengths = torch.stack([left - right, nose - (left + right) / 2]).norm(dim=-1)
    return lengths.amax(0).clamp(min=1)


def quality(body: Tensor, box: Box, width: int, height: int) -> float:
    """How much of nose and shoulders is visible, times the share of head and shoulders that lies in
    the part looked at. What lies beyond the image's border counts as inside.
    """
    points = body[HEAD_AND_SHOULDERS]
    low = torch.tensor([-torch.inf if edge <= 0 else edge for edge in box[:2]])
    pairs = zip(box[2:], (width, height), strict=True)
    high = torch.tensor([torch.inf if edge >= border else edge for edge, border in pairs])
    is_inside = ((points[:, :2] >= low) & (points[:, :2] <= high)).all(1)
    return (body[NOSE_AND_SHOULDERS, 2].mean() * is_inside.float().mean()).item()


def is_plausible(body: Tensor) -> bool:
    """Say whether nose and shoulders, and two points of the torso, are visible enough."""
    torso = (body[TORSO, 2] >= VISIBLE).sum() >= 2
    return bool(torso and body[NOSE_AND_SHOULDERS, 2].mean() >= VISIBLE)


def cluster_sightings(sightings: Sequence[Sighting]) -> list[Cluster]:
    """Collect sightings of the same person, around the best ones."""
    clusters: list[Cluster] = []
    for sighting in sorted(sightings, key=lambda sighting: -sighting.quality):
        if clusters:
            references = torch.stack([cluster[0].body for cluster in clusters])
            distances = _all_apart(sighting.body[None], references)[0]
            nearest = int(distances.argmin())
            if distances[nearest] < SAME:
                clusters[nearest].append(sighting)
                continue
        clusters.append([sighting])
    return clusters


def best_body(cluster: Cluster) -> Tensor:
    """The sighting in the middle of the best ones, or a better one near it."""
    best = cluster[:BEST]
    bodies = torch.stack([sighting.body for sighting in best])
    distances = _all_apart(bodies, bodies)
    middle = int(distances.sum(0).argmin())
    worth = torch.tensor([sighting.quality for sighting in best]) * bodies[:, :, 2].mean(1)
    return bodies[int(worth.masked_fill(distances[:, middle] >= NEAR, -1).argmax())]


def different(bodies: Sequence[Tensor], faces: Sequence[FaceBox] = ()) -> list[Tensor]:
    """The bodies less those of people who are there already; one face is one person."""
    people: list[Tensor] = []
    person_faces: list[FaceBox | None] = []
    for body in bodies:
        face = sure_face(body, faces)
        pairs = zip(people, person_faces, strict=True)
        if not any(
            face == other_face if face and other_face else _are_same(body, other)
            for other, other_face in pairs
        ):
            people.append(body)
            person_faces.append(face)
    return people


def _are_same(body: Tensor, other: Tensor) -> bool:
    low, high = _extent(other)
    distances = (body - other)[:, :2].norm(dim=1)
    shoulders = distances[[LEFT_SHOULDER, RIGHT_SHOULDER]].mean()
    return bool(
        apart(body, other) < SAME
        or distances.mean() < 0.12 * (high - low).max()
        or shoulders < 0.35 * _sizes(torch.stack([body, other])).max()
    )


def _span(body: Tensor, array: Any) -> float:
    """The larger share of the array's width and height that the visible points span."""
    low, high = _extent(body)
    height, width = array.shape[:2]
    return ((high - low) / torch.tensor([width, height])).max().item()


def _are_several(clusters: Sequence[Cluster]) -> bool:
    """Say whether several looks each see several people."""
    return sum(_look_count(cluster) >= 2 for cluster in clusters) >= 2


def _look_count(cluster: Cluster) -> int:
    return len({sighting.look for sighting in cluster})

"""The curves that ComfyUI's front end draws for wires, and ways for them around the nodes.

Positions are in the units of the canvas, y downwards. A box is (left, top, right, bottom).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy

Point = tuple[float, float]
Box = tuple[float, float, float, float]

SPREAD = 0.25  # the front end's control points lie this share of the distance away
LONGEST_CONTROL = 80.0  # beside a reroute
CELL = 10
MARGIN = 5  # between a wire and a node that it passes
STUB = 25  # from a slot to where a routed wire may turn
SHARED_LANE = 4.0  # how much longer a way may be before it runs over another wire
TURN = 6.0
NEAR, HEADING = 1.0, 2.0  # beside a node, and over a group's heading
SAMPLES = numpy.linspace(0, 1, 33)[:, None]


@dataclass
class Reroute:
    """A point that wires of one output pass; `parent` is the one before it."""

    position: Point
    parent: Reroute | None = None
    links: set[int] = field(default_factory=set)

    def chain(self) -> list[Reroute]:
        """Return the reroutes from the output to this one."""
        return [*(self.parent.chain() if self.parent else ()), self]


@dataclass
class Wire:
    """A link from an output's slot to an input's slot."""

    link: int
    start: Point
    end: Point
    output: tuple[int, int]  # node and slot
    target: int  # node
    last: Reroute | None = None  # the one before the input

    def reroutes(self) -> list[Reroute]:
        """Return the reroutes on the way, from the output on."""
        return self.last.chain() if self.last else []


def bezier(start: Point, first: Point, second: Point, end: Point) -> numpy.ndarray:
    """Return points [n, 2] of a cubic curve."""
    t, s = SAMPLES, 1 - SAMPLES
    corners = [numpy.array(point, float) for point in (start, first, second, end)]
    weights = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
    return sum(weight * corner for weight, corner in zip(weights, corners, strict=True))


def angle(start: Point, end: Point) -> float:
    """Return the direction from one point to another."""
    return math.atan2(end[1] - start[1], end[0] - start[0])


def direction(reroute: Reroute, previous: Point, following: Iterable[Point]) -> float:
    """Return the direction in which wires pass a reroute, as the front end has it."""
    leaving = [angle(reroute.position, point) for point in following]
    arriving = angle(previous, reroute.position)
    turn = (arriving - sum(leaving) / len(leaving)) / 2
    return arriving - (turn + math.pi if abs(turn) > math.pi / 2 else turn)


def curve(wire: Wire, wires: Sequence[Wire]) -> numpy.ndarray:
    """Return points [n, 2] of the wire as it is drawn among all wires."""
    points = [wire.start, *(reroute.position for reroute in wire.reroutes()), wire.end]
    offset = SPREAD * math.dist(points[0], points[1])
    control = (wire.start[0] + offset, wire.start[1])
    pieces = []
    for number, reroute in enumerate(wire.reroutes(), 1):
        heading = direction(reroute, points[number - 1], _following(reroute, wires))
        way = math.cos(heading), math.sin(heading)
        before = min(LONGEST_CONTROL, SPREAD * math.dist(points[number - 1], points[number]))
        after = min(LONGEST_CONTROL, SPREAD * math.dist(points[number], points[number + 1]))
        x, y = points[number]
        pieces.append(
            bezier(points[number - 1], control, (x - before * way[0], y - before * way[1]), (x, y))
        )
        control = x + after * way[0], y + after * way[1]
    offset = SPREAD * math.dist(points[-2], points[-1])
    pieces.append(bezier(points[-2], control, (wire.end[0] - offset, wire.end[1]), wire.end))
    return numpy.concatenate(pieces)


def _following(reroute: Reroute, wires: Sequence[Wire]) -> Iterator[Point]:
    """Yield for each wire through the reroute where it goes next."""
    for wire in wires:
        chain = wire.reroutes()
        if reroute in chain:
            rest = chain[chain.index(reroute) + 1 :]
            yield rest[0].position if rest else wire.end


def crossed(wire: Wire, wires: Sequence[Wire], boxes: dict[int, Box]) -> list[int]:
    """List the nodes whose boxes the wire runs over; its two ends lie on boxes of their own."""
    points = curve(wire, wires)
    points = points[  # a slot's dot lies a little inside its node
        (numpy.abs(points - wire.start).max(1) > 12) & (numpy.abs(points - wire.end).max(1) > 12)
    ]
    corners = numpy.array(list(boxes.values()))[:, None]
    inside = (points > corners[..., :2]) & (points < corners[..., 2:])
    over = inside.all(2).any(1)
    return [node for node, crosses in zip(boxes, over, strict=True) if crosses]


class Router:
    """Leads wires around boxes, along a grid, with as few reroutes as keep them clear."""

    def __init__(self, boxes: dict[int, Box], headings: Iterable[Box] = ()) -> None:
        self.boxes = boxes
        self.left = min(box[0] for box in boxes.values()) - 100
        self.top = min(box[1] for box in boxes.values()) - 100
        columns = int((max(box[2] for box in boxes.values()) + 100 - self.left) / CELL) + 1
        rows = int((max(box[3] for box in boxes.values()) + 100 - self.top) / CELL) + 1
        self.blocked = numpy.zeros((rows, columns), bool)
        self.cost = numpy.ones((rows, columns))
        for box in boxes.values():
            self.blocked[self._cells(box, MARGIN)] = True
        for box in headings:
            self.cost[self._cells(box, 0)] += HEADING
        near = numpy.zeros_like(self.cost)
        for shift, axis in itertools.product((-1, 1), (0, 1)):
            near += numpy.roll(self.blocked, shift, axis)
        self.cost += NEAR * (near > 0)

    def _cells(self, box: Box, margin: float) -> tuple[slice, slice]:
        left, top, right, bottom = box
        rows = math.floor((top - margin - self.top) / CELL) + 1, (bottom + margin - self.top) / CELL
        columns = (
            math.floor((left - margin - self.left) / CELL) + 1,
            (right + margin - self.left) / CELL,
        )
        return slice(rows[0], math.ceil(rows[1])), slice(columns[0], math.ceil(columns[1]))

    def cell(self, point: Point) -> tuple[int, int]:
        """Return row and column of a point."""
        return round((point[1] - self.top) / CELL), round((point[0] - self.left) / CELL)

    def point(self, cell: tuple[int, int]) -> Point:
        """Return the point of a cell."""
        return self.left + cell[1] * CELL, self.top + cell[0] * CELL

    def route(self, wires: Sequence[Wire]) -> list[Wire]:
        """Give every wire that crosses a node reroutes; return those that still cross one."""
        crossing = [wire for wire in wires if crossed(wire, wires, self.boxes)]
        crossing.sort(key=lambda wire: -math.dist(wire.start, wire.end))
        return [wire for wire in crossing if not self._lead(wire, wires)]

    def _lead(self, wire: Wire, wires: Sequence[Wire]) -> bool:
        siblings = [other for other in wires if other.output == wire.output]
        shared = {reroute.position: reroute for other in siblings for reroute in other.reroutes()}
        for sources in ([*shared.values(), None], [None]) if shared else ([None],):
            path = self._path(wire, sources)
            if path and self._place(wire, siblings, *path):
                return True
        return False

    def _place(
        self, wire: Wire, siblings: Sequence[Wire], origin: Reroute | None, cells: list
    ) -> bool:
        """Lead the wire along the cells, with the fewest of them as reroutes."""
        corners = _corners(cells)
        for keep in (corners, _halved(corners), _halved(_halved(corners)), _rounded(corners)):
            points = [self.point(cell) for cell in keep[1 if origin else 0 :]]
            if not self._clear(wire, siblings, origin, points):
                continue
            for point in [*points, *points[::-1]]:
                fewer = [other for other in points if other != point]
                if self._clear(wire, siblings, origin, fewer):
                    points = fewer
            self._clear(wire, siblings, origin, points)
            for row, column in cells:
                self.cost[row, column] += SHARED_LANE
            return True
        return False

    def _clear(
        self, wire: Wire, siblings: Sequence[Wire], origin: Reroute | None, points: list[Point]
    ) -> bool:
        """Set the wire's reroutes; tell if neither it nor its siblings cross a node."""
        for reroute in wire.reroutes():
            reroute.links.discard(wire.link)
        wire.last = origin
        for point in points:
            wire.last = Reroute(point, wire.last)
        for reroute in wire.reroutes():
            reroute.links.add(wire.link)
        routed = [other for other in siblings if other.last or other is wire]
        clear = not any(crossed(other, siblings, self.boxes) for other in routed)
        if not clear:
            for reroute in wire.reroutes():
                reroute.links.discard(wire.link)
            wire.last = None
        return clear

    def _path(
        self, wire: Wire, sources: Iterable[Reroute | None]
    ) -> tuple[Reroute | None, list[tuple[int, int]]] | None:
        """Find the cheapest way from the slot, or from a reroute of its output, to the input."""
        goal = self.cell((wire.end[0] - STUB, wire.end[1]))
        order = itertools.count()
        queue: list[tuple] = []
        for source in sources:
            start = source.position if source else (wire.start[0] + STUB, wire.start[1])
            cell = self.cell(start)
            steps = ((0, 1),) if not source else ((0, 1), (1, 0), (-1, 0), (0, -1))
            for step in steps:
                estimate = abs(cell[0] - goal[0]) + abs(cell[1] - goal[1])
                queue.append((estimate, next(order), 0.0, cell, step, (source, None)))
        heapq.heapify(queue)
        best: dict[tuple, float] = {}
        while queue:
            _, _, cost, cell, step, trail = heapq.heappop(queue)
            if best.get((cell, step), math.inf) <= cost:
                continue
            best[cell, step] = cost
            if cell == goal:
                return _unwind(trail, cell)
            for turn in ((0, 1), (1, 0), (-1, 0), (0, -1)):
                after = cell[0] + turn[0], cell[1] + turn[1]
                if (turn[0] + step[0], turn[1] + step[1]) == (0, 0) or not self._free(after, goal):
                    continue
                price = cost + self.cost[after] + (TURN if turn != step else 0)
                price += TURN if after == goal and turn != (0, 1) else 0
                estimate = price + abs(after[0] - goal[0]) + abs(after[1] - goal[1])
                heapq.heappush(queue, (estimate, next(order), price, after, turn, (trail, cell)))
        return None

    def _free(self, cell: tuple[int, int], goal: tuple[int, int]) -> bool:
        rows, columns = self.blocked.shape
        inside = 0 <= cell[0] < rows and 0 <= cell[1] < columns
        return inside and (cell == goal or not self.blocked[cell])


def _unwind(trail: tuple, cell: tuple[int, int]) -> tuple[Reroute | None, list[tuple[int, int]]]:
    """Return where a trail began, and its cells in order."""
    cells = [cell]
    while trail[1] is not None:
        trail, cell = trail
        cells.append(cell)
    return trail[0], cells[::-1]


Cells = list[tuple[int, int]]


def _corners(cells: Cells) -> Cells:
    """Return the first and last cell and those where the way turns."""
    turns = [
        cell
        for before, cell, after in zip(cells, cells[1:], cells[2:], strict=False)
        if (cell[0] - before[0], cell[1] - before[1]) != (after[0] - cell[0], after[1] - cell[1])
    ]
    return list(dict.fromkeys([cells[0], *turns, cells[-1]]))


def _halved(corners: Cells) -> Cells:
    """Return the cells and those half way between them."""
    between = [
        ((one[0] + other[0]) // 2, (one[1] + other[1]) // 2)
        for one, other in itertools.pairwise(corners)
    ]
    pairs = itertools.zip_longest(corners, between)
    return list(dict.fromkeys(cell for pair in pairs for cell in pair if cell))


def _rounded(corners: Cells, cut: int = 2) -> Cells:
    """Return two cells for every corner, a little before and behind it."""
    cells = [corners[0]]
    for one, other in itertools.pairwise(corners):
        length = max(abs(other[0] - one[0]), abs(other[1] - one[1]))
        step = min(cut, length // 2) / max(length, 1)
        for share in (step, 1 - step):
            cells.append(
                (
                    round(one[0] + share * (other[0] - one[0])),
                    round(one[1] + share * (other[1] - one[1])),
                )
            )
    return list(dict.fromkeys([*cells, corners[-1]]))

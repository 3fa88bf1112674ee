"""Where nodes lie: columns within a group, groups in stacks, stacks in rows."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from .wires import Box

TITLE = 30  # of a node, above its position
HEADING = 38  # of a group
NODE_GAP = 14  # between a node and the next one's title
COLUMN_GAP = 44
GROUP_PADDING = 12
GROUP_GAP = 18
SCREEN = (1440, 900)
FILLED = 0.75  # of the screen, by the front end, when a template opens
EDGE = 10  # that it leaves around all nodes
LARGEST, COMFORTABLE = (
    0.75,
    0.63,
)  # scales: above the one nothing is gained, below the other much lost
STARTS, CHANGES, WARMTH = 10, 5000, 0.02  # of the search


@dataclass(frozen=True)
class Node:
    """A node's size, without its title, and its longest way from a node without inputs."""

    id: int
    width: float
    height: float
    depth: int


@dataclass(frozen=True)
class Block:
    """A group: its nodes in columns, and its left top corner. One without a title has no frame."""

    title: str
    columns: tuple[tuple[Node, ...], ...]
    x: float = 0.0
    y: float = 0.0

    @cached_property
    def width(self) -> float:
        """Return the width with the frame."""
        widths = [max(node.width for node in column) for column in self.columns]
        return sum(widths) + COLUMN_GAP * (len(widths) - 1) + 2 * self._edge

    @cached_property
    def height(self) -> float:
        """Return the height with the frame and its heading."""
        heading = HEADING if self.title else 0
        return max(_height(column) for column in self.columns) + heading + self._edge

    @property
    def _edge(self) -> float:
        return GROUP_PADDING if self.title else 0.0

    def places(self) -> dict[int, Box]:
        """Return the boxes of the nodes, with their titles, by their ids."""
        boxes, x = {}, self.x + self._edge
        for column in self.columns:
            y = self.y + (HEADING if self.title else 0)
            for node in column:
                boxes[node.id] = (x, y, x + node.width, y + node.height + TITLE)
                y += node.height + TITLE + NODE_GAP
            x += max(node.width for node in column) + COLUMN_GAP
        return boxes

    def swaps(self) -> Iterator[Block]:
        """Yield the block with two neighbors of a column in each other's place."""
        for number, column in enumerate(self.columns):
            for one in range(len(column) - 1):
                swapped = (*column[:one], column[one + 1], column[one], *column[one + 2 :])
                columns = (*self.columns[:number], swapped, *self.columns[number + 1 :])
                yield replace(self, columns=columns)


def scale(width: float, height: float) -> float:
    """Return the scale at which the front end opens nodes of this extent."""
    return FILLED * min(SCREEN[0] / (width + 2 * EDGE), SCREEN[1] / (height + 2 * EDGE))


def legible(scale: float) -> float:
    """Return what a scale is worth."""
    return min(scale, LARGEST) + 5 * min(0.0, scale - COMFORTABLE)


def block(title: str, nodes: Sequence[Node], count: int) -> Block:
    """Divide nodes, which are ordered, into columns so that the highest is as low as can be."""
    best = min(
        itertools.combinations(range(1, len(nodes)), count - 1),
        key=lambda cuts: (
            max(_height(nodes[one:other]) for one, other in _pairs(cuts, len(nodes))),
            [-cut for cut in cuts],
        ),
    )
    return Block(title, tuple(tuple(nodes[a:b]) for a, b in _pairs(best, len(nodes))))


def _pairs(cuts: Sequence[int], count: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise((0, *cuts, count)))


def _height(nodes: Sequence[Node]) -> float:
    return sum(node.height + TITLE for node in nodes) + NODE_GAP * (len(nodes) - 1)


Rows = list[list[list[Block]]]
STEPS = ("down", "right", "row")  # from a block to the next one


@dataclass(frozen=True)
class Arrangement:
    """Which blocks are taken, and how each follows the one before."""

    blocks: tuple[Block, ...]
    steps: tuple[str, ...]

    def rows(self) -> Rows:
        """Return the blocks in stacks, and those in rows."""
        rows: Rows = [[[self.blocks[0]]]]
        for step, item in zip(self.steps, self.blocks[1:], strict=True):
            if step == "down":
                rows[-1][-1].append(item)
            elif step == "right":
                rows[-1].append([item])
            else:
                rows.append([[item]])
        return rows

    def scale(self) -> float:
        """Return the scale at which the nodes open."""
        return scale(*extent(boxes(self.placed()).values()))

    def placed(self) -> list[Block]:
        """Return the blocks at their places."""
        moved, y = [], 0.0
        for row in self.rows():
            x = 0.0
            for stack in row:
                top = y
                for item in stack:
                    moved.append(replace(item, x=x, y=top))
                    top += item.height + GROUP_GAP
                x += max(item.width for item in stack) + GROUP_GAP
            y += _extent(row)[1] + GROUP_GAP
        return moved


def _extent(row: list[list[Block]]) -> tuple[float, float]:
    """Return the width and height of stacks side by side."""
    width = sum(max(item.width for item in stack) for stack in row) + GROUP_GAP * (len(row) - 1)
    height = max(sum(item.height for item in stack) + GROUP_GAP * (len(stack) - 1) for stack in row)
    return width, height


def search(
    options: Sequence[Sequence[Block]],
    loose: Sequence[Block],
    value: Callable[[Arrangement], float],
) -> list[Arrangement]:
    """Return good arrangements, the best first, by annealing from the same seed every time.

    options: the forms of each block, in the order of the blocks. loose: the forms of one more
    block, which may stand anywhere. value: what is to be large.
    """
    chance = random.Random(0)
    values: dict[Arrangement, float] = {}
    for _ in range(STARTS):
        forms = [chance.choice(forms) for forms in options]
        forms.insert(chance.randrange(len(forms) + 1), chance.choice(loose))
        now = Arrangement(tuple(forms), tuple(chance.choice(STEPS) for _ in forms[1:]))
        worth = values[now] = value(now)
        for step in range(CHANGES):
            changed = _changed(now, options, loose, chance)
            if changed not in values:
                values[changed] = value(changed)
            warmth = WARMTH * (1 - step / CHANGES) + 1e-6
            if chance.random() < math.exp(min(0.0, values[changed] - worth) / warmth):
                now, worth = changed, values[changed]
    return sorted(values, key=lambda item: -values[item])


def _changed(
    now: Arrangement,
    options: Sequence[Sequence[Block]],
    loose: Sequence[Block],
    chance: random.Random,
) -> Arrangement:
    """Return the arrangement with one thing changed."""
    blocks, steps = list(now.blocks), list(now.steps)
    place = next(number for number, item in enumerate(blocks) if item.title == loose[0].title)
    what = chance.randrange(3 if steps else 1)
    if what == 0:
        number = chance.randrange(len(blocks))
        forms = loose if number == place else options[number - (number > place)]
        blocks[number] = chance.choice(forms)
    elif what == 1:
        steps[chance.randrange(len(steps))] = chance.choice(STEPS)
    else:
        blocks.insert(chance.randrange(len(blocks)), blocks.pop(place))
    return Arrangement(tuple(blocks), tuple(steps))


def boxes(blocks: Sequence[Block]) -> dict[int, Box]:
    """Return the boxes of all nodes by their ids."""
    return {node: box for item in blocks for node, box in item.places().items()}


def extent(all_boxes: Iterable[Box]) -> tuple[float, float]:
    """Return the width and height of all boxes together."""
    lefts, tops, rights, bottoms = zip(*all_boxes, strict=True)
    return max(rights) - min(lefts), max(bottoms) - min(tops)

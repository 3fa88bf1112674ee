"""Count the variants of pose files that are read right, and those that are refused in words.

tests/poses holds the files, tests/pose_variants.json what is right for each: its frames with the
places of all points, or a part of the sentence that refuses it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...models import pose

TESTS = Path(__file__).parents[2] / "tests"
FIELDS = tuple(pose.POINT_GROUPS)


class Count(NamedTuple):
    """The names of the files that were read right, refused as they should be, and neither."""

    read: list[str]
    refused: list[str]
    wrong: list[str]


def count_variants() -> Count:
    """Load every file as Load Pose does and compare it with what is right."""
    count = Count([], [], [])
    for name, expected in expectations().items():
        problem = judge(name, expected)
        names = count.wrong if problem else count.refused if "refused" in expected else count.read
        names.append(f"{name}: {problem}" if problem else name)
    return count


def expectations() -> dict[str, dict[str, Any]]:
    """Read what is right for every file, by its name."""
    return json.loads((TESTS / "pose_variants.json").read_text(encoding="utf-8"))


def judge(name: str, expected: dict[str, Any]) -> str:
    """Say what is wrong with the way a file is read; nothing if it is read or refused rightly."""
    try:
        frames = [pose.keep_confident(people) for people in pose.load_poses(TESTS / "poses" / name)]
    except ValueError as error:
        refusal = expected.get("refused")
        as_expected = refusal is not None and refusal in str(error) and str(error).startswith(name)
        return "" if as_expected else f"refused: {error}"
    if "refused" in expected:
        return "read, though it can not be right"
    canvases = [[people.width, people.height] for people in frames]
    if canvases != [frame["canvas"] for frame in expected["frames"]]:
        return f"canvases {canvases}"
    counts = [pose.count(people) for people in frames]
    if counts != [len(frame["people"]) for frame in expected["frames"]]:
        return f"counts of people {counts}"
    persons = [person for frame in expected["frames"] for person in frame["people"]]
    rows = [row for people in frames for row in zip(*people[:5], strict=True)]
    return next(filter(None, map(_compare_person, rows, persons)), "")


def _compare_person(parts: Any, expected: dict[str, Any]) -> str:
    """Compare one person's parts with points [x, y], or null where one is missing."""
    for field, part in zip(FIELDS, parts, strict=True):
        places = expected.get(field) or [None] * len(part)
        visible = torch.tensor([place is not None for place in places])
        if not torch.equal(part[:, 2] > 0, visible):
            return f"other points of the {field} are missing"
        truth = torch.tensor([place or [0, 0] for place in places])
        distance = (part[:, :2] - truth).abs().amax().item()
        if distance > 0.1:
            return f"a point of the {field} is {distance:g} pixels from its place"
    return ""

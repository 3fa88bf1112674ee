"""Make the pose editor's library, web/poses.json, from the table of angles in poses.toml.

Each person is built in three dimensions from the lengths of limbs and the angles of the table, then
seen by a camera, so that limbs which point at the viewer are as short as they look.
Run: python tools/poses.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomllib

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_suffix(".toml")
LIBRARY = ROOT / "web" / "poses.json"

Vector = np.ndarray  # [3]: x to the right of the image, y up, z to the viewer
SIDE = 1000  # of a frame's canvas, pixels
GROUND = 930  # where the lowest point stands, pixels from the top
EDGE = 12  # px of the canvas that stay free
DISTANCE = 3600.0  # of the camera, pixels
LOOKING_DOWN = 8.0  # degrees
HAND = 84.0  # length, pixels

# finger bases along the palm and towards the thumb, bones beyond, in lengths of the hand; the angle
# of each straight finger towards the thumb in degrees
BASES = ((0.16, 0.13), (0.48, 0.12), (0.50, 0.03), (0.47, -0.06), (0.41, -0.13))
BONES = (
    (0.2, 0.17, 0.13),
    (0.21, 0.13, 0.1),
    (0.23, 0.15, 0.11),
    (0.21, 0.13, 0.1),
    (0.16, 0.1, 0.08),
)
FAN = (42, 9, 2, -6, -15)
CURLS = {  # degrees at each joint of thumb, index, middle, ring and little finger
    "relaxed": (8, 16, 20, 24, 26),
    "open": (0, 2, 2, 2, 2),
    "fist": (38, 82, 84, 84, 84),
    "point": (36, 2, 82, 84, 84),
    "hold": (26, 48, 50, 52, 54),
}
HIDDEN = 0.12  # how far a point of the head may face away and still be seen, as a cosine


class Build(NamedTuple):
    """Hold lengths in pixels, of somebody 765 px tall unless they are a child."""

    shoulder: float = 92.0  # half the width
    hip: float = 60.0
    trunk: float = 216.0
    upper_arm: float = 136.0
    forearm: float = 117.0
    thigh: float = 187.0
    shin: float = 188.0
    neck: float = 98.0  # from between the shoulders to the middle of the head
    head: float = 1.0  # size


ADULT = Build()
CHILDREN = {  # a child of seven is six heads tall, a toddler four and a half
    "child": Build(64, 42, 160, 94, 80, 126, 122, 84, 0.9),
    "toddler": Build(50, 34, 132, 66, 56, 82, 78, 74, 0.84),
}


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Return the rotation [3, 3] about x (0), y (1) or z (2)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, k = [(1, 2), (2, 0), (0, 1)][axis]
    turned = np.eye(3)
    turned[i, i], turned[i, k], turned[k, i], turned[k, k] = cos, -sin, sin, cos
    return turned


def direction(rise: float, heading: float, side: int) -> Vector:
    """Return the direction that a limb points in, seen by its owner, who looks along z.

    rise: degrees from straight down; 90 is level. heading: degrees from straight ahead, outwards
    on the owner's own side. side: 1 for the left one, -1 for the right one.
    """
    up, out = np.radians(rise), np.radians(heading)
    return np.array([side * np.sin(up) * np.sin(out), -np.cos(up), np.sin(up) * np.cos(out)])


def leaning(bend: float, heading: float) -> np.ndarray:
    """Return the rotation that tips what is upright by `bend`, to the left at heading 90."""
    return rotation(1, heading) @ rotation(0, bend) @ rotation(1, -heading)


def hand_points(
    wrist: Vector, along: Vector, thumb: Vector, side: int, curls: Sequence, size: float
):
    """Return the points of a hand [21, 3]: `along` is where it points, `thumb` its thumb's side."""
    thumb = thumb - along * (thumb @ along)
    thumb = thumb / np.linalg.norm(thumb)
    palm = np.cross(along, thumb) * side  # the way that the palm faces
    points = [wrist]
    for base, bones, fan, curl in zip(BASES, BONES, FAN, curls, strict=True):
        at = wrist + size * (base[0] * along + base[1] * thumb)
        points.append(at)
        straight = np.cos(np.radians(fan)) * along + np.sin(np.radians(fan)) * thumb
        for joint, bone in enumerate(bones, 1):
            angle = np.radians(curl * joint)
            at = at + size * bone * (np.cos(angle) * straight + np.sin(angle) * palm)
            points.append(at)
    return np.stack(points)


def joints(row: dict[str, Any]) -> dict[str, np.ndarray]:
    """Build a person of the table: body [18, 3], hands [21, 3], normals of the head's points."""
    build = CHILDREN.get(row.get("build", ""), ADULT)
    torso = leaning(*row.get("torso", (0, 0)))
    chest = torso @ rotation(1, row.get("twist", 0))
    turn, nod, tilt = row.get("head", (0, 0, 0))
    bend = row.get("torso", (0, 0))
    skull = (
        leaning(0.7 * bend[0], bend[1]) @ rotation(1, turn) @ rotation(2, -tilt) @ rotation(0, nod)
    )
    neck = torso @ np.array([0, build.trunk, 0])
    head = neck + skull @ np.array([0, build.neck, 8]) * (1 if build is ADULT else 0.92)
    body = np.zeros((18, 3))
    body[1] = neck
    face = {0: (0, -4, 46), 14: (-16, 16, 38), 15: (16, 16, 38), 16: (-36, 6, -6), 17: (36, 6, -6)}
    looks = {
        0: (0, 0, 1),
        14: (-0.5, 0, 0.87),
        15: (0.5, 0, 0.87),
        16: (-1, 0, -0.15),
        17: (1, 0, -0.15),
    }
    for point, place in face.items():
        body[point] = head + skull @ np.array(place, float) * build.head
    hands = {}
    for side, arm, leg, first in ((-1, "ra", "rl", (2, 8)), (1, "la", "ll", (5, 11))):
        arms, legs = row.get(arm, (8, 90, 10, 30)), row.get(leg, (4, 90, 2, 90))
        shoulder, hip = first
        body[shoulder] = neck + chest @ np.array([side * build.shoulder, row.get("shrug", -8), 0])
        body[shoulder + 1] = body[shoulder] + build.upper_arm * direction(arms[0], arms[1], side)
        forearm = direction(arms[2], arms[3], side)
        body[shoulder + 2] = body[shoulder + 1] + build.forearm * forearm
        body[hip] = np.array([side * build.hip, side * row.get("sway", 0), 0])
        body[hip + 1] = body[hip] + build.thigh * direction(legs[0], legs[1], side)
        body[hip + 2] = body[hip + 1] + build.shin * direction(legs[2], legs[3], side)
        held: dict[str, Any] = row.get(arm[0] + "h", {})
        rise, heading = held.get("along", arms[2:])
        along = direction(rise, heading, side)
        ahead = np.array([0.0, 0.35, 1.0]) if abs(along[2]) < 0.8 else np.array([0.0, 1.0, 0.0])
        rise, heading = held.get("thumb", (0, 0))
        thumb = direction(rise, heading, side) if "thumb" in held else ahead
        curls = CURLS[held.get("curl", "relaxed")]
        size = HAND * build.forearm / ADULT.forearm
        hands[side] = hand_points(body[shoulder + 2], along, thumb, side, curls, size)
    normals = np.stack([skull @ np.array(looks[i], float) for i in (0, 14, 15, 16, 17)])
    return {"body": body, "normals": normals, "left": hands[1], "right": hands[-1]}


def turned(person: dict[str, np.ndarray], row: dict[str, Any]) -> dict[str, np.ndarray]:
    """Turn the whole person, and put them in their place: lowest point on the ground."""
    pitch, roll, heading = row.get("lie", (0, 0, 0))
    about = (
        rotation(1, heading)
        @ rotation(0, pitch)
        @ rotation(2, roll)
        @ rotation(1, row.get("turn", 0))
    )
    person = {name: points @ about.T for name, points in person.items()}
    solid = [person["body"], person["left"], person["right"]]
    lowest = min(float(points[:, 1].min()) for points in solid)
    x, z = row.get("at", (0, 0))
    place = np.array([x, row.get("lift", 0) - lowest, z])
    return {name: points + place * (name != "normals") for name, points in person.items()}


def projected(
    people: list[dict[str, np.ndarray]], row: dict[str, Any]
) -> list[dict[str, np.ndarray]]:
    """Project people with the camera: points [n, 3] as x, y in pixels and 1, or 0 if hidden."""
    tilt = rotation(0, row.get("camera", LOOKING_DOWN))
    flat = []
    for person in people:
        parts = {}
        for name in ("body", "left", "right"):
            at = person[name] @ tilt.T
            near = DISTANCE / (DISTANCE - at[:, 2:])
            parts[name] = np.hstack([at[:, :1] * near, -at[:, 1:2] * near, np.ones_like(near)])
        for point, normal in zip((0, 14, 15, 16, 17), person["normals"] @ tilt.T, strict=True):
            parts["body"][point, 2] = normal[2] > -HIDDEN - 0.35 * (point > 15)
        flat.append(parts)
    everything = np.concatenate([points for person in flat for points in person.values()])
    lowest = everything[:, 1].max()
    middle = (everything[:, 0].min() + everything[:, 0].max()) / 2
    size = min(
        1.0,
        (SIDE - 2 * EDGE) / np.ptp(everything[:, 0]),
        (GROUND - row.get("high", 0) - EDGE) / np.ptp(everything[:, 1]),
    )
    for points in (points for person in flat for points in person.values()):
        points[:, 0] = SIDE / 2 + size * (points[:, 0] - middle)
        points[:, 1] = GROUND - row.get("high", 0) + size * (points[:, 1] - lowest)
    return flat


def frame(row: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenPose frame of a row of the table: one person, or several."""
    if "body" in row:
        people = [
            {part: np.array([*row[part]]).reshape(-1, 2) for part in ("body", "left", "right")}
        ]
        people = [{part: np.insert(at, 2, 1, axis=1) for part, at in people[0].items()}]
    else:
        people = projected([turned(joints(one), one) for one in row.get("people", [row])], row)
    keys = {"pose": "body", "hand_left": "left", "hand_right": "right"}
    return {
        "name": row["name"],
        "group": row["group"],
        "canvas_width": SIDE,
        "canvas_height": SIDE,
        "people": [
            {
                f"{key}_keypoints_2d": person[part].round().astype(int).flatten().tolist()
                for key, part in keys.items()
            }
            for person in people
        ],
    }


def frames() -> list[dict[str, Any]]:
    """Make all frames of the library, in the order of the table."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["pose"]
    return [frame(row) for row in rows]


def text() -> str:
    """Return the library as it is saved: one frame per line."""
    lines = [json.dumps(one, separators=(",", ":")) for one in frames()]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    LIBRARY.write_text(text(), encoding="utf-8")

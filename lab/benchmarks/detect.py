"""Count the people that are found in photographs, and those that are not there.

The photographs and their boxes are those of photographs.json: part "tune" is what the detector was
tuned on, part "apart" comes from other packages and was boxed before. The baseline, the search one
person at a time, runs in the same process.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models.detectors import mediapipe_landmarks
from . import photographs
from .covering_search import open_search
from .decisions import Claim, Evidence, decide
from .intervals import ratio_difference, wilson
from .photographs import Photograph

TORSO = [11, 12, 23, 24]
VISIBLE = 0.5
TEST = "paired bootstrap over photographs"
MORE_FOUND = Claim(
    "Detect Pose", "More people of photographs are found than by one search per person"
)
Search = Callable[[Any], list[Tensor]]  # an array [h, w, 3] uint8 to bodies [33, 3]


def run(quick: bool = False) -> dict[str, Any]:
    """Search every photograph (`quick`: the first two of each part) with both searches."""
    truth = photographs.read_truth()
    if quick:
        parts = [[p for p in truth if p.part == part] for part in ("tune", "apart")]
        truth = [photograph for part in parts for photograph in part[:2]]
    rows: list[dict[str, Any]] = []
    with mediapipe_landmarks.open_detector([], hands=False) as detector, open_search() as baseline:
        searches: dict[str, Search] = {"": detector.find_bodies, "baseline_": baseline.search}
        for photograph in truth:
            array, scale = mediapipe_landmarks.to_array(photographs.load(photograph))
            row: dict[str, Any] = {"name": photograph.name, "part": photograph.part}
            row |= {"package": f"{photograph.package} {photograph.version}"}
            row |= {"visible": len(photograph.boxes), "megapixels": array.size / 3e6}
            for prefix, search in searches.items():
                row |= {
                    prefix + name: n
                    for name, n in _measure(search, array, scaled(photograph, scale)).items()
                }
            rows.append(row)
    return compared(rows) | {
        f"{row['part']}/{row['name']}/{name}": value
        for row in rows
        for name, value in row.items()
        if name not in ("part", "name")
    }


def _measure(search: Search, array: Any, photograph: Photograph) -> dict[str, float]:
    search(array)  # once before, so that both are warm
    started, processor = time.perf_counter(), time.process_time()
    bodies = search(array)
    seconds, cpu = time.perf_counter() - started, time.process_time() - processor
    found_count, false_count = judge(bodies, photograph, array.shape[1], array.shape[0])
    return {"found": found_count, "false": false_count, "seconds": seconds, "cpu_seconds": cpu}


def _shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The shares of both searches, in both parts, with their intervals; and their times."""
    table: dict[str, float] = {}
    for prefix in ("", "baseline_"):
        for part, suffix in (("tune", ""), ("apart", "_apart")):
            of_part = [row for row in rows if row["part"] == part]
            found_count, false_count, visible = (
                sum(row[name] for row in of_part)
                for name in (f"{prefix}found", f"{prefix}false", "visible")
            )
            for name, hits, count in (
                ("found_share", found_count, visible),
                ("false_share", false_count, found_count + false_count),
            ):
                outcomes = [True] * hits + [False] * (count - hits) or [False]
                table |= wilson(outcomes, f"{prefix}{name}{suffix}")
        megapixels = sum(row["megapixels"] for row in rows)
        table[f"{prefix}cpu_seconds_per_megapixel"] = (
            sum(row[f"{prefix}cpu_seconds"] for row in rows) / megapixels
        )
        for name, count in (("one_person", 1), ("nobody", 0)):
            for clock in ("seconds", "cpu_seconds"):
                times = [row[f"{prefix}{clock}"] for row in rows if row["visible"] == count]
                table[f"{prefix}{name}_{clock}"] = statistics.median(times) if times else 0.0
    return table


def compared(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare both searches photograph by photograph, on those that were set apart."""
    names = "found", "baseline_found", "visible"
    of_part = [[row[name] for name in names] for row in rows if row["part"] == "apart"]
    found_count, before, visible = torch.tensor(of_part).T
    numbers = _shares(rows) | ratio_difference(found_count, before, visible, "found_more_apart")
    evidence = Evidence("found_share_apart", "baseline_found_share_apart", "found_more_apart", TEST)
    return {**numbers, "decided": [decide(MORE_FOUND, numbers, evidence)]}


def scaled(photograph: Photograph, scale: float) -> Photograph:
    """Scale the boxes and heads of a photograph."""
    kinds = (photograph.boxes, photograph.heads, photograph.ignore)
    boxes, heads, ignore = ([[scale * v for v in row] for row in kind] for kind in kinds)
    return photograph._replace(boxes=boxes, heads=heads, ignore=ignore)


# when a person counts as found


def judge(
    bodies: Sequence[Tensor], photograph: Photograph, width: int, height: int
) -> tuple[int, int]:
    """Count the people of a photograph of this size who are found, and the bodies [33, 3] that are
    nobody, or somebody twice.
    """
    boxes, heads, ignore = (
        torch.tensor(numbers, dtype=torch.float32).reshape(-1, columns)
        for numbers, columns in (
            (photograph.boxes, 4),
            (photograph.heads, 3),
            (photograph.ignore, 4),
        )
    )
    left = list(range(len(boxes)))
    false = 0
    for body in bodies:
        fits = [k for k in left if _is_this(body, boxes[k], heads[k], width, height)]
        if fits:
            left.remove(max(fits, key=lambda k: _overlap(_box_of(body), boxes[k])))
        elif not any(_lies_in(body, box) for box in ignore):
            false += 1
    return len(boxes) - len(left), false


def _is_this(body: Tensor, box: Tensor, head: Tensor, width: int, height: int) -> bool:
    torso = body[TORSO]
    torso = torso[torso[:, 2] >= VISIBLE, :2].clamp(min=0)
    if len(torso) < 2:
        return False
    torso = torch.minimum(torso, torch.tensor([float(width), float(height)]))
    reach = 0.1 * (box[2:] - box[:2]) / 2
    wider = torch.cat([box[:2] - reach, box[2:] + reach])
    is_there = _inside(torso, wider).all() and _inside(torso.mean(0, keepdim=True), box).all()
    visible = body[body[:, 2] >= VISIBLE, :2]
    fits = _overlap(_box_of(body), box) >= 0.4 or _inside(visible, box).float().mean() >= 0.7
    return bool(is_there and fits and (body[0, :2] - head[:2]).norm() <= 1.3 * head[2])


def _inside(points: Tensor, box: Tensor) -> Tensor:
    return ((points >= box[:2]) & (points <= box[2:])).all(1)


def _box_of(body: Tensor) -> Tensor:
    visible = body[body[:, 2] >= VISIBLE, :2]
    visible = visible if len(visible) else body[:, :2]
    return torch.cat([visible.amin(0), visible.amax(0)])


def _overlap(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two boxes."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    common = (high - low).clamp(min=0).prod()
    areas = [(box[2:] - box[:2]).prod() for box in (first, second)]
    return float(common / (areas[0] + areas[1] - common).clamp(min=1e-6))


def _lies_in(body: Tensor, box: Tensor) -> bool:
    return bool(_inside(body[[11, 12], :2], box).all())

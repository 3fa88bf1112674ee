"""Bring bodies of other numbers and orders of points to OpenPose's 18."""

import torch
from torch import Tensor

BODIES = (17, 18, 25, 26, 133)  # COCO, OpenPose's two, Halpe, COCO-WholeBody
# body point of OpenPose -> point of the format; None for the neck, which lies between the shoulders
COCO_17 = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
COCO_SHOULDERS = (5, 6)
BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)  # without its mid-hip
BODY_25_FEET = (19, 20, 21, 22, 23, 24)  # the order of foot_keypoints_2d already
HALPE_26_FEET = (20, 22, 24, 21, 23, 25)
WHOLE_BODY = {  # COCO-WholeBody's 133 points behind the 17 of the body
    "foot": slice(17, 23),
    "face": slice(23, 91),
    "left_hand": slice(91, 112),
    "right_hand": slice(112, 133),
}


def split_body(points: Tensor) -> dict[str, Tensor]:
    """Bring a body of any known number of points to OpenPose's 18, its feet, face and hands."""
    if len(points) == 25:
        return {"body": points[list(BODY_25)], "foot": points[list(BODY_25_FEET)]}
    if len(points) == 26:
        return {"body": _from_coco(points), "foot": points[list(HALPE_26_FEET)]}
    if len(points) == 133:
        other_parts = {field: points[where] for field, where in WHOLE_BODY.items()}
        return {"body": _from_coco(points), **other_parts}
    return {"body": _from_coco(points) if len(points) == 17 else points}


def _from_coco(points: Tensor) -> Tensor:
    """Reorder COCO's 17 body points [17 or more, 3] to OpenPose's [18, 3], the neck between the
    shoulders.
    """
    shoulders = points[list(COCO_SHOULDERS)]
    neck = torch.cat([shoulders[:, :2].mean(0), shoulders[:, 2:].amin(0)])
    neck = neck * (shoulders[:, 2] > 0).all()
    return torch.stack([neck if index is None else points[index] for index in COCO_17])


def fill(points: Tensor | None, count: int) -> Tensor:
    """Cut or fill up a part to this number of points: faces have from 56 to 71."""
    filled = torch.zeros(count, 3)
    if points is not None:
        filled[: len(points)] = points[:count]
    return filled

"""Draw masks of people: the bodies as thick shapes around their limbs.

Sizes are shares of a person's standing height, which is estimated from the visible limbs.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .pose import (
    BONES,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    LIMBS,
    NECK,
    NOSE,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    People,
    count,
    cover_canvas,
    pick,
)

Capsule = tuple[Tensor, Tensor, float]  # both ends (x, y) of a segment and its half thickness

# Length of a limb as a share of the standing height (Drillis and Contini 1966; head after OpenPose)
LIMB_SHARES = {
    (R_SHOULDER, L_SHOULDER): 0.22,
    (NECK, R_HIP): 0.29,
    (NECK, L_HIP): 0.29,
    (R_SHOULDER, R_ELBOW): 0.186,
    (L_SHOULDER, L_ELBOW): 0.186,
    (R_ELBOW, R_WRIST): 0.146,
    (L_ELBOW, L_WRIST): 0.146,
    (R_HIP, R_KNEE): 0.245,
    (L_HIP, L_KNEE): 0.245,
    (R_KNEE, R_ANKLE): 0.246,
    (L_KNEE, L_ANKLE): 0.246,
    (NECK, NOSE): 0.13,
    (R_EAR, L_EAR): 0.09,
    (R_EYE, L_EYE): 0.04,
}
HAND_SHARE = 0.108  # wrist to the tip of the middle finger
TORSO = (
    (R_SHOULDER, L_SHOULDER),
    (R_SHOULDER, R_HIP),
    (L_SHOULDER, L_HIP),
    (R_HIP, L_HIP),
    (NECK, R_HIP),
    (NECK, L_HIP),
    (R_SHOULDER, L_HIP),
    (L_SHOULDER, R_HIP),
)
HEAD = ((NECK, NOSE), (NOSE, R_EYE), (NOSE, L_EYE), (R_EYE, R_EAR), (L_EYE, L_EAR))
FEET = ((R_ANKLE, 18), (L_ANKLE, 19))  # the points that _with_feet adds
FOOT_SHARE = 0.2  # of the shin, how far a foot goes on below the ankle
FINEST = 8.0  # pixels of a standard deviation at which a blur is computed, at least
# half thickness as a share of the standing height
THICKNESS = {"head": 0.065, "torso": 0.05, "limb": 0.035, "foot": 0.04, "hand": 0.012}


def standing_heights(people: People) -> Tensor:
    """Estimate the standing height of each person in pixels [N] from the visible limbs.

    Foreshortening only shortens a limb, so the largest of the limbs' estimates is taken: seated,
    cropped and turned people get the height they would stand at. 0 for people without two points.
    """
    pairs = torch.tensor(list(LIMB_SHARES))
    shares = torch.tensor(list(LIMB_SHARES.values()))
    ends = people.body[:, pairs]  # [N, pairs, 2, 3]
    visible = (ends[..., 2] > 0).all(-1)
    heights = (ends[:, :, 0, :2] - ends[:, :, 1, :2]).norm(dim=-1) / shares * visible
    estimates = [heights]
    for hand in (people.left_hand, people.right_hand):
        visible = (hand[:, 0, 2] > 0) & (hand[:, 12, 2] > 0)
        length = (hand[:, 0, :2] - hand[:, 12, :2]).norm(dim=-1)
        estimates.append((length / HAND_SHARE * visible)[:, None])
    return torch.cat(estimates, dim=1).amax(1)


def person_masks(
    people: People, width: int, height: int, *, dilation: float, feather: float
) -> Tensor:
    """Draw one mask per person: [N, height, width] in 0..1, the body thick around its limbs.

    dilation: how far the mask reaches beyond the body; feather: standard deviation of the Gaussian
    that softens its edge. Both are shares of that person's standing height (standing_heights), so a
    person far away gets a narrow margin. Masks of people who overlap overlap. The people's canvas
    covers the image (cover_canvas).
    """
    people = cover_canvas(people, width, height)
    heights = standing_heights(people).tolist()
    masks = torch.zeros(count(people), height, width)
    for number, height_px in enumerate(heights):
        # a single point still gets a mask, and a wrong point far away does not make a person huge
        size = min(height_px or 0.2 * min(width, height), 2.0 * max(width, height))
        # the blur needs the body beyond the image's edge
        margin = math.ceil(3 * feather * size)
        around = (height + 2 * margin, width + 2 * margin)
        shape = torch.zeros(around) if margin else masks[number]
        capsules = [
            (start + margin, end + margin, (thickness + dilation) * size)
            for start, end, thickness in capsules_of(pick(people, [number]))
        ]
        fill_capsules(shape, capsules)
        if margin:
            blurred = blur(shape, feather * size).clamp_(0, 1)
            masks[number] = blurred[margin : margin + height, margin : margin + width]
    return masks


def union_mask(masks: Tensor) -> Tensor:
    """Unite person masks [N, height, width] into one [height, width]."""
    return masks.amax(0) if len(masks) else masks.new_zeros(masks.shape[1:])


def capsules_of(person: People) -> list[Capsule]:
    """(end, end, half thickness as a share of the height) of every visible limb of one person."""
    body = guess_hips(person.body[0])
    limbs = [limb for limb in LIMBS if limb not in HEAD]
    groups = [(body, HEAD, "head"), (body, TORSO, "torso"), (body, limbs, "limb")]
    groups += [(hand[0], BONES, "hand") for hand in (person.left_hand, person.right_hand)]
    groups += [(_with_feet(person.body[0]), FEET, "foot")]
    capsules = [
        (points[a, :2], points[b, :2], THICKNESS[kind])
        for points, pairs, kind in groups
        for a, b in pairs
        if points[a, 2] > 0 and points[b, 2] > 0
    ]
    points = torch.cat([body, person.left_hand[0], person.right_hand[0], person.foot[0]])
    points = points[points[:, 2] > 0]
    return capsules + [(point[:2], point[:2], THICKNESS["hand"]) for point in points]


def _with_feet(body: Tensor) -> Tensor:
    """The body and two points at which the feet end: skeletons of 18 points end at the ankles."""
    ankles, knees = body[[R_ANKLE, L_ANKLE]], body[[R_KNEE, L_KNEE]]
    ends = ankles + FOOT_SHARE * (ankles - knees)
    ends[:, 2] = torch.minimum(ankles[:, 2], knees[:, 2])
    return torch.cat((body, ends))


def guess_hips(body: Tensor) -> Tensor:
    """Guess the hips of a body [18, 3] where both are missing, so that its chest is drawn."""
    if (body[[R_HIP, L_HIP], 2] > 0).any() or not (body[[R_SHOULDER, L_SHOULDER], 2] > 0).all():
        return body
    right, left = body[R_SHOULDER, :2], body[L_SHOULDER, :2]
    down = torch.stack([right[1] - left[1], left[0] - right[0]])  # across the shoulders
    up = body[NOSE, :2] - (right + left) / 2 if body[NOSE, 2] > 0 else torch.tensor([0.0, -1.0])
    down = torch.where((down * up).sum() > 0, -down, down)
    down = down * (LIMB_SHARES[NECK, R_HIP] / LIMB_SHARES[R_SHOULDER, L_SHOULDER])
    body = body.clone()
    body[R_HIP, :2], body[L_HIP, :2] = right + down, left + down
    body[[R_HIP, L_HIP], 2] = 1
    return body


def fill_capsules(shape: Tensor, capsules: Sequence[Capsule]) -> None:
    """Set the pixels of shape [h, w] within the radius of each capsule's segment to 1, in place.

    A capsule's pixels in a row are one interval. So the intervals' ends are counted, and a running
    sum says where there is any: the time hardly grows with the number of capsules.
    """
    if not capsules:
        return
    height, width = shape.shape
    starts = torch.stack([start for start, _, _ in capsules]).double().numpy()
    ends = torch.stack([end for _, end, _ in capsules]).double().numpy()
    radii = np.array([radius for _, _, radius in capsules])
    lowest, highest = np.minimum(starts, ends)[:, 1] - radii, np.maximum(starts, ends)[:, 1] + radii
    top, bottom = max(0, math.floor(lowest.min())), min(height, math.ceil(highest.max()) + 1)
    if top >= bottom:
        return
    rows = np.arange(top, bottom)
    left, right = _intervals(starts[:, None], ends[:, None], radii[:, None], rows)
    first = np.clip(np.ceil(left), 0, width)
    behind = np.clip(np.floor(right) + 1, 0, width)
    is_any = first < behind
    if not is_any.any():
        return
    row = np.broadcast_to(rows - top, is_any.shape)[is_any]
    first, behind = (columns[is_any].astype(int) for columns in (first, behind))
    begin, end = first.min(), behind.max()
    changes = np.zeros((len(rows), end - begin + 1), np.int16)
    np.add.at(changes, (row, first - begin), 1)
    np.add.at(changes, (row, behind - begin), -1)
    covered = torch.from_numpy(changes.cumsum(1, dtype=np.int16)[:, :-1] > 0)
    shape[top:bottom, begin:end].masked_fill_(covered, 1)


def _intervals(
    start: np.ndarray, end: np.ndarray, radius: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find from where to where capsules [K, 1, 2], radii [K, 1], reach in each row, [K, rows]
    twice; an empty interval ends before it begins.

    A capsule is the discs around both ends and the rectangle between them, and convex: its interval
    is that of all three together.
    """
    (x, y), (dx, dy) = start.T[..., None][:, 0], (end - start).T[..., None][:, 0]
    length = np.hypot(dx, dy)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = [_disc(point, radius, rows) for point in (start, end)]
        below = rows - y
        # inside the rectangle: |dx below - dy (column - x)| <= radius length,
        # 0 <= dx (column - x) + dy below <= length^2
        across = _between(dx * below - radius * length, dx * below + radius * length, dy)
        along = _between(-dy * below, length**2 - dy * below, dx)
        x = np.where(length > 0, x, np.nan)  # of a single point the disc is all
        box = x + np.maximum(across[0], along[0]), x + np.minimum(across[1], along[1])
    lefts, rights = zip(*ends, box, strict=True)
    is_any = [low <= high for low, high in zip(lefts, rights, strict=True)]
    left = np.where(is_any, lefts, np.inf).min(0)
    return left, np.where(is_any, rights, -np.inf).max(0)


def _disc(
    center: np.ndarray, radius: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    half = np.sqrt(radius**2 - (rows - center[..., 1]) ** 2)  # nan: an empty interval
    return center[..., 0] - half, center[..., 0] + half


def _between(
    low: np.ndarray, high: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve low <= factor * v <= high for v; of a factor of 0 all, or nothing."""
    one, other = low / factor, high / factor
    is_all = np.where((low <= 0) & (high >= 0), np.inf, -np.inf)
    is_zero = factor == 0
    return (
        np.where(is_zero, -is_all, np.minimum(one, other)),
        np.where(is_zero, is_all, np.maximum(one, other)),
    )


def blur(images: Tensor, sigma: float) -> Tensor:
    """Soften images [..., h, w] by a Gaussian of this standard deviation in pixels.

    Its kernel ends at three standard deviations, and edges are repeated: what sums to 1 in every
    place over several images does so afterwards. A wide one is computed on larger pixels, of which
    FINEST are a standard deviation: less than .002 off.
    """
    if math.ceil(3 * sigma) == 0 or not images.numel():
        return images
    if images.device.type == "cpu" and images.dtype == torch.float32:
        return _blur_by_opencv(images, sigma)
    kernel = torch.from_numpy(_gaussian(sigma)).to(images).view(1, 1, 1, -1)
    radius = kernel.shape[-1] // 2
    blurred = images.reshape(-1, 1, *images.shape[-2:])
    for weight, pad in ((kernel, (radius, radius, 0, 0)), (kernel.mT, (0, 0, radius, radius))):
        blurred = torch.nn.functional.conv2d(
            torch.nn.functional.pad(blurred, pad, mode="replicate"), weight
        )
    return blurred.view(images.shape)


def _gaussian(sigma: float) -> np.ndarray:
    radius = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return kernel / kernel.sum()


def _blur_by_opencv(images: Tensor, sigma: float) -> Tensor:
    """Do the same on the processor, where OpenCV takes a tenth of PyTorch's time."""
    import cv2

    height, width = images.shape[-2:]
    factor, edge = max(1, int(sigma / FINEST)), cv2.BORDER_REPLICATE
    taps = _gaussian(sigma / factor).astype(np.float32)
    pad = len(taps) // 2 * factor  # the edge as far as the kernel reaches
    below, right = (pad + -side % factor for side in (height, width))  # to larger pixels

    def blurred(frame: np.ndarray) -> np.ndarray:
        if factor > 1:
            frame = cv2.copyMakeBorder(frame, pad, below, pad, right, edge)
            size = tuple(side // factor for side in frame.shape[::-1])
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        frame = cv2.sepFilter2D(frame, cv2.CV_32F, taps, taps, borderType=edge)
        if factor > 1:
            frame = cv2.resize(frame, None, fx=factor, fy=factor)
            frame = frame[pad : pad + height, pad : pad + width]
        return frame

    frames = images.detach().reshape(-1, height, width).contiguous().numpy()
    return torch.from_numpy(np.stack([blurred(frame) for frame in frames])).view(images.shape)

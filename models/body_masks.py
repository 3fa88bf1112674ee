"""Draw masks of people: the bodies as thick shapes around their limbs.

Sizes are shares of a person's standing height, which is estimated from the visible limbs.
"""

import math

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
        shape = torch.zeros(height + 2 * margin, width + 2 * margin)
        for start, end, thickness in _capsules(pick(people, [number])):
            fill_capsule(shape, start + margin, end + margin, (thickness + dilation) * size)
        shape = blur(shape, feather * size)
        masks[number] = shape[margin : margin + height, margin : margin + width]
    return masks.clamp(0, 1)


def union_mask(masks: Tensor) -> Tensor:
    """Unite person masks [N, height, width] into one [height, width]."""
    return masks.amax(0) if len(masks) else masks.new_zeros(masks.shape[1:])


def _capsules(person: People) -> list[tuple[Tensor, Tensor, float]]:
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


def fill_capsule(shape: Tensor, start: Tensor, end: Tensor, radius: float) -> None:
    """Set the pixels within radius of the segment to 1, in place.

    shape: [h, w]; start, end: points (x, y) and radius in pixels.
    """
    low = (torch.minimum(start, end) - radius).floor().tolist()
    high = (torch.maximum(start, end) + radius).ceil().tolist()
    x0, x1 = max(0, int(low[0])), min(shape.shape[1], int(high[0]) + 1)
    y0, y1 = max(0, int(low[1])), min(shape.shape[0], int(high[1]) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    axis = end - start
    columns = torch.arange(x0, x1) - start[0]
    rows = (torch.arange(y0, y1) - start[1])[:, None]
    length = axis.square().sum().clamp(min=1e-6)
    along = ((columns * axis[0] + rows * axis[1]) / length).clamp_(0, 1)
    distance = (columns - along * axis[0]).square_() + (rows - along * axis[1]).square_()
    shape[y0:y1, x0:x1].masked_fill_(distance <= radius**2, 1)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Soften images [..., h, w] by a Gaussian of this standard deviation in pixels.

    Its kernel ends at three standard deviations, and edges are repeated: what sums to 1 in every
    place over several images does so afterwards.
    """
    radius = math.ceil(3 * sigma)
    if radius == 0 or not images.numel():
        return images
    steps = torch.arange(-radius, radius + 1, device=images.device) / sigma
    kernel = torch.exp(-0.5 * steps.square()).to(images.dtype)
    kernel = kernel / kernel.sum()
    if images.device.type == "cpu" and images.dtype == torch.float32:
        return _blur_by_opencv(images, kernel)
    kernel = kernel.view(1, 1, 1, -1)
    blurred = images.reshape(-1, 1, *images.shape[-2:])
    for weight, pad in ((kernel, (radius, radius, 0, 0)), (kernel.mT, (0, 0, radius, radius))):
        blurred = torch.nn.functional.conv2d(
            torch.nn.functional.pad(blurred, pad, mode="replicate"), weight
        )
    return blurred.view(images.shape)


def _blur_by_opencv(images: Tensor, kernel: Tensor) -> Tensor:
    """Do the same on the processor, where OpenCV takes a tenth of PyTorch's time."""
    import cv2

    taps, edge = kernel.numpy(), cv2.BORDER_REPLICATE
    frames = images.detach().reshape(-1, *images.shape[-2:]).contiguous().numpy()
    blurred = [cv2.sepFilter2D(frame, cv2.CV_32F, taps, taps, borderType=edge) for frame in frames]
    return torch.from_numpy(np.stack(blurred)).view(images.shape)

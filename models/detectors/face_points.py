"""Turn MediaPipe's mesh of a face into the 70 points of OpenPose."""

import torch
from torch import Tensor

# iBUG's 68 points (Sagonas et al. 2013) among the 468 of the mesh: the person's right side first
JAW = (162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389)
BROWS = (71, 63, 105, 66, 107, 336, 296, 334, 293, 301)
NOSE = (168, 197, 5, 4, 75, 97, 2, 326, 305)
RIGHT_EYE, LEFT_EYE = (33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380)
LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
IBUG = (*JAW, *BROWS, *NOSE, *RIGHT_EYE, *LEFT_EYE, *LIPS)


def face_points(mesh: Tensor) -> Tensor:
    """Turn a mesh [468, 2] into OpenPose's points [70, 3], all of them with confidence 1.

    The mesh has no pupils: the middle of each eye stands for them.
    """
    pupils = [mesh[list(eye)].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]
    points = torch.cat([mesh[list(IBUG)], torch.stack(pupils)])
    return torch.cat([points, torch.ones(70, 1)], dim=1)

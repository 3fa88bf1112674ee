"""Draw the loss of a training, while it runs and after it."""

from collections.abc import Sequence

import torch
from torch import Tensor

WIDTH, HEIGHT, MARGIN = 640, 360, 48
SMOOTHED = 50  # the running mean is over 1 / SMOOTHED of all steps
PAPER, INK, FAINT, LINE = (250, 250, 248), (60, 60, 60), (205, 205, 205), (181, 67, 43)


def draw_loss_curve(losses: Sequence[float], steps: int) -> Tensor:
    """Draw the losses of the steps so far on a logarithmic scale, [HEIGHT, WIDTH, 3] in 0..1.

    steps: of the complete training. Every loss is drawn faint, their running mean over it.
    """
    import cv2
    import numpy as np

    canvas = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    logs = torch.tensor([*losses], dtype=torch.float64).clamp(min=1e-9).log10()
    low, high = (float(logs.min()), float(logs.max())) if len(logs) else (-1.0, 0.0)
    high = max(high, low + 0.05)
    width = max(1, min(len(logs), steps // SMOOTHED))
    mean = logs.unfold(0, width, 1).mean(-1) if len(logs) else logs
    for values, first, color, thickness in ((logs, 0, FAINT, 1), (mean, width - 1, LINE, 2)):
        across = (torch.arange(len(values)) + first + 1) / steps * (WIDTH - 2 * MARGIN)
        down = (high - values) / (high - low) * (HEIGHT - 2 * MARGIN)
        points = (MARGIN + torch.stack((across, down), -1)).round().int().numpy()
        cv2.polylines(canvas, [points], False, color, thickness, cv2.LINE_AA)
    corner = (MARGIN, HEIGHT - MARGIN)
    for end in ((MARGIN, MARGIN), (WIDTH - MARGIN, HEIGHT - MARGIN)):
        cv2.line(canvas, corner, end, INK, 1)
    for text, x, y in (
        (f"{10**high:.3g}", 4, MARGIN + 5),
        (f"{10**low:.3g}", 4, HEIGHT - MARGIN + 5),
        (f"step {len(losses)} of {steps}", MARGIN, HEIGHT - 16),
        ("loss", MARGIN, MARGIN - 16),
    ):
        cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return torch.from_numpy(canvas).float() / 255

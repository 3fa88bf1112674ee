"""The drawings of a composition: every person's skeleton and area, at any size.

They are drawn anew at the size of each sampling. Packs that sample tile by tile do not know that:
they crop the image that a control of the host carries. So all drawings also lie in the channels of
one such image, and a crop of it takes the place of the drawn ones.
"""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .streams import MERGED, Composition

LONGEST_SIDE = 512  # of the image, in pixels: it is drawn before any sampling
COLORS = 3


class Drawings:
    """The skeletons and areas of a composition; with `cropped`, read out of that image."""

    def __init__(self, composition: Composition, cropped: Tensor | None = None):
        self.composition, self.cropped = composition, cropped

    @cached_property
    def image(self) -> Tensor:
        """All drawings [frames, C, H, W]: everybody's skeleton, each person's, all areas."""
        if self.cropped is not None:
            return self.cropped
        size = self.composition.canvas
        width, height = (max(1, round(side * LONGEST_SIDE / max(size))) for side in size)
        people = range(len(self.composition.people))
        hints = [self.composition.hint(k, width, height) for k in (MERGED, *people)]
        areas = self.composition.masks(width, height)
        return torch.cat((*(hint.movedim(-1, 1) for hint in hints), areas), 1)

    def replaced(self, image: Tensor | None) -> "Drawings":
        """Return the drawings of another image; the same ones for None and for the image itself."""
        if image is None or image is self.__dict__.get("image"):
            return self
        return Drawings(self.composition, image)

    def hint(self, person: int, width: int, height: int) -> Tensor:
        """Draw a person's skeleton, or everybody's for MERGED, [frames, height, width, 3]."""
        if self.cropped is None:
            return self.composition.hint(person, width, height)
        start = COLORS * (0 if person == MERGED else person + 1)
        return _resized(self.cropped[:, start : start + COLORS], width, height).movedim(1, -1)

    def masks(self, width: int, height: int) -> Tensor:
        """Draw each person's area [frames, N, height, width]."""
        if self.cropped is None:
            return self.composition.masks(width, height)
        return _resized(self.cropped[:, -len(self.composition.people) :], width, height)


def _resized(images: Tensor, width: int, height: int) -> Tensor:
    return interpolate(images.float(), (height, width), mode="bilinear", antialias=True)

"""`dev.py help-images` runs examples on the server and puts what they show side by side."""

import io

import numpy
from PIL import Image
from vitruvian.lab.templates import help_images


def lit(image):
    """How many pixels of an image of poses are not black, in parts."""
    return (numpy.asarray(image.convert("RGB")).max(2) > 60).mean()


def test_a_strip_shows_the_pictures_of_its_row(server):
    content = help_images.draw(server, "PickPeople")
    strip = Image.open(io.BytesIO(content))
    assert (strip.format, len(content) <= help_images.MOST_BYTES) == ("JPEG", True)
    side = (strip.width - help_images.GAP) // 2
    four, two = (strip.crop((x, 0, x + side, side)) for x in (0, strip.width - side))
    assert 0.01 < lit(two) < 0.7 * lit(four)
    assert lit(strip.crop((0, side + help_images.GAP, strip.width, strip.height))) > 0.5  # paper

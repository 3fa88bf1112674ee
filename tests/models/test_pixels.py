"""Test how images and masks of every form are read: right, or refused in words."""

import pytest
import torch
from vitruvian.models.pixels import read_images, read_masks

torch.manual_seed(3)
RGB = torch.rand(2, 5, 7, 3)
MASK = torch.rand(2, 9, 7)
LEVELS = torch.randint(0, 65536, (2, 9, 7))


def test_an_ordinary_image_and_mask_are_read_as_they_are():
    assert torch.equal(read_images(RGB), RGB) and torch.equal(read_masks(MASK), MASK)


@pytest.mark.parametrize(
    "images, expected",
    [
        (RGB[0], RGB[:1]),
        (RGB[..., :1], RGB[..., [0, 0, 0]]),
        (RGB[0, ..., :1], RGB[:1, ..., [0, 0, 0]]),
        (torch.cat((RGB, torch.rand(2, 5, 7, 1)), -1), RGB),
        (RGB.half(), RGB.half().float()),
        (RGB.bfloat16(), RGB.bfloat16().float()),
        (RGB.double(), RGB),
        ((RGB * 255).byte(), (RGB * 255).byte().float() / 255),
        (LEVELS.to(torch.uint16)[..., None], (LEVELS.float() / 65535)[..., None]),
        (RGB > 0.5, (RGB > 0.5).float()),
        (RGB * 1.4 - 0.2, (RGB * 1.4 - 0.2).clamp(0, 1)),
    ],
)
def test_images_of_every_usual_form_are_read(images, expected):
    image = read_images(images)
    assert image.dtype == torch.float32 and image.shape[-1] == 3
    torch.testing.assert_close(image, expected.expand(*expected.shape[:-1], 3))


@pytest.mark.parametrize(
    "images, words",
    [
        (
            RGB[..., :2],
            "it has 2 x 5 x 7 x 2 numbers, expected .* 1, 3 or 4 channels. Connect an IMAGE",
        ),
        (torch.cat((RGB, RGB), -1), "2 x 5 x 7 x 6 numbers"),
        (RGB.movedim(-1, 1), "2 x 3 x 5 x 7 numbers"),
        (RGB[0, ..., 0], "5 x 7 numbers"),
        (RGB[None], "1 x 2 x 5 x 7 x 3 numbers"),
        (RGB[:0], "empty: it has 0 x 5 x 7 x 3 numbers"),
        (RGB[:, :0], "empty"),
        (RGB * 65535, "values go from .* expected 0 to 1"),
        (RGB * 2 - 1, "values go from -"),
        (torch.full_like(RGB, float("nan")), "not a number"),
        (torch.where(RGB == RGB.max(), float("inf"), RGB), "infinite"),
        (LEVELS[..., None], "whole numbers"),
        ([RGB], "it is a list, expected an IMAGE"),
        (None, "it is nothing, expected an IMAGE"),
    ],
)
def test_other_images_are_refused_in_words(images, words):
    with pytest.raises(ValueError, match=words):
        read_images(images)


@pytest.mark.parametrize(
    "masks, expected",
    [
        (MASK[0], MASK[:1]),
        (MASK[:, None], MASK),
        (MASK[..., None], MASK),
        (MASK[0, ..., None], MASK[:1]),
        (MASK.half(), MASK.half().float()),
        (MASK > 0.5, (MASK > 0.5).float()),
        ((MASK * 255).byte(), (MASK * 255).byte().float() / 255),
        (LEVELS.to(torch.uint16), LEVELS.float() / 65535),
        (MASK * 1.2, (MASK * 1.2).clamp(0, 1)),
        (torch.ones(1, 4, 4), torch.ones(1, 4, 4)),
    ],
)
def test_masks_of_every_usual_form_are_read(masks, expected):
    torch.testing.assert_close(read_masks(masks), expected)


@pytest.mark.parametrize(
    "masks, words",
    [
        (RGB[0], "5 x 7 x 3 numbers, which is an image"),
        (RGB, "2 x 5 x 7 x 3 numbers, expected"),
        (MASK.expand(3, 2, 9, 7), "3 x 2 x 9 x 7 numbers, expected masks x height"),
        (MASK[:0], "empty"),
        (MASK * 255, "values go from .* to .* expected 0 to 1"),
        (MASK * float("nan"), "not a number"),
        (LEVELS, "whole numbers"),
        ("mask", "it is text, expected a MASK"),
    ],
)
def test_other_masks_are_refused_in_words(masks, words):
    with pytest.raises(ValueError, match=words):
        read_masks(masks)

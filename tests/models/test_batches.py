"""Test how frames, images, masks and latents pair up."""

import pytest
import torch
from vitruvian.models.batches import check_batch, one_each, paired_count


@pytest.mark.parametrize("counts, count", [((3, 3), 3), ((1, 4), 4), ((4, 1), 4), ((1, 1), 1)])
def test_equal_counts_pair_up_and_one_serves_all(counts, count):
    assert paired_count({"pose": counts[0], "image": counts[1]}) == count


@pytest.mark.parametrize("counts", [(2, 3), (3, 2), (2, 4), (0, 1), (0, 0), (0, 3)])
def test_other_counts_are_refused_by_name(counts):
    with pytest.raises(ValueError, match=f"'pose' has {counts[0]} and 'image' has {counts[1]}"):
        paired_count({"pose": counts[0], "image": counts[1]})


def test_three_inputs_pair_up():
    assert paired_count({"pose": 1, "image": 3, "mask": 3}) == 3
    with pytest.raises(ValueError, match="'pose' has 2, 'image' has 1 and 'mask' has 3"):
        paired_count({"pose": 2, "image": 1, "mask": 3})


def test_item_k_goes_with_place_k():
    assert one_each(["a", "b", "c"], 3) == ["a", "b", "c"]
    assert one_each(["a"], 3) == ["a"] * 3
    images = torch.arange(3.0).view(3, 1, 1).expand(3, 2, 2)
    assert [image[0, 0].item() for image in one_each(images, 3)] == [0, 1, 2]
    assert all(torch.equal(image, images[1]) for image in one_each(images[1:2], 4))


def test_what_meets_the_latents_later_has_as_many_or_one():
    check_batch("Node", {"mask": 1, "pose": 3}, 3)
    for count, batch in ((2, 3), (3, 1), (3, 2), (0, 1)):
        with pytest.raises(
            ValueError, match=f"Node: 'pose' has {count} items, but {batch} latents"
        ):
            check_batch("Node", {"mask": 1, "pose": count}, batch)

"""Instances from text, masks and boxes, and what Compose and Preview Instances make of them."""

import execution
import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.models.compose import Instance
from vitruvian.nodes import compose as ours
from vitruvian.nodes.instances import (
    VitruvianAddInstance,
    VitruvianInstancesFromBoxes,
    VitruvianInstancesFromMasks,
    VitruvianInstancesFromText,
)
from vitruvian.nodes.wires import AnyBoundingBox

import nodes as core

register()
SIZE = 64
LEFT, RIGHT = (
    {"x": 0, "y": 8, "width": 24, "height": 48},
    {"x": 32, "y": 0, "width": 32, "height": 64},
)
LINES = "a man with a red top\n\n  a dog  \n"
WORDS = {"setting": "in a\n park", "quality": ""}
SETTINGS = {
    "mode": "exact",
    "strength": 1.0,
    "harmony": 0.5,
    "dilation": 0.06,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "background_prompt": ours.MEAN,
    "shared_negative": False,
}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def clip(loaded):
    return loaded[1]


def two_masks():
    masks = torch.zeros(2, SIZE, SIZE)
    masks[0, :, :20], masks[1, :, 40:] = 1, 0.5
    return masks


def from_masks(clip, masks, prompts=LINES, **inputs):
    return VitruvianInstancesFromMasks.execute(
        clip, prompts, masks=masks, **WORDS, **inputs
    ).result[0]


def from_boxes(clip, bboxes, prompts=LINES, **inputs):
    values = {"canvas_width": SIZE, "canvas_height": SIZE, "box_order": "as listed", **inputs}
    node = VitruvianInstancesFromBoxes
    return node.execute(clip, prompts, bboxes=bboxes, **WORDS, **values).result[0]


def encoded(clip, text):
    return core.CLIPTextEncode().encode(clip, text)[0][0][0]


# ---- from masks


def test_each_mask_is_an_instance_with_its_line(clip):
    man, dog = from_masks(clip, two_masks())
    assert (man.person, dog.person) == (0, 0)
    assert (man.name, dog.name) == ("a man with a red top", "a dog")
    assert torch.equal(torch.cat((man.mask, dog.mask)), two_masks())
    assert torch.equal(man.conditioning[0][0], encoded(clip, "a man with a red top in a park"))
    assert torch.equal(dog.conditioning[0][0], encoded(clip, "a dog in a park"))


def test_instances_before_are_kept(clip):
    first = VitruvianInstancesFromText.execute(clip, "a woman", "", "").result[0]
    chain = from_boxes(
        clip, [LEFT], "a cat", instances=from_masks(clip, two_masks(), instances=first)
    )
    assert [i.name for i in chain] == ["a woman", "a man with a red top", "a dog", "a cat"]
    assert [i.person for i in chain] == [1, 0, 0, 0]


@pytest.mark.parametrize("prompts, lines", [("a dog", 1), (LINES + "a cat", 3), ("", 0)])
def test_another_number_of_lines_than_masks_is_refused(clip, prompts, lines):
    with pytest.raises(
        ValueError,
        match=f"^Instances from Masks: .*in 'prompts' is {lines}, but that of 'masks' is 2",
    ):
        from_masks(clip, two_masks(), prompts)


def test_an_empty_mask_is_refused(clip):
    masks = two_masks()
    masks[1] = 0
    with pytest.raises(ValueError, match="^Instances from Masks: mask 2 of .*'masks' is empty"):
        from_masks(clip, masks)


# ---- from text


def from_text(clip, prompts, **inputs):
    return VitruvianInstancesFromText.execute(clip, prompts, **WORDS, **inputs).result[0]


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize(
    "answer",
    [
        "Here are the two people:\n\n1. **Left:** a man with a red top\n2. **Right:** a dog\n",
        '```json\n[{"prompt": "a man with a red top"}, {"prompt": "a dog"}]\n```',
    ],
)
def test_the_answer_of_a_language_model_makes_the_instances_of_plain_lines(clip, answer, count):
    for read, plain in zip(
        from_text(clip, answer, count=count), from_text(clip, LINES), strict=True
    ):
        assert (read.name, read.person) == (plain.name, plain.person)
        assert torch.equal(read.conditioning[0][0], plain.conditioning[0][0])


def test_another_number_of_people_than_expected_is_refused(clip):
    words = r"'prompts' can not be used: 3 people are expected \('count'\), but 2 could .*a dog"
    with pytest.raises(ValueError, match=f"^Instances from Text: the input {words}"):
        from_text(clip, LINES, count=3)


# ---- from boxes


def area(columns, rows):
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, slice(*rows), slice(*columns)] = 1
    return mask


@pytest.mark.parametrize(
    "bboxes",
    [
        [LEFT, RIGHT],
        [[LEFT, RIGHT]],
        [[{**LEFT, "label": "dog", "score": 0.3}, {**RIGHT, "label": "car", "score": 0.2}]],
        [{**box, "metadata": {"type": "obj", "desc": "someone"}} for box in (LEFT, RIGHT)],
    ],
    ids=["list", "list for each image", "detected", "with metadata"],
)
def test_each_box_is_an_instance_with_its_line(clip, bboxes):
    man, dog = from_boxes(clip, bboxes)
    assert (man.person, dog.person) == (0, 0)
    assert (man.name, dog.name) == ("a man with a red top", "a dog")
    assert torch.equal(man.mask, area((0, 24), (8, 56)))
    assert torch.equal(dog.mask, area((32, 64), (0, 64)))
    assert torch.equal(dog.conditioning[0][0], encoded(clip, "a dog in a park"))


def test_boxes_that_are_drawn_in_the_host_are_read(clip):
    drawing = pytest.importorskip("comfy_extras.nodes_bounding_boxes")  # of newer hosts
    drawn = drawing.CreateBoundingBoxes.execute(SIZE, SIZE, editor_state=[LEFT, RIGHT]).result[1]
    man, dog = from_boxes(clip, drawn)
    assert torch.equal(man.mask, area((0, 24), (8, 56)))
    assert torch.equal(dog.mask, area((32, 64), (0, 64)))


def test_one_box_alone_is_one_instance(clip):
    (dog,) = from_boxes(clip, RIGHT, "a dog")
    assert torch.equal(dog.mask, area((32, 64), (0, 64)))


def test_boxes_may_be_counted_from_the_left(clip):
    listed = from_boxes(clip, [[RIGHT, LEFT], [RIGHT, LEFT]])
    counted = from_boxes(clip, [[RIGHT, LEFT], [LEFT, RIGHT]], box_order="left to right")
    assert torch.equal(counted[0].mask, listed[1].mask)
    assert torch.equal(counted[1].mask, listed[0].mask)


def test_the_size_is_that_of_a_connected_image(clip):
    wide = torch.zeros(1, SIZE // 2, SIZE, 3)
    (dog,) = from_boxes(clip, [{**LEFT, "height": 8}], "a dog", image=wide, canvas_width=16)
    assert torch.equal(dog.mask, area((0, 24), (8, 16))[:, : SIZE // 2])


def test_an_image_without_boxes_among_others_is_empty(clip):
    man, _ = from_boxes(clip, [[LEFT, RIGHT], [], [LEFT, RIGHT]])
    assert torch.equal(man.mask, torch.stack((man.mask[0], torch.zeros(SIZE, SIZE), man.mask[0])))


@pytest.mark.parametrize(
    "bboxes, inputs, words",
    [
        ([LEFT], {}, "lines in 'prompts' is 2, but that of 'bboxes' is 1"),
        ([LEFT, RIGHT], {"prompts": "a dog"}, "lines in 'prompts' is 1, but that of 'bboxes' is 2"),
        ([], {}, "'bboxes' has no boxes"),
        ([[], []], {}, "'bboxes' has no boxes"),
        ([[LEFT, RIGHT], [LEFT]], {}, r"number of boxes for each image \(2, 1\)"),
        (
            [LEFT, {**RIGHT, "x": 64}],
            {},
            "box 2 .* outside of the image of 64 x 64 pixels, at x 64 "
            "to 96, y 0 to 64. Set 'canvas_width' and 'canvas_height' to the",
        ),
        ([[LEFT, RIGHT], [LEFT, {**RIGHT, "y": -64}]], {}, "box 2 .* for image 2 lies outside"),
        (
            [LEFT, {**RIGHT, "x": 64}],
            {"image": torch.zeros(1, 32, 32, 3)},
            "box 2 .* image of 32 x 32 pixels.* Connect as 'image' the image that the boxes lie on",
        ),
        ([{**LEFT, "width": 0}, RIGHT], {}, "box 1 of the input 'bboxes' is empty: it has 0 x 48"),
        ([{"x": 0.1, "y": 0.1, "width": 0.5, "height": 0.9}, RIGHT], {}, "box 1 .* not shares"),
        ([[0, 0, 10, 20], [0, 0, 10, 30]], {}, "'bboxes' can not be used: .* x, y"),
        ("boxes", {}, "'bboxes' can not be used"),
        ([LEFT, RIGHT], {"image": torch.zeros(3, 64, 64)}, "'image' can not be used"),
        ([[LEFT, RIGHT]] * 2, {"image": torch.zeros(3, 64, 64, 3)}, "'image' has 3 and 'bboxes'"),
    ],
)
def test_bad_boxes_are_refused_in_words(clip, bboxes, inputs, words):
    with pytest.raises(ValueError, match=f"^Instances from Boxes: .*{words}"):
        from_boxes(clip, bboxes, **inputs)


@pytest.mark.parametrize("kind", ["BOUNDING_BOX", "BOUNDING_BOXES"])
def test_both_kinds_of_boxes_connect(kind):
    assert execution.validate_node_input(kind, AnyBoundingBox.io_type)
    assert not execution.validate_node_input("MASK", AnyBoundingBox.io_type)


# ---- composed


def composed(loaded, instances, **inputs):
    model, clip, *_ = loaded
    prompt = core.CLIPTextEncode().encode(clip, "two people in a park")[0]
    return ours.VitruvianComposeInstances.execute(
        model, prompt, prompt, instances, **{**SETTINGS, **inputs}
    ).result[:3]


def sample(loaded, instances, width=SIZE, height=SIZE, images=1, **inputs):
    latent = {"samples": torch.zeros(images, 4, height // 8, width // 8)}
    settings = (7, 2, 3.0, "euler", "normal")
    conds = composed(loaded, instances, **inputs)
    return core.common_ksampler(conds[0], *settings, *conds[1:], latent)[0]["samples"]


@pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
def test_regions_compose_without_a_pose_and_without_a_control_net(loaded, clip, mode):
    """A single region is a plain sampling of its prompt, and several are others than each."""
    everywhere = torch.ones(1, SIZE, SIZE)
    (alone,) = from_masks(clip, everywhere, "a man with a red top")
    if mode != "couple":  # whose one pass has the mean of all texts outside of cross-attention
        latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
        negative = core.CLIPTextEncode().encode(clip, "two people in a park")[0]
        settings = (7, 2, 3.0, "euler", "normal", alone.conditioning, negative, latent)
        plain = core.common_ksampler(loaded[0], *settings)[0]["samples"]
        assert torch.equal(sample(loaded, (alone,), mode=mode), plain)
    first = sample(loaded, from_boxes(clip, [LEFT, RIGHT]), mode=mode)
    swapped = sample(loaded, from_boxes(clip, [RIGHT, LEFT]), mode=mode)
    assert first.isfinite().all() and not torch.allclose(first, swapped, atol=1e-2)


def test_somebody_may_be_away_in_one_image_of_a_batch(loaded, clip):
    man, dog = from_boxes(clip, [[LEFT, RIGHT], [LEFT, RIGHT]])
    mask = dog.mask.clone()
    mask[1] = 0
    latents = sample(loaded, (man, dog._replace(mask=mask)), images=2)
    assert latents.isfinite().all()


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_feather_and_scene_share_change_the_image(loaded, clip, mode):
    boxes = from_boxes(clip, [LEFT, RIGHT])
    plain, feathered, scene, all_scene = (
        sample(loaded, boxes, mode=mode, **levers)
        for levers in (
            {},
            {"region_feather": 0.3},
            {"scene_share": 0.3},
            {"scene_share": 1.0},
        )
    )
    for other in (feathered, scene, all_scene):
        assert float((other - plain).norm() / plain.norm()) > 1e-3
    other_words = sample(
        loaded, from_boxes(clip, [LEFT, RIGHT], "a cat\na tree"), mode=mode, scene_share=1.0
    )
    if mode == "exact":  # all of the image is the scene's
        torch.testing.assert_close(other_words, all_scene, atol=1e-4, rtol=1e-4)


PERSON = {"pose_keypoints_2d": [float(v) for k in range(18) for v in (20 + k, 3 * k + 4, 1)]}
POSE = [{"people": [PERSON], "canvas_width": SIZE, "canvas_height": SIZE}]
TEXT = [[torch.zeros(1, 77, 192), {}]]


def region(columns, rows=(0, SIZE), **fields):
    return Instance(TEXT, 0, area(columns, rows), **fields)


@pytest.mark.parametrize(
    "instances, words",
    [
        (
            (Instance(TEXT, 1, name="a man"),),
            r"instance 1 \(a man\) is for person 1 of a pose, but "
            "the input 'pose' is not connected.*Instances from Masks",
        ),
        ((region((0, 20)), Instance(TEXT, 2, area((0, 9), (0, 9)))), "instance 2 is for person 2"),
        ((region((0, 20)), Instance(TEXT, 0)), "instance 2 has neither a person nor a mask"),
        (
            (region((0, 20)), Instance(TEXT, 0, torch.ones(1, 64, 128))),
            "mask of instance 1 has 64 x 64 pixels, but that of another instance 128 x 64",
        ),
        (
            (Instance(TEXT, 0, torch.ones(2, 64, 64)), Instance(TEXT, 0, torch.ones(3, 64, 64))),
            "'mask of instance 1' has 2 and 'mask of instance 2' has 3",
        ),
    ],
)
@pytest.mark.parametrize("node", ["Compose Instances", "Preview Instances"])
def test_instances_that_need_a_pose_or_other_masks(loaded, node, instances, words):
    with pytest.raises(ValueError, match=f"^{node}: .*{words}"):
        if node == "Compose Instances":
            composed(loaded, instances)
        else:
            preview(instances)


@pytest.mark.parametrize("control", ["control_net", "model_patch"])
def test_a_control_without_a_pose_is_refused(loaded, control):
    with pytest.raises(
        ValueError,
        match=f"^Compose Instances: the input '{control}' is connected, but 'pose' is not",
    ):
        composed(loaded, (region((0, 20)),), **{control: object()})


HIDDEN = [
    (
        (region((0, 20)), region((5, 15), order=-1, name="a cat")),
        r"instance 2 \(a cat\) has no place: others cover all of it. Raise its 'order'",
    ),
    ((region((0, 40)), region((0, 20)), region((20, 40))), "instance 1 has no place: others cover"),
    ((region((0, 20)), region((5, 15), weight=0.5)), "instance 2 has no place"),
    ((region((0, 20)), region((0, 0))), "instance 2 has no place: its mask is empty"),
    ((region((0, 20)), region((0, 0)), region((0, 0))), "instance 2 has no place: its mask is"),
]


@pytest.mark.parametrize("instances, words", HIDDEN)
def test_an_instance_without_a_place_is_refused(loaded, instances, words):
    with pytest.raises(ValueError, match=f"^Preview Instances: {words}"):
        preview(instances)
    with pytest.raises(ValueError, match=f"^Compose Instances: {words}"):
        sample(loaded, instances)


def test_a_person_outside_of_the_image_is_refused():
    near, far = (
        {"pose_keypoints_2d": [v + right * (k % 3 == 0) for k, v in enumerate(points)]}
        for right, points in ((80, PERSON["pose_keypoints_2d"]), (200, PERSON["pose_keypoints_2d"]))
    )
    wide = [{"people": [near, far], "canvas_width": 4 * SIZE, "canvas_height": SIZE}]
    instances = (Instance(TEXT, 1), Instance(TEXT, 2, name="a far man"))
    assert preview(instances, pose=wide)[1].flatten(1).any(1).all()
    with pytest.raises(
        ValueError, match=r"instance 2 \(a far man\) has no place: nothing of person 2"
    ):
        preview(instances, pose=wide, output_width=SIZE, output_height=SIZE)


def test_two_instances_with_one_area_share_it_unless_nothing_blends(loaded):
    twins = (region((0, 64)), region((0, 64)))
    assert sample(loaded, twins).isfinite().all()
    with pytest.raises(ValueError, match="instance 2 has no place"):
        sample(loaded, twins, harmony=0.0)


def test_masks_of_other_proportions_than_the_image_are_refused(loaded):
    nearly = region((0, 20))._replace(mask=torch.ones(1, 60, 64))
    assert sample(loaded, (nearly,)).isfinite().all()
    problem = "the mask of instance 1 has 64 x 64 pixels, but the image 128 x 64"
    with pytest.raises(ValueError, match=f"^Compose Instances: {problem}"):
        sample(loaded, (region((0, 20)),), width=128)


def test_a_guidance_of_one_person_alone_is_refused(loaded, clip):
    (man,) = from_masks(clip, torch.ones(1, 8, 8), "a man")
    text, entry = man.conditioning[0]
    guided = man._replace(conditioning=[[text, {**entry, "guidance": 2.0}]])
    with pytest.raises(
        ValueError,
        match=r"^Compose Instances: the prompt of instance 1 \(a man\) has the guidance 2",
    ):
        composed(loaded, (guided,))
    same = [[text, {**entry, "guidance": 2.0}]]
    ours.VitruvianComposeInstances.execute(loaded[0], same, same, (guided,), **SETTINGS)


def test_what_belongs_to_all_people_is_sent_to_the_prompts_of_the_image():
    with pytest.raises(
        ValueError, match="connect it to the positive and negative prompt of Compose Instances"
    ):
        VitruvianAddInstance.execute([[torch.zeros(1, 77, 192), {"control": object()}]], 0, 0, 1.0)


# ---- previewed


def preview(instances, **inputs):
    values = {"output_width": 0, "output_height": 0, "dilation": 0.06, **inputs}
    return ours.VitruvianPreviewInstances.execute(instances, **values).result


def test_a_preview_without_a_pose_shows_who_owns_what_by_order():
    (man,) = VitruvianAddInstance.execute(
        TEXT, 0, 0, 1.0, area((0, 32), (0, 64)), name=" a man "
    ).result[0]
    instances = (man, region((16, 64), (0, 32), order=1, name="a dog"))
    image, masks, report = preview(instances)
    assert image.shape == (1, SIZE, SIZE, 3)
    assert torch.equal(masks[1], instances[1].mask[0])
    assert torch.equal(masks[0], instances[0].mask[0] * (1 - masks[1]))
    assert report == "1: 38 % a man\n2: 38 % a dog"


def test_a_preview_has_the_size_of_the_masks_or_their_proportions():
    wide = Instance(TEXT, 0, torch.ones(1, 32, 96))
    assert preview((wide,))[0].shape == (1, 32, 96, 3)
    assert preview((wide,), output_width=48)[0].shape == (1, 16, 48, 3)


def test_a_skeleton_and_a_region_without_one_go_together():
    _, masks, report = preview((Instance(TEXT, 1, name="a man"), region((48, 64))), pose=POSE)
    assert (masks.flatten(1).sum(1) > 50).all()
    assert report.splitlines()[1] == "2: 25 %"

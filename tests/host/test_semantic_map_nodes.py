"""The nodes of semantic pose maps on the real host."""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.models import outfit, semantic_map
from vitruvian.models.semantic_map import CLASSES
from vitruvian.nodes import semantic_map as nodes

register()

STANDING = [
    (256, 80), (256, 140), (210, 142), (190, 210), (180, 270), (302, 142), (322, 210), (332, 270),
    (228, 280), (225, 370), (222, 460), (284, 280), (287, 370), (290, 460), (246, 70), (266, 70),
    (236, 76), (276, 76),
]  # fmt: skip


def frame(*shifts, confidence=1.0):
    people = [
        {"pose_keypoints_2d": [v for x, y in STANDING for v in (x + shift, y, confidence)]}
        for shift in shifts
    ]
    return {"people": people, "canvas_width": 512, "canvas_height": 512}


POSE = {
    "output_width": 0, "output_height": 0, "upper": "top", "lower": "pants", "hair": "short",
    "long_sleeves": True, "long_legs": True, "shoes": True, "hat": False, "glasses": False,
    "min_confidence": 0.3,
}  # fmt: skip
COLORS = {
    "palette": nodes.OURS,
    "tolerance": 40.0,
    "if_unknown_color": nodes.STOP,
    "custom_colors": "",
}
MASK = {
    "part_group": nodes.ALL_CLOTHING,
    "part_names": "",
    "expand": 0,
    "if_no_part": nodes.STOP,
}


def run(node, **inputs):
    with torch.inference_mode():  # as the host does
        return node.execute(**inputs).args


def from_pose(*frames, **inputs):
    return run(nodes.VitruvianSemanticMapFromPose, pose=list(frames), **{**POSE, **inputs})[0]


def test_schemas_explain_everything():
    ids = [node.GET_SCHEMA().node_id for node in nodes.NODES]
    assert ids == [
        "VitruvianSemanticMapFromColors",
        "VitruvianAddPartToSemanticMap",
        "VitruvianSemanticMapFromPose",
        "VitruvianShowSemanticMap",
        "VitruvianMaskFromSemanticMap",
    ]
    for node in nodes.NODES:
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category == "Vitruvian/appearance"
        assert all(part.tooltip for part in [*schema.inputs, *schema.outputs])
        assert not {i.id for i in schema.inputs} & {o.id for o in schema.outputs}
        assert node.GET_NODE_INFO_V1()["input"]
        page = nodes.__file__.replace("nodes/semantic_map.py", f"web/docs/{schema.node_id}.md")
        with open(page, encoding="utf-8") as file:
            text = file.read()
        assert text.startswith(f"# {schema.display_name}\n") and "HumanDiffusion" in text
        assert all(i.id in text for i in schema.inputs)


def test_defaults_and_options_are_what_execute_takes():
    options = {i.id: i for i in nodes.VitruvianSemanticMapFromPose.define_schema().inputs}
    assert {name: i.default for name, i in options.items() if name in POSE} == POSE
    assert options["upper"].options == list(outfit.UPPERS)
    options = {i.id: i for i in nodes.VitruvianMaskFromSemanticMap.define_schema().inputs}
    assert options["part_group"].options[3:] == list(CLASSES)


# maps


def test_a_map_is_read_back_from_its_colors():
    labels = from_pose(frame(-100, 100), hat=True)
    preview, colors = run(nodes.VitruvianShowSemanticMap, semantic_map=labels)
    assert preview.shape[1] == 512 and preview.shape[2] > 512 and colors.shape == (1, 512, 512, 3)
    read = run(nodes.VitruvianSemanticMapFromColors, image=colors, **COLORS)[0]
    assert torch.equal(read, labels) and {*labels.unique().tolist()} >= {
        semantic_map.HEADWEAR,
        semantic_map.TOP,
    }
    ui = nodes.VitruvianShowSemanticMap.execute(semantic_map=labels).ui.as_dict()
    assert len(ui["images"]) == 1


def test_other_palettes():
    image = torch.tensor([[[5, 5, 5], [1, 1, 1]]])[None] / 255
    gray = {**COLORS, "palette": nodes.GRAY}
    assert run(nodes.VitruvianSemanticMapFromColors, image=image, **gray)[0].tolist() == [[[5, 1]]]
    custom = {**COLORS, "palette": nodes.CUSTOM, "custom_colors": "hair: #ff0000"}
    image = torch.tensor([[[1.0, 0, 0], [0, 0, 0]]])[None]
    assert run(nodes.VitruvianSemanticMapFromColors, image=image, **custom)[0].tolist() == [
        [[semantic_map.HAIR, 0]]
    ]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Colors: the input 'image': 12 of 12 pixels .*tolerance"),
        ({"palette": nodes.CUSTOM}, "Colors: the input 'custom_colors': there are no colors"),
        (
            {"palette": nodes.CUSTOM, "custom_colors": "top red"},
            "Colors: .*'top red' is not a part",
        ),
    ],
)
def test_images_that_are_no_maps(inputs, message):
    image = torch.full((1, 3, 4, 3), 0.45)
    with pytest.raises(ValueError, match=f"Semantic Map from {message}"):
        run(nodes.VitruvianSemanticMapFromColors, image=image, **{**COLORS, **inputs})
    allowed = {**COLORS, "if_unknown_color": nodes.BACKGROUND}
    assert not run(nodes.VitruvianSemanticMapFromColors, image=image, **allowed)[0].any()


def test_parts_are_chained():
    add = nodes.VitruvianAddPartToSemanticMap
    left, top = torch.zeros(2, 6, 8), torch.zeros(1, 6, 8)
    left[..., :4], top[:, :2] = 1, 1
    first = run(add, mask=left, part="pants")[0]
    second = run(add, mask=top, part="wrist wearing", semantic_map=first)[0]
    assert first.shape == second.shape == (2, 6, 8) and first.dtype == torch.uint8
    assert (second[:, :2] == semantic_map.WRIST).all() and torch.equal(second[:, 2:], first[:, 2:])
    assert (first[..., :4] == semantic_map.PANTS).all() and not first[..., 4:].any()
    assert run(add, mask=left[0], part="top")[0].shape == (1, 6, 8)
    with pytest.raises(
        ValueError, match="Add Part to Semantic Map: .*'semantic_map' and 'mask'.*8 x 6 .*9 x 6"
    ):
        run(add, mask=torch.ones(1, 6, 9), part="top", semantic_map=first)


@pytest.mark.parametrize(
    "output_size, size", [((0, 0), (512, 512)), ((96, 0), (96, 96)), ((60, 77), (60, 77))]
)
def test_sizes_of_maps_from_poses(output_size, size):
    width, height = output_size
    labels = from_pose(frame(0), frame(60), output_width=width, output_height=height)
    assert labels.shape == (2, size[1], size[0]) and labels.dtype == torch.uint8


def test_two_outfits_over_one_another():
    one, other = frame(-120), frame(120)
    first = from_pose(one, upper="dress")
    labels = from_pose(other, upper="outer", semantic_map=first)[0]
    assert labels[200, 136] == semantic_map.DRESS and labels[200, 376] == semantic_map.OUTER
    with pytest.raises(
        ValueError, match="from Pose: .*'semantic_map' and 'pose'.*512 x 512.*256 x 256"
    ):
        from_pose(other, output_width=256, semantic_map=first)


def test_poses_that_can_not_be_drawn():
    with pytest.raises(ValueError, match="from Pose: .*'pose' has no people"):
        from_pose(frame())
    with pytest.raises(ValueError, match="from Pose: .*'pose'.*lower 'min_confidence'"):
        from_pose(frame(0, confidence=0.2))
    assert from_pose(frame(0, confidence=0.2), min_confidence=0.1).any()


# masks


def mask_of(labels, **inputs):
    return run(nodes.VitruvianMaskFromSemanticMap, semantic_map=labels, **{**MASK, **inputs})[0]


def test_masks_of_parts():
    labels = from_pose(frame(0))
    for group, expected in (
        ("hair", labels == semantic_map.HAIR),
        (nodes.PERSON, labels > 0),
        (nodes.ALL_CLOTHING, torch.isin(labels, torch.tensor(semantic_map.CLOTHING))),
        ("background", labels == 0),
    ):
        mask = mask_of(labels, part_group=group)
        assert torch.equal(mask, expected.float()) and mask.any()
    mask = mask_of(labels, part_group=nodes.LISTED, part_names="Hair, face,")
    assert torch.equal(mask > 0, (labels == semantic_map.HAIR) | (labels == semantic_map.FACE))
    with_hair, clothes = mask_of(labels, part_names="hair"), mask_of(labels)
    assert torch.equal(with_hair > 0, (clothes > 0) | (labels == semantic_map.HAIR))
    wide, narrow = (mask_of(labels, expand=expand) for expand in (4, -4))
    assert (wide >= clothes).all() and wide.sum() > clothes.sum() > narrow.sum() > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"part_group": "bag"}, "map 1 has no bag; it has top, pants.*Choose one"),
        (
            {"part_group": nodes.LISTED, "part_names": "bag, tie"},
            "map 1 has no bag, tie; it has top",
        ),
        ({"part_group": nodes.LISTED}, "the input 'part_names' is empty"),
        ({"part_names": "hat"}, "the input 'part_names': there is no part 'hat'.*headwear"),
    ],
)
def test_masks_of_what_is_not_there(inputs, message):
    with pytest.raises(ValueError, match=f"Mask from Semantic Map: {message}"):
        mask_of(from_pose(frame(0)), **inputs)


def test_going_on_without(caplog):
    labels = torch.cat((from_pose(frame(0)), torch.zeros(1, 512, 512, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="map 2 has no hair; it has nothing but background"):
        mask_of(labels, part_group="hair")
    mask = mask_of(labels, part_group="hair", if_no_part=nodes.GO_ON, expand=3)
    assert mask[0].any() and not mask[1].any() and "map 2 has no hair" in caplog.text


def test_inputs_are_not_changed():
    labels = from_pose(frame(0))
    before = labels.clone()
    run(
        nodes.VitruvianAddPartToSemanticMap,
        mask=torch.ones(1, 512, 512),
        part="bag",
        semantic_map=labels,
    )
    from_pose(frame(90), semantic_map=labels)
    run(nodes.VitruvianShowSemanticMap, semantic_map=labels)
    mask_of(labels, expand=5)
    assert torch.equal(labels, before)

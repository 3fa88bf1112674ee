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
    "width": 0, "height": 0, "upper": "top", "lower": "pants", "hair": "short",
    "long_sleeves": True, "long_legs": True, "shoes": True, "hat": False, "glasses": False,
    "min_confidence": 0.3,
}  # fmt: skip
COLOURS = {"palette": nodes.OURS, "tolerance": 40.0, "if_unknown": nodes.STOP, "colours": ""}
MASK = {"part": nodes.ALL_CLOTHING, "more": "", "grow": 0, "if_none": nodes.STOP}


def run(node, **inputs):
    with torch.inference_mode():  # as the host does
        return node.execute(**inputs).args


def from_pose(*frames, **inputs):
    return run(nodes.VitruvianSemanticMapFromPose, pose=list(frames), **{**POSE, **inputs})[0]


def test_schemas_explain_everything():
    ids = [node.GET_SCHEMA().node_id for node in nodes.NODES]
    assert ids == [f"VitruvianMap{n}" for n in ("FromColours", "Part", "FromPose", "Show", "Mask")]
    for node in nodes.NODES:
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category == "Vitruvian/appearance"
        assert all(part.tooltip for part in [*schema.inputs, *schema.outputs])
        assert not {i.id for i in schema.inputs} & {o.id for o in schema.outputs}
        assert node.GET_NODE_INFO_V1()["input"]
        page = nodes.__file__.replace("nodes/parsing.py", f"web/docs/{schema.node_id}.md")
        with open(page, encoding="utf-8") as file:
            text = file.read()
        assert text.startswith(f"# {schema.display_name}\n") and "HumanDiffusion" in text
        assert all(i.id in text for i in schema.inputs)


def test_defaults_and_options_are_what_execute_takes():
    options = {i.id: i for i in nodes.VitruvianSemanticMapFromPose.define_schema().inputs}
    assert {name: i.default for name, i in options.items() if name in POSE} == POSE
    assert options["upper"].options == list(outfit.UPPERS)
    options = {i.id: i for i in nodes.VitruvianMaskFromSemanticMap.define_schema().inputs}
    assert options["part"].options[3:] == list(CLASSES)


# made


def test_a_shown_map_is_read_back():
    made = from_pose(frame(-100, 100), hat=True)
    shown, colours = run(nodes.VitruvianShowSemanticMap, semantic_map=made)
    assert shown.shape[1] == 512 and shown.shape[2] > 512 and colours.shape == (1, 512, 512, 3)
    read = run(nodes.VitruvianSemanticMapFromColors, image=colours, **COLOURS)[0]
    assert torch.equal(read, made) and {*made.unique().tolist()} >= {
        semantic_map.HEADWEAR,
        semantic_map.TOP,
    }
    ui = nodes.VitruvianShowSemanticMap.execute(semantic_map=made).ui.as_dict()
    assert len(ui["images"]) == 1


def test_other_palettes():
    image = torch.tensor([[[5, 5, 5], [1, 1, 1]]])[None] / 255
    grey = {**COLOURS, "palette": nodes.GREY}
    assert run(nodes.VitruvianSemanticMapFromColors, image=image, **grey)[0].tolist() == [[[5, 1]]]
    own = {**COLOURS, "palette": nodes.OWN, "colours": "hair: #ff0000"}
    image = torch.tensor([[[1.0, 0, 0], [0, 0, 0]]])[None]
    assert run(nodes.VitruvianSemanticMapFromColors, image=image, **own)[0].tolist() == [
        [[semantic_map.HAIR, 0]]
    ]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Colours: the input 'image': 12 of 12 pixels .*tolerance"),
        ({"palette": nodes.OWN}, "Colours: the input 'colours': there are no colors"),
        ({"palette": nodes.OWN, "colours": "top red"}, "Colours: .*'top red' is not a part"),
    ],
)
def test_pictures_that_are_no_maps(inputs, message):
    image = torch.full((1, 3, 4, 3), 0.45)
    with pytest.raises(ValueError, match=f"Semantic Map from {message}"):
        run(nodes.VitruvianSemanticMapFromColors, image=image, **{**COLOURS, **inputs})
    allowed = {**COLOURS, "if_unknown": nodes.BACKGROUND}
    assert not run(nodes.VitruvianSemanticMapFromColors, image=image, **allowed)[0].any()


def test_parts_are_chained():
    add = nodes.VitruvianAddPartToSemanticMap
    left, top = torch.zeros(2, 6, 8), torch.zeros(1, 6, 8)
    left[..., :4], top[:, :2] = 1, 1
    first = run(add, mask=left, part="pants")[0]
    second = run(add, mask=top, part="wrist wearing", map=first)[0]
    assert first.shape == second.shape == (2, 6, 8) and first.dtype == torch.uint8
    assert (second[:, :2] == semantic_map.WRIST).all() and torch.equal(second[:, 2:], first[:, 2:])
    assert (first[..., :4] == semantic_map.PANTS).all() and not first[..., 4:].any()
    assert run(add, mask=left[0], part="top")[0].shape == (1, 6, 8)
    with pytest.raises(
        ValueError, match="Add Part to Semantic Map: .*'map' and 'mask'.*8 x 6 .*9 x 6"
    ):
        run(add, mask=torch.ones(1, 6, 9), part="top", map=first)


@pytest.mark.parametrize(
    "asked, size", [((0, 0), (512, 512)), ((96, 0), (96, 96)), ((60, 77), (60, 77))]
)
def test_sizes_of_maps_from_poses(asked, size):
    made = from_pose(frame(0), frame(60), width=asked[0], height=asked[1])
    assert made.shape == (2, size[1], size[0]) and made.dtype == torch.uint8


def test_two_outfits_over_one_another():
    one, other = frame(-120), frame(120)
    first = from_pose(one, upper="dress")
    both = from_pose(other, upper="outer", map=first)[0]
    assert both[200, 136] == semantic_map.DRESS and both[200, 376] == semantic_map.OUTER
    with pytest.raises(ValueError, match="from Pose: .*'map' and 'pose'.*512 x 512.*256 x 256"):
        from_pose(other, width=256, map=first)


def test_poses_that_can_not_be_drawn():
    with pytest.raises(ValueError, match="from Pose: .*'pose' has no people"):
        from_pose(frame())
    with pytest.raises(ValueError, match="from Pose: .*'pose'.*lower 'min_confidence'"):
        from_pose(frame(0, confidence=0.2))
    assert from_pose(frame(0, confidence=0.2), min_confidence=0.1).any()


# masks


def test_masks_of_parts():
    made = from_pose(frame(0))
    for part, expected in (
        ("hair", made == semantic_map.HAIR),
        (nodes.PERSON, made > 0),
        (nodes.ALL_CLOTHING, torch.isin(made, torch.tensor(semantic_map.CLOTHING))),
        ("background", made == 0),
    ):
        mask = run(nodes.VitruvianMaskFromSemanticMap, semantic_map=made, **{**MASK, "part": part})[
            0
        ]
        assert torch.equal(mask, expected.float()) and mask.any()
    listed = {**MASK, "part": nodes.LISTED, "more": "Hair, face,"}
    mask = run(nodes.VitruvianMaskFromSemanticMap, semantic_map=made, **listed)[0]
    assert torch.equal(mask > 0, (made == semantic_map.HAIR) | (made == semantic_map.FACE))
    more = run(nodes.VitruvianMaskFromSemanticMap, semantic_map=made, **{**MASK, "more": "hair"})[0]
    clothes = run(nodes.VitruvianMaskFromSemanticMap, semantic_map=made, **MASK)[0]
    assert torch.equal(more > 0, (clothes > 0) | (made == semantic_map.HAIR))
    wide, narrow = (
        run(nodes.VitruvianMaskFromSemanticMap, semantic_map=made, **{**MASK, "grow": grow})[0]
        for grow in (4, -4)
    )
    assert (wide >= clothes).all() and wide.sum() > clothes.sum() > narrow.sum() > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"part": "bag"}, "map 1 has no bag; it has top, pants.*Choose one"),
        ({"part": nodes.LISTED, "more": "bag, tie"}, "map 1 has no bag, tie; it has top"),
        ({"part": nodes.LISTED}, "the input 'more' is empty"),
        ({"more": "hat"}, "the input 'more': there is no part 'hat'.*headwear"),
    ],
)
def test_masks_of_what_is_not_there(inputs, message):
    with pytest.raises(ValueError, match=f"Mask from Semantic Map: {message}"):
        run(
            nodes.VitruvianMaskFromSemanticMap,
            semantic_map=from_pose(frame(0)),
            **{**MASK, **inputs},
        )


def test_going_on_without(caplog):
    made = torch.cat((from_pose(frame(0)), torch.zeros(1, 512, 512, dtype=torch.uint8)))
    inputs = {**MASK, "part": "hair"}
    with pytest.raises(ValueError, match="map 2 has no hair; it has nothing but background"):
        run(nodes.VitruvianMaskFromSemanticMap, semantic_map=made, **inputs)
    mask = run(
        nodes.VitruvianMaskFromSemanticMap,
        semantic_map=made,
        **{**inputs, "if_none": nodes.GO_ON, "grow": 3},
    )[0]
    assert mask[0].any() and not mask[1].any() and "map 2 has no hair" in caplog.text


def test_inputs_are_not_changed():
    made = from_pose(frame(0))
    before = made.clone()
    run(
        nodes.VitruvianAddPartToSemanticMap,
        mask=torch.ones(1, 512, 512),
        part="bag",
        semantic_map=made,
    )
    from_pose(frame(90), map=made)
    run(nodes.VitruvianShowSemanticMap, semantic_map=made)
    run(nodes.VitruvianMaskFromSemanticMap, semantic_map=made, **{**MASK, "grow": 5})
    assert torch.equal(made, before)

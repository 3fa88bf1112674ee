"""Every example is complete, and opens readable: from the sizes and places that are saved."""

import itertools
import json
from pathlib import Path

import pytest
from vitruvian.lab.templates import packing

WORKFLOWS = Path(__file__).parents[2] / "workflows"
FILES = sorted(WORKFLOWS.glob("*.json"))
TITLE_FONT, LEAST_FONT = 14, 8  # pixels; the front end draws no words that are smaller
SCREEN_HEIGHT = 900
SCHEMAS = Path(__file__).with_name("schemas.json")


def boxes_of(saved):
    """Return id -> box of every node with its title; collapsed ones have no body."""
    boxes = {}
    for node in saved["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        if node["flags"].get("collapsed"):
            width, height = min(width, 100), 0
        boxes[node["id"]] = (x, y - packing.TITLE, x + width, y + height)
    return boxes


def overlaps(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def saved(request):
    return json.loads(request.param.read_text())


def test_words_are_read_when_it_opens(saved):
    scale = packing.scale(*packing.extent(boxes_of(saved).values()))
    assert scale * TITLE_FONT >= LEAST_FONT
    assert saved["extra"]["ds"]["scale"] == pytest.approx(scale, abs=0.01)


def test_no_node_lies_on_another(saved):
    pairs = itertools.combinations(boxes_of(saved).items(), 2)
    assert [(one, other) for (one, a), (other, b) in pairs if overlaps(a, b)] == []


def test_every_node_but_the_note_is_in_a_group_with_a_heading(saved):
    assert all(group["title"] for group in saved["groups"])
    for node in saved["nodes"]:
        left, top, right, bottom = boxes_of(saved)[node["id"]]
        inside = [
            x <= left and y <= top and right <= x + width and bottom <= y + height
            for x, y, width, height in (group["bounding"] for group in saved["groups"])
        ]
        assert sum(inside) == (node["type"] != "MarkdownNote"), node["type"]


def test_the_note_is_not_longer_than_the_screen_and_begins_with_a_title(saved):
    (note,) = [node for node in saved["nodes"] if node["type"] == "MarkdownNote"]
    assert note["size"][1] * saved["extra"]["ds"]["scale"] < SCREEN_HEIGHT * 0.75
    title, empty, sentence, *_ = note["widgets_values"][0].splitlines()
    assert title.startswith("### ")
    assert not empty
    assert sentence


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_has_a_thumbnail_and_a_twin(file):
    assert file.with_suffix(".jpg").read_bytes()[:2] == b"\xff\xd8"
    assert file.with_suffix(".jpg").stat().st_size <= 14_000
    assert (WORKFLOWS / "api" / file.name).is_file()


def test_every_node_of_the_pack_is_in_an_example():
    ours = json.loads(SCHEMAS.read_text()).keys()
    used = {node["type"] for file in FILES for node in json.loads(file.read_text())["nodes"]}
    assert sorted(ours - used) == []


def test_images_that_examples_load_come_along():
    values = [
        node["inputs"]["image"]
        for file in (WORKFLOWS / "api").glob("*.json")
        for node in json.loads(file.read_text()).values()
        if node["class_type"] in ("LoadImage", "LoadImageMask")
    ]
    assert values
    assert sorted(set(values) - {file.name for file in (WORKFLOWS / "images").iterdir()}) == []

"""The pose editor's limbs, turning, hands and feet, by mouse and keys on the real front end."""

import json
import math

import pytest
from playwright.sync_api import expect
from vitruvian.models import pose_editor
from vitruvian.tests.browser.pose_editor_page import (
    ELBOW,
    HIP,
    NECK,
    NOTHING,
    SHOULDER,
    WRIST,
    joint,
    length,
    settle,
)

NOSE, LEFT_HIP, ANKLE, LEFT_ANKLE, LEFT_EAR = 0, 11, 10, 13, 17
LIMBS = [
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (8, 9),
    (9, 10),
    (11, 12),
    (12, 13),
    (1, 8),
    (1, 11),
    (1, 0),
]
RELOAD = """async (nothing) => {
    const graph = app.graph.serialize()
    await app.loadGraphData(nothing)
    await app.loadGraphData(JSON.parse(JSON.stringify(graph)))
}"""


def lengths(person):
    return [length(person, a, b) for a, b in LIMBS]


def is_visible(person, number):
    return person["pose_keypoints_2d"][3 * number + 2] > 0


def points_of(person, key):
    values = person[key]
    return [values[i : i + 2] for i in range(0, len(values), 3)]


def slide(page, share):
    """Drags the slider that turns the person to this share of its way; holds."""
    box = page.locator(".vitruvian-pose .depth input").bounding_box()
    at = page.locator(".vitruvian-pose .depth input").evaluate("e => (e.value - e.min) / 360")
    y = box["y"] + box["height"] / 2
    inner = box["width"] - 16  # the thumb does not go farther
    page.mouse.move(box["x"] + 8 + at * inner, y)
    page.mouse.down()
    for step in range(1, 5):
        page.mouse.move(box["x"] + 8 + (at + step / 4 * (share - at)) * inner, y)
    page.wait_for_timeout(60)


def click(page, kind, name):
    """Clicks a hand or foot by its name, or a pose of it."""
    page.locator(f".vitruvian-pose [data-{kind}='{name}']").click()
    page.wait_for_timeout(60)


def test_limbs_bend_within_their_lengths(editor, page, tmp_path):
    editor.use("mirror")
    (before,) = editor.people()
    editor.drag(joint(before, WRIST), (130, 150))
    (waving,) = editor.people()
    assert joint(waving, WRIST) == pytest.approx([130, 150], abs=2)
    assert joint(waving, SHOULDER) == joint(before, SHOULDER)

    editor.press("b")
    (other,) = editor.people()
    assert joint(other, WRIST) == pytest.approx(joint(waving, WRIST), abs=0.2)
    assert math.dist(joint(other, ELBOW), joint(waving, ELBOW)) > 10
    editor.drag(joint(other, WRIST), (10, 30))  # out of reach
    (far,) = editor.people()
    reach = length(far, SHOULDER, ELBOW) + length(far, ELBOW, WRIST)
    assert length(far, SHOULDER, WRIST) == pytest.approx(reach, abs=0.3)

    editor.drag(joint(far, NECK), (joint(far, NECK)[0] + 20, joint(far, NECK)[1]))
    (nodding,) = editor.people()
    assert math.dist(joint(nodding, NOSE), joint(far, NOSE)) > 5
    assert joint(nodding, NECK) == joint(far, NECK)

    page.keyboard.down("Shift")  # over feet that stay
    editor.drag(joint(nodding, HIP), (joint(nodding, HIP)[0], joint(nodding, HIP)[1] + 30))
    page.keyboard.up("Shift")
    (crouching,) = editor.people()
    assert joint(crouching, NOSE)[1] == pytest.approx(joint(nodding, NOSE)[1] + 30, abs=2)
    for foot in (ANKLE, LEFT_ANKLE):
        assert joint(crouching, foot) == pytest.approx(joint(nodding, foot), abs=0.2)
    editor.drag(
        joint(crouching, SHOULDER),
        (joint(crouching, SHOULDER)[0] + 20, joint(crouching, SHOULDER)[1]),
    )
    (leaning,) = editor.people()
    assert joint(leaning, NOSE)[0] > joint(crouching, NOSE)[0] + 10
    assert lengths(leaning) == pytest.approx(lengths(before), abs=0.5)
    page.screenshot(path=tmp_path / "limbs.png")

    editor.undo()
    assert editor.people() == [crouching], "a drag is one step"
    editor.use("lengths")  # off: every editor that comes has free points, too
    page.evaluate("() => app.graph.add(LiteGraph.createNode('VitruvianPoseEditor'))")
    switches = page.locator(".vitruvian-pose [data-tool='lengths']")
    expect(switches).to_have_count(2)
    for switch in switches.all():
        expect(switch).to_have_attribute("aria-pressed", "false")


def test_a_person_turns_in_depth(editor, page, tmp_path):
    editor.use("mirror")
    editor.use("mirror")
    (before,) = editor.people()
    front = editor.text()
    slide(page, 0.75)
    assert editor.text() == front, "what one sees while the slider moves is no edit yet"
    page.mouse.up()
    page.wait_for_timeout(60)
    (side,) = editor.people()
    expect(page.locator(".vitruvian-pose .angle")).to_have_text("90°")
    assert [is_visible(side, i) for i in (NOSE, LEFT_EAR)] == [True, False]
    assert abs(joint(side, 2)[0] - joint(side, 5)[0]) < 0.1 * abs(
        joint(before, 2)[0] - joint(before, 5)[0]
    )
    page.screenshot(path=tmp_path / "side.png")
    text = editor.text()
    assert pose_editor.read_state(text).people.body[0, LEFT_EAR, 2] == 0

    page.evaluate(RELOAD, NOTHING)
    settle(page)
    assert editor.text() == text
    expect(page.locator(".vitruvian-pose .angle")).to_have_text("90°")
    editor.canvas.click(position={"x": 5, "y": 5})
    editor.press("Tab")
    for _ in range(6):
        editor.press("d")
    (back,) = editor.people()
    assert not is_visible(back, NOSE) and is_visible(back, LEFT_EAR)
    assert joint(back, 5)[0] < joint(back, 2)[0], "the left shoulder is on the left"
    page.screenshot(path=tmp_path / "back.png")
    slide(page, 0.5)
    page.mouse.up()
    page.wait_for_timeout(60)
    assert editor.text() == front, "all the way round is exactly the start"
    editor.undo()
    assert editor.people() == [back]


def test_hands_and_feet_are_posed(editor, page, tmp_path):
    editor.use("mirror")
    editor.use("hands")  # none
    (bare,) = editor.people()
    assert "hand_left_keypoints_2d" not in bare
    click(page, "limb", "leftHand")
    assert editor.status() == "person 1: left wrist"
    assert page.locator(".vitruvian-pose [data-pose]").count() == 12
    click(page, "pose", "peace")
    (peace,) = editor.people()
    hand = points_of(peace, "hand_left_keypoints_2d")
    assert "hand_right_keypoints_2d" not in peace
    assert hand[0] == joint(peace, 7)
    reach = [math.dist(hand[0], hand[i]) for i in (8, 12, 16, 20)]
    assert min(reach[:2]) > 1.5 * max(reach[2:]), "two fingers are up"
    click(page, "pose", "open")
    open_hand = points_of(editor.people()[0], "hand_left_keypoints_2d")
    editor.undo()
    assert editor.people() == [peace], "a pose is one step"
    editor.redo()

    tip, knuckle = open_hand[20], open_hand[17]  # of the little finger
    editor.drag(tip, (knuckle[0] + 8, knuckle[1] + 2))
    bent = points_of(editor.people()[0], "hand_left_keypoints_2d")
    assert math.dist(bent[20], open_hand[20]) > 4
    for i in (18, 19, 20):
        assert math.dist(bent[i], bent[i - 1]) == pytest.approx(
            math.dist(open_hand[i], open_hand[i - 1]), abs=0.3
        )
    assert bent[:18] == open_hand[:18]
    for key in ("r", "n"):
        before = points_of(editor.people()[0], "hand_left_keypoints_2d")
        editor.press(key)
        after = points_of(editor.people()[0], "hand_left_keypoints_2d")
        assert after[0] == before[0] and math.dist(after[4], before[4]) > 3
    page.screenshot(path=tmp_path / "hands.png")
    editor.press("k")
    assert editor.status() == "person 1: right wrist"
    editor.press("o")
    assert "hand_right_keypoints_2d" in editor.people()[0]

    click(page, "limb", "leftFoot")
    click(page, "pose", "to the side")
    toes = points_of(editor.people()[0], "foot_keypoints_2d")[:3]
    assert toes[0][0] > joint(editor.people()[0], LEFT_ANKLE)[0] > toes[2][0]
    editor.drag(toes[0], (toes[0][0], toes[0][1] + 20))
    lower = points_of(editor.people()[0], "foot_keypoints_2d")[:3]
    assert lower[0][1] > toes[0][1] + 5 and lower[2][1] < toes[2][1], "the foot turns"
    page.screenshot(path=tmp_path / "feet.png")
    sizes = page.locator(".vitruvian-pose .limbs :is(button, input)").evaluate_all(
        "all => all.map(one => [one.offsetWidth, one.offsetHeight])"
    )
    assert min(min(size) for size in sizes) >= 24, "large enough to touch"
    assert json.loads(editor.text())["people"][0]["prompt"] == ""

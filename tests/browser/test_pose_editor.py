"""The pose editor on the real front end: edited by mouse and keys, saved, loaded, run."""

import json
import math
from pathlib import Path

import pytest
from playwright.sync_api import expect
from vitruvian.tests.browser.pose_editor_page import (
    ELBOW,
    HIP,
    LEFT_WRIST,
    NOTHING,
    SHOULDER,
    WRIST,
    joint,
    length,
    settle,
)

ROOT = Path(__file__).parents[2]
RELOAD = """async (nothing) => {
    const whole = app.graph.serialize()
    await app.loadGraphData(nothing)
    await app.loadGraphData(JSON.parse(JSON.stringify(whole)))
}"""


def test_edit_save_and_load(editor, page, tmp_path):
    editor.use("mirror")  # the standing person is saved from the first edit on
    (before,) = editor.people()
    editor.drag(joint(before, WRIST), (120, 150))
    (after,) = editor.people()
    assert math.dist(joint(before, WRIST), joint(after, WRIST)) > 50
    for limb in ((SHOULDER, ELBOW), (ELBOW, WRIST)):
        assert length(after, *limb) == pytest.approx(length(before, *limb), abs=0.3)
    assert joint(after, LEFT_WRIST) == joint(before, LEFT_WRIST)

    editor.use("lengths")  # off: the wrist goes where the pointer goes
    editor.drag(joint(after, WRIST), (100, 100))
    (free,) = editor.people()
    assert joint(free, WRIST) == pytest.approx([100, 100], abs=2)
    editor.use("lengths")

    editor.undo()
    assert editor.people() == [after]
    editor.undo()
    assert editor.people() == [before]
    editor.redo()
    assert editor.people() == [after]

    editor.add("dancing")
    assert len(editor.people()) == 2
    editor.prompts.nth(0).fill("a woman in red")
    editor.prompts.nth(1).fill("a man in blue")
    page.screenshot(path=tmp_path / "edited.png")
    saved = editor.text()
    prompts = {person["prompt"]: joint(person, 1)[0] for person in editor.people()}
    assert prompts["a woman in red"] < prompts["a man in blue"], "line k is the k-th from the left"

    page.evaluate(RELOAD, NOTHING)
    settle(page)
    assert editor.text() == saved
    assert editor.prompts.nth(1).input_value() == "a man in blue"
    page.screenshot(path=tmp_path / "loaded.png")


def test_a_new_editor_has_two_people(fresh_editor, page, server):
    editor = fresh_editor
    assert json.loads(editor.text())["untouched"] is True
    assert editor.prompts.count() == 2
    editor.prompts.nth(0).fill("a woman in red")
    editor.prompts.nth(1).fill("a man in blue")
    first, second = editor.people()
    assert (first["prompt"], second["prompt"]) == ("a woman in red", "a man in blue")
    assert joint(first, 1)[0] < 250 < joint(second, 1)[0]
    assert "untouched" not in json.loads(editor.text())


def test_tools_and_keys(editor, page, tmp_path):
    editor.let_go()
    editor.press("Tab")
    expect(editor.tool("remove")).to_be_enabled()
    editor.press("ArrowRight")
    (one,) = editor.people()
    editor.press("Shift+ArrowRight")
    assert joint(editor.people()[0], 1)[0] == pytest.approx(joint(one, 1)[0] + 10)

    editor.drag(joint(one, HIP), (90, 300))  # hips take everything along
    moved = editor.people()[0]
    assert joint(moved, HIP) == pytest.approx([90, 300], abs=14)
    assert length(moved, 1, 10) == pytest.approx(length(one, 1, 10), abs=0.3)

    editor.press("h")
    assert editor.people()[0]["pose_keypoints_2d"][3 * HIP + 2] == 0
    editor.press("h")
    assert editor.people()[0] == moved
    editor.press("Escape")

    editor.drag(joint(moved, WRIST), (joint(moved, WRIST)[0] - 60, joint(moved, WRIST)[1] - 60))
    (raised,) = editor.people()
    editor.press("m")
    (mirrored,) = editor.people()
    assert joint(mirrored, LEFT_WRIST)[1] == joint(raised, WRIST)[1], "the other arm is raised"
    assert length(mirrored, 1, LEFT_WRIST) == pytest.approx(length(raised, 1, WRIST), abs=0.3)

    editor.press("Control+d")
    assert len(editor.people()) == 2
    editor.press("PageDown")
    editor.press("Delete")
    assert len(editor.people()) == 1
    for part, key in (("face", "face_keypoints_2d"), ("feet", "foot_keypoints_2d")):
        editor.use(part)
        assert key in editor.people()[0]
    editor.use("hands")
    assert "hand_left_keypoints_2d" not in editor.people()[0]
    editor.press("?")
    assert page.get_by_text("Mouse and keys", exact=True).is_visible()
    page.screenshot(path=tmp_path / "keys.png")
    editor.press("Escape")
    nodes = page.evaluate("() => app.graph.nodes.length")
    assert nodes == 1, "the graph did not take our keys"


def test_handles(editor):
    editor.use("mirror")
    (before,) = editor.people()
    points = [
        before[key][i : i + 2]
        for key in before
        if key != "prompt"
        for i in range(0, len(before[key]), 3)
    ]
    xs, ys = zip(*points, strict=True)
    px = 1 / editor.fitted()[2]  # pixels of the canvas in one px of the editor
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    corner = (right + 14 * px, bottom + 14 * px)
    far = (left - 14 * px, top - 14 * px)
    middle = [(a + b) / 2 for a, b in zip(far, corner, strict=True)]
    editor.drag(corner, middle)
    (small,) = editor.people()
    assert length(small, SHOULDER, ELBOW) == pytest.approx(
        length(before, SHOULDER, ELBOW) / 2, rel=0.03
    )
    editor.undo()
    knob = ((left + right) / 2, top - 38 * px)
    editor.drag(knob, (middle[0] + 150, middle[1]))  # a quarter to the right
    (turned,) = editor.people()
    assert joint(turned, 1)[1] == pytest.approx(middle[1], abs=6)
    assert joint(turned, 1)[0] > middle[0] + 50
    assert length(turned, SHOULDER, ELBOW) == pytest.approx(
        length(before, SHOULDER, ELBOW), abs=0.3
    )


def test_zoom_and_canvas_size(editor, page, tmp_path):
    graph = page.evaluate("() => app.canvas.ds.scale")
    editor.canvas.click(position={"x": 5, "y": 5})  # the new renderer heeds the focus
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    page.screenshot(path=tmp_path / "zoomed.png")
    assert page.evaluate("() => app.canvas.ds.scale") == graph, "the graph did not zoom"
    editor.use("fit")
    x, y = editor.on_screen(256, 256)
    fingers = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 90)):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(100)
    page.screenshot(path=tmp_path / "pinched.png")
    assert page.evaluate("() => app.canvas.ds.scale") == graph, "the graph did not pinch"
    editor.use("fit")
    editor.press("Tab")
    editor.use("mirror")
    page.evaluate("""() => {
        const width = app.graph.nodes[0].widgets.find(w => w.name === 'canvas_width')
        width.value = 1024
        width.callback(1024)
    }""")
    page.wait_for_timeout(200)
    assert json.loads(editor.text())["canvas_width"] == 512, "sizes alone change nobody"
    editor.use("mirror")
    assert json.loads(editor.text())["canvas_width"] == 1024
    page.screenshot(path=tmp_path / "wide.png")


def test_a_bad_state_is_told_and_kept(editor, page):
    page.evaluate("() => { app.graph.nodes[0].widgets.find(w => w.name === 'people').value = '{' }")
    page.wait_for_timeout(200)
    assert "not JSON" in page.locator(".vitruvian-pose .status").inner_text()
    assert editor.text() == "{"


def open_workflow(page, workflow):
    page.evaluate("async (workflow) => app.loadGraphData(workflow)", workflow)
    settle(page)


def run(page, server):
    """Queues what is on the page; the outputs by node id."""
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    for _ in range(300):
        page.wait_for_timeout(200)
        for prompt in set(server.get("/history")) - before:
            page.wait_for_timeout(500)
            return server.wait(prompt)
    pytest.fail("nothing was run")


def test_runs_from_the_front_end(editor, page, server, mini_weights, tmp_path):
    workflow = json.loads((ROOT / "workflows" / "pose_editor.json").read_text())
    open_workflow(page, workflow)
    page.evaluate("""() => {
        const sampler = app.graph.nodes.find(n => n.type === 'KSampler')
        sampler.widgets.find(w => w.name === 'steps').value = 3
    }""")
    outputs = run(page, server)
    (picture,) = [
        image
        for output in outputs.values()
        for image in output.get("images", ())
        if image["type"] == "output"
    ]
    assert (server.base / "output" / picture["subfolder"] / picture["filename"]).exists()
    page.screenshot(path=tmp_path / "run.png")


def test_a_connected_pose_and_photograph_arrive(editor, page, server, tmp_path):
    page.evaluate("""() => {
        const editor = app.graph.nodes[0]
        const add = (type, pos) => {
            const node = LiteGraph.createNode(type)
            node.pos = pos
            app.graph.add(node)
            return node
        }
        const given = add('VitruvianLoadPose', [60, 60])
        given.widgets[0].value = 'two people.json [example]'
        const photo = add('LoadImage', [60, 240])
        photo.widgets[0].value = 'astronaut.png'
        const shown = add('PreviewImage', [1000, 60])
        given.connect(0, editor, editor.inputs.findIndex(i => i.name === 'pose'))
        photo.connect(0, editor, editor.inputs.findIndex(i => i.name === 'background_image'))
        editor.connect(1, shown, 0)
    }""")
    run(page, server)
    page.wait_for_timeout(1000)
    assert len(editor.people()) == 2, "the pose fills an editor that nobody has used"
    assert page.get_by_title("How much of the photograph is seen").is_visible()
    editor.use("remove")
    assert len(editor.people()) == 1
    editor.use("take")
    assert len(editor.people()) == 2
    page.screenshot(path=tmp_path / "photograph.png")

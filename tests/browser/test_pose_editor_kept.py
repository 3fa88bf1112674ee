"""A pose outlives all that the front end does with its node, and the front end keeps its keys."""

import json
import math

import pytest
from playwright.sync_api import expect
from vitruvian.models import pose_editor
from vitruvian.tests.browser.pose_editor_page import HIP, NECK, WRIST, is_old, joint, settle

COMMAND = "(id) => app.extensionManager.command.execute(id)"
STEPS = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
ADD = """async ([type, x, y]) => {
    const node = LiteGraph.createNode(type)
    node.pos = [x, y]
    app.graph.add(node)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.setDirty(true, true)
    app.canvas.emitBeforeChange()
    app.canvas.emitAfterChange()
    return node.id
}"""
TITLE = """(id) => {
    const { x, y } = app.canvas.canvas.getBoundingClientRect()
    const { scale, offset } = app.canvas.ds
    const [left, top] = app.graph.getNodeById(id).pos
    return [x + scale * (offset[0] + left + 60), y + scale * (offset[1] + top - 12)]
}"""
SUBGRAPH = """() => {
    const graph = app.rootGraph ?? app.graph
    if (!graph.convertToSubgraph) return false
    const { subgraph } = graph.convertToSubgraph(new Set([graph.nodes[0]]))
    app.canvas.setGraph(subgraph)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    subgraph.nodes[0].pos = [450, 60]
    app.canvas.setDirty(true, true)
    app.canvas.emitBeforeChange()
    app.canvas.emitAfterChange()
    return true
}"""
UNPACK = """() => {
    const graph = app.rootGraph ?? app.graph
    app.canvas.setGraph(graph)
    graph.unpackSubgraph(graph.nodes.find(n => n.subgraph))
    app.canvas.setDirty(true, true)
}"""
TEXTS = """() => app.graph.nodes.filter(n => n.type === 'VitruvianPoseEditor')
    .map(n => n.widgets.find(w => w.name === 'people').value)"""
PROMPT = "async () => (await app.graphToPrompt()).output"


def raise_arm(editor, to=(120, 150)):
    """Drags the right wrist of the first person; the text then."""
    if not editor.text():
        editor.use("mirror")  # the standing person is saved from the first edit on
    editor.drag(joint(editor.people()[0], WRIST), to)
    return editor.text()


def prompts_on(page):
    """The prompts on the page, by which one sees whose editor it is."""
    return [field.input_value() for field in page.locator(".vitruvian-pose textarea").all()]


def test_every_edit_is_one_undo_step(editor, page):
    texts, steps = [editor.text()], [page.evaluate(STEPS)]
    for edit in (
        lambda: raise_arm(editor),
        lambda: editor.press("ArrowRight"),
        lambda: editor.add("dancing"),
        lambda: editor.use("face"),
        lambda: editor.prompts.nth(1).fill("a man in blue"),
        lambda: editor.use("duplicate"),
    ):
        edit()
        page.wait_for_timeout(700)
        texts.append(editor.text())
        steps.append(page.evaluate(STEPS))
    assert len(set(texts)) == len(texts)
    assert steps == [steps[0], *range(steps[0] + 2, steps[0] + len(steps) + 1)]  # mirror, drag
    settle(page)
    for text in reversed(texts[1:-1]):
        editor.changed_by(lambda: page.evaluate(COMMAND, "Comfy.Undo"))
        assert editor.text() == text
    for text in texts[2:]:
        editor.changed_by(lambda: page.evaluate(COMMAND, "Comfy.Redo"))
        assert editor.text() == text


def test_the_keyboard_undoes_in_the_graph_and_stays(editor, page):
    first = raise_arm(editor)
    second = raise_arm(editor, (150, 80))
    editor.undo()
    assert editor.text() == first
    expect(editor.canvas).to_be_focused()
    editor.press("ArrowLeft")
    assert editor.text() not in (first, second), "the arrows still move the person"
    editor.undo()
    editor.undo()
    editor.changed_by(lambda: page.keyboard.press("Control+y"))
    assert editor.text() == first
    editor.use("undo")
    page.wait_for_timeout(1000)
    assert editor.text() != first


def test_moving_another_node_takes_nothing_back(editor, page):
    other = page.evaluate(ADD, ["EmptyLatentImage", 1000, 200])
    text = raise_arm(editor)
    page.wait_for_timeout(300)
    x, y = page.evaluate(TITLE, other)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(x + 15 * step, y + 20 * step)
    page.mouse.up()
    place = "(id) => app.graph.getNodeById(id).pos[1]"
    page.wait_for_function(f"(id) => ({place})(id) > 220", arg=other)
    page.evaluate(COMMAND, "Comfy.Undo")
    page.wait_for_function(f"(id) => ({place})(id) < 210", arg=other)
    assert editor.text() == text


def test_a_deleted_node_comes_back_with_its_pose(editor, page):
    text = raise_arm(editor)
    page.evaluate(
        "() => { app.canvas.selectNode(app.graph.nodes[0]); app.canvas.deleteSelected() }"
    )
    page.evaluate("() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange() }")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.evaluate(COMMAND, "Comfy.Undo")
    settle(page)
    assert editor.text() == text


@pytest.fixture
def saved_editor(editor, page):
    """The editor, in a browser that keeps what is open."""
    setting = "v => app.extensionManager.setting.set('Comfy.Workflow.Persist', v)"
    page.evaluate(setting, True)
    yield editor
    page.evaluate(setting, False)


def test_a_reload_keeps_the_pose(saved_editor, page, said):
    text = raise_arm(saved_editor)
    page.wait_for_timeout(1500)  # newer front ends write half a second later
    page.reload()
    page.wait_for_function("window.app?.graph && window.LiteGraph", timeout=60_000)
    settle(page)
    said.clear()  # what the front end says of its own start
    assert saved_editor.text() == text


def test_another_tab_and_back(saved_editor, page):
    raised = raise_arm(saved_editor)
    saved_editor.prompts.nth(0).fill("a woman in red")
    saved_editor.press("Enter")
    text = saved_editor.text()
    page.evaluate(COMMAND, "Comfy.NewBlankWorkflow")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.evaluate(ADD, ["VitruvianPoseEditor", 450, 60])
    settle(page)
    saved_editor.add("sitting")
    saved_editor.prompts.nth(2).fill("somebody else")
    saved_editor.press("Enter")
    other = saved_editor.text()
    tabs = page.locator(".workflow-tabs .workflow-label")
    for tab, expected, prompts in (
        (-2, text, ["a woman in red"]),
        (-1, other, ["", "", "somebody else"]),
        (-2, text, ["a woman in red"]),
    ):
        saved_editor.changed_by(lambda tab=tab: tabs.nth(tab).click())
        assert saved_editor.text() == expected
        assert prompts_on(page) == prompts
    saved_editor.canvas.click(position={"x": 5, "y": 5})
    saved_editor.press("Tab")
    saved_editor.press("ArrowRight")
    assert saved_editor.text() != text, "what is on the page is this node's editor"
    saved_editor.undo()
    assert saved_editor.text() == text
    saved_editor.undo()
    assert saved_editor.text() == raised, "what was done before the other tab can be undone"


def test_save_and_run_from_the_keyboard(editor, page, server, renderer):
    text = raise_arm(editor)
    page.evaluate("""() => {
        window.queued = false
        app.api.addEventListener('promptQueued', () => (window.queued = true), { once: true })
    }""")
    editor.press("Control+Enter")
    page.wait_for_function("() => window.queued")
    name = f"saved_editor {renderer}"
    editor.press("Control+s")
    field = page.locator("[role='dialog'] input")
    field.fill(name)
    field.press("Enter")
    saved = f"/userdata/workflows%2F{name.replace(' ', '%20')}.json"
    for _ in range(50):
        page.wait_for_timeout(100)
        if f"{name}.json" in json.dumps(server.get("/userdata?dir=workflows&recurse=true")):
            break
    page.wait_for_timeout(300)
    (node,) = server.get(saved)["nodes"]
    assert text in node["widgets_values"]
    page.evaluate("async (workflow) => app.loadGraphData(workflow)", server.get(saved))
    settle(page)
    assert editor.text() == text


def test_copy_and_paste(editor, page):
    text = raise_arm(editor)
    if is_old(page):  # there the keys for copies are the graph's canvas's alone
        page.evaluate(
            "() => { app.graph.nodes[0].pos = [450, 150]; app.canvas.setDirty(true, true) }"
        )
        settle(page)
        page.mouse.click(*page.evaluate(TITLE, page.evaluate("() => app.graph.nodes[0].id")))
    editor.press("Control+c")
    page.mouse.move(1200, 300)
    editor.press("Control+v")
    page.wait_for_function("() => app.graph.nodes.length === 2")
    assert page.evaluate(TEXTS) == [text, text]
    page.evaluate("() => { app.graph.nodes[1].pos = [2000, 60]; app.canvas.setDirty(true, true) }")
    settle(page)
    editor.canvas.first.click(position={"x": 5, "y": 5})
    editor.press("Tab")
    editor.press("ArrowRight")
    first, second = page.evaluate(TEXTS)
    assert sorted([first == text, second == text]) == [False, True], "one is moved, one is not"


def test_in_and_out_of_a_subgraph(editor, page, tmp_path):
    text = raise_arm(editor)
    if not page.evaluate(SUBGRAPH):
        pytest.skip("this front end has no subgraphs")
    settle(page)
    assert editor.text() == text
    editor.use("duplicate")
    inside = editor.text()
    assert len(editor.people()) == 2
    editor.prompts.nth(1).fill("somebody in a subgraph")
    editor.press("Enter")
    page.wait_for_timeout(700)
    page.screenshot(path=tmp_path / "subgraph.png")
    editor.changed_by(lambda: page.evaluate(COMMAND, "Comfy.Undo"))
    assert editor.text() == inside
    prompts = [values["inputs"]["people"] for values in page.evaluate(PROMPT).values()]
    assert prompts == [inside]
    page.evaluate(UNPACK)
    page.wait_for_function("() => app.graph.nodes[0].type === 'VitruvianPoseEditor'")
    assert page.evaluate(TEXTS) == [inside]


def test_the_side_panel_leaves_the_editor_alone(editor, page, tmp_path):
    setting = "Comfy.RightSidePanel.IsOpen"
    if not page.evaluate("(id) => id in (app.ui.settings.settingsLookup ?? {})", setting):
        pytest.skip("this front end has no side panel")
    raise_arm(editor)
    text, before = editor.text(), editor.canvas.bounding_box()
    page.evaluate("() => app.canvas.selectNode(app.graph.nodes[0])")
    page.evaluate("(id) => app.extensionManager.setting.set(id, true)", setting)
    try:
        page.wait_for_timeout(1000)
        page.evaluate("() => app.canvas.setDirty(true, true)")
        page.wait_for_timeout(300)
        page.screenshot(path=tmp_path / "panel.png")
        drawing = page.locator("canvas.cursor-crosshair").last
        colors = drawing.evaluate("""(canvas) => {
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.width)
            const box = [Infinity, -Infinity, Infinity, -Infinity]
            for (let i = 0; i < data.length; i += 4) {
                if (data[i] + data[i + 1] + data[i + 2] < 100) continue
                const [x, y] = [(i / 4) % canvas.width, Math.floor(i / 4 / canvas.width)]
                box[0] = Math.min(box[0], x); box[1] = Math.max(box[1], x)
                box[2] = Math.min(box[2], y); box[3] = Math.max(box[3], y)
            }
            return [box[1] - box[0], box[3] - box[2]]
        }""")
        after = editor.canvas.bounding_box()
        assert (after["width"], after["height"]) == (before["width"], before["height"])
        body = editor.people()[0]["pose_keypoints_2d"]
        sides = [max(body[axis::3]) - min(body[axis::3]) for axis in (0, 1)]
        assert colors[0] / colors[1] == pytest.approx(sides[0] / sides[1], abs=0.05)
        editor.press("ArrowRight")
        assert editor.text() != text
    finally:
        page.evaluate("(id) => app.extensionManager.setting.set(id, false)", setting)


@pytest.mark.parametrize("width", [240, 900])
def test_a_circle_stays_one_on_narrow_and_wide_nodes(editor, page, width, tmp_path):
    page.evaluate(
        "w => { app.graph.nodes[0].setSize([w, 760]); app.canvas.setDirty(true, true) }", width
    )
    page.wait_for_timeout(500)
    settle(page)
    page.screenshot(path=tmp_path / f"{width}.png")
    editor.let_go()
    editor.press("Tab")
    editor.use("mirror")
    hip = joint(editor.people()[0], HIP)
    for dx, dy in ((60, 0), (0, 60)):  # hips take the person along, equally far both ways
        now = joint(editor.people()[0], HIP)
        editor.drag(now, (now[0] + dx, now[1] + dy))
    moved = joint(editor.people()[0], HIP)
    assert [moved[0] - hip[0], moved[1] - hip[1]] == pytest.approx([60, 60], abs=3)
    drawn = editor.canvas.locator("canvas").first
    shape = drawn.evaluate("e => [e.width / e.clientWidth, e.height / e.clientHeight]")
    assert shape[0] == pytest.approx(shape[1], rel=0.02)


def test_a_drag_that_is_not_meant(editor, page):
    text = raise_arm(editor)
    wrist = joint(editor.people()[0], WRIST)
    editor.pull(wrist, (300, 60))
    assert editor.text() == text
    queued = page.evaluate(PROMPT)
    assert [node["inputs"]["people"] for node in queued.values()] == [text], "a run during a drag"
    editor.press("Escape")
    page.mouse.up()
    page.wait_for_timeout(100)
    assert editor.text() == text
    editor.pull(wrist, (300, 60))
    editor.canvas.evaluate("""(e) => e.dispatchEvent(new PointerEvent('pointercancel',
        { pointerId: 1, bubbles: true }))""")
    page.mouse.up()
    page.wait_for_timeout(100)
    assert editor.text() == text
    left, top, _, scale = editor.fitted()
    page.mouse.move(left + scale * wrist[0], top + scale * wrist[1])
    page.mouse.down()
    page.mouse.move(5, 400)  # far outside of the node
    page.mouse.up()
    page.wait_for_timeout(100)
    assert editor.text() != text, "a drag that ends outside counts"


def test_keys_of_the_editor_do_not_delete_nodes(editor, page):
    raise_arm(editor)
    for key in ("Delete", "Delete", "Delete", "Backspace", "m", "h"):
        editor.press(key)
    assert page.evaluate("() => app.graph.nodes.length") == 1
    editor.tool("add").focus()
    editor.press("Delete")
    assert page.evaluate("() => app.graph.nodes.length") == 1


def test_newcomers_get_the_next_number(editor, page, tmp_path):
    names = ["waving", "dancing", "sitting", "running", "arms out", "kneeling", "jumping"]
    for count, name in enumerate(names, start=2):
        before = editor.people() if editor.text() else []
        editor.add(name)
        people = editor.people()
        assert len(people) == count
        assert count == 2 or people[:-1] == before, "nobody else is moved"
        middles = [middle(person) for person in people]
        assert max(middles) == middles[-1], f"number {count} is the rightmost"
        assert editor.status() == f"person {count}"
    page.screenshot(path=tmp_path / "eight.png")
    gaps = [b - a for a, b in zip(middles, middles[1:], strict=False)]
    assert min(gaps) > 15
    xs = [x for person in people for x in person["pose_keypoints_2d"][::3]]
    assert min(xs) >= 0 and max(xs) <= 512
    for _ in range(3):
        editor.use("duplicate")
    numbers = sorted(middle(person) for person in editor.people())
    assert min(b - a for a, b in zip(numbers, numbers[1:], strict=False)) > 8
    assert "is new: those right of them moved up" in editor.status()


def middle(person):
    points = [
        values[i : i + 3]
        for key, values in person.items()
        if key != "prompt"
        for i in range(0, len(values), 3)
    ]
    places = [point[0] for point in points if point[2] > 0]
    return sum(places) / len(places)


def points_of(person, key):
    values = person[key]
    return [values[i : i + 2] for i in range(0, len(values), 3)]


def test_the_face_stays_on_its_head(editor):
    editor.use("face")
    (before,) = editor.people()
    chin = points_of(before, "face_keypoints_2d")[8]
    editor.drag(chin, (chin[0] + 60, chin[1]))
    (after,) = editor.people()
    tip = points_of(after, "face_keypoints_2d")[8]
    assert math.dist(tip, chin) > 20

    def apart(person):
        nose = joint(person, 0)
        return [math.dist(nose, point) for point in points_of(person, "face_keypoints_2d")]

    assert apart(after) == pytest.approx(apart(before), abs=0.3)
    assert joint(after, NECK) == joint(before, NECK)


def test_hands_stay_at_their_wrists(editor):
    editor.use("mirror")
    (before,) = editor.people()
    editor.use("lengths")  # off
    for number in (NECK, 3):  # the neck, an elbow
        at = joint(editor.people()[0], number)
        editor.drag(at, (at[0] + 30, at[1] - 30))
    (after,) = editor.people()
    hand, wrist = "hand_right_keypoints_2d", WRIST
    assert joint(after, 3) != joint(before, 3)
    assert joint(after, wrist) == joint(before, wrist)
    assert after[hand] == before[hand]


@pytest.mark.parametrize("wrong", [512, {"people": []}, ["a"], '{"people": 3}', "null", "[[]]"])
def test_any_wrong_text_is_told_and_kept(editor, page, wrong):
    page.evaluate(
        "v => { app.graph.nodes[0].widgets.find(w => w.name === 'people').value = v }", wrong
    )
    page.wait_for_timeout(200)
    assert editor.status().startswith("the saved people ")
    assert editor.text() == wrong
    assert "undefined" not in editor.status() and "function" not in editor.status()


def test_a_point_in_the_corner_stays_there(editor, page):
    """Where numbers are so small, they could be fractions of the canvas, or a missing point."""
    editor.use("mirror")
    editor.use("lengths")  # off
    editor.drag(joint(editor.people()[0], WRIST), (0, 0))
    text = editor.text()
    assert joint(editor.people()[0], WRIST) == pytest.approx([0, 0], abs=4)
    read = pose_editor.read_state(text).people
    assert read.body[0, WRIST, :2].tolist() == pytest.approx(joint(editor.people()[0], WRIST))
    assert read.body[0, NECK, :2].tolist() == pytest.approx(joint(editor.people()[0], NECK))
    page.evaluate(
        """text => {
            const widget = app.graph.nodes[0].widgets.find(w => w.name === 'people')
            widget.value = ''
            widget.value = text
        }""",
        text,
    )
    editor.press("Tab")
    editor.use("duplicate")
    assert joint(editor.people()[0], WRIST) == joint(json.loads(text)["people"][0], WRIST)


TWO_OF_ONE_NUMBER = """() => {
    const graph = app.rootGraph ?? app.graph
    if (!graph.convertToSubgraph) return false
    window.inside = graph.convertToSubgraph(new Set([graph.nodes[0]])).subgraph
    const outer = LiteGraph.createNode('VitruvianPoseEditor')
    outer.id = window.inside.nodes[0].id
    outer.pos = [450, 60]
    graph.add(outer)
    return true
}"""
GO_TO = """(inside) => {
    app.canvas.setGraph(inside ? window.inside : (app.rootGraph ?? app.graph))
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    if (inside) window.inside.nodes[0].pos = [450, 60]
    app.canvas.setDirty(true, true)
}"""


def test_two_editors_of_one_number(editor, page):
    """Nodes in a subgraph are numbered anew: a renderer that goes by numbers mixes them up."""
    raise_arm(editor)
    editor.prompts.nth(0).fill("inside")
    editor.press("Enter")
    if not page.evaluate(TWO_OF_ONE_NUMBER):
        pytest.skip("this front end has no subgraphs")
    for inside in (True, False, True):
        page.evaluate(GO_TO, inside)
        page.wait_for_timeout(1000)
        visible = [field for field in editor.prompts.all() if field.is_visible()]
        assert [field.input_value() for field in visible] == (["inside"] if inside else ["", ""])


CONNECT = """([type, name, value]) => {
    const editor = app.graph.nodes.find(n => n.type === 'VitruvianPoseEditor')
    const source = LiteGraph.createNode(type)
    source.pos = [60, 400]
    app.graph.add(source)
    source.widgets[0].value = value
    source.connect(0, editor, editor.inputs.findIndex(i => i.name === name))
    app.canvas.setDirty(true, true)
}"""
DISCONNECT = """(name) => {
    const editor = app.graph.nodes.find(n => n.type === 'VitruvianPoseEditor')
    editor.disconnectInput(editor.inputs.findIndex(i => i.name === name))
    app.canvas.setDirty(true, true)
}"""


def test_connected_people_are_not_edited_in_vain(editor, page):
    text = raise_arm(editor)
    page.evaluate(CONNECT, ["PrimitiveStringMultiline", "people", text])
    page.wait_for_timeout(500)
    if editor.canvas.is_visible():  # where the front end does not hide it
        assert "The input people is connected" in editor.status()
        page.mouse.click(*editor.on_screen(*joint(editor.people()[0], WRIST)))
        page.keyboard.press("ArrowRight")
        assert editor.text() == text
    page.evaluate(DISCONNECT, "people")
    settle(page)
    assert editor.status() == "person 1: right wrist"
    editor.drag(joint(editor.people()[0], WRIST), (150, 60))
    assert editor.text() != text


def test_a_connected_canvas_size_is_shown_after_a_run(editor, page, server):
    page.evaluate(CONNECT, ["PrimitiveInt", "canvas_width", 1024])
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    for _ in range(100):
        page.wait_for_timeout(100)
        if set(server.get("/history")) - before:
            break
    page.wait_for_timeout(500)
    editor.use("mirror")
    assert json.loads(editor.text())["canvas_width"] == 1024


def test_a_pen_and_a_finger_drag(editor, page):
    text = raise_arm(editor)
    cdp = page.context.new_cdp_session(page)
    x, y = editor.on_screen(*joint(editor.people()[0], WRIST))
    for kind, at in (("Start", x), ("Move", x + 20), ("Move", x + 40), ("End", None)):
        points = [] if at is None else [{"x": at, "y": y, "id": 0}]
        cdp.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    page.wait_for_timeout(200)
    touched = editor.text()
    assert touched != text
    x, y = editor.on_screen(*joint(editor.people()[0], WRIST))
    for kind, at in (("Pressed", x), ("Moved", x - 20), ("Moved", x - 30), ("Released", x - 30)):
        event = {"type": f"mouse{kind}", "x": at, "y": y, "button": "left", "pointerType": "pen"}
        cdp.send("Input.dispatchMouseEvent", {**event, "buttons": 1, "clickCount": 1})
    page.wait_for_timeout(200)
    assert editor.text() not in (text, touched)
    editor.undo()
    assert editor.text() == touched
    editor.undo()
    assert editor.text() == text


def test_collapsed_zoomed_muted_and_bypassed(editor, page):
    text = raise_arm(editor)
    flip = "() => { app.graph.nodes[0].collapse(); app.canvas.setDirty(true, true) }"
    page.evaluate(flip)
    page.wait_for_timeout(300)
    page.evaluate(flip)
    settle(page)
    assert editor.text() == text
    for mode, zoom in ((2, 0.6), (4, 1.1), (0, 1)):
        page.evaluate(
            """([mode, zoom]) => {
                app.graph.nodes[0].mode = mode
                app.canvas.ds.scale = zoom
                app.canvas.ds.offset = [-200, 0]
                app.canvas.setDirty(true, true)
            }""",
            [mode, zoom],
        )
        settle(page)
        x, y = joint(editor.people()[0], HIP)
        editor.drag((x, y), (x + 10, y))
        assert joint(editor.people()[0], HIP) == pytest.approx([x + 10, y], abs=2)


def test_each_editor_of_a_graph_is_its_own(editor, page):
    text = raise_arm(editor)
    page.evaluate(ADD, ["VitruvianPoseEditor", 950, 60])
    page.wait_for_function("() => document.querySelectorAll('.vitruvian-pose canvas').length >= 2")
    page.wait_for_timeout(500)
    second = page.locator(".vitruvian-pose").nth(1)
    second.locator("[data-tool='face']").click()
    page.wait_for_timeout(100)
    first, other = page.evaluate(TEXTS)
    assert first == text and other not in ("", text)
    page.evaluate(COMMAND, "Comfy.Undo")
    page.wait_for_timeout(800)
    assert page.evaluate(TEXTS) == [text, pose_editor.UNTOUCHED]

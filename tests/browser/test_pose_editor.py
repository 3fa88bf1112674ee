"""The pose editor on the real front end: edited by mouse and keys, saved, loaded, run."""

import contextlib
import json
import math
from pathlib import Path

import pytest
from playwright.sync_api import expect

ROOT = Path(__file__).parents[2]
ELBOW, WRIST, SHOULDER = 3, 4, 2  # of the right arm, on the picture's left
LEFT_WRIST = 7
RENDERERS = ("classic", "new")
NOT_OURS = (
    "404",
    "Content Security Policy",
    "deprecated",
    "before initialization",
    "subgraphNavigation",
    "graph that was never set up",
)

NOTHING = {
    "id": "b7f35c0e-2b4e-4a55-8a50-6d1c3f0e9a11", "version": 0.4, "revision": 0,
    "last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {},
    "extra": {},
}  # fmt: skip
OPEN = """async (nothing) => {
    await app.loadGraphData(nothing)
    const node = LiteGraph.createNode('VitruvianPoseEditor')
    node.pos = [450, 60]
    app.graph.add(node)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.setDirty(true, true)
    return [node.id, node.size[0]]
}"""
PEOPLE = """() => {
    const find = (graph) => graph.nodes.flatMap(n => n.subgraph ? find(n.subgraph) : [n])
        .find(n => n.type === 'VitruvianPoseEditor')
    return find(app.rootGraph ?? app.graph).widgets.find(w => w.name === 'people').value
}"""
RELOAD = """async (nothing) => {
    const whole = app.graph.serialize()
    await app.loadGraphData(nothing)
    await app.loadGraphData(JSON.parse(JSON.stringify(whole)))
}"""
SUBGRAPH = """() => {
    const graph = app.rootGraph ?? app.graph
    if (!graph.convertToSubgraph) return false
    const made = graph.convertToSubgraph(new Set([graph.nodes[0]]))
    app.canvas.setGraph(made.subgraph)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    made.subgraph.nodes[0].pos = [450, 60]
    app.canvas.setDirty(true, true)
    return true
}"""


@pytest.fixture(scope="module")
def said(page):
    """What the console says that is not the front end's own affair."""
    lines = []
    page.on("console", lambda m: m.type in ("error", "warning") and lines.append(m.text))
    page.on("pageerror", lambda error: lines.append(str(error.stack)))
    page.set_default_timeout(10_000)
    return lines


class Editor:
    """The one editor on the page."""

    def __init__(self, page):
        self.page = page
        self.canvas = page.locator(".vitruvian-pose .canvas")
        self.prompts = page.locator(".vitruvian-pose textarea")

    def text(self):
        return self.page.evaluate(PEOPLE)

    def people(self):
        return json.loads(self.text())["people"]

    def tool(self, name):
        return self.page.locator(f".vitruvian-pose [data-tool='{name}']")

    def use(self, name):
        self.tool(name).click()
        self.page.wait_for_timeout(60)

    def add(self, name):
        self.use("add")
        self.page.locator(f".vitruvian-pose .poses [aria-label='Add: {name}']").click()
        self.page.wait_for_timeout(60)

    def press(self, key):
        self.page.keyboard.press(key)
        self.page.wait_for_timeout(60)

    def fitted(self, size=512):
        """Left and top of the fitted square canvas on the page, and px of both per its pixel."""
        x, y, width, height, zoom = self.canvas.evaluate("""(e) => {
            const box = e.getBoundingClientRect()
            return [box.x, box.y, e.clientWidth, e.clientHeight, box.width / e.clientWidth]
        }""")
        scale = (min(width, height) - 20) / size
        left, top = x + zoom * (width - scale * size) / 2, y + zoom * (height - scale * size) / 2
        return left, top, scale, scale * zoom

    def on_screen(self, x, y):
        left, top, _, scale = self.fitted()
        return left + scale * x, top + scale * y

    def let_go(self):
        """A click beside everybody; on a busy machine the node may still move under the first."""
        for _ in range(3):
            self.canvas.click(position={"x": 5, "y": 5})
            with contextlib.suppress(AssertionError):
                return expect(self.tool("remove")).to_be_disabled(timeout=2_000)
        pytest.fail("the person stays selected")

    def drag(self, start, end):
        mouse = self.page.mouse
        mouse.move(*self.on_screen(*start))
        mouse.down()
        for share in (0.3, 0.7, 1):
            at = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
            mouse.move(*self.on_screen(*at))
        mouse.up()
        self.page.wait_for_timeout(60)


SETTLED = """() => {
    const editor = document.querySelector(".vitruvian-pose")
    if (!editor?.querySelector("link").sheet) return false
    if (!editor.querySelector(".canvas canvas")) return false
    const boxes = [...editor.querySelectorAll(".canvas, button")]
    const places = JSON.stringify(boxes.map((one) => one.getBoundingClientRect()))
    const still = window.placesSeen === places
    window.placesSeen = places
    return still
}"""


def settle(page):
    """Until the editor has its looks and stands still."""
    page.wait_for_function(SETTLED, polling=200)


def joint(person, number):
    return person["pose_keypoints_2d"][3 * number : 3 * number + 2]


def length(person, a, b):
    return math.dist(joint(person, a), joint(person, b))


@pytest.fixture(params=RENDERERS)
def editor(page, said, request):
    """A fresh editor alone on the graph, in this renderer; nobody complains while it is used."""
    new = request.param == "new"
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__").split(".")
    if new and (int(version[0]), int(version[1])) < (1, 40):
        pytest.skip("this front end has only the classic canvas")
    page.evaluate("v => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', v)", new)
    page.wait_for_timeout(400)
    said.clear()
    page.evaluate(OPEN, NOTHING)
    settle(page)
    yield Editor(page)
    assert [line for line in said if not any(other in line for other in NOT_OURS)] == []


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

    editor.press("Control+z")
    assert editor.people() == [after]
    editor.press("Control+z")
    assert editor.people() == [before]
    editor.press("Control+Shift+Z")
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


def test_tools_and_keys(editor, page, tmp_path):
    editor.let_go()
    editor.press("Tab")
    expect(editor.tool("remove")).to_be_enabled()
    editor.press("ArrowRight")
    (one,) = editor.people()
    editor.press("Shift+ArrowRight")
    assert joint(editor.people()[0], 1)[0] == pytest.approx(joint(one, 1)[0] + 10)

    editor.drag(joint(one, 1), (100, 120))  # the neck takes everything along
    moved = editor.people()[0]
    assert joint(moved, 1) == pytest.approx([100, 120], abs=14)
    assert length(moved, 1, 10) == pytest.approx(length(one, 1, 10), abs=0.3)

    editor.press("h")
    assert editor.people()[0]["pose_keypoints_2d"][5] == 0
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
    editor.press("Control+z")
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


def test_inside_a_subgraph(editor, page, tmp_path):
    editor.add("waving")
    saved = editor.text()
    if not page.evaluate(SUBGRAPH):
        pytest.skip("this front end has no subgraphs")
    settle(page)
    assert editor.text() == saved
    editor.use("duplicate")
    assert len(editor.people()) == 3
    editor.prompts.nth(1).fill("somebody in a subgraph")
    assert "somebody in a subgraph" in editor.text()
    page.screenshot(path=tmp_path / "subgraph.png")


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

"""The pose editor on a page of the front end: where it is, and what a person does in it."""

import contextlib
import json
import math

import pytest
from playwright.sync_api import expect

NECK, SHOULDER, ELBOW, WRIST = 1, 2, 3, 4  # of the right arm, on the image's left
LEFT_WRIST = 7
HIP = 8  # the right one; hips take the person along

NOTHING = {
    "id": "b7f35c0e-2b4e-4a55-8a50-6d1c3f0e9a11", "version": 0.4, "revision": 0,
    "last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {},
    "extra": {},
}  # fmt: skip
OPEN = """async ([nothing, fresh]) => {
    for (const key of Object.keys(localStorage))
        if (key.startsWith('Vitruvian.PoseEditor')) localStorage.removeItem(key)
    await app.loadGraphData(nothing)
    const node = LiteGraph.createNode('VitruvianPoseEditor')
    node.pos = [450, 60]
    if (!fresh) node.widgets.find(w => w.name === 'people').value = ''  // one standing person
    app.graph.add(node)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.setDirty(true, true)
    app.canvas.emitBeforeChange()  // what is here now is where undo ends
    app.canvas.emitAfterChange()
}"""
NODE = """const find = (graph) => graph.nodes.flatMap(n => n.subgraph ? find(n.subgraph) : [n])
        .find(n => n.type === 'VitruvianPoseEditor')
    const node = find(app.rootGraph ?? app.graph)
    const widget = node?.widgets.find(w => w.name === 'people')"""
PEOPLE = f"""() => {{
    {NODE}
    return widget?.value
}}"""
SETTLED = f"""() => {{
    {NODE}
    const tracker = app.extensionManager.workflow.activeWorkflow?.changeTracker
    if (tracker?.constructor.isLoadingGraph || tracker?._restoringState) return false
    const editor = document.querySelector(".vitruvian-pose")
    if (!editor?.querySelector("link").sheet || editor !== widget?.element) return false
    if (!editor.querySelector(".canvas canvas")) return false
    const boxes = [...editor.querySelectorAll(".canvas, button")]
    const places = JSON.stringify(boxes.map((one) => one.getBoundingClientRect()))
    const still = window.placesSeen === places
    window.placesSeen = places
    return still
}}"""


def is_old(page):
    """Whether this front end has one renderer of nodes, the classic canvas."""
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__").split(".")
    return (int(version[0]), int(version[1])) < (1, 40)


def settle(page):
    """Until the node's own editor is on the page, has its looks and stands still."""
    page.evaluate("() => { window.placesSeen = null }")
    page.wait_for_function(SETTLED, polling=200)


def joint(person, number):
    return person["pose_keypoints_2d"][3 * number : 3 * number + 2]


def length(person, a, b):
    return math.dist(joint(person, a), joint(person, b))


class Editor:
    """The one editor on the page."""

    def __init__(self, page):
        self.page = page
        self.canvas = page.locator(".vitruvian-pose .canvas")
        self.prompts = page.locator(".vitruvian-pose textarea")

    def text(self):
        """What the node would save."""
        return self.page.evaluate(PEOPLE)

    def people(self):
        return json.loads(self.text())["people"]

    def status(self):
        return self.page.locator(".vitruvian-pose .status").inner_text()

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

    def changed_by(self, action, times=1):
        """Waits until something that takes its time has changed the text."""
        before = self.text()
        for _ in range(times):
            action()
            for _ in range(100):
                self.page.wait_for_timeout(50)
                if self.text() != before:
                    return settle(self.page)
        pytest.fail("nothing has changed")

    def undo(self):
        # on a busy machine the front end's own listener now and then misses a key
        self.changed_by(lambda: self.page.keyboard.press("Control+z"), times=2)

    def redo(self):
        self.changed_by(lambda: self.page.keyboard.press("Control+Shift+Z"))

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

    def pull(self, start, end):
        """Drags from one point of the canvas to another, and holds."""
        mouse = self.page.mouse
        mouse.move(*self.on_screen(*start))
        mouse.down()
        for share in (0.3, 0.7, 1):
            at = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
            mouse.move(*self.on_screen(*at))

    def drag(self, start, end):
        self.pull(start, end)
        self.page.mouse.up()
        self.page.wait_for_timeout(60)

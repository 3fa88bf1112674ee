"""The entry of a node's menu that opens its pose or its image in a new Pose Editor."""

import pytest
from vitruvian.tests.browser.pose_editor_page import NOTHING, settle

NOTHING_TO_OPEN = ("KSampler", "VitruvianSavePose", "VitruvianPoseEditor", "VAEEncode")
ENTRY = "Open in Pose Editor"
GRAPH = """async ([nothing, kinds]) => {
    await app.loadGraphData(nothing)
    app.canvas.ds.scale = 0.7
    app.canvas.ds.offset = [0, 0]
    kinds.forEach((kind, k) => {
        const node = LiteGraph.createNode(kind)
        node.pos = [340 + 420 * k, 300]
        app.graph.add(node)
    })
    app.canvas.setDirty(true, true)
}"""
CONNECT = """([from, out, to, name]) => {
    const [a, b] = [from, to].map((kind) => app.graph.nodes.find((n) => n.type === kind))
    a.connect(out, b, b.inputs.findIndex((input) => input.name === name))
}"""
CHOOSE_IMAGE = """(name) => {
    const widget = app.graph.nodes[0].widgets.find((w) => w.name === 'image')
    widget.value = name
    widget.callback(name)
}"""
TITLE = """(kind) => {
    const node = app.graph.nodes.find((n) => n.type === kind)
    const [x, y] = node.pos, { scale, offset } = app.canvas.ds
    const canvas = app.canvas.canvas.getBoundingClientRect()
    return [canvas.x + (x + 60 + offset[0]) * scale, canvas.y + (y - 14 + offset[1]) * scale]
}"""
EDITORS = """() => app.graph.nodes.filter((n) => n.comfyClass === 'VitruvianPoseEditor')
.map((editor) => ({
    wires: Object.fromEntries(editor.inputs.filter((i) => i.link != null).map((i) => {
        const link = app.graph.getLink(i.link)
        return [i.name, [app.graph.getNodeById(link.origin_id).type, link.origin_slot]]
    })),
    size: editor.widgets.slice(0, 2).map((w) => w.value),
    covers: app.graph.nodes.filter((o) => o !== editor && o.pos[0] < editor.pos[0] + editor.size[0]
        && editor.pos[0] < o.pos[0] + o.size[0] && o.pos[1] < editor.pos[1] + editor.size[1]
        && editor.pos[1] < o.pos[1] + o.size[1]).map((o) => o.type),
}))"""


class Menu:
    """The menu of nodes on the page."""

    def __init__(self, page):
        self.page = page
        self.entry = page.get_by_text(ENTRY, exact=True)

    def build(self, *kinds):
        self.page.evaluate(GRAPH, [NOTHING, kinds])
        self.page.wait_for_timeout(700)

    def connect(self, *ends):
        self.page.evaluate(CONNECT, list(ends))

    def open(self, kind):
        """Right-click the title of the node of this kind."""
        self.page.keyboard.press("Escape")
        self.page.mouse.click(*self.page.evaluate(TITLE, kind), button="right")
        self.page.wait_for_timeout(500)

    def choose(self, kind):
        self.open(kind)
        self.entry.click()
        settle(self.page)
        (editor,) = self.page.evaluate(EDITORS)
        assert editor["covers"] == []
        return editor


@pytest.fixture
def menu(page, said, renderer):
    yield Menu(page)
    page.keyboard.press("Escape")


def test_a_pose_is_connected(menu):
    menu.build("VitruvianLoadPose")
    assert menu.choose("VitruvianLoadPose")["wires"] == {"pose": ["VitruvianLoadPose", 0]}


def test_a_photograph_is_connected_and_gives_its_size(menu):
    menu.build("LoadImage")
    menu.page.evaluate(CHOOSE_IMAGE, "coffee.png")
    menu.page.wait_for_function("() => app.graph.nodes[0].imgs?.[0]?.naturalWidth === 600")
    editor = menu.choose("LoadImage")
    assert editor["wires"] == {"background_image": ["LoadImage", 0]}
    assert editor["size"] == [600, 400]


def test_a_detector_gives_both(menu):
    """And the editor makes way for what is there."""
    menu.build("LoadImage", "VitruvianDetectPose", "VitruvianDrawPose")
    menu.connect("LoadImage", 0, "VitruvianDetectPose", "image")
    wires = menu.choose("VitruvianDetectPose")["wires"]
    assert wires == {"pose": ["VitruvianDetectPose", 0], "background_image": ["LoadImage", 0]}


def test_what_a_node_saves_is_connected_where_it_comes_from(menu):
    menu.build("VitruvianLoadPose", "VitruvianSavePose")
    menu.connect("VitruvianLoadPose", 0, "VitruvianSavePose", "pose")
    assert menu.choose("VitruvianSavePose")["wires"] == {"pose": ["VitruvianLoadPose", 0]}


@pytest.mark.parametrize("kind", NOTHING_TO_OPEN)
def test_it_is_not_offered_where_there_is_nothing_to_open(menu, kind):
    menu.build(kind)
    menu.open(kind)
    assert menu.entry.count() == 0


def test_it_is_one_step_of_undo(menu):
    menu.build("VitruvianLoadPose")
    menu.choose("VitruvianLoadPose")
    menu.page.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    menu.page.wait_for_function("() => app.graph.nodes.length === 1")

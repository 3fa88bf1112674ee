"""One wire to or from Compose People brings the others that fit, and no more than those."""

import pytest
from vitruvian.tests.browser.pose_editor_page import NOTHING
from vitruvian.tests.browser.test_first_image import (
    AS_INSTALLED,
    EDITOR,
    EMPTY,
    PEOPLE,
    WIRES,
    Artist,
)

SAMPLER, LOADER = "KSampler", "CheckpointLoaderSimple"
ADD = """([type, x, y]) => {
    const node = LiteGraph.createNode(type)
    node.pos = [x, y]
    app.graph.add(node)
    app.canvas.emitBeforeChange()
    app.canvas.emitAfterChange()
}"""
PLACES = {EDITOR: (80, 100), PEOPLE: (640, 250), LOADER: (640, 100), SAMPLER: (1100, 100)}
WRITE = """([type, name, value]) => {
    app.graph.nodes.find(n => n.type === type).widgets.find(w => w.name === name).value = value
}"""
AGAIN = "async () => app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())))"


@pytest.fixture
def artist(page, said, renderer):
    page.evaluate(EMPTY, [NOTHING, AS_INSTALLED])
    page.wait_for_timeout(500)
    return Artist(page)


def add(page, *types):
    for type in types:
        page.evaluate(ADD, [type, *PLACES[type]])
    page.wait_for_timeout(500)


def wires(page, type):
    page.wait_for_timeout(300)
    return page.evaluate(WIRES).get(type, [])


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ((EDITOR, "out", "pose"), (PEOPLE, "in", "pose"), ["pose", "prompts"]),
        ((LOADER, "out", "CLIP"), (PEOPLE, "in", "clip"), ["clip", "model", "vae"]),
        (
            (PEOPLE, "out", "latent"),
            (SAMPLER, "in", "latent_image"),
            ["latent_image", "model", "negative", "positive"],
        ),
    ],
)
def test_one_wire_brings_the_others(artist, page, start, end, expected):
    add(page, start[0], end[0])
    artist.wires(start, end)
    assert wires(page, end[0]) == expected


def test_a_text_that_is_written_stays(artist, page):
    add(page, EDITOR, PEOPLE)
    page.evaluate(WRITE, [PEOPLE, "prompts", "a man\na woman"])
    artist.wires((EDITOR, "out", "pose"), (PEOPLE, "in", "pose"))
    assert wires(page, PEOPLE) == ["pose"]


def test_a_wire_that_is_there_stays(artist, page):
    add(page, PEOPLE, SAMPLER)
    page.evaluate("""() => {
        const encode = LiteGraph.createNode('CLIPTextEncode')
        app.graph.add(encode)
        const sampler = app.graph.nodes.find(n => n.type === 'KSampler')
        encode.connect(0, sampler, sampler.inputs.findIndex(i => i.name === 'negative'))
    }""")
    before = page.evaluate(LINK_OF_NEGATIVE)
    artist.wires((PEOPLE, "out", "model"), (SAMPLER, "in", "model"))
    assert wires(page, SAMPLER) == ["latent_image", "model", "negative", "positive"]
    assert page.evaluate(LINK_OF_NEGATIVE) == before


LINK_OF_NEGATIVE = """() => app.graph.nodes.find(n => n.type === 'KSampler')
    .inputs.find(i => i.name === 'negative').link"""


def test_other_nodes_are_left_alone(artist, page):
    add(page, LOADER, SAMPLER)
    page.evaluate(ADD, ["VAEDecode", 1100, 500])
    artist.wires((SAMPLER, "out", "LATENT"), ("VAEDecode", "in", "samples"))
    assert wires(page, "VAEDecode") == ["samples"]


def test_what_is_taken_off_stays_off_in_a_saved_workflow(artist, page):
    add(page, EDITOR, PEOPLE)
    artist.wires((EDITOR, "out", "pose"), (PEOPLE, "in", "pose"))
    page.evaluate("""() => {
        const node = app.graph.nodes.find(n => n.type === 'VitruvianComposePeople')
        node.disconnectInput(node.inputs.findIndex(i => i.name === 'prompts'))
    }""")
    page.evaluate(AGAIN)
    assert wires(page, PEOPLE) == ["pose"]


def test_one_undo_takes_all_of_them(artist, page):
    """In the new renderer with the last node: no wire that is drawn there is a step of its own."""
    add(page, EDITOR, PEOPLE)
    artist.wires((EDITOR, "out", "pose"), (PEOPLE, "in", "pose"))
    assert wires(page, PEOPLE) == ["pose", "prompts"]
    page.wait_for_timeout(1000)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    page.wait_for_timeout(1500)
    assert wires(page, PEOPLE) == []
